"""A snapshot makes an empty control plane what it was, and nobody restores one by accident."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.segment_host import playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]
NAME = "node1"
EMPTIED = """
cd /etc/kubernetes
rm -r addons pki encryption.yml admission.yml audit_policy.yml kubeadm.yml *admin.conf
rm -r controller-manager.conf scheduler.conf
rm -r /var/lib/etcd /etc/systemd/system/etcd.service /etc/systemd/system/kube-[acs]*.service
apt-get -qq purge caisson-etcd > /dev/null
systemctl daemon-reload
"""
WAITS = "import signal; signal.pause()"


def _play(verb: str, **options: str) -> str:
    done = playbook(SCENARIO, "--extra-vars", json.dumps(options), file=f"playbooks/kubernetes_{verb}.yml")
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_snapshot_is_restored_into_an_empty_control_plane(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.run("create", "secret", "generic", "kept", "--namespace", namespace, "--from-literal=word=kept")
    cluster.made(cluster.pod("lives", WAITS, namespace=namespace))
    cluster.run("wait", "--for=condition=Ready", "pod/lives", "--namespace", namespace, "--timeout=60s")
    before = cluster.get("pod", "lives", "--namespace", namespace)["status"]["containerStatuses"][0]
    snapshot = tmp_path / "snapshot.tar.gz"
    _play("snapshot", kubernetes_snapshot_file=str(snapshot))
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    assert cluster.host.run("sh", "-c", "ls -d /var/tmp/kubernetes-snapshot-* 2> /dev/null | wc -l") == "0"

    done = playbook(
        SCENARIO,
        "--extra-vars",
        json.dumps({"kubernetes_snapshot_file": str(snapshot)}),
        file="playbooks/kubernetes_restore.yml",
    )
    assert done.returncode != 0
    assert f"If that is meant: -e kubernetes_restore_confirm={NAME}" in done.stdout
    assert recap(done.stdout)[NAME]["changed"] == 0

    cluster.run("create", "namespace", "later")
    units = [f"{name}.service" for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")]
    cluster.host.run("systemctl", "disable", "--now", *units, "kubernetes_addons.service")
    cluster.host.run("sh", "-c", EMPTIED)
    _play("restore", kubernetes_snapshot_file=str(snapshot), kubernetes_restore_confirm=NAME)

    assert (
        cluster.run("get", "secret", "kept", "--namespace", namespace, "--output", "jsonpath={.data.word}")
        == "a2VwdA=="
    )
    assert "NotFound" in cluster.fails("get", "namespace", "later")
    after = cluster.get("pod", "lives", "--namespace", namespace)["status"]["containerStatuses"][0]
    assert after["containerID"] == before["containerID"]
    assert cluster.answer("new", "print('runs')", namespace=namespace) == "runs"
    again = playbook(SCENARIO, file="playbooks/kubernetes.yml")
    assert again.returncode == 0, again.stdout
    assert recap(again.stdout)[NAME]["changed"] == 0, again.stdout
