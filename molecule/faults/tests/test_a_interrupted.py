"""Provisioning that is killed and run again, of a host that vanishes meanwhile. The hosts are bare at first."""

from __future__ import annotations

import os
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from tests.support.playbooks import KILLER, Run
from tests.support.segment_host import SegmentHost, recap, wait_until
from tests.support.snapshot import difference, snapshot

# How many runs are killed; another seed draws other tasks.
KILLS = int(os.environ.get("CAISSON_KILLS", "2"))
SEED = int(os.environ.get("CAISSON_SEED", "31"))
# A bare host is changed some 55 times; the host vanishes, and each run is killed, somewhere in a part of that.
CHANGES = 48 // (KILLS + 1)
# What two hosts never have in common.
OWN = re.compile(
    r"hostname|/ssl/|/machine-id|caisson/(origin|lock)|random-seed|credential\.secret|: br-|/etc/(hosts|resolv.conf)"
    # whether somebody named a package or another needed it: what was half installed is finished in another way
    r"|^automatic packages"
    r"|\.key |/var/lib/systemd/|ssl-cert|snakeoil|/etc/\S+- "
)
LOST = re.compile(r"(fatal|failed): \[segment1\]")
WORK = re.compile(r"AnsiballZ|_ansible|apt-get|/usr/bin/dpkg|^/usr/bin/python3( -)?$")


@dataclass
class Story:
    """What has happened to the hosts."""

    first: str = ""
    killed: list[str] = field(default_factory=list)


def busy(host: SegmentHost) -> bool:
    """Tell whether a module of Ansible or apt is at work on a host."""
    return any(WORK.search(line) for line in host.run("ps", "-eo", "args").splitlines())


def is_up(host: SegmentHost) -> bool:
    """Tell whether systemd has started everything."""
    return host.host.run("systemctl is-system-running").stdout.strip() in ("running", "degraded")


@pytest.fixture(scope="module")
def story(one: SegmentHost, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Provision both hosts. The first vanishes meanwhile, and comes back to runs that are killed and one that ends."""
    told = Story()
    chance = random.Random(SEED)
    log = tmp_path_factory.mktemp("runs") / "first"
    log.touch()

    def first() -> str:
        changes = 2 * chance.randint(3, CHANGES)
        when = {"KILL_AFTER_CHANGES": str(changes), "KILL_COMMAND": f"docker kill {one.container}"}
        return run("site.yml", ANSIBLE_LOG_PATH=str(log), **KILLER, **when).stdout

    with ThreadPoolExecutor() as pool:
        undisturbed = pool.submit(first)
        # the run has to see it before it is back
        wait_until(lambda: LOST.search(log.read_text("utf-8")) or undisturbed.done(), 600, "the host is missed")
        subprocess.run(["docker", "start", one.container], check=True, capture_output=True)
        wait_until(lambda: is_up(one), 120, "it is back")
        for _ in range(KILLS):
            when = {"KILL_AFTER_CHANGES": str(chance.randint(1, CHANGES)), "KILL_AFTER_S": str(chance.uniform(0, 2))}
            done = run("site.yml", "--limit", "segment1", **KILLER, **when)
            if found := re.search(r"^KILLED in: (.*)$", done.stdout, re.MULTILINE):
                assert done.returncode == -9, done.stdout[-3000:]
                told.killed.append(found[1])
            # the module that runs on the host does not end with its run, and neither does apt
            wait_until(lambda: not busy(one), 180, "what the run has left behind has ended")
        done = run("site.yml", "--limit", "segment1")
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        told.first = undisturbed.result()
    return told


def test_a_host_that_vanishes_fails_alone(story: Story) -> None:
    print(*re.findall(r"^KILLED in: .*", story.first, re.MULTILINE))
    counts = recap(story.first)
    print(counts)
    assert "KILLED in: " in story.first, story.first[-3000:]
    assert counts["segment1"]["unreachable"] + counts["segment1"]["failed"] == 1, story.first[-3000:]
    assert counts["segment2"]["unreachable"] + counts["segment2"]["failed"] == 0, story.first[-3000:]
    assert counts["segment2"]["changed"] > 40, story.first[-3000:]


def test_31_a_killed_run_is_taken_up(story: Story, one: SegmentHost, two: SegmentHost) -> None:
    print(f"seed {SEED}, killed in:", *story.killed, sep="\n  ")
    assert len(story.killed) == KILLS
    wait_until(one.server_is_up, 30, "the server is up")
    found = [line for line in difference(snapshot(two), snapshot(one)) if not OWN.search(line)]
    print("\n".join(found))
    assert found == []
    # nothing half-written
    assert one.run("find", "/etc", "-name", ".ansible*", "-o", "-name", "*.dpkg-new") == ""
    for host in (one, two):
        assert host.sql("SELECT count(*) FROM pg_extension WHERE extname = 'plcontainer'") == "1"


@pytest.mark.usefixtures("story")
def test_31_nothing_is_left_to_do(run: Run) -> None:
    done = run("check.yml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "All is as asked." in done.stdout


@pytest.mark.usefixtures("story")
def test_a_host_that_cannot_be_reached_is_told(two: SegmentHost, run: Run) -> None:
    elsewhere = f"{two.container}-elsewhere"
    subprocess.run(["docker", "rename", two.container, elsewhere], check=True, capture_output=True)
    try:
        done = run("status.yml", ANSIBLE_STDOUT_CALLBACK="phases")
    finally:
        subprocess.run(["docker", "rename", elsewhere, two.container], check=True, capture_output=True)
    print(done.stdout)
    assert done.returncode != 0
    assert re.search(r"^! host +connection +\S.*", done.stdout, re.MULTILINE), done.stdout
    assert "segment1: all is well" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
