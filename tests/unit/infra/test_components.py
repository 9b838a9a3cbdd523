"""Components: what they declare, and what they refuse to."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from infra import names
from infra.admission import AdmissionPolicies
from infra.image_reference import ImageReference
from infra.local_storage import LocalStorage, LocalStorageArgs, LocalVolume
from infra.monitoring import MonitoringHooks, MonitoringHooksArgs
from infra.namespace import ContainerResources, Namespace, NamespaceArgs, Quota
from infra.network_attachment import NetworkAttachment, NetworkAttachmentArgs, NetworkAttachments, available, unknown
from infra.priority_classes import PriorityClassArgs, PriorityClasses
from infra.service_account import AuditedServiceAccount, AuditedServiceAccountArgs, Rule, cel_text
from infra.tenant import Tenant, TenantArgs, overlaps

from tests.unit.infra.declared import declare

NAMESPACE = NamespaceArgs(
    name="blue",
    quota=Quota(cpus=2.5, memory_mb=4096, pods=8, storage_gb=0, claims=0, hugepages_2mi_mb=64),
    container=ContainerResources(cpus=0.25, memory_mb=100),
    container_most=ContainerResources(cpus=2, memory_mb=2048),
)
TENANT = TenantArgs(
    namespace=NAMESPACE, run_as_first=1_000_660_000, run_as_size=100, operators=("blues",), viewers=("all",)
)
DIGEST = "sha256:" + "0123456789abcdef" * 4


def test_a_namespace_has_quota_limits_and_levels() -> None:
    seen = declare(lambda: Namespace("blue", NAMESPACE))
    labels = seen["Namespace", "blue"]["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    hard = seen["ResourceQuota", "blue/caisson"]["spec"]["hard"]
    assert hard["limits.cpu"] == "2500m"
    assert hard["limits.memory"] == "4Gi"
    assert hard["requests.hugepages-2Mi"] == "64Mi"
    assert hard["requests.storage"] == "0"
    assert hard["services.nodeports"] == "0"
    (limits,) = seen["LimitRange", "blue/caisson"]["spec"]["limits"]
    assert limits["default"] == limits["defaultRequest"] == {"cpu": "250m", "memory": "100Mi"}
    assert limits["max"] == {"cpu": "2", "memory": "2Gi"}


def test_a_namespace_denies_what_it_does_not_name() -> None:
    policies = declare(lambda: Namespace("blue", NAMESPACE)).of_kind("NetworkPolicy")
    deny = policies["blue/caisson-default-deny"]["spec"]
    assert deny["podSelector"] == {}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    (rule,) = policies["blue/caisson-names"]["spec"]["egress"]
    assert [(port["protocol"], port["port"]) for port in rule["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert len(policies) == 2


def test_metrics_are_read_from_one_namespace_only() -> None:
    args = dataclasses.replace(NAMESPACE, scraped_from="watchers")
    policy = declare(lambda: Namespace("blue", args))["NetworkPolicy", "blue/caisson-metrics"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {names.SCRAPE: "true"}}
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watchers"}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": "metrics"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Blue"}, "'Blue' is not a name"),
        ({"name": "b" * 64}, "is not a name"),
        ({"name": "kube-system"}, "is a namespace of Kubernetes itself"),
        ({"name": "default"}, "is a namespace of Kubernetes itself"),
        ({"quota": dataclasses.replace(NAMESPACE.quota, memory_mb=2047)}, "quota.memory_mb is 2047, too small for"),
        ({"quota": dataclasses.replace(NAMESPACE.quota, cpus=1)}, "quota.cpus is 1, too small for"),
        ({"quota": dataclasses.replace(NAMESPACE.quota, pods=0)}, "a namespace without a pod"),
        ({"container": ContainerResources(cpus=3, memory_mb=1)}, "container.cpus is 3, more than container_most.cpus"),
        ({"container": ContainerResources(cpus=0, memory_mb=1)}, "container.cpus is 0; it must be more"),
    ],
)
def test_a_namespace_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    args = dataclasses.replace(NAMESPACE, **change)
    with pytest.raises(ValueError, match=re.escape(said)):
        declare(lambda: Namespace("blue", args))


def test_a_tenant_has_its_user_ids_and_its_people() -> None:
    seen = declare(lambda: Tenant("blue", TENANT))
    metadata = seen["Namespace", "blue"]["metadata"]
    assert metadata["labels"][names.TENANT] == "blue"
    assert metadata["annotations"][names.RUN_AS_RANGE] == "1000660000/100"
    binding = seen["RoleBinding", "blue/caisson-operator"]
    assert [subject["name"] for subject in binding["subjects"]] == ["blues"]
    assert binding["roleRef"]["name"] == "caisson-operator"


def test_what_holds_a_tenant_is_out_of_its_reach() -> None:
    roles = declare(lambda: Tenant("blue", TENANT)).of_kind("Role")
    held = {
        "resourcequotas",
        "limitranges",
        "networkpolicies",
        "roles",
        "rolebindings",
        "network-attachment-definitions",
    }
    for rule in roles["blue/caisson-operator"]["rules"]:
        if held & set(rule["resources"]):
            assert rule["verbs"] == ["get", "list", "watch"], rule
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
    for rule in roles["blue/caisson-viewer"]["rules"]:
        assert rule["verbs"] == ["get", "list", "watch"]
        assert not {"secrets", "pods/exec"} & set(rule["resources"])


def test_a_tenant_without_people_has_no_binding() -> None:
    args = dataclasses.replace(TENANT, operators=(), viewers=())
    assert not declare(lambda: Tenant("blue", args)).of_kind("RoleBinding")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run_as_first": 1000}, "run_as_first is 1000"),
        ({"run_as_first": 2**31 - 10}, "its user ids must lie between"),
        ({"run_as_size": 0}, "it has no user ids"),
        ({"operators": ("system:masters",)}, "system:masters is a group of Kubernetes itself"),
    ],
)
def test_a_tenant_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    args = dataclasses.replace(TENANT, **change)
    with pytest.raises(ValueError, match=re.escape(said)):
        declare(lambda: Tenant("blue", args))


def test_tenants_share_neither_name_nor_user_ids() -> None:
    green = dataclasses.replace(
        TENANT, namespace=dataclasses.replace(NAMESPACE, name="green"), run_as_first=TENANT.run_as_first + 100
    )
    assert overlaps([TENANT, green]) == []
    assert overlaps([TENANT, dataclasses.replace(green, run_as_first=TENANT.run_as_first + 99)]) == [
        "blue and green have user ids in common"
    ]
    assert "two tenants have the name blue" in overlaps([TENANT, TENANT])


def test_a_service_account_has_what_is_named_and_no_token_in_pods() -> None:
    args = AuditedServiceAccountArgs(
        name="reader",
        namespace="blue",
        purpose="Reads 'maps'.",
        owner="the blues",
        rules=(Rule(resources=("configmaps",), verbs=("get", "list")),),
        cluster_rules=(Rule(non_resource_urls=("/metrics",)),),
    )
    seen = declare(lambda: AuditedServiceAccount("reader", args))
    account = seen["ServiceAccount", "blue/reader"]
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"] == {names.PURPOSE: "Reads 'maps'.", names.OWNER: "the blues"}
    assert seen["Role", "blue/reader"]["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
    ]
    assert seen["ClusterRole", "caisson:blue:reader"]["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    for kind, name in (("RoleBinding", "blue/reader"), ("ClusterRoleBinding", "caisson:blue:reader")):
        assert seen[kind, name]["subjects"] == [{"kind": "ServiceAccount", "name": "reader", "namespace": "blue"}]


def test_changes_of_a_service_account_are_explained_and_never_refused() -> None:
    args = AuditedServiceAccountArgs(name="reader", namespace="blue", purpose="It's that.", owner="the blues")
    seen = declare(lambda: AuditedServiceAccount("reader", args))
    spec = seen["ValidatingAdmissionPolicy", "audit.reader.blue.caisson"]["spec"]
    assert spec["failurePolicy"] == "Ignore"
    assert "validations" not in spec
    assert spec["auditAnnotations"] == [{"key": "purpose", "valueExpression": r"'It\'s that. (ask the blues)'"}]
    assert spec["matchConditions"][0]["expression"].endswith("== 'system:serviceaccount:blue:reader'")
    assert not seen.of_kind("Role")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rules": (Rule(resources=("*",)),)}, "* in resources"),
        ({"rules": (Rule(resources=("pods",), verbs=("*",)),)}, "* in verbs"),
        ({"cluster_rules": (Rule(resources=("users",), verbs=("impersonate",)),)}, "the verb impersonate"),
        ({"rules": (Rule(non_resource_urls=("/metrics",)),)}, "belong into cluster_rules"),
        ({"rules": (Rule(),)}, "resources or non_resource_urls"),
        ({"purpose": " "}, "its purpose is empty"),
        ({"name": "a b"}, "is not a name"),
    ],
)
def test_a_service_account_that_may_too_much_is_refused(change: dict[str, Any], said: str) -> None:
    args = AuditedServiceAccountArgs(**{"name": "a", "namespace": "b", "purpose": "c", "owner": "d"} | change)
    with pytest.raises(ValueError, match=re.escape(said)):
        declare(lambda: AuditedServiceAccount("a", args))


def test_text_in_an_expression_stays_text() -> None:
    assert cel_text("a'b\\c\nd") == r"'a\'b\\c\nd'"


def test_priority_classes() -> None:
    classes = (
        PriorityClassArgs(name="now", value=1000, preempts=True, description="a"),
        PriorityClassArgs(name="later", value=10, preempts=False, description="b"),
    )
    seen = declare(lambda: PriorityClasses("all", classes)).of_kind("PriorityClass")
    assert seen["now"]["preemptionPolicy"] == "PreemptLowerPriority"
    assert seen["later"]["preemptionPolicy"] == "Never"
    assert not any("globalDefault" in one for one in seen.values())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([("system-mine", 1)], "Kubernetes' own"),
        ([("a", 2_000_000_000)], "its value is 2000000000"),
        ([("a", -1)], "its value is -1"),
        ([("a", 1), ("b", 1)], "two priority classes have the value 1"),
        ([("A", 1)], "is not a name"),
    ],
)
def test_priority_classes_that_cannot_be_are_refused(values: list[tuple[str, int]], said: str) -> None:
    classes = tuple(PriorityClassArgs(name=n, value=v, preempts=False, description="") for n, v in values)
    with pytest.raises(ValueError, match=re.escape(said)):
        declare(lambda: PriorityClasses("all", classes))


def test_a_network_attachment_is_a_name_and_leaves_the_rest_to_the_node() -> None:
    seen = declare(lambda: NetworkAttachment("x", NetworkAttachmentArgs(network="data", namespace="blue")))
    attachment = seen["NetworkAttachmentDefinition", "blue/data"]
    assert attachment["apiVersion"] == "k8s.cni.cncf.io/v1"
    assert not attachment.get("spec")
    with pytest.raises(ValueError, match="is not a name"):
        declare(lambda: NetworkAttachment("x", NetworkAttachmentArgs(network="../data", namespace="blue")))


def test_the_type_of_network_attachments() -> None:
    seen = declare(lambda: NetworkAttachments("networks"))
    definition = seen["CustomResourceDefinition", "network-attachment-definitions.k8s.cni.cncf.io"]["spec"]
    assert definition["names"]["kind"] == "NetworkAttachmentDefinition"
    assert definition["scope"] == "Namespaced"


def test_pods_ask_for_networks_that_nodes_have() -> None:
    networks: list[dict[str, Any]] = [
        {"name": "pods", "every_pod": True},
        {"name": "data", "type": "macvlan"},
        {"name": "fast", "type": "sriov", "vfs": 2},
    ]
    assert available(networks) == ["data", "fast-vf0", "fast-vf1"]
    assert unknown("blue", ("data", "fast-vf1"), networks) == []
    (said,) = unknown("blue", ("fast",), networks)
    assert "no network fast" in said
    assert "data, fast-vf0, fast-vf1" in said


def test_an_image_is_a_digest() -> None:
    image = ImageReference.parse(f"registry:5000/a/b-c@{DIGEST}")
    assert (image.repository, image.digest) == ("registry:5000/a/b-c", DIGEST)
    assert str(ImageReference.named("x", {"x": str(image)})) == str(image)
    with pytest.raises(ValueError, match="has no image y; it has x"):
        ImageReference.named("y", {"x": str(image)})


@pytest.mark.parametrize("text", ["", "a", "a:1", f"a:1@{DIGEST}", "a@sha256:12", f"A@{DIGEST}", f"a b@{DIGEST}"])
def test_anything_else_is_no_image(text: str) -> None:
    with pytest.raises(ValueError, match="a tag may be moved"):
        ImageReference.parse(text)


def test_local_volumes_stay_on_their_nodes_and_keep_their_data() -> None:
    args = LocalStorageArgs(storage_class="near", volumes=(LocalVolume(name="v", node="n1", path="/data/v", gb=5),))
    seen = declare(lambda: LocalStorage("storage", args))
    assert seen["StorageClass", "near"]["volumeBindingMode"] == "WaitForFirstConsumer"
    spec = seen["PersistentVolume", "v"]["spec"]
    assert spec["persistentVolumeReclaimPolicy"] == "Retain"
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]


@pytest.mark.parametrize("path", ["data", "/", "/data/../etc"])
def test_a_volume_is_a_directory(path: str) -> None:
    args = LocalStorageArgs(storage_class="near", volumes=(LocalVolume(name="v", node="n1", path=path, gb=5),))
    with pytest.raises(ValueError, match="no absolute path"):
        declare(lambda: LocalStorage("storage", args))


def test_a_directory_is_one_volume() -> None:
    volume = LocalVolume(name="v", node="n1", path="/data", gb=5)
    twice = LocalStorageArgs(storage_class="near", volumes=(volume, dataclasses.replace(volume, name="w")))
    with pytest.raises(ValueError, match="two local volumes have the path"):
        declare(lambda: LocalStorage("storage", twice))


def test_monitoring_reads_and_does_nothing_else() -> None:
    seen = declare(lambda: MonitoringHooks("m", MonitoringHooksArgs(namespace="watchers", owner="us")))
    for rule in seen["ClusterRole", "caisson:watchers:metrics"]["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert "secrets" not in rule.get("resources", [])


def test_admission_is_for_tenants_and_refuses_when_in_doubt() -> None:
    seen = declare(lambda: AdmissionPolicies("admission"))
    for kind in ("ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"):
        assert seen[kind, "pods.caisson"]["spec"]["failurePolicy"] == "Fail"
        binding = seen[f"{kind}Binding", "pods.caisson"]["spec"]
        assert binding["matchResources"]["namespaceSelector"]["matchExpressions"] == [
            {"key": names.TENANT, "operator": "Exists"}
        ]
    assert "Deny" in seen["ValidatingAdmissionPolicyBinding", "pods.caisson"]["spec"]["validationActions"]


def test_a_tenant_is_made_of_a_namespace() -> None:
    seen = declare(lambda: Tenant("blue", TENANT))
    assert ("caisson:Tenant", "blue") in seen.resources
    assert ("caisson:Namespace", "blue") in seen.resources
