"""SELinux: who gets which pair of categories, and when no sandbox is started."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol_server import selinux
from protocol_server.backends.docker import LABEL_LEVEL, DockerBackend, container_config
from protocol_server.backends.process import ProcessBackend
from protocol_server.backends.rendezvous import Rendezvous
from protocol_server.errors import StartFailedError
from protocol_server.selinux import Label, Levels, LevelsExhaustedError, Selinux, rendezvous_sockets

from .memory import LogLines, runtime, server_config

LABEL = Label("plcontainer_sandbox_t", "s0:c3,c7")


def test_every_pair_is_given_once_and_then_none() -> None:
    levels = Levels(5)
    given = [levels.take(f"s{number}") for number in range(10)]
    assert len(set(given)) == 10
    assert set(given) == {f"s0:c{low},c{high}" for high in range(5) for low in range(high)}
    with pytest.raises(LevelsExhaustedError, match="all 10 pairs of SELinux categories are in use"):
        levels.take("one more")
    levels.free("s4")
    assert levels.take("one more") == given[4]


def test_a_sandbox_keeps_its_pair_and_a_pair_rests() -> None:
    levels = Levels(4)
    first = levels.take("a")
    assert levels.take("a") == first
    levels.free("a")
    levels.free("never there")
    others = []
    for number in range(5):
        others.append(levels.take(f"s{number}"))
        levels.free(f"s{number}")
    assert first not in others
    assert len(set(others)) == 5


def test_no_pair_is_used_twice_at_the_same_time_over_many_lives() -> None:
    levels, live = Levels(6), dict[str, str]()
    for number in range(2000):
        if len(live) == 14:
            oldest = next(iter(live))
            levels.free(oldest)
            del live[oldest]
        level = levels.take(f"s{number}")
        assert level not in live.values()
        live[f"s{number}"] = level


def test_all_of_the_kernels_categories_are_used() -> None:
    levels = Levels()
    for number in range(3000):
        low, high = (int(part.removeprefix("c")) for part in levels.take(str(number)).removeprefix("s0:").split(","))
        assert 0 <= low < high <= 1023


def test_what_an_earlier_server_gave_stays_given() -> None:
    levels = Levels(4)
    assert levels.learn("old", "s0:c1,c3")
    assert levels.learn("older", "s0:c0,c2")
    given = {levels.take(f"s{number}") for number in range(4)}
    assert not given & {"s0:c1,c3", "s0:c0,c2"}
    with pytest.raises(LevelsExhaustedError):
        levels.take("one more")
    assert levels.take("old") == "s0:c1,c3"
    levels.free("older")
    assert levels.take("one more") == "s0:c0,c2"


def test_two_sandboxes_with_the_same_pair_hold_it_until_both_are_gone() -> None:
    levels = Levels(2)
    levels.learn("a", "s0:c0,c1")
    levels.learn("b", "s0:c0,c1")
    levels.free("a")
    with pytest.raises(LevelsExhaustedError):
        levels.take("c")
    levels.free("b")
    assert levels.take("c") == "s0:c0,c1"


@pytest.mark.parametrize("level", ["", "s0", "s0:c1", "s0:c2,c1", "s0:c1,c1", "s0:c1,c1024", "s0:c1.c2", "s1:c1,c2"])
def test_a_level_that_is_none_of_ours_is_not_learned(level: str) -> None:
    assert not Levels().learn("x", level)


def test_what_docker_is_told(tmp_path: Path) -> None:
    body = container_config(server_config(tmp_path), runtime("r"), "0123456789abcdef", label=LABEL)
    assert body["HostConfig"]["SecurityOpt"] == [
        "no-new-privileges",
        "label=user:system_u",
        "label=role:system_r",
        "label=type:plcontainer_sandbox_t",
        "label=level:s0:c3,c7",
    ]
    assert body["Labels"][LABEL_LEVEL] == "s0:c3,c7"
    assert LABEL_LEVEL not in container_config(server_config(tmp_path), runtime("r"), "0123456789abcdef")["Labels"]


class Host:
    """A kernel's SELinux made of files: `contexts` is what its policy knows."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.file_system = root / "sys/fs/selinux"
        self.file_system.mkdir(parents=True)
        (self.file_system / "context").touch()
        self.known = True
        self.enforcing(True)
        write = os.write

        def checked(descriptor: int, data: bytes) -> int:
            if Path(f"/proc/self/fd/{descriptor}").readlink() == self.file_system / "context" and not self.known:
                raise OSError(errno.EINVAL, "Invalid argument")
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", checked)

    def enforcing(self, yes: bool) -> None:
        (self.file_system / "enforce").write_text(str(int(yes)))

    def without(self) -> None:
        shutil.rmtree(self.file_system)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path / "host", monkeypatch)


