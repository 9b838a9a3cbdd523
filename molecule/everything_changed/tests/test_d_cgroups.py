"""Slices with every limit, the ones too that systemd does not set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.segment_host import SegmentHost, Session, playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]
Options = dict[str, Any]
MIB = 2**20
TAKE = """
import mmap
huge = 0x40000
try:
    held = mmap.mmap(-1, size_mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | huge)
except OSError as error:
    return error.strerror
held.write(b"x" * (size_mb << 20))
return "taken"
"""


@pytest.fixture
def session(segment: SegmentHost) -> Iterator[Session]:
    with segment.session("template1") as session:
        session.run(
            "CREATE OR REPLACE FUNCTION pg_temp.take(size_mb int) RETURNS text LANGUAGE plcontainer AS"
            f" $body$ # container: narrow\n{TAKE} $body$"
        )
        yield session


def refused(**options: Any) -> str:
    """Run site.yml, from the role cgroups on, with options that it must refuse; returns what it said."""
    start = "cgroups : Refuse limits that would hold for nothing"
    done = playbook(SCENARIO, "--start-at-task", start, "-e", json.dumps(options))
    assert done.returncode != 0, done.stdout
    assert [count["changed"] for count in recap(done.stdout).values()] == [0]
    return " ".join((done.stdout + done.stderr).split())


def processors(segment: SegmentHost, pid: int | str) -> str:
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", segment.run("cat", f"/proc/{pid}/status"), re.MULTILINE)
    assert found
    return found[1]


def test_the_limits_that_systemd_sets(segment: SegmentHost, options: Options) -> None:
    names = {"cgroups_postgresql": options["cgroups_postgresql_slice"]}
    names["cgroups_sandboxes"] = options["protocol_server_cgroup_parent"]
    for option, unit in names.items():
        limits = options[option]
        assert int(segment.unit(unit, "MemoryMax")) == limits["memory_mb"] * MIB
        assert int(segment.unit(unit, "TasksMax")) == limits["pids"]
        assert int(segment.unit(unit, "CPUWeight")) == limits["cpu_weight"]
        assert segment.unit(unit, "CPUQuotaPerSecUSec").startswith(f"{limits['cpus']:g}"[0])


def test_postgresql_and_sandboxes_run_on_their_processors(
    segment: SegmentHost, options: Options, session: Session
) -> None:
    # without a sandbox there is nothing to look at
    session.run("SELECT pg_temp.take(0)")
    assert f"/{options['cgroups_postgresql_slice']}/" in segment.run("cat", f"/proc/{session.pid}/cgroup")
    assert processors(segment, session.pid) == options["cgroups_postgresql"]["cpuset"]
    sandboxes = segment.sandboxes()
    assert sandboxes
    for sandbox in sandboxes:
        process = segment.inspect(sandbox)["State"]["Pid"]
        assert processors(segment, process) == options["cgroups_sandboxes"]["cpuset"]


def test_sandboxes_take_no_more_huge_pages_than_they_may(
    segment: SegmentHost, options: Options, session: Session
) -> None:
    allowed = options["cgroups_sandboxes"]["hugepages_mb"]
    free, promised = (
        int(segment.run("cat", f"/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages"))
        for name in ("free", "resv")
    )
    # there is more than they may have
    assert (free - promised) * 2 > allowed
    assert session.run(f"SELECT pg_temp.take({allowed})") == "taken"
    assert session.run(f"SELECT pg_temp.take({allowed + 2})") == "Cannot allocate memory"


def test_limits_are_set_again_when_the_host_boots(segment: SegmentHost, options: Options) -> None:
    parent = options["protocol_server_cgroup_parent"]
    top = re.search(r"name=systemd:(.*)/init\.scope$", segment.run("cat", "/proc/1/cgroup"), re.MULTILINE)
    base = f"/sys/fs/cgroup/hugetlb{top[1]}/{parent}" if top else f"/sys/fs/cgroup/{parent}"
    file = f"{base}/hugetlb.2MB.{'limit_in_bytes' if top else 'max'}"
    limit = segment.run("cat", file)
    assert int(limit) == options["cgroups_sandboxes"]["hugepages_mb"] * MIB
    segment.run("sh", "-c", f"echo {'-1' if top else 'max'} > {file}")
    assert segment.run("cat", file) != limit
    assert segment.unit("slice_limits.service", "UnitFileState") == "enabled"
    segment.run("systemctl", "start", "slice_limits.service")
    assert segment.run("cat", file) == limit


def test_a_limit_that_the_kernel_has_not_is_mended(segment: SegmentHost, options: Options) -> None:
    unit = options["protocol_server_cgroup_parent"]
    top = re.search(r"name=systemd:(.*)/init\.scope$", segment.run("cat", "/proc/1/cgroup"), re.MULTILINE)
    file = f"/sys/fs/cgroup/pids{top[1]}/{unit}/pids.max" if top else f"/sys/fs/cgroup/{unit}/pids.max"
    wanted = segment.run("cat", file)
    assert int(wanted) == options["cgroups_sandboxes"]["pids"]
    segment.run("sh", "-c", f"echo max > {file}")
    done = playbook(SCENARIO, "--start-at-task", "cgroups : Refuse limits that would hold for nothing")
    assert done.returncode == 0, done.stdout
    assert recap(done.stdout)[segment.name]["changed"] == 1, done.stdout
    assert segment.run("cat", file) == wanted
    assert segment.unit(unit, "TasksMax") == wanted.strip()


def test_what_the_host_cannot_have_is_refused_at_once(segment: SegmentHost) -> None:
    segment.put("/tmp/kubelet.yaml", "kind: KubeletConfiguration\ncgroupDriver: systemd\n")
    segment.put("/tmp/daemon.json", '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}\n')
    files = {"docker": "/tmp/daemon.json", "kubelet": "/tmp/kubelet.yaml"}
    said = refused(cgroups_configurations=files, cgroups_sandboxes={"cpuset": "0-4095"})
    assert (
        "Drivers of cgroups differ: docker (/tmp/daemon.json): cgroupfs, kubelet (/tmp/kubelet.yaml): systemd" in said
    )
    assert "the processors 0-4095 are asked for, the host has 0" in said


def test_limits_of_no_slice_are_refused() -> None:
    said = refused(protocol_server_cgroup_parent="/sandboxes")
    assert "which is no slice, so that cgroups_sandboxes limits nothing" in said
