"""The verbs of the Makefile on a lab of their own: what README.md promises a user."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.segment_host import recap

ROOT = Path(__file__).resolve().parents[2]
LAB = "caisson-e2e"
HOSTS = ("segment1", "segment2")
ENVIRONMENT = {**os.environ, "LAB_NAME": LAB, "LAB_POSTGRESQL_FIRST_PORT": "25432"}
AGAIN_LIMIT_S = 60.0
UNITS = "/etc/systemd/system"
CONF_D = "/etc/postgresql/17/main/conf.d/segment_host.conf"
# What is done to a host, and what the line that tells it has.
DRIFTS = {
    "contents of a file": ("echo >> /etc/plcontainer/protocol_server.yml", "protocol_server.yml: other contents"),
    "mode of a file": ("chmod 0666 /etc/docker/daemon.json", "/etc/docker/daemon.json: mode is 0666"),
    "a file is gone": (f"rm {UNITS}/protocol_server.service", "system/protocol_server.service: no file"),
    "a unit is disabled": ("systemctl disable docker.service", "docker.service: disabled"),
    "a service is stopped": ("systemctl stop protocol_server.service", "protocol_server.service: inactive"),
    "a package is removed": ("dpkg --force-depends --remove caisson-runtime-r", "caisson-runtime-r"),
    "a runtime is deleted": ("echo 'runtimes: []' > /etc/plcontainer/runtimes.yml", "runtimes.yml: other contents"),
    "a setting is altered": (f"sed -i 's/^max_connections.*/max_connections = 7/' {CONF_D}", f"{CONF_D}: other"),
    "the extension is dropped": ("su postgres -c \"psql -qc 'DROP EXTENSION plcontainer CASCADE'\"", "plcontainer: "),
    "an image is removed": ("docker rmi --force $(docker images --quiet caisson/plr)", "caisson/plr"),
    "a slice has no limits": (f"echo '[Slice]' > {UNITS}/sandboxes.slice", "sandboxes.slice: other contents"),
    "a kernel parameter": ("sysctl -qw net.ipv4.tcp_rfc1337=0", "net.ipv4.tcp_rfc1337: 0, not 1"),
}


def run(*command: str, stdin: str | None = None, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """A command from the project's root, with the test's lab in its environment."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def make(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One verb of the Makefile."""
    return run("make", "--no-print-directory", *arguments, stdin=stdin)


def playbook(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`ansible-playbook` as a user runs it."""
    return run(".venv/bin/ansible-playbook", *arguments)


def docker(*arguments: str) -> str:
    """What the Docker command prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def remains() -> list[str]:
    """What Docker holds of the test's lab."""
    found = []
    for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        found += docker(*kind, "-q", "--filter", f"label=caisson.lab={LAB}").split()
    return found


@pytest.fixture(scope="module")
def up() -> Iterator[str]:
    """The lab, brought up by the one command; yields what that printed."""
    make("down")
    done = make("up")
    assert done.returncode == 0, done.stdout + done.stderr
    yield done.stdout
    make("down")


def test_up_ends_with_the_answer_of_both_hosts(up: str) -> None:
    rows = [line.split() for line in up.splitlines() if line.split()[:1] and line.split()[0] in HOSTS]
    answers = {row[0]: row for row in rows}
    assert sorted(answers) == sorted(HOSTS)
    for row in answers.values():
        assert row[1].startswith("17"), row
        assert row[2] == "2", row
        assert float(row[3]) > 0 and float(row[4]) > 0, row
    assert "make psql" in up


def test_up_again_is_quick(up: str) -> None:
    begin = time.monotonic()
    done = make("up")
    took = time.monotonic() - begin
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"make up again: {took:.1f} s")
    assert took <= AGAIN_LIMIT_S


def test_second_site_run_changes_nothing(up: str) -> None:
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = recap(done.stdout)
    assert set(HOSTS) <= set(counts)
    assert {host: c["changed"] for host, c in counts.items()} == dict.fromkeys(counts, 0), done.stdout