def refusal(one: Selinux, setting: str = "required") -> str:
    with pytest.raises(StartFailedError, match="without the protection of SELinux") as caught:
        one.wanted(setting)
    return f"{caught.value.detail}; {caught.value.hint}"


def test_labels_are_used_where_they_are_known(host: Host) -> None:
    one = Selinux(host.root)
    assert one.wanted("auto")
    assert one.wanted("required")
    assert not one.wanted("off")
    host.enforcing(False)
    assert one.wanted("auto")
    assert "permissive" in refusal(one)


def test_required_fails_closed(host: Host) -> None:
    host.known = False
    assert "no module plcontainer" in refusal(Selinux(host.root))
    assert "site.yml" in refusal(Selinux(host.root))
    host.without()
    assert "runs without SELinux" in refusal(Selinux(host.root))


def test_auto_goes_without_but_never_back(host: Host) -> None:
    host.known = False
    one = Selinux(host.root)
    assert not one.wanted("auto")
    host.known = True
    assert one.wanted("auto")
    host.known = False
    assert "no module plcontainer" in refusal(one, "auto")
    host.without()
    assert not Selinux(host.root).wanted("auto")


def process(host: Host, context: str) -> None:
    directory = host.root / "proc/42/attr"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "current").write_text(context)


def test_the_kernel_has_the_last_word_on_a_sandbox(host: Host) -> None:
    one = Selinux(host.root)
    one.check_process(42, LABEL)
    process(host, f"{LABEL.process}\0")
    one.check_process(42, LABEL)
    for other in ("system_u:system_r:spc_t:s0", "system_u:system_r:plcontainer_sandbox_t:s0:c3,c8", ""):
        process(host, other)
        with pytest.raises(StartFailedError) as caught:
            one.check_process(42, LABEL)
        assert f"the context {other} in place of" in caught.value.detail
        assert "selinux-enabled" in caught.value.hint


def test_a_process_that_has_yet_to_execute_the_runtime_is_waited_for(host: Host) -> None:
    one, before = Selinux(host.root), "system_u:system_r:dockerd_t:s0"

    async def look(*, changes: bool, connects: bool, limit_s: float) -> float:
        process(host, before)
        loop = asyncio.get_running_loop()
        connected, start = loop.create_future(), loop.time()
        if changes:
            loop.call_later(0.12, process, host, LABEL.process)
        if connects:
            loop.call_later(0.12, connected.set_result, None)
        await one.wait_for_process(42, LABEL, connected, limit_s=limit_s)
        return loop.time() - start

    assert 0.1 < asyncio.run(look(changes=True, connects=False, limit_s=60)) < 30
    # it runs what it runs, so it never gets another
    with pytest.raises(StartFailedError, match="without the protection"):
        asyncio.run(look(changes=False, connects=True, limit_s=60))
    with pytest.raises(StartFailedError, match="without the protection"):
        asyncio.run(look(changes=False, connects=False, limit_s=0.2))


