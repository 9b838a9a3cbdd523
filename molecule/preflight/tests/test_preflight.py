"""All that is wrong with a host is told at once, before anything is changed on it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.segment_host import SegmentHost, host_names, lab_name, playbook, recap, setting, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
PORT = setting("segment_host_postgresql_port")
LISTEN = f"import socket; s = socket.create_server(('127.0.0.1', {PORT})); s.accept()"


@pytest.fixture(scope="module", params=host_names(SCENARIO))
def segment(request: pytest.FixtureRequest) -> SegmentHost:
    return SegmentHost(lab_name(SCENARIO), request.param)


@pytest.fixture
def stranger(segment: SegmentHost) -> Iterator[None]:
    """Let somebody else hold the database's port."""
    with subprocess.Popen(["docker", "exec", segment.container, "python3", "-c", LISTEN]) as process:
        wait_until(lambda: segment.host.socket(f"tcp://127.0.0.1:{PORT}").is_listening, 10, "it listens")
        yield
        segment.run("pkill", "--full", "socket.create_server")
        process.wait(10)


def preflight(segment: SegmentHost, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return playbook(SCENARIO, "--limit", segment.name, *arguments, "-e", json.dumps(options))


def problems(said: str) -> list[str]:
    """Return the words in front of the problems of the one message that has them."""
    message = re.search(r"This host cannot be a segment host: (\d+) problems?\.\n((?: +- .*\n(?: {8,}.*\n)*)+)", said)
    assert message, said
    found = re.findall(r"^ +- (\w+):", message[2], re.MULTILINE)
    assert len(found) == int(message[1])
    return found


@pytest.mark.usefixtures("stranger")
def test_everything_that_is_wrong_is_told_at_once(segment: SegmentHost) -> None:
    done = preflight(
        segment,
        preflight_systems=["Debian 11"],
        preflight_kernel_minimum="99.0",
        preflight_cgroup_controllers=["memory", "no_such_controller"],
        preflight_disk_gb=100000,
        preflight_memory_mb=1000000000,
        preflight_clock_skew_s=-1,
    )
    assert done.returncode != 0
    assert problems(done.stdout) == ["system", "kernel", "cgroups", "disk", "memory", "ports", "clock"]
    assert "Debian 11" in done.stdout
    assert f"{PORT} is needed by postgres and held by python3" in done.stdout
    assert recap(done.stdout)[segment.name]["changed"] == 0
    assert recap(done.stdout)[segment.name]["failed"] == 1
    assert not segment.host.package("docker.io").is_installed
    assert not segment.host.file("/etc/docker").exists


def test_check_mode_tells_the_same(segment: SegmentHost) -> None:
    done = preflight(segment, "--check", preflight_kernel_minimum="99.0", preflight_memory_mb=1000000000)
    assert done.returncode != 0
    assert problems(done.stdout) == ["kernel", "memory"]


def test_docker_cannot_live_on_the_overlay_of_the_host(segment: SegmentHost) -> None:
    done = preflight(segment, preflight_directories=["/srv/docker", "/var/lib/docker"])
    assert problems(done.stdout) == ["disk"]
    assert "/srv/docker is on an overlay file system" in done.stdout


@pytest.mark.parametrize(("policy", "refused"), [("refuse", True), ("warn", False)])
def test_an_old_runc(segment: SegmentHost, policy: str, refused: bool) -> None:
    segment.run("sh", "-c", "apt-get update -qq && apt-get install --yes -qq --no-install-recommends runc >/dev/null")
    minimum = {segment.debian(): "99"}
    # the second demand ends the run before it changes anything
    done = preflight(
        segment, preflight_runc_minimum=minimum, preflight_runc_policy=policy, preflight_kernel_minimum="99.0"
    )
    assert problems(done.stdout) == (["kernel", "runc"] if refused else ["kernel"])
    assert "is older than 99; upgrade the package" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("mode", ["enforcing", "permissive"])
def test_selinux_that_is_not_there_is_refused(segment: SegmentHost, mode: str) -> None:
    done = preflight(segment, selinux_policy_mode=mode)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert f"selinux_policy_mode is {mode}, and the kernel of this host runs without SELinux: install" in said
    assert recap(done.stdout)[segment.name]["changed"] == 0
    assert not segment.host.file("/etc/plcontainer").exists


def test_a_host_that_is_fit_passes(segment: SegmentHost) -> None:
    done = preflight(segment, "--check")
    assert done.returncode == 0, done.stdout
    assert "problem" not in done.stdout
