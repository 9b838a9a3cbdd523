"""The stack `platform` on a real API server: deployed, changed, drifted, interrupted, destroyed; and what it refuses.

The tests follow each other: the first deploys, the last destroys.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.control_plane import ControlPlane, until
from tests.support.pulumi_stack import Stack

from .conftest import TENANTS, Plugins

DIGEST = "registry.test/a@sha256:" + "0" * 64
QUOTA = "/api/v1/namespaces/green/resourcequotas/caisson"
CANARY = "canary-3f9b"
SAFE: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod(spec: dict[str, Any] | None = None, **container: Any) -> dict[str, Any]:
    """Return a pod that is let in, but for what is given."""
    main = {"name": "main", "image": DIGEST, "securityContext": SAFE} | container
    context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    whole = {"containers": [main], "securityContext": context} | (spec or {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": whole}


def objects(control_plane: ControlPlane) -> list[str]:
    """Return what is on the cluster and ours: names of namespaces, and of everything with our label elsewhere."""
    namespaces = [item["metadata"]["name"] for item in control_plane.get("/api/v1/namespaces")["items"]]
    found = [name for name in namespaces if not name.startswith("kube-") and name != "default"]
    for path in (
        "rbac.authorization.k8s.io/v1/clusterroles",
        "rbac.authorization.k8s.io/v1/clusterrolebindings",
        "scheduling.k8s.io/v1/priorityclasses",
        "storage.k8s.io/v1/storageclasses",
        "apiextensions.k8s.io/v1/customresourcedefinitions",
        "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
        "admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
        "admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
    ):
        selected = control_plane.get(f"/apis/{path}?labelSelector=app.kubernetes.io/part-of=caisson")
        found += [f"{path} {item['metadata']['name']}" for item in selected["items"]]
    return found


def test_1_bad_settings_are_told_before_anything_is_created(stack: Stack, control_plane: ControlPlane) -> None:
    stack.configure(tenants=[{**TENANTS[0], "quota": {"memory_mb": 100}}])
    assert "blue: quota.memory_mb is 100, too small for its largest container" in stack.up(fails=True)
    stack.configure(tenants=TENANTS, run_as_siz="many")
    assert "run_as_siz: there is no such setting; did you mean run_as_size?" in stack.up(fails=True)
    stack.configure(run_as_siz=None, run_as_size=None)
    assert objects(control_plane) == []


def test_2_an_api_server_that_does_not_answer_is_told(stack: Stack, tmp_path: Path) -> None:
    content = yaml.safe_load(stack.kubeconfig.read_text())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "elsewhere").write_text(yaml.safe_dump(content))
        stack.configure(kubeconfig=str(tmp_path / "elsewhere"))
        started = time.monotonic()
        said = stack.up(fails=True)
    stack.configure(kubeconfig=None)
    assert "does not answer: Connection refused" in said
    assert "Traceback" not in said
    assert time.monotonic() - started < 60


def test_3_an_up_that_was_killed_is_taken_up_again(stack: Stack, control_plane: ControlPlane) -> None:
    stack.kill_during_up(lambda: control_plane.ask("GET", "/api/v1/namespaces/green").ok)
    assert objects(control_plane)
    stack.run("cancel", stack.name, "--yes")
    started = time.monotonic()
    said = stack.up()
    print(f"up after a kill: {time.monotonic() - started:.1f} s")
    assert "error" not in said
    assert {"blue", "green", "caisson-system"} <= set(objects(control_plane))
    networks = "/apis/k8s.cni.cncf.io/v1/namespaces/{}/network-attachment-definitions"
    assert [item["metadata"]["name"] for item in control_plane.get(networks.format("green"))["items"]] == ["data"]
    assert control_plane.get(networks.format("blue"))["items"] == []


def test_4_a_second_run_changes_nothing(stack: Stack, plugins: Plugins) -> None:
    stack.preview("--expect-no-changes", "--policy-pack", str(plugins.policy_pack))
    started = time.monotonic()
    assert re.search(r"Resources:\n +\d+ unchanged\n", stack.up("--expect-no-changes"))
    print(f"up without a change: {time.monotonic() - started:.1f} s")


def test_5_a_change_is_made_where_it_was_asked_for(stack: Stack, control_plane: ControlPlane) -> None:
    stack.configure(tenants=[TENANTS[0], {**TENANTS[1], "quota": {"pods": 3}}])
    assert re.search(r"~ 1 updated\n +\d+ unchanged", stack.up())
    assert control_plane.get(QUOTA)["spec"]["hard"]["pods"] == "3"
    stack.configure(tenants=TENANTS)
    stack.up()
    assert control_plane.get(QUOTA)["spec"]["hard"]["pods"] == "2"


def test_6_drift_is_seen_by_refresh_and_put_back(stack: Stack, control_plane: ControlPlane) -> None:
    by_hand = {"spec": {"hard": {"pods": "1000"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert control_plane.ask("PATCH", QUOTA, json=by_hand, headers=merge).ok
    policy = "/apis/networking.k8s.io/v1/namespaces/green/networkpolicies/caisson-default-deny"
    assert control_plane.ask("DELETE", policy).ok
    said = stack.run("refresh", "--yes", "--skip-preview", f"--stack={stack.name}")
    # what controllers wrote meanwhile is news, too
    assert re.search(r"~ +kubernetes:core/v1:ResourceQuota green .*updated", said)
    assert "- 1 deleted" in said
    said = stack.up()
    assert "~ 1 updated" in said
    assert "+ 1 created" in said
    assert control_plane.get(QUOTA)["spec"]["hard"]["pods"] == "2"
    assert control_plane.ask("GET", policy).ok
    stack.preview("--expect-no-changes")


def ready(control_plane: ControlPlane, tenant: str) -> None:
    """Wait for what controllers do in a namespace."""
    until(
        lambda: control_plane.ask("GET", f"/api/v1/namespaces/{tenant}/serviceaccounts/default").ok,
        f"{tenant} has no service account",
    )
    quota = f"/api/v1/namespaces/{tenant}/resourcequotas/caisson"
    until(
        lambda: control_plane.get(quota).get("status", {}).get("hard") == control_plane.get(quota)["spec"]["hard"],
        f"the quota of {tenant} is not counted",
    )


def send(control_plane: ControlPlane, what: dict[str, Any], tenant: str = "blue") -> Any:
    """Send a pod as an operator of a tenant."""
    answer = control_plane.ask("POST", f"/api/v1/namespaces/{tenant}/pods", user=tenant, json=what)
    return answer.json() | {"status_code": answer.status_code}


def test_7_a_good_pod_is_let_in_and_gets_what_it_did_not_say(stack: Stack, control_plane: ControlPlane) -> None:
    ready(control_plane, "blue")
    made = send(control_plane, pod())
    assert made["status_code"] == 201, made
    assert made["spec"]["securityContext"]["runAsUser"] == 1_000_660_000
    assert made["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "250m", "memory": "256Mi"}
    own = send(
        control_plane, pod({"securityContext": {**pod()["spec"]["securityContext"], "runAsUser": 1_000_660_009}})
    )
    assert own["spec"]["securityContext"]["runAsUser"] == 1_000_660_009


def test_7_expressions_of_policies_are_of_the_right_types(stack: Stack, control_plane: ControlPlane) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

    def checked() -> dict[str, Any]:
        found = control_plane.get(path)["items"]
        return {one["metadata"]["name"]: one.get("status", {}).get("typeChecking") for one in found}

    until(lambda: None not in checked().values(), "nobody has checked the types")
    assert checked() == {"pods.caisson": {}, "audit.metrics.caisson-system.caisson": {}}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (pod(securityContext={}), 'violates PodSecurity "restricted:latest"'),
        (pod({"hostNetwork": True}), "host namespaces"),
        (pod({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath"),
        (pod(image="registry.test/a:1"), "images are named by digest (@sha256:...), unlike registry.test/a:1"),
        (pod({"initContainers": [{"name": "i", "image": "b", "securityContext": SAFE}]}), "unlike b"),
        (pod(securityContext={**SAFE, "runAsUser": 1000}), "runAsUser lies in this namespace between 1000660000 and"),
        (pod(env=[{"name": "DB_PASSWORD", "value": "x"}]), "a secret comes from a Secret or a file"),
        (pod({"priorityClassName": "system-node-critical"}), "are for the cluster itself"),
        (pod(resources={"limits": {"cpu": "5"}}), "maximum cpu usage per Container is 4"),
    ],
)
def test_7_other_pods_are_refused_with_the_reason(
    stack: Stack, control_plane: ControlPlane, what: dict[str, Any], said: str
) -> None:
    refused = send(control_plane, what)
    assert refused["status_code"] == 403, refused
    assert said in refused["message"]


def test_8_the_quota_is_the_end(stack: Stack, control_plane: ControlPlane) -> None:
    ready(control_plane, "green")
    assert [send(control_plane, pod(), "green")["status_code"] for _ in range(2)] == [201, 201]
    refused = send(control_plane, pod(), "green")
    assert refused["status_code"] == 403
    assert "exceeded quota: caisson, requested: pods=1, used: pods=2, limited: pods=2" in refused["message"]


def test_9_tenants_keep_to_themselves(stack: Stack, control_plane: ControlPlane) -> None:
    def may(user: str, verb: str, path: str, **options: Any) -> int:
        return control_plane.ask(verb, f"/api/v1/namespaces/{path}", user=user, **options).status_code

    assert may("blue", "GET", "blue/pods") == 200
    assert may("blue", "GET", "green/pods") == 403
    assert may("blue", "GET", "green/secrets") == 403
    assert may("blue", "POST", "green/pods", json=pod()) == 403
    assert may("watcher", "GET", "blue/pods") == 200
    assert may("watcher", "GET", "blue/secrets") == 403
    assert may("watcher", "POST", "blue/pods", json=pod()) == 403
    assert may("blue", "DELETE", "blue/resourcequotas/caisson") == 403
    assert may("blue", "DELETE", "blue") == 403
    binding = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}}
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/blue/rolebindings"
    assert control_plane.ask("POST", path, user="blue", json=binding | {"metadata": {"name": "x"}}).status_code == 403


def test_9_refusals_are_in_the_audit_log(stack: Stack, control_plane: ControlPlane) -> None:
    refused = [line for line in control_plane.audited() if line.get("responseStatus", {}).get("code") == 403]
    said = [(line["user"]["username"], line["responseStatus"].get("message", "")) for line in refused]
    for user, text in (
        ("blue", 'violates PodSecurity "restricted:latest"'),
        ("blue", 'cannot list resource "pods" in API group "" in the namespace "green"'),
        ("green", "exceeded quota"),
        ("blue", "images are named by digest"),
    ):
        (example, *_) = [message for name, message in said if name == user and text in message]
        print(f"audit: {user}: {example}")


def test_9_a_service_accounts_changes_are_explained(stack: Stack, control_plane: ControlPlane) -> None:
    accounts = "/api/v1/namespaces/caisson-system/serviceaccounts/metrics"
    rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/caisson-system"
    role = {"metadata": {"name": "t"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "t"}
    subject = {"kind": "ServiceAccount", "name": "metrics", "namespace": "caisson-system"}
    assert control_plane.ask("POST", f"{rights}/roles", json=role).ok
    binding = {"metadata": {"name": "t"}, "roleRef": reference, "subjects": [subject]}
    assert control_plane.ask("POST", f"{rights}/rolebindings", json=binding).ok
    token = control_plane.ask("POST", f"{accounts}/token", json={"spec": {}}).json()["status"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    maps = "/api/v1/namespaces/caisson-system/configmaps"

    def made() -> bool:
        written = {"metadata": {"generateName": "t-"}}
        return control_plane.ask("POST", maps, headers=headers, json=written).status_code == 201

    until(made, "the service account may not write")
    mine = [line for line in control_plane.audited() if line["user"]["username"].endswith(":metrics")]
    notes = [line.get("annotations", {}).get("audit.metrics.caisson-system.caisson/purpose") for line in mine]
    assert "Finds pods and nodes and reads their metrics. (ask the platform's operators)" in notes
    assert control_plane.ask("GET", "/api/v1/nodes", headers=headers).ok
    assert control_plane.ask("GET", "/metrics", headers=headers).ok
    assert control_plane.ask("GET", "/api/v1/secrets", headers=headers).status_code == 403


@pytest.fixture(scope="module")
def workload(stack: Stack) -> Stack:
    """A stack that refers to the platform's, with a secret."""
    made = Stack(Path(__file__).with_name("workload"), stack.folder, stack.path, stack.kubeconfig)
    made.create()
    made.configure(image=DIGEST)
    made.run("config", "set", "--secret", "password", CANARY, f"--stack={made.name}")
    return made