def test_the_socket_of_a_rendezvous_has_its_type_and_others_have_not(tmp_path: Path) -> None:
    attribute = tmp_path / "thread-self/attr/sockcreate"
    attribute.parent.mkdir(parents=True)
    with rendezvous_sockets(None, tmp_path):
        assert not attribute.exists()
    with rendezvous_sockets(LABEL, tmp_path):
        assert attribute.read_text() == "system_u:object_r:plcontainer_rendezvous_t:s0"
    assert attribute.read_text().strip() == ""


def test_directory_and_socket_are_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled: list[tuple[str, str, bytes, bool]] = []

    def note(path: Path, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        labelled.append((path.name, name, value, follow_symlinks))

    monkeypatch.setattr(os, "setxattr", note)
    monkeypatch.setattr("protocol_server.backends.rendezvous.rendezvous_sockets", lambda _: rendezvous_sockets(None))
    one = Rendezvous(tmp_path / "one", LABEL)
    asyncio.run(one.open())
    one.close()
    context = b"system_u:object_r:plcontainer_ipc_t:s0:c3,c7\0"
    assert labelled == [
        ("one", "security.selinux", context, False),
        ("sandbox.sock", "security.selinux", context, False),
    ]


def test_a_label_that_the_kernel_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr("protocol_server.backends.rendezvous.rendezvous_sockets", lambda _: rendezvous_sockets(None))
    with pytest.raises(StartFailedError, match="could not create the directory"):
        asyncio.run(Rendezvous(tmp_path / "one", LABEL).open())
    assert list(tmp_path.iterdir()) == []


def test_docker_backend_refuses_and_keeps_nothing(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol_server.backends.docker.Selinux", lambda: Selinux(host.root))

    async def scenario() -> None:
        backend = DockerBackend(server_config(tmp_path, selinux="required"), LogLines().log, lambda: None)
        (tmp_path / "sandboxes").mkdir()
        host.known = False
        with pytest.raises(StartFailedError, match="without the protection of SELinux"):
            await backend.start("0123456789abcdef", runtime("r"))
        problem = await backend.check(runtime("r"))
        assert problem is not None
        assert "no module plcontainer" in problem
        host.known = True
        with pytest.raises(StartFailedError) as caught:
            await backend.start("0123456789abcdef", runtime("r", isolation="gvisor"))
        assert "gvisor" in caught.value.detail
        assert list((tmp_path / "sandboxes").iterdir()) == []
        await backend.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("network", "kind"), [(False, "plcontainer_sandbox_t"), (True, "plcontainer_net_sandbox_t")])
def test_a_network_has_a_type_of_its_own(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, network: bool, kind: str
) -> None:
    monkeypatch.setattr("protocol_server.backends.docker.Selinux", lambda: Selinux(host.root))
    backend = DockerBackend(server_config(tmp_path, selinux="required"), LogLines().log, lambda: None)
    label = backend._label("one", runtime("r", enable_network=network))
    assert label is not None
    assert label.type == kind
    assert label.process == f"{selinux.USER}:system_r:{kind}:{label.level}"


def test_exhaustion_is_told_clearly(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol_server.backends.docker.Selinux", lambda: Selinux(host.root))
    backend = DockerBackend(server_config(tmp_path), LogLines().log, lambda: None)
    backend._levels = Levels(2)
    assert backend._label("one", runtime("r")) is not None
    with pytest.raises(StartFailedError, match="all 1 pairs of SELinux categories are in use") as caught:
        backend._label("two", runtime("r"))
    assert caught.value.sqlstate == "53300"


def test_plain_processes_are_refused_where_labels_are_required(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = ProcessBackend(server_config(tmp_path, selinux="required"), LogLines().log, lambda: None)
        with pytest.raises(StartFailedError, match="without the protection of SELinux"):
            await backend.start("0123456789abcdef", runtime("r"))
        assert "SELinux" in str(await backend.check(runtime("r")))

    asyncio.run(scenario())
