"""Directories on memory and on other directories."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.segment_host import SegmentHost

MOUNTS = ("/srv/shuffle", "/var/lib/docker/elsewhere")


def test_the_volume_in_memory(segment: SegmentHost) -> None:
    kind, size, options = segment.run("findmnt", "-no", "FSTYPE,SIZE,OPTIONS", "/srv/shuffle").split()
    assert (kind, size) == ("tmpfs", "64M")
    assert {"nodev", "nosuid", "noexec"} <= set(options.split(","))
    assert segment.run("stat", "-c", "%U %G %a", "/srv/shuffle").strip() == "root adm 1770"
    assert "No space left" in segment.fails("sh", "-c", "head -c 65M /dev/zero > /srv/shuffle/big")
    segment.run("rm", "/srv/shuffle/big")


def test_docker_s_data_is_in_the_directory_that_is_bound(segment: SegmentHost, options: dict[str, Any]) -> None:
    root = segment.docker("info", "--format", "{{.DockerRootDir}}").strip()
    assert root == options["docker_engine_data_root"]
    assert "noatime" in segment.run("findmnt", "-no", "OPTIONS", root)
    inside, outside = segment.run("stat", "-c", "%d:%i", root, "/var/lib/docker/storage").split()
    assert inside == outside
    assert "overlay2" in segment.run("ls", "/var/lib/docker/storage")


@pytest.mark.parametrize("path", MOUNTS)
def test_they_are_there_before_anything_starts(segment: SegmentHost, path: str) -> None:
    unit = segment.run("systemd-escape", "--path", "--suffix=mount", path).strip()
    assert segment.unit(unit, "ActiveState") == "active"
    assert "local-fs.target" in segment.unit(unit, "RequiredBy").split()
    assert "local-fs.target" in segment.unit(unit, "Before")
