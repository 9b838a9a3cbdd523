"""docs/guarantees.md names tests that exist, and every test of the numbered faults."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "faults": "molecule/default/tests/test_faults.py",
    "sandbox": "molecule/default/tests/test_sandbox.py",
    "bad_input": "molecule/default/tests/test_bad_input.py",
    "cgroups": "molecule/default/tests/test_cgroups.py",
    "limits": "molecule/everything_changed/tests/test_d_cgroups.py",
    "hugepages": "molecule/everything_changed/tests/test_z_hugepages.py",
    "server": "tests/integration/protocol_server/test_faults.py",
    "leases": "tests/integration/protocol_server/test_leases.py",
    "resources": "tests/integration/protocol_server/test_resources.py",
    "load": "tests/integration/protocol_server/test_load.py",
    "operator": "tests/integration/protocol_server/test_control.py",
    "backends": "tests/integration/protocol_server/backends/test_acceptance.py",
    "attacks": "tests/integration/protocol_server/backends/test_attacks.py",
    "control": "tests/unit/protocol_server/test_control.py",
    "conformance": "molecule/default/tests/test_conformance.py",
    "fuzz": "tests/integration/fuzz/test_fuzz.py",
    "selinux": "molecule/selinux/tests/test_enforcing.py",
    "labels": "tests/unit/protocol_server/test_selinux.py",
    "policy": "tests/integration/selinux_policy/test_policy.py",
    "baseline": "molecule/default/tests/test_host_baseline.py",
    "cis": "molecule/default/tests/test_cis_docker.py",
    "fitness": "molecule/preflight/tests/test_preflight.py",
    "platform": "tests/integration/platform/test_platform.py",
    "cluster": "tests/unit/infra/test_cluster.py",
    "stack_settings": "tests/unit/infra/test_settings.py",
    "node": "molecule/kubernetes/tests/test_b_node.py",
    "control_plane": "molecule/kubernetes/tests/test_c_control_plane.py",
    "network_policies": "molecule/kubernetes/tests/test_e_network_policies.py",
    "metrics": "molecule/kubernetes/tests/test_e_metrics.py",
    "kube_bench": "molecule/kubernetes/tests/test_e_kube_bench.py",
    "snapshot": "molecule/kubernetes/tests/test_d_snapshot.py",
    "node_upgrade": "molecule/kubernetes/tests/test_f_upgrade.py",
    "node_resources": "molecule/kubernetes/tests/test_g_resources.py",
    "node_verbs": "molecule/kubernetes/tests/test_z_verbs.py",
    "members": "molecule/kubernetes_changed/tests/test_b_members.py",
    "failures": "molecule/kubernetes_changed/tests/test_c_failures.py",
    "certificates": "molecule/kubernetes_changed/tests/test_d_certificates.py",
    "snapshots": "molecule/kubernetes_changed/tests/test_e_snapshot.py",
    "nodes": "molecule/kubernetes_changed/tests/test_f_nodes.py",
    "cluster_upgrade": "molecule/kubernetes_changed/tests/test_g_upgrade.py",
    "cluster_verbs": "molecule/kubernetes_changed/tests/test_z_verbs.py",
    "storage": "tests/integration/storage/test_storage.py",
    "networks": "tests/integration/cni_plugins/test_networks.py",
    "interrupted": "molecule/faults/tests/test_a_interrupted.py",
    "destroy": "molecule/faults/tests/test_b_destroy.py",
    "verbs": "tests/e2e/test_make_up.py",
    "sriov": "tests/integration/cni_plugins/test_sriov.py",
}
REGRESSION = ROOT / "src/plcontainer/sql"


def file_of(name: str) -> Path:
    return ROOT / FILES[name] if name in FILES else REGRESSION / f"{name}.sql"


def named() -> set[tuple[str, str]]:
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    return set(re.findall(r"\b([a-z_]+):([a-z_0-9]+)", text))


def test_every_proof_exists() -> None:
    assert named()
    for file, name in named():
        text = file_of(file).read_text(encoding="utf-8")
        assert re.search(rf"^(def|CREATE FUNCTION|CREATE PROCEDURE) {name}\(", text, re.MULTILINE), f"{file}:{name}"


def test_every_numbered_fault_is_promised() -> None:
    text = (ROOT / FILES["faults"]).read_text(encoding="utf-8")
    tests = {("faults", name) for name in re.findall(r"^def (test_\d\w+)\(", text, re.MULTILINE)}
    assert tests <= named()
