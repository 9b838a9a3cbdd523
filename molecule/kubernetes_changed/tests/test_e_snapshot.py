"""All control planes go back to a snapshot together."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.control_planes import ControlPlanes


def test_a_snapshot_brings_back_all_of_them(planes: ControlPlanes, cluster: Cluster, tmp_path: Path) -> None:
    planes.wait_until_well()
    snapshot = tmp_path / "snapshot.tar.gz"
    given = [
        "--extra-vars",
        json.dumps({"kubernetes_snapshot_file": str(snapshot), "kubernetes_restore_confirm": "node1"}),
    ]
    cluster.run("delete", "configmap", "before", "later", "--ignore-not-found")
    cluster.run("create", "configmap", "before")
    planes.play(*given, "--limit", "node2", file="playbooks/kubernetes_snapshot.yml")
    assert snapshot.stat().st_mode & 0o777 == 0o600
    cluster.run("create", "configmap", "later")

    said, counts = planes.refused(*given, "--limit", "node1", file="playbooks/kubernetes_restore.yml")
    assert "node2, node3: all control planes go back together" in said
    assert counts["node1"]["changed"] == 0

    old = planes.members("node1")
    planes.play(*given, file="playbooks/kubernetes_restore.yml")
    planes.wait_until_well()
    new = planes.members("node1")
    assert sorted(new) == planes.names
    # the others were emptied, and joined the first
    assert all(new[name]["ID"] != old[name]["ID"] for name in ("node2", "node3"))
    assert cluster.get("configmap", "before")
    assert "NotFound" in cluster.fails("get", "configmap", "later")
    said, counts = planes.play()
    assert sum(count["changed"] for count in counts.values()) == 0, said
