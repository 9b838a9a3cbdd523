"""A run on finished hosts changes nothing, and says so beforehand."""

from __future__ import annotations

from tests.support.control_planes import ControlPlanes


def test_check_mode_finds_nothing_to_do(planes: ControlPlanes) -> None:
    said, counts = planes.play("--check")
    assert {name: count["changed"] for name, count in counts.items()} == dict.fromkeys(planes.names, 0), said
    skipped = sum(count["skipped"] for count in counts.values())
    assert skipped <= 0.05 * (skipped + sum(count["ok"] for count in counts.values())), said


def test_a_run_for_one_of_them_finds_the_others(planes: ControlPlanes) -> None:
    said, counts = planes.play("--limit", "node3")
    assert counts["node3"]["changed"] == 0, said


def test_several_need_etcd(planes: ControlPlanes) -> None:
    said, counts = planes.refused("--extra-vars", "kubernetes_control_plane_store=kine")
    assert "several control planes (node1, node2, node3) need etcd" in said
    assert sum(count["changed"] for count in counts.values()) == 0
