"""A segment host under SELinux: everything works, and what a sandbox may not do is denied by SELinux itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support.segment_host import setting, wait_until
from tests.support.selinux_guest import IMAGE, RELEASE, Denial, Guest, answer

from builder.images import find_image

SANDBOX = "plcontainer_sandbox_t"
SERVER = "protocol_server_t"
PLATFORM = {SERVER, SANDBOX, "postgresql_t", "dockerd_t", "container_runtime_t"}
LEVEL, ANOTHER_LEVEL = "s0:c1,c2", "s0:c3,c4"
# not the server's: it removes directories of sandboxes that it does not know
DIRECTORIES = "/run/probes"
SOCKET = "/run/plcontainer/protocol_server.sock"
PROBES = Path(__file__).with_name("probes.py")
SESSIONS = 20
CALL = "SELECT pylog10(100);"
# start_concurrency of the server
AT_ONCE = 4
# an emulated processor takes its time
LOAD = "SET plcontainer.lease_timeout = '5min'; SELECT sum(pylog10(n)) > 0 FROM generate_series(1, 50) n;"

# probe -> the class of what is denied and one of the permissions
DENIED = {
    "inet_socket": ("tcp_socket", "create"),
    "inet6_socket": ("udp_socket", "create"),
    "raw_socket": (r"rawip_socket|icmp_socket", "create"),
    "netlink_socket": ("netlink_route_socket", "create"),
    "packet_socket": ("packet_socket", "create"),
    "server_config": (r"file|dir", r"read|open|search"),
    "pgdata": ("dir", r"read|search|open"),
    "shadow": ("file", r"read|open"),
    "docker_socket": (r"sock_file|unix_stream_socket", r"write|connectto"),
    "docker_files": ("dir", r"read|search|open"),
    "server_socket": (r"dir|sock_file|unix_stream_socket", r"search|write|connectto"),
    "database_socket": (r"dir|sock_file|unix_stream_socket", r"search|write|connectto"),
    "other_sandbox": ("dir", r"read|search|open"),
    "own_ipc_file": (r"file|dir", r"create|write"),
    "server_ptrace": (r"process|capability", r"ptrace"),
    "server_signal": (r"process|capability", r"signull|kill"),
    "server_memory": (r"file|dir|process", r"read|search|open|ptrace"),
    "mount": (r"capability|filesystem|dir", r"sys_admin|mount|mounton"),
}


@contextmanager
def sessions(guest: Guest, count: int, sql: str = CALL) -> Iterator[list[subprocess.Popen[str]]]:
    """Open sessions with a sandbox each, as many at once as the server starts sandboxes."""
    with ExitStack() as stack:
        opened: list[subprocess.Popen[str]] = []
        for number in range(count + AT_ONCE):
            if number >= AT_ONCE:
                said = answer(opened[number - AT_ONCE])
                assert not any("ERROR" in line for line in said), said
            if number < count:
                opened.append(guest.session(sql))
                stack.callback(opened[-1].communicate)
        yield opened


def labels(guest: Guest, program: str) -> list[str]:
    """Return the labels of the processes whose command line matches."""
    processes = [line.split(None, 1) for line in guest.run("ps -eo label,args --no-headers").splitlines()]
    return [label for label, arguments in processes if re.search(program, arguments)]


@pytest.fixture(scope="session")
def image(guest: Guest) -> str:
    return guest.run("docker images --no-trunc --quiet | head -n 1")


def probe(guest: Guest, image: str, *options: str) -> dict[str, str]:
    """Run the probes in a container with no wall but SELinux's: root, every capability, the host's files."""
    server = guest.run("systemctl show --property MainPID --value protocol_server")
    guest.run(
        "; ".join(
            f"mkdir -p {DIRECTORIES}/{name}; chmod 0777 {DIRECTORIES}/{name};"
            f" chcon -u system_u -t plcontainer_ipc_t -l {level} {DIRECTORIES}/{name}"
            for name, level in (("own", LEVEL), ("other", ANOTHER_LEVEL))
        )
    )
    walls = "--user 0:0 --cap-add ALL --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    walls += " --security-opt systempaths=unconfined --network host --pid host"
    # a member of the group that may connect to the server
    walls += f" --group-add $(stat -c %g {SOCKET})"
    command = (
        f"docker run --rm --interactive {walls} {' '.join(options)} --volume /:/host --volume {DIRECTORIES}/own:/ipc"
    )
    said = guest.run(f"{command} {image} python3 - {server} {DIRECTORIES}/other", PROBES.read_text(encoding="utf-8"))
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    guest.run(f"rm -r {DIRECTORIES}")
    return found


def test_the_machine_enforces(guest: Guest) -> None:
    assert guest.run("getenforce") == "Enforcing"
    assert guest.run("stat -fc %T /sys/fs/cgroup") == "cgroup2fs"


def test_a_function_answers(guest: Guest) -> None:
    assert guest.sql(CALL) == "2"


def test_everyone_is_in_a_domain_of_their_own(guest: Guest) -> None:
    with sessions(guest, 2):
        assert {label.split(":")[2] for label in labels(guest, r"^/usr/sbin/dockerd")} == {"dockerd_t"}
        assert {label.split(":")[2] for label in labels(guest, r"^/usr/lib/postgresql/\S+/postgres|^postgres:")} == {
            "postgresql_t"
        }
        assert {label.split(":")[2] for label in labels(guest, r"-m protocol_server\b")} == {SERVER}
        sandboxes = {label for label in labels(guest, r"runtime_python") if SANDBOX in label}
        levels = {label.split(":", 3)[3] for label in sandboxes}
    assert len(levels) >= 2
    assert all(re.fullmatch(r"s0:c\d+,c\d+", level) for level in levels)


def test_what_is_denied(guest: Guest, image: str) -> None:
    before = len(guest.denials())
    found = probe(guest, image, f"--security-opt label=type:{SANDBOX}", f"--security-opt label=level:{LEVEL}")
    by_program: dict[str, list[Denial]] = {}
    for denial in guest.denials()[before:]:
        by_program.setdefault(denial.program, []).append(denial)
    rows = [f"{'probe':16}{'errno':8}{'class':22}{'permission':16}{'from':49}{'to'}"]
    problems = []
    for name, (kind, permission) in DENIED.items():
        denials = [
            denial
            for denial in by_program.get(name[:15], [])
            if re.fullmatch(kind, denial.kind) and re.search(permission, denial.permissions)
        ]
        told = denials[0] if denials else Denial(name, "-", "-", "-", "-", "")
        rows.append(f"{name:16}{found[name]:8}{told.kind:22}{told.permissions:16}{told.source:49}{told.target}")
        if found[name] not in ("EACCES", "EPERM") or not denials or told.source_type() != SANDBOX:
            problems.append(name)
    print("\n".join(rows))
    assert found.keys() == DENIED.keys()
    assert not problems, "\n".join(
        [*rows, *(denial.line for name in problems for denial in by_program.get(name[:15], []))]
    )


def test_without_selinux_all_of_it_would_leak(guest: Guest, image: str) -> None:
    found = probe(guest, image, "--security-opt label=disable")
    assert found == dict.fromkeys(DENIED, "done")


def test_nothing_is_denied_under_load(guest: Guest) -> None:
    before = len(guest.denials())
    with sessions(guest, SESSIONS, LOAD):
        assert int(guest.run("docker ps --quiet --filter label=caisson.component=sandbox | wc -l")) >= SESSIONS
    denied = [denial.line for denial in guest.denials()[before:] if denial.source_type() in PLATFORM]
    assert not denied, "\n".join(denied[:20])


def test_without_the_policy_no_sandbox_starts(guest: Guest) -> None:
    built = find_image(IMAGE, RELEASE)
    assert built
    # of the image, that knows nothing of ours: to link the policy anew takes an emulated processor minutes
    archive = f"tar -xOf {built.archive} layer.tar | tar -xO --wildcards './etc/selinux/default/policy/policy.*'"
    policy = subprocess.run(archive, shell=True, stdout=subprocess.PIPE, check=True).stdout
    assert guest.sql(CALL) == "2"
    directory = guest.directory / "policy"
    directory.write_bytes(policy)
    ours = guest.run("ls /etc/selinux/default/policy/policy.*")
    config = str(guest.directory / "ssh_config")
    subprocess.run(["scp", "-q", "-F", config, str(directory), "guest:/root/policy"], check=True)
    guest.run(f"cp {ours} /root/ours && cat /root/policy > {ours} && load_policy")
    try:
        status, _ = guest.attempt("seinfo 2>/dev/null; id -Z")
        assert status == 0
        refused = guest.sql(CALL)
        print(refused)
        assert refused.count("ERROR") == 1, refused
        assert "SELinux" in refused, refused
    finally:
        guest.run(f"cat /root/ours > {ours} && load_policy")
    wait_until(lambda: guest.sql(CALL) == "2", 120, "a function answers once the policy is back")


def test_a_memory_hog_is_killed_and_its_neighbour_is_not(guest: Guest) -> None:
    limit = setting("plcontainer_runtimes_defaults")["memory_mb"]
    runtime = setting("plcontainer_runtimes_list")[0]["id"]
    body = f"$$\n# container: {runtime}\n"
    guest.sql(
        f"CREATE OR REPLACE FUNCTION hog() RETURNS int LANGUAGE plcontainer AS {body}"
        f"return len(b'x' * ({limit} * 2 << 20)) $$;"
        f"CREATE OR REPLACE FUNCTION kept() RETURNS int LANGUAGE plcontainer AS {body}"
        "GD['count'] = GD.get('count', 0) + 1\nreturn GD['count'] $$;"
    )
    with sessions(guest, 1, "SELECT kept();") as (neighbour,):
        ended = guest.sql("SELECT hog();")
        assert "53200" in ended, ended
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        neighbour.stdin.write("SELECT kept();\n")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == "2\n"
