"""What pods leave on a host, and what of it is others'."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.modules import removed_pods
from plugins.modules.removed_pods import (
    Command,
    Step,
    bridges,
    cgroups,
    mounts,
    named_bridges,
    remove,
    without_pods,
)

SAVED = """*nat
:POSTROUTING ACCEPT [0:0]
:CNI-8a2 - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:MY-CNI - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.244.0.5/32 -m comment --comment "name: \\"pods\\"" -j CNI-8a2
-A CNI-8a2 ! -d 224.0.0.0/4 -j MASQUERADE
COMMIT
"""
MOUNTINFO = """22 1 0:20 / / rw - overlay overlay rw
30 22 0:30 / /var/lib/kubelet rw - ext4 /dev/vda rw
31 30 0:31 / /var/lib/kubelet/pods/a/volumes/token rw - tmpfs tmpfs rw
32 31 0:32 / /var/lib/kubelet/pods/a/volumes/token/with\\040space rw - tmpfs tmpfs rw
33 22 0:33 /kubelet-settings/kernel.panic /proc/sys/kernel/panic rw - tmpfs tmpfs rw
34 22 0:34 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
35 22 0:35 / /var/lib/kubelet2/x rw - tmpfs tmpfs rw
"""


def test_others_rules_stay() -> None:
    assert without_pods(SAVED) == (
        "*nat\n:POSTROUTING ACCEPT [0:0]\n:MY-CNI - [0:0]\n"
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n"
    )


def test_only_mounts_of_pods_go_the_innermost_first() -> None:
    assert mounts(MOUNTINFO, "/var/lib/kubelet/") == [
        "/proc/sys/kernel/panic",
        "/var/lib/kubelet/pods/a/volumes/token/with space",
        "/var/lib/kubelet/pods/a/volumes/token",
    ]


def test_bridges_are_found_wherever_they_are_named(tmp_path: Path) -> None:
    inner = {"plugins": [{"type": "bridge", "bridge": "pods0"}, {"type": "portmap"}]}
    assert list(bridges({"type": "multus", "delegates": [inner]})) == ["pods0"]
    (tmp_path / "00.conf").write_text(json.dumps({"delegates": [inner]}), encoding="utf-8")
    (tmp_path / "10.conflist").write_text('{"type": "macvlan", "master": "eth0", "mode": "bridge"}', encoding="utf-8")
    (tmp_path / "20.conf").write_text("no JSON", encoding="utf-8")
    assert named_bridges([str(tmp_path), str(tmp_path / "nowhere")]) == ["pods0"]


def test_cgroups_are_those_that_the_kubelet_was_told(tmp_path: Path) -> None:
    for controller in ("memory", "cpuset"):
        (tmp_path / controller / "host/kubelet/kubepods/pod1").mkdir(parents=True)
    (tmp_path / "memory/kubepods").mkdir()
    found = cgroups("KUBELET_CGROUPS=--cgroup-root=/host/kubelet\n", tmp_path)
    below = [str(path.relative_to(tmp_path / "memory")) for path in found if path.is_relative_to(tmp_path / "memory")]
    assert below == ["host/kubelet/kubepods/pod1", "host/kubelet/kubepods", "host/kubelet"]
    assert cgroups("", tmp_path) == [tmp_path / "memory/kubepods"]


def test_a_bridge_goes_when_the_last_interface_of_a_namespace_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removed_pods, "NETWORK_NAMESPACES", tmp_path / "netns")
    monkeypatch.setattr(removed_pods, "BRIDGES", tmp_path / "net")
    (tmp_path / "netns").mkdir()
    port = tmp_path / "net/pods0/brif/veth0"
    port.mkdir(parents=True)
    (tmp_path / "10.conflist").write_text('{"type": "bridge", "bridge": "pods0"}', encoding="utf-8")
    later = threading.Timer(0.5, port.rmdir)
    # the namespace has been removed before, and its interface goes a moment later
    later.start()
    assert [what for what, _ in removed_pods.networks([str(tmp_path)], used_too=False)] == ["bridge pods0: removed"]
    later.join()

    # what stays on it is somebody else's
    monkeypatch.setattr(removed_pods, "INTERFACES_S", 0.5)
    port.mkdir()
    assert list(removed_pods.networks([str(tmp_path)], used_too=False)) == []


def _files(folder: Path, *command: str) -> Iterator[Step]:
    for path in sorted(folder.iterdir()):
        yield f"{path.name}: removed", (Command(*command, str(path)),)


def test_what_is_gone_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert remove(lambda: _files(tmp_path, "rm")) == (["a: removed", "b: removed"], [])
    assert remove(lambda: _files(tmp_path, "rm")) == ([], [])


def test_what_stays_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "full/inner").mkdir(parents=True)
    done, left = remove(lambda: _files(tmp_path, "rmdir"), patience_s=0.5)
    assert done == []
    assert len(left) == 1
    assert left[0].startswith("full (")
    assert "not empty" in left[0]
    assert remove(lambda: _files(tmp_path, "no-such-command"), patience_s=0)[1]


def test_what_goes_a_moment_later_is_awaited(tmp_path: Path) -> None:
    (tmp_path / "full/inner").mkdir(parents=True)
    looks = 0

    def found() -> Iterator[Step]:
        nonlocal looks
        looks += 1
        # its content ends by itself meanwhile
        if looks == 2:
            (tmp_path / "full/inner").rmdir()
        yield from _files(tmp_path, "rmdir")

    assert remove(found) == (["full: removed"], [])
