"""The state of the hosts of a cluster is told, so is what differs, and all of it can be taken off: the last test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster
from tests.support.segment_host import playbook, recap, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
NAME = "node1"
WAITS = "import signal; signal.pause()"
UNITS = ["kubelet", "kube-proxy", "kubernetes_images", "kubernetes_addons", "etcd"]
UNITS += ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
SETTING = "/etc/kubernetes/kubelet.yml"


def _play(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return playbook(SCENARIO, *arguments, file=f"playbooks/{verb}.yml")


def _status(tmp_path: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    file = tmp_path / "status.json"
    done = _play("status", "-e", f"status_file={file}")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return done, found


def test_the_state_is_told_in_both_forms(cluster: Cluster, tmp_path: Path) -> None:
    # Tests before have restarted the kubelet, whose pods are not ready until it has probed them again.
    wait_until(lambda: _status(tmp_path)[0].returncode == 0, 120, "all is well")
    done, found = _status(tmp_path)
    assert done.returncode == 0, done.stdout
    assert found["ok"]
    pieces = {(piece["role"], piece["name"]): piece["state"] for piece in found["hosts"][NAME]["pieces"]}
    assert pieces["kubernetes", "API server"] == "as asked"
    assert pieces["kubernetes_node", "cluster's view of it"] == "as asked"
    assert pieces["containerd", "images of pods"] == "as asked"
    for name in ("kubelet", "kube-proxy"):
        assert pieces["kubernetes_node", f"{name}.service"].startswith("active")
    assert f"{NAME}: all is well" in done.stdout

    cluster.host.run("systemctl", "stop", "kube-proxy.service")
    cluster.run("annotate", "node", NAME, "caisson/cordoned-for=upgrade")
    try:
        done, found = _status(tmp_path)
    finally:
        cluster.run("annotate", "node", NAME, "caisson/cordoned-for-")
        cluster.host.run("systemctl", "start", "kube-proxy.service")
    assert done.returncode != 0
    wrong = {(piece["name"], piece["state"]) for piece in found["hosts"][NAME]["pieces"] if not piece["ok"]}
    assert ("kube-proxy.service", "inactive, enabled") in wrong
    assert any("run playbooks/kubernetes_upgrade.yml" in state for _, state in wrong)
    assert "! service     kube-proxy.service" in done.stdout


def test_what_differs_is_told_and_not_changed(cluster: Cluster) -> None:
    done = _play("check")
    assert done.returncode == 0, done.stdout
    before = cluster.host.run("cat", SETTING)
    cluster.host.run("sed", "-i", "s/^maxPods: .*/maxPods: 7/", SETTING)
    try:
        done = _play("check")
        assert "maxPods: 7" in cluster.host.run("cat", SETTING)
    finally:
        cluster.host.put(SETTING, f"{before}\n")
    assert done.returncode != 0
    assert f"{NAME}: kubernetes_node: {SETTING}: " in done.stdout


def test_all_of_it_is_taken_off(cluster: Cluster) -> None:
    cluster.made(cluster.pod("lives", WAITS))
    cluster.run("wait", "--for=condition=Ready", "pod/lives", "--timeout=60s")
    done = _play("destroy")
    assert done.returncode != 0
    assert f"-e destroy_confirm='{NAME}'" in done.stdout
    assert cluster.phase("lives") == "Running"

    done = _play("destroy", "-e", f"destroy_confirm={NAME}")
    assert done.returncode == 0, done.stdout
    host = cluster.host
    for unit in UNITS:
        assert host.unit(f"{unit}.service", "LoadState") == "not-found", unit
    assert host.unit("containerd.service", "LoadState") in ("not-found", "masked")
    left = {"pause", "kubelet", "kube-proxy", "kube-apiserver", "containerd", "containerd-shim", "etcd", "coredns"}
    assert left & set(host.run("ps", "-A", "-o", "comm=").split()) == set()
    mounts = host.run("findmnt", "--list", "--noheadings", "--output", "TARGET,FSROOT").splitlines()
    assert [line for line in mounts if "/var/lib/kubelet/" in line or "kubelet-settings" in line] == []
    assert host.run("sh", "-c", "ls /run/netns 2> /dev/null || true") == ""
    links = host.run("ip", "-brief", "link", "show").splitlines()
    assert {line.split()[0].partition("@")[0] for line in links} <= {"lo", "eth0"}
    for path in ("/var/lib/containerd/io.containerd.metadata.v1.bolt", "/var/lib/caisson", "/run/cni"):
        host.fails("test", "-e", path)
    assert host.run("find", "/etc/cni", "-type", "f") == ""
    # what cannot be made anew stays
    assert host.run("ls", "/etc/kubernetes").split() == ["encryption.yml", "pki"]
    host.run("test", "-d", "/var/lib/etcd/member")

    again = _play("destroy", "-e", f"destroy_confirm={NAME}")
    assert again.returncode == 0, again.stdout
    assert recap(again.stdout)[NAME]["changed"] == 0, again.stdout
    # what lists rules has gone, too
    host.run("apt-get", "-qq", "install", "--no-install-recommends", "nftables")
    rules = host.run("nft", "list", "ruleset")
    assert [word for word in ("KUBE-", "CNI-", "kube-proxy", "network_policies") if word in rules] == []
