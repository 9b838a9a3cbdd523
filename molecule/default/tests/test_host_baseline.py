"""The ground under a host: packet filter, core dumps, kernel parameters, journal, audit rules; and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.segment_host import ROOT, SegmentHost, Session, setting, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
CONNECT = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); print('connected')"
LISTEN = "import socket,sys\ns = socket.create_server(('', int(sys.argv[1])))\nwhile True: s.accept()"
ADDRESS = "import socket; s = socket.socket(2, 2); s.connect(('192.0.2.1', 9)); print(s.getsockname()[0])"
UNADMITTED = "7123"


def address(segment: SegmentHost) -> str:
    """Return the address that other hosts reach this one at."""
    return segment.run("python3", "-c", ADDRESS)


@pytest.fixture(scope="module")
def elsewhere(segment: SegmentHost) -> SegmentHost:
    """Return another host of the lab."""
    lab, _, name = segment.container.rpartition("-")
    return SegmentHost(lab, "segment1" if name == "segment2" else "segment2")


@pytest.fixture
def listener(segment: SegmentHost) -> Iterator[None]:
    """Listen on a port that nobody asked for, on all addresses."""
    unit = "unadmitted.service"
    segment.run("systemd-run", "--quiet", f"--unit={unit}", "python3", "-c", LISTEN, UNADMITTED)
    yield
    segment.run("systemctl", "stop", unit)


def test_what_is_admitted_is_reached(segment: SegmentHost, elsewhere: SegmentHost) -> None:
    # PostgreSQL listens on loopback by default: that the packet arrives is told by who refuses it
    rules = segment.run("nft", "list", "chain", "inet", "host_baseline", "input")
    assert f"tcp dport {segment.port} accept" in rules
    port = str(setting("host_baseline_ssh_port"))
    segment.run("systemd-run", "--quiet", "--unit=admitted.service", "python3", "-c", LISTEN, port)
    try:
        wait_until(lambda: f":{port}" in segment.run("ss", "-Hltn"), 10, "it listens")
        assert elsewhere.run("python3", "-c", CONNECT, address(segment), port) == "connected"
    finally:
        segment.run("systemctl", "stop", "admitted.service")


@pytest.mark.usefixtures("listener")
def test_what_is_not_admitted_is_refused_at_once(segment: SegmentHost, elsewhere: SegmentHost) -> None:
    wait_until(lambda: f":{UNADMITTED}" in segment.run("ss", "-Hltn"), 10, "it listens")
    assert segment.run("python3", "-c", CONNECT, "127.0.0.1", UNADMITTED) == "connected"
    # a time-out would be another error
    assert "ConnectionRefusedError" in elsewhere.fails("python3", "-c", CONNECT, address(segment), UNADMITTED)
    # the filter it is, and nothing else, that refuses
    segment.run("systemctl", "stop", "host_baseline_firewall.service")
    try:
        assert elsewhere.run("python3", "-c", CONNECT, address(segment), UNADMITTED) == "connected"
    finally:
        segment.run("systemctl", "start", "host_baseline_firewall.service")
    assert "ConnectionRefusedError" in elsewhere.fails("python3", "-c", CONNECT, address(segment), UNADMITTED)


def test_a_port_that_a_container_publishes_is_refused_too(segment: SegmentHost, elsewhere: SegmentHost) -> None:
    image = segment.docker("image", "ls", "--quiet", "caisson/plpython").split()[0]
    publish = ["--publish", f"{UNADMITTED}:8000"]
    name = segment.docker("run", "--detach", *publish, image, "python3", "-c", LISTEN, "8000")
    try:
        inside = ("docker", "exec", name, "python3", "-c", CONNECT, "127.0.0.1", "8000")
        wait_until(lambda: segment.host.run(shlex.join(inside)).rc == 0, 10, "the container listens")
        assert "ConnectionRefusedError" in elsewhere.fails("python3", "-c", CONNECT, address(segment), UNADMITTED)
        segment.run("systemctl", "stop", "host_baseline_firewall.service")
        try:
            assert elsewhere.run("python3", "-c", CONNECT, address(segment), UNADMITTED) == "connected"
        finally:
            segment.run("systemctl", "start", "host_baseline_firewall.service")
    finally:
        segment.docker("rm", "--force", name)


CRASH = """
import ctypes, os
pid = os.fork()
if pid == 0:
    os.chdir('/tmp')
    ctypes.string_at(0)
