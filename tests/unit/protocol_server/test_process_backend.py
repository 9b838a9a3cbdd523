"""The parts of the backend without Docker: cgroups of both versions, the image's root, the command line, the output."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path, PurePosixPath

import pytest

from protocol_server.backends.output import Output
from protocol_server.backends.process import _noted_pid
from protocol_server.backends.process_cgroup import delegate, find_cgroups, slice_path
from protocol_server.backends.process_command import (
    Host,
    MountPointError,
    launch_arguments,
    probe_command,
    root_arguments,
    sandbox_command,
)
from protocol_server.backends.seccomp import build_program
from protocol_server.process import start_time
from protocol_server.runtimes import Mount

from .memory import runtime, server_config

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("parent", "group", "path"),
    [
        ("caisson.slice", "", "caisson.slice"),
        ("caisson.slice", "reports", "caisson.slice/caisson-reports.slice"),
        ("a-b.slice", "c", "a.slice/a-b.slice/a-b-c.slice"),
        ("/caisson", "", "caisson"),
        ("a/b", "", "a/b"),
    ],
)
def test_slices_lie_in_each_other(parent: str, group: str, path: str) -> None:
    assert slice_path(parent, group) == PurePosixPath(path)


def version_1(tmp_path: Path, own: str = "/") -> Path:
    """A /proc/self, and the trees of version 1 that it tells of."""
    proc = tmp_path / "proc"
    proc.mkdir()
    lines, groups = [], []
    for number, name in enumerate(("memory", "pids", "cpu,cpuacct"), 1):
        mount = tmp_path / "cgroup" / name
        (mount / own.strip("/")).mkdir(parents=True)
        (mount / own.strip("/") / "cgroup.procs").touch()
        lines.append(f"{number} 0 0:{number} / {mount} rw - cgroup cgroup rw,{name}")
        groups.append(f"{number}:{name}:{own}")
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    (proc / "cgroup").write_text("\n".join([*groups, "0::/"]) + "\n")
    return proc


def test_version_1(tmp_path: Path) -> None:
    cgroups = find_cgroups("", proc=version_1(tmp_path, "/host/server"))
    assert cgroups.version == 1
    assert cgroups.missing == ()
    limits = runtime("r", memory_mb=64, pids=16, cpu_shares=512, cpus=0.5)
    for name in ("memory", "pids", "cpu,cpuacct"):
        # The kernel makes these with the directory.
        made = tmp_path / "cgroup" / name / "host/server/one"
        made.mkdir()
        for file in ("memory.limit_in_bytes", "cgroup.procs"):
            (made / file).touch()
    group = cgroups.make("one", limits)
    assert len(group.directories) == 3, "one for each tree"
    assert group.memory is not None
    assert (group.memory / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    read = {path.name: path.read_text() for directory in group.directories for path in directory.iterdir()}
    # Two processes are bubblewrap's.
    assert read["pids.max"] == "18"
    assert (read["cpu.shares"], read["cpu.cfs_quota_us"], read["cpu.cfs_period_us"]) == ("512", "50000", "100000")
    assert {path.name for path in group.entrances} == {"cgroup.procs"}
    (group.directories[0] / "cgroup.procs").write_text("12\n34\n")
    assert group.processes() == {12, 34}


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_version_1_where_nothing_is_delegated(tmp_path: Path) -> None:
    proc = version_1(tmp_path)
    for name in ("memory", "pids"):
        (tmp_path / "cgroup" / name).chmod(0o555)
    assert find_cgroups("", proc=proc).missing == ("memory", "pids")


def test_version_1_delegated(tmp_path: Path) -> None:
    proc = version_1(tmp_path, "/host/server")
    for name in ("memory", "pids", "cpu,cpuacct"):
        made = tmp_path / "cgroup" / name / "host/server/plcontainer"
        made.mkdir()
        (made / "cgroup.procs").touch()
        (made.parent / "cgroup.procs").unlink()
    delegate(pwd.getpwuid(os.getuid()).pw_name, proc)
    assert {path.name for path in find_cgroups("", proc=proc).parents.values()} == {"plcontainer"}


def test_parent_that_is_not_there(tmp_path: Path) -> None:
    cgroups = find_cgroups("absent.slice", proc=version_1(tmp_path))
    assert cgroups.missing == ("memory", "pids", "cpu")


def test_version_2(tmp_path: Path) -> None:
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    own = mount / "system.slice/protocol_server.service"
    own.mkdir(parents=True)
    proc.mkdir()
    (proc / "mountinfo").write_text(f"1 0 0:1 / {mount} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup").write_text("0::/system.slice/protocol_server.service\n")
    (own / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (own / "one").mkdir()
    cgroups = find_cgroups("", proc=proc)
    assert (cgroups.version, cgroups.missing) == (2, ())
    assert (own / "server" / "cgroup.procs").read_text() == str(os.getpid()), "processes live in leaves"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    group = cgroups.make("one", runtime("r", memory_mb=64, pids=16, cpu_shares=1024, cpus=0.5))
    assert group.directories == (own / "one",)
    assert (own / "one" / "memory.max").read_text() == str(64 * MIB)
    assert (own / "one" / "memory.swap.max").read_text() == "0"
    assert (own / "one" / "pids.max").read_text() == "18"
    assert (own / "one" / "cpu.weight").read_text() == "39"
    assert (own / "one" / "cpu.max").read_text() == "50000 100000"
    # The server is in the leaf now, and looks again when it is reloaded.
    (proc / "cgroup").write_text("0::/system.slice/protocol_server.service/server\n")
    assert find_cgroups("", proc=proc).parents == cgroups.parents


def image(root: Path) -> Path:
    for name in ("usr/lib", "etc", "opt/tool", "proc", "tmp", "run/lock"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/passwd").touch()
    return root


def test_root_of_an_image(tmp_path: Path) -> None:
    root = image(tmp_path)
    found = root_arguments(root, ["/run/caisson", "/opt/caisson/runtime_python", "/data/in", "/usr/lib"])
    groups = [tuple(found[index : index + 3]) for index, word in enumerate(found) if word.startswith("--")]
    assert ("--symlink", "usr/bin", "/bin") in groups
    assert ("--ro-bind", str(root / "etc"), "/etc") in groups
    assert ("--ro-bind", str(root / "usr"), "/usr") in groups, "a place that is there needs nothing"
    assert ("--ro-bind", str(root / "opt/tool"), "/opt/tool") in groups, "beside what is missing"
    assert [word for index, word in enumerate(found) if found[index - 1] == "--dir"] == [
        "/opt", "/opt/caisson/runtime_python", "/run/caisson", "/data/in",
    ]  # fmt: skip
    assert str(root / "tmp") not in found
    assert str(root / "proc") not in found


def test_files_of_an_image_that_others_take_the_place_of(tmp_path: Path) -> None:
    root = image(tmp_path)
    (root / "etc/passwd").touch()
    assert "--dir" not in root_arguments(root, [], ["/etc/passwd"]), "it is there"
    (root / "etc/hosts").touch()
    found = root_arguments(root, [], ["/etc/passwd", "/etc/group"])
    places = [word for index, word in enumerate(found) if found[index - 1] == "--dir"]
    assert places == ["/etc"], "opened, as it has no group; the file's place is bubblewrap's to make"
    assert str(root / "etc/hosts") in found
    (root / "etc/group").symlink_to("/elsewhere")
    with pytest.raises(MountPointError, match="/etc/group passes through /etc/group, a symbolic link"):
        root_arguments(root, [], ["/etc/group"])


@pytest.mark.parametrize(("target", "why"), [("/bin/x", "a symbolic link"), ("/etc/passwd/x", "a file in the image")])
def test_places_that_cannot_be_had(tmp_path: Path, target: str, why: str) -> None:
    with pytest.raises(MountPointError, match=why):
        root_arguments(image(tmp_path), [target])


def pairs(command: list[str], option: str) -> list[str]:
    return [command[index + 1] for index, word in enumerate(command) if word == option]


@pytest.mark.parametrize("proc", [True, False])
def test_command(tmp_path: Path, proc: bool) -> None:
    config = server_config(tmp_path)
    mounts = (Mount("/data/in", "/in", False), Mount("/data/out", "/out", True))
    one = runtime("r", mounts=mounts, tmpfs_mb=8)
    command = sandbox_command(
        config, one, Host("bwrap", own_user=True, proc=proc), root=image(tmp_path / "root"),
        environment=("LANG=C.UTF-8", "PATH=/x"), directory=tmp_path / "meet", status=7, seccomp=8,
    )  # fmt: skip
    assert command[:3] == ["setpriv", "--reuid=10000", "--regid=10000"]
    own = command[command.index("bwrap") :]
    assert {"--unshare-all", "--unshare-user", "--new-session"} <= set(own)
    assert pairs(own, "--cap-drop") == ["ALL"]
    assert pairs(own, "--uid") == pairs(own, "--gid") == ["10000"]
    assert pairs(own, "--seccomp") == ["8"]
    for name in ("passwd", "group"):
        at = own.index(f"{tmp_path}/accounts/10000-10000/{name}")
        assert (own[at - 1], own[at + 1]) == ("--ro-bind", f"/etc/{name}")
    assert "/data/in" in pairs(own, "--ro-bind")
    assert pairs(own, "--bind") == ["/data/out"]
    assert pairs(own, "--proc") == (["/proc"] if proc else [])
    assert own.index("--clearenv") < own.index("--setenv")
    assert own[own.index("--remount-ro", own.index("--bind")) + 1] == "/", "the last mount of all"
    assert own[own.index("--") + 1 :] == list(one.command)
    variables = dict(
        zip(pairs(own, "--setenv"), [own[i + 2] for i, w in enumerate(own) if w == "--setenv"], strict=True)
    )
    assert variables["PATH"] == "/x"
    assert variables["HOME"] == "/tmp"
    assert variables["PLC_RUNTIME_ID"] == "r"


def test_a_user_of_a_runtime_s_own_is_so_inside_only(tmp_path: Path) -> None:
    command = sandbox_command(
        server_config(tmp_path), runtime("r", user="1000660000:0"), Host("bwrap", own_user=True, proc=True),
        root=image(tmp_path / "root"), environment=(), directory=tmp_path / "meet", status=7, seccomp=8,
    )  # fmt: skip
    assert command[:3] == ["setpriv", "--reuid=10000", "--regid=10000"]
    assert (pairs(command, "--uid"), pairs(command, "--gid")) == (["1000660000"], ["0"])


def test_limits_of_a_host_without_cgroups(tmp_path: Path) -> None:
    config, one = server_config(tmp_path, max_sandboxes=4), runtime("r", memory_mb=64, pids=16, nofile=99, cpuset="0-1")
    found = launch_arguments(config, one, tmp_path / "pid", (), ("memory", "pids", "cpu"))
    assert found[4:] == [str(tmp_path / "pid"), "99", str(64 * 1024), "64", "--", "taskset", "--cpu-list", "0-1"]
    entrance = tmp_path / "cgroup.procs"
    found = launch_arguments(config, runtime("r", nofile=99), tmp_path / "pid", (entrance,), ())
    assert found[4:] == [str(tmp_path / "pid"), "99", "-", "-", str(entrance), "--"]


def test_probe_of_a_host_that_cannot_switch_users(tmp_path: Path) -> None:
    command = probe_command(server_config(tmp_path), Host("bwrap", own_user=False, proc=False))
    assert command[0] == "bwrap"
    assert "--proc" not in command


def test_noted_process(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert _noted_pid(file) == 0
    stat = Path(f"/proc/{os.getpid()}/stat").read_text()
    file.write_text(stat)
    assert _noted_pid(file) == os.getpid()
    began = start_time(os.getpid())
    file.write_text(stat.replace(f" {began} ", " 1 "))
    assert _noted_pid(file) == 0, "the id was used again"
    file.write_text(stat[:40])
    assert _noted_pid(file) == 0, "half written"


def test_filter_is_a_program() -> None:
    program = build_program()
    assert len(program) % 8 == 0
    assert 100 < len(program) // 8 < 4096, "the kernel's limit"


def test_output_is_kept_short_and_never_full(tmp_path: Path) -> None:
    async def flood() -> str:
        output, writer = Output.create(tmp_path / "out", "s", "r")
        try:
            for _ in range(64):
                await asyncio.to_thread(os.write, writer, b"x" * 65535 + b"\n")
            os.write(writer, b"the end\0\n")
            return output.tail()
        finally:
            os.close(writer)
            output.close()

    tail = asyncio.run(asyncio.wait_for(flood(), 20))
    assert len(tail) <= 4000
    assert tail.endswith("the end\N{REPLACEMENT CHARACTER}")


def test_output_goes_on_with_the_next_server(tmp_path: Path) -> None:
    async def two_servers() -> str:
        output, writer = Output.create(tmp_path / "out", "s", "r")
        output.close()
        # Nobody reads, and nobody gets a signal for it.
        os.write(writer, b"meanwhile\n")
        again = Output.reopen(tmp_path / "out", "s")
        try:
            os.write(writer, b"later\n")
            return again.tail()
        finally:
            os.close(writer)
            again.close()

    assert asyncio.run(two_servers()) == "meanwhile\nlater"
