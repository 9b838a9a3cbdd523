"""Docker on a host: what its containers can and cannot do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from tests.support.segment_host import SegmentHost, setting, wait_until

IMAGE = "plpython"


@pytest.fixture
def image(segment: SegmentHost) -> str:
    """Return an image that is on the host."""
    return segment.docker("image", "ls", "--quiet", f"caisson/{IMAGE}").split()[0]


@pytest.fixture
def container(segment: SegmentHost, image: str) -> Iterator[str]:
    """Start a container that listens on a port, which is published too."""
    serve = "import socket; s = socket.create_server(('', 8000))\nwhile True: s.accept()"
    name = segment.docker("run", "--detach", "--publish", "127.0.0.1:18000:8000", image, "python3", "-c", serve)
    yield name
    segment.docker("rm", "--force", name)


def test_it_runs_as_configured(segment: SegmentHost) -> None:
    info = json.loads(segment.docker("info", "--format", "{{json .}}"))
    assert info["LiveRestoreEnabled"] is True
    assert info["LoggingDriver"] == "json-file"
    assert info["Driver"] == "overlay2"
    assert segment.host.service("docker").is_enabled


def test_containers_gain_no_privileges(segment: SegmentHost, image: str) -> None:
    status = segment.docker("run", "--rm", "--network", "none", image, "cat", "/proc/self/status")
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_open_files_are_limited(segment: SegmentHost, image: str) -> None:
    shown = segment.docker("run", "--rm", "--network", "none", image, "sh", "-c", "ulimit -Sn; ulimit -Hn")
    assert shown.split() == [str(setting("docker_engine_nofile_soft")), str(setting("docker_engine_nofile_hard"))]


def test_containers_cannot_talk_to_each_other(segment: SegmentHost, container: str, image: str) -> None:
    address = segment.inspect(container)["NetworkSettings"]["IPAddress"]
    connect = f"import socket; socket.create_connection(('{address}', 8000), 2)"
    # the host itself can: it is there and listens
    wait_until(lambda: segment.host.run(f'python3 -c "{connect}"').rc == 0, 10, "the container listens")
    refused = segment.fails("docker", "run", "--rm", image, "python3", "-c", connect)
    assert "Error" in refused


def test_a_published_port_needs_no_process(segment: SegmentHost, container: str) -> None:
    assert segment.inspect(container)["HostConfig"]["PortBindings"]
    assert segment.host.process.filter(comm="docker-proxy") == []


def test_containers_outlive_a_restart_of_docker(segment: SegmentHost, container: str) -> None:
    before = segment.inspect(container)["State"]
    segment.run("systemctl", "restart", "docker.service")
    after = segment.inspect(container)["State"]
    assert after["Running"]
    assert (after["Pid"], after["StartedAt"]) == (before["Pid"], before["StartedAt"])


def test_a_log_is_capped(segment: SegmentHost, image: str) -> None:
    megabytes = setting("docker_engine_log_mb") * (setting("docker_engine_log_files") + 2)
    flood = f"for i in range({megabytes} * 1024): print('x' * 1023)"
    name = segment.docker("run", "--detach", "--network", "none", image, "python3", "-c", flood)
    try:
        assert segment.docker("wait", name) == "0"
        folder = segment.inspect(name)["LogPath"].rpartition("/")[0]
        sizes = [int(size) for size in segment.run("sh", "-c", f"stat -c %s {folder}/*-json.log*").split()]
    finally:
        segment.docker("rm", "--force", name)
    assert len(sizes) == setting("docker_engine_log_files")
    # Docker rotates behind the line that reaches the limit
    assert all(size < (setting("docker_engine_log_mb") + 1) * 2**20 for size in sizes)
