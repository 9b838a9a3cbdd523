"""The small parts: cgroup counters, processes, systemd's protocol, logs, what Docker is told and what it says."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from protocol_server.backends import Exit
from protocol_server.backends.docker import cgroup_parent, container_config
from protocol_server.backends.docker_api import demultiplex
from protocol_server.backends.exits import describe_exit
from protocol_server.cgroup import (
    MemoryCounters,
    MemoryEvents,
    Usage,
    memory_directory,
    parse_memory_events,
    read_usage,
    systemd_root,
)
from protocol_server.logs import Log
from protocol_server.process import Watch, peer_of, start_time
from protocol_server.systemd import Notifier

from .memory import runtime, server_config

MOUNT_V1 = "30 25 0:26 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
MOUNT_V2 = "31 25 0:27 {root} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
BOTH_MOUNTS = MOUNT_V2.format(root="/") + "\n" + MOUNT_V1.format(root="/")


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        ("4:memory:/docker/c1\n", MOUNT_V1.format(root="/"), ("/sys/fs/cgroup/memory/docker/c1", 1)),
        ("4:cpu,memory:/docker/c1\n", MOUNT_V1.format(root="/docker"), ("/sys/fs/cgroup/memory/c1", 1)),
        ("0::/docker/c1\n", MOUNT_V2.format(root="/"), ("/sys/fs/cgroup/docker/c1", 2)),
        ("4:memory:/docker/c1\n0::/\n", BOTH_MOUNTS, ("/sys/fs/cgroup/memory/docker/c1", 1)),
        ("4:memory:/docker/c1\n", MOUNT_V1.format(root="/elsewhere"), None),
        ("4:memory:/docker/c1\n", "", None),
    ],
)
def test_memory_directory(tmp_path: Path, groups: str, mounts: str, expected: tuple[str, int] | None) -> None:
    for pid, name, content in (("7", "cgroup", groups), ("self", "mountinfo", mounts)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / name).write_text(content)
    found = memory_directory(7, tmp_path)
    assert (found and (str(found[0]), found[1])) == expected


def test_memory_directory_of_a_process_that_is_gone(tmp_path: Path) -> None:
    assert memory_directory(7, tmp_path) is None


def test_parse_memory_events() -> None:
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
    assert parse_memory_events([control, "33554432\n", "33554432\n"]) == MemoryEvents(2, True)
    assert parse_memory_events([control, "20000000\n", "33554432\n"]) == MemoryEvents(2, False)
    assert parse_memory_events(["low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n"]) == MemoryEvents(1, True)
    assert parse_memory_events(["low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"]) == MemoryEvents(0, False)


def test_memory_counters_of_files(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("max 3\noom_kill 1\n")
    counters = MemoryCounters(tmp_path, 2)
    assert counters.read() == MemoryEvents(1, True)
    counters.close()
    counters.close()
    assert counters.read() is None
    with pytest.raises(FileNotFoundError):
        MemoryCounters(tmp_path, 1)


@pytest.mark.parametrize(
    ("status", "kill", "limit_hit", "expected"),
    [
        (137, False, False, Exit("terminated by signal KILL", "08006")),
        (139, False, False, Exit("terminated by signal SEGV", "08006")),
        (3, False, False, Exit("exited with status 3", "08006")),
        (0, False, False, Exit("exited with status 0", "08006")),
        (255, False, False, Exit("exited with status 255", "08006")),
        (None, False, False, Exit("ended, and its exit status was not told", "08006")),
        (137, True, True, Exit("exceeded its memory limit of 512 MB", "53200")),
        (None, True, True, Exit("exceeded its memory limit of 512 MB", "53200")),
        (137, True, False, Exit("was killed because its resource group or the host ran out of memory", "53200")),
        # A child was killed some time ago; what ended the sandbox is something else.
        (1, True, True, Exit("exited with status 1", "08006")),
    ],
)
def test_describe_exit(status: int | None, kill: bool, limit_hit: bool, expected: Exit) -> None:
    assert describe_exit(status, kill, limit_hit, 512) == expected


@pytest.mark.parametrize(
    ("parent", "group", "driver", "expected"),
    [
        ("", "", "systemd", ""),
        ("/sandboxes", "", "cgroupfs", "/sandboxes"),
        ("plcontainer.slice", "", "systemd", "plcontainer.slice"),
        ("plcontainer.slice", "", "cgroupfs", "/plcontainer.slice"),
        ("plcontainer.slice", "reports", "systemd", "plcontainer-reports.slice"),
        ("plcontainer.slice", "reports", "cgroupfs", "/plcontainer.slice/plcontainer-reports.slice"),
    ],
)
def test_parent_of_cgroups(tmp_path: Path, parent: str, group: str, driver: str, expected: str) -> None:
    config = server_config(tmp_path, cgroup_parent=parent, resource_groups=("reports",))
    one = runtime("r", resource_group_id=group, cpuset="0-1")
    assert cgroup_parent(config, one, driver, PurePosixPath("/")) == expected
    host = container_config(config, one, "0123456789abcdef", driver)["HostConfig"]
    assert host["CgroupParent"].endswith(expected)
    assert host["CpusetCpus"] == "0-1"


def test_parent_of_cgroups_where_a_container_is_the_host(tmp_path: Path) -> None:
    config = server_config(tmp_path, cgroup_parent="plcontainer.slice")
    root = PurePosixPath("/docker/abc")
    assert cgroup_parent(config, runtime("r"), "cgroupfs", root) == "/docker/abc/plcontainer.slice"
    assert cgroup_parent(config, runtime("r"), "systemd", root) == "plcontainer.slice"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("0::/init.scope\n", "/"),
        ("4:memory:/docker/abc\n1:name=systemd:/docker/abc/init.scope\n0::/\n", "/docker/abc"),
        # No systemd.
        ("4:memory:/\n0::/docker/abc\n", "/"),
        ("", "/"),
    ],
)
def test_where_slices_begin(tmp_path: Path, groups: str, expected: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cgroup").write_text(groups)
    assert systemd_root(tmp_path) == PurePosixPath(expected)


def test_a_network_is_for_runtimes_that_have_one(tmp_path: Path) -> None:
    config = server_config(tmp_path, network="sandboxes", network_dns=("10.0.0.53",))
    body = container_config(config, runtime("r", enable_network=True), "0123456789abcdef")
    assert body["NetworkDisabled"] is False
    assert (body["HostConfig"]["NetworkMode"], body["HostConfig"]["Dns"]) == ("sandboxes", ["10.0.0.53"])
    body = container_config(config, runtime("r"), "0123456789abcdef")
    assert body["NetworkDisabled"] is True
    assert body["HostConfig"]["NetworkMode"] == "none"
    assert "Dns" not in body["HostConfig"]


USAGE_1 = {
    "memory": {"memory.usage_in_bytes": "5000\n", "memory.stat": "cache 9\ntotal_inactive_file 1000\n"},
    "cpuacct": {"cpuacct.usage": "2500000000\n"},
}
USAGE_2 = {
    "one": {
        "memory.current": "5000\n",
        "memory.stat": "anon 1\ninactive_file 1000\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    }
}


@pytest.mark.parametrize("files", [USAGE_1, USAGE_2])
def test_usage_of_a_cgroup(tmp_path: Path, files: dict[str, dict[str, str]]) -> None:
    for directory, contents in files.items():
        (tmp_path / directory).mkdir()
        for name, text in contents.items():
            (tmp_path / directory / name).write_text(text)
    assert read_usage([tmp_path / directory for directory in files]) == Usage(4000, 2.5)
    assert read_usage([tmp_path / "gone"]) == Usage(None, None)


def test_container_config_locks_in(tmp_path: Path) -> None:
    body = container_config(server_config(tmp_path), runtime("r", cpus=0.5, nofile=99), "0123456789abcdef")
    host = body["HostConfig"]
    assert body["User"] == "10000:10000"
    assert (body["Cmd"], body["Entrypoint"]) == (["python3"], [])
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["Memory"] == host["MemorySwap"] == 32 * 1024 * 1024
    assert (host["NanoCpus"], host["CpuShares"], host["PidsLimit"]) == (500_000_000, 1024, 16)
    assert host["Tmpfs"] == {"/tmp": "rw,noexec,nosuid,nodev,size=8m,mode=1777"}
    assert {"Name": "nofile", "Soft": 99, "Hard": 99} in host["Ulimits"]
    assert [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in host["Mounts"]] == [
        (f"{tmp_path}/sandboxes/0123456789abcdef", "/run/caisson", True),
        ("/usr/lib/caisson/runtime_python", "/opt/caisson/runtime_python", True),
        (f"{tmp_path}/accounts/10000-10000/passwd", "/etc/passwd", True),
        (f"{tmp_path}/accounts/10000-10000/group", "/etc/group", True),
    ]
    assert "HOME=/tmp" in body["Env"]
    assert not {"Privileged", "CapAdd", "Devices", "PidMode", "UsernsMode", "Binds"} & host.keys()
    labels = body["Labels"]
    assert (labels["caisson.component"], labels["caisson.instance"]) == ("sandbox", "test")


def test_container_config_of_a_runtime_with_a_user(tmp_path: Path) -> None:
    body = container_config(server_config(tmp_path), runtime("r", user="1000660000:0"), "0123456789abcdef")
    assert body["User"] == "1000660000:0"
    sources = {mount["Target"]: mount["Source"] for mount in body["HostConfig"]["Mounts"]}
    assert sources["/etc/passwd"] == f"{tmp_path}/accounts/1000660000-0/passwd"


def test_demultiplex() -> None:
    def piece(stream: int, text: bytes) -> bytes:
        return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text

    assert demultiplex(piece(1, b"one\n") + piece(2, b"two\xff\0") + b"\x01\0") == "one\ntwo\ufffd\ufffd"
    assert demultiplex(piece(1, b"cut off")[:-3]) == "cut "


def test_start_time_and_peer() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    assert mine > 0
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # A zombie: it has ended, though its number is still taken.
        assert start_time(child.pid) is None
    assert start_time(2**22 + 1) is None
    left, right = socket.socketpair()
    with left, right:
        assert peer_of(left).uid == os.getuid()
        assert peer_of(left).pid == os.getpid()


def test_watch_tells_of_the_end() -> None:
    async def body() -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        ended = asyncio.Event()
        watch = Watch(child.pid, ended.set)
        states = [watch.ended]
        child.kill()
        async with asyncio.timeout(5):
            await ended.wait()
        states.append(watch.ended)
        assert states == [False, True]
        child.communicate()
        with pytest.raises(ProcessLookupError):
            Watch(child.pid, ended.set)

    asyncio.run(body())


@pytest.mark.parametrize("abstract", [False, True])
def test_notifier(tmp_path: Path, abstract: bool) -> None:
    name = f"@caisson-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000000"})
        assert notifier.watchdog_interval_s == 10.0
        notifier.ready("3 runtimes")
        notifier.reloading()
        notifier.watchdog()
        notifier.stopping()
        assert manager.recv(100) == b"READY=1\nSTATUS=3 runtimes"
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert [manager.recv(100) for _ in range(2)] == [b"WATCHDOG=1", b"STOPPING=1"]
    # The manager is gone: no reason to fail.
    notifier.watchdog()


def test_notifier_without_a_manager() -> None:
    assert Notifier({}).watchdog_interval_s is None
    Notifier({}).ready("x")
    foreign = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert Notifier(foreign).watchdog_interval_s is None


def test_log_lines() -> None:
    stream = io.StringIO()
    log = Log(stream, "info")
    bound = log.bind(backend_pid=7)
    bound.debug("hidden")
    bound.info("shown", runtime="r", role=None, text='two\nlines "quoted"')
    log.set_level("debug")
    bound.debug("now shown")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["shown", "now shown"]
    assert lines[0]["backend_pid"] == 7
    assert "role" not in lines[0]
    stream.close()
    log.info("a reader that went away")