def test_a_the_policy_pack_stops_a_careless_stack(workload: Stack, plugins: Plugins) -> None:
    pack = ("--policy-pack", str(plugins.policy_pack))
    workload.configure(careless=True, image="registry.test/a:1")
    said = workload.preview(*pack, fails=True)
    assert "[mandatory]" in said
    for rule in ("no-root", "no-privileged", "image-digests", "limits", "no-plain-secret"):
        assert f"{rule} " in said, said
    workload.configure(careless=False, image=DIGEST)
    workload.preview(*pack)


def test_b_no_secret_is_plain_in_the_state(workload: Stack, control_plane: ControlPlane) -> None:
    workload.up()
    secret = control_plane.get("/api/v1/namespaces/blue/secrets/login")
    plain = (CANARY, secret["data"]["password"], control_plane.token("admin"))
    exported = str(workload.state())
    assert "login" in exported
    files = [path for path in workload.folder.rglob("*") if path.is_file() and "home" not in path.parts]
    assert any("checkpoint" in path.name or path.suffix == ".json" for path in files)
    for text in plain:
        assert text not in exported
        assert [path for path in files if text.encode() in path.read_bytes()] == []
    workload.preview("--expect-no-changes")
    workload.run("destroy", "--yes", "--skip-preview", f"--stack={workload.name}")
    assert control_plane.ask("GET", "/api/v1/namespaces/blue/secrets/login").status_code == 404


def test_c_destroy_leaves_nothing(stack: Stack, control_plane: ControlPlane) -> None:
    stack.run("destroy", "--yes", "--skip-preview", f"--stack={stack.name}")
    assert objects(control_plane) == []
    assert stack.resources() == []