status = os.waitpid(pid, 0)[1]
return f"{os.WTERMSIG(status)} {os.WCOREDUMP(status)} {sorted(os.listdir('/tmp'))}"
"""
CRASH_HARD = "import ctypes\nctypes.string_at(0)"


def cores(segment: SegmentHost) -> str:
    """Return the files of the host and its containers that look like core dumps."""
    places = [place for place in ("/tmp", "/var", "/run", "/root") if segment.host.file(place).exists]
    return segment.run("find", *places, "-type", "f", "(", "-name", "core", "-o", "-name", "core.[0-9]*", ")")


def test_a_crash_in_a_sandbox_leaves_no_core_dump(segment: SegmentHost, session: Session) -> None:
    segment.function(CRASH, "test_crash_of_child")
    # SIGSEGV, and the kernel says that it wrote no core
    assert session.run("SELECT test_crash_of_child()") == "11 False []"
    segment.function(CRASH_HARD, "test_crash")
    assert "terminated by signal SEGV" in session.run("SELECT test_crash()")
    assert cores(segment) == ""


def test_services_have_no_core_dumps(segment: SegmentHost) -> None:
    crash = ["python3", "-c", "import ctypes; ctypes.string_at(0)"]
    options = ["--quiet", "--wait", "--property=WorkingDirectory=/var/tmp"]
    segment.fails("systemd-run", *options, *crash)
    assert cores(segment) == ""
    # a service that asks for more has it, where the kernel lets it: the limit is only the usual one
    assert segment.run("systemd-run", "--quiet", "--pipe", "--wait", "sh", "-c", "ulimit -Sc; ulimit -Hc").split() == [
        "0",
        "0",
    ]


def test_kernel_parameters_are_in_force(segment: SegmentHost) -> None:
    text = segment.run("cat", "/etc/sysctl.d/80-host_baseline.conf")
    wanted = dict(re.findall(r"^([a-z]\S+) = (.*)$", text, re.MULTILINE))
    assert wanted["net.ipv4.conf.all.send_redirects"] == "0"
    for name, value in wanted.items():
        assert segment.run("cat", f"/proc/sys/{name.replace('.', '/')}") == value, name


def test_what_is_the_machine_s_is_left_to_it(segment: SegmentHost) -> None:
    text = segment.run("cat", "/etc/sysctl.d/80-host_baseline.conf")
    names = re.findall(r"^([a-z]\S+) = ", text, re.MULTILINE)
    # a lab host is a container: a parameter that is not its network's is its machine's
    assert names
    assert all(name.startswith(("net.ipv4.", "net.ipv6.")) for name in names)
    assert not segment.host.package("auditd").is_installed


AUDITCTL = """
cd "$1" && export PATH="$PWD/usr/sbin:$PWD/sbin:$PATH"
LD_LIBRARY_PATH=$(printf %s: "$PWD"/usr/lib/*-linux-gnu "$PWD"/lib/*-linux-gnu) && export LD_LIBRARY_PATH
grep -v -e '^#' -e '^$' | while read -r rule; do
  unshare --user --map-root-user auditctl $rule 2>&1 | sed "s|^|$rule: |"
done
"""
HARMLESS = ("The audit system is disabled", "Old style watch rules are slower", "audit support not in kernel")


def test_audit_rules_are_well_formed(segment: SegmentHost) -> None:
    """auditctl reads each rule before it asks the kernel, which in a container refuses all of them."""
    fetch = "cd $(mktemp -d) && mkdir partial && apt-get -qq update && apt-get -qq install --yes --download-only"
    options = "--no-install-recommends --option Dir::Cache::archives=$PWD auditd >&2 && pwd"
    folder = segment.run("sh", "-c", f"{fetch} {options}")
    segment.run("sh", "-c", f"cd {folder} && for deb in *.deb; do dpkg -x $deb .; done")
    rules = segment.run("cat", "/etc/audit/rules.d/80-host_baseline.rules")
    assert complaints(segment, folder, rules) == []
    assert complaints(segment, folder, "-w /etc/hosts -p wq -k platform") != []


def complaints(segment: SegmentHost, folder: str, rules: str) -> list[str]:
    """Return what auditctl says of rules, each of which it must say something of."""
    command = ["docker", "exec", "-i", segment.container, "sh", "-c", AUDITCTL, "sh", folder]
    said = subprocess.run(command, input=rules + "\n", capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) >= len(re.findall("^-w", rules, re.MULTILINE))
    return [line for line in said if not line.endswith(HARMLESS)]


def test_the_journal_is_kept_and_capped(segment: SegmentHost) -> None:
    segment.run("sh", "-c", "echo kept | systemd-cat --identifier=test_journal && journalctl --sync")
    found = segment.run(
        "journalctl", "--directory=/var/log/journal", "--identifier=test_journal", "--output=cat", "--quiet"
    )
    assert "kept" in found
    sizes = segment.run("journalctl", "--unit=systemd-journald", "--output=cat", "--quiet")
    assert f"{setting('host_baseline_journal_mb') / 1024:.0f}G" in sizes


def played(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the role alone on the hosts of the scenario, in check mode."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
    environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "COLUMNS": "1000"}
    command = ["ansible", "-i", str(SCENARIO / "inventory"), "segment1", "--check", "-m", "include_role"]
    return subprocess.run(
        [*command, "-a", "name=host_baseline", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("connection", "options", "refused"),
    [
        ("198.51.100.7 50000 198.51.100.8 2200", {}, True),
        ("198.51.100.7 50000 198.51.100.8 22", {"host_baseline_ssh_networks": ["192.0.2.0/24"]}, True),
        ("198.51.100.7 50000 198.51.100.8 22", {"host_baseline_ssh_networks": ["198.51.100.0/24", "fd00::/8"]}, False),
    ],
)
def test_a_filter_that_shuts_out_its_own_connection_is_refused(
    connection: str, options: dict[str, object], refused: bool
) -> None:
    # sshd would say so; anything that makes the filter another one makes the role look
    values = {
        "ansible_docker_extra_env": {"SSH_CONNECTION": connection},
        "host_baseline_firewall_rules": ["udp dport 9 drop"],
    }
    done = played("-e", json.dumps(values | options))
    assert (done.returncode != 0) is refused, done.stdout + done.stderr
    assert ("would shut this connection out, from 198.51.100.7 to port" in done.stdout + done.stderr) is refused