def test_check_of_finished_hosts_predicts_nothing(up: str) -> None:
    done = playbook("site.yml", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = recap(done.stdout)
    assert all(c["changed"] == c["failed"] == 0 for c in counts.values()), done.stdout


def test_sql_passes_text_unharmed(up: str) -> None:
    done = make("sql", "SQL=SELECT 'it''s $HOME \"q\" `x` \\n %s', pylog10(1000)", "HOST=segment2")
    assert done.returncode == 0, done.stderr
    assert 'it\'s $HOME "q" `x` \\n %s' in done.stdout
    assert "3" in done.stdout


def test_sql_from_the_environment_passes_dollars(up: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "sql"],
        cwd=ROOT,
        env={**ENVIRONMENT, "SQL": "SELECT $$two\nlines$$"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "two" in done.stdout and "lines" in done.stdout


def test_psql_reads_standard_input(up: str) -> None:
    done = make("psql", stdin="SELECT current_user, pylog10(100);\n")
    assert (done.returncode, done.stdout) == (0, "postgres|2\n"), done.stderr


def test_psql_fails_on_an_error(up: str) -> None:
    done = make("psql", stdin="SELECT 1/0;\nSELECT 'not reached';\n")
    assert done.returncode != 0
    assert "division by zero" in done.stderr
    assert "not reached" not in done.stdout


def test_shell_runs_a_command(up: str) -> None:
    done = make("shell", "HOST=segment2", "CMD=hostname && id -u")
    assert (done.returncode, done.stdout) == (0, "segment2\n0\n"), done.stderr
    assert make("shell", "CMD=exit 3").returncode != 0


def test_unknown_host_is_named(up: str) -> None:
    done = make("sql", "SQL=SELECT 1", "HOST=segment9")
    assert done.returncode != 0
    assert "segment9" in done.stderr and "segment1" in done.stderr


def test_status_for_programs(up: str) -> None:
    done = make("status", "FORMAT=json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert sorted(report["hosts"]) == sorted(HOSTS)


def test_check_finds_nothing_on_finished_hosts(up: str) -> None:
    done = make("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All is as asked." in done.stdout


def test_status_tells_what_is_up(up: str) -> None:
    done = make("status")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(host in done.stdout for host in HOSTS)
    container = f"{LAB}-segment2"
    docker("exec", container, "systemctl", "stop", "protocol_server")
    try:
        broken = make("status")
    finally:
        docker("exec", container, "systemctl", "start", "protocol_server")
    assert broken.returncode != 0
    assert "protocol_server" in broken.stdout


def test_check_names_each_drift_and_site_mends_it(up: str) -> None:
    for command, _ in DRIFTS.values():
        docker("exec", f"{LAB}-segment2", "sh", "-c", command)
    done = make("check")
    assert done.returncode != 0
    found = [line for line in done.stdout.splitlines() if line.startswith("segment2: ")]
    print("\n".join(found))
    missed = {what: told for what, (_, told) in DRIFTS.items() if not any(told in line for line in found)}
    assert missed == {}, done.stdout
    assert not any(line.startswith("segment1: ") and "differences" not in line for line in done.stdout.splitlines())
    mended = playbook("site.yml")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    again = make("check")
    assert again.returncode == 0, again.stdout
    # the function that went with the extension
    assert playbook("playbooks/lab_query.yml").returncode == 0


def test_destroy_is_refused_without_the_word(up: str) -> None:
    for word in ((), ("-e", "destroy_confirm=yes"), ("-e", "destroy_confirm='3 hosts'")):
        done = playbook("playbooks/destroy.yml", *word)
        assert done.returncode != 0
        assert "Nothing was changed" in done.stdout
        assert "-e destroy_confirm='2 hosts'" in done.stdout
    assert make("check").returncode == 0


def test_containers_are_not_privileged(up: str) -> None:
    for host in HOSTS:
        config = json.loads(docker("inspect", f"{LAB}-{host}"))[0]["HostConfig"]
        assert config["Privileged"] is False


def test_nothing_listens_beyond_loopback(up: str) -> None:
    bindings = json.loads(docker("inspect", f"{LAB}-segment1"))[0]["NetworkSettings"]["Ports"]
    addresses = {b["HostIp"] for bound in bindings.values() for b in bound or ()}
    assert addresses == {"127.0.0.1"}


def test_benchmark_of_calls_holds_its_limits(up: str) -> None:
    done = make("bench")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_down_leaves_nothing(up: str) -> None:
    assert remains()
    done = make("down")
    assert done.returncode == 0, done.stdout + done.stderr
    assert remains() == []
    refused = make("psql", stdin="SELECT 1;\n")
    assert refused.returncode != 0
    assert "make up" in refused.stderr
    assert make("status").returncode != 0
