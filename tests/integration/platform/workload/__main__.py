"""A secret and a pod in a tenant's namespace, which the stack `platform` has made."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from infra import cluster

config = pulumi.Config()
careless = config.get_bool("careless") or False
image = config.require("image")
password = config.require_secret("password")
platform = pulumi.StackReference("organization/platform/test")
namespace = platform.require_output("tenants").apply(lambda tenants: str(tenants["blue"]["namespace"]))
opts = pulumi.ResourceOptions(provider=cluster.provider("", ""))

secret = k8s.core.v1.Secret(
    "login",
    metadata=k8s.meta.v1.ObjectMetaArgs(name="login", namespace=namespace),
    string_data={"password": password},
    opts=opts,
)
safe: dict[str, Any] = {
    "security_context": k8s.core.v1.SecurityContextArgs(
        run_as_non_root=True,
        allow_privilege_escalation=False,
        capabilities=k8s.core.v1.CapabilitiesArgs(drop=["ALL"]),
        seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
    ),
    "resources": k8s.core.v1.ResourceRequirementsArgs(limits={"cpu": "250m", "memory": "64Mi"}),
}
variable = (
    k8s.core.v1.EnvVarArgs(name="PASSWORD", value="plain")
    if careless
    else k8s.core.v1.EnvVarArgs(
        name="PASSWORD",
        value_from=k8s.core.v1.EnvVarSourceArgs(
            secret_key_ref=k8s.core.v1.SecretKeySelectorArgs(name="login", key="password")
        ),
    )
)
k8s.core.v1.Pod(
    "main",
    metadata=k8s.meta.v1.ObjectMetaArgs(
        # nothing runs it, so it is never ready
        name="main",
        namespace=namespace,
        annotations={"pulumi.com/skipAwait": "true"},
    ),
    spec=k8s.core.v1.PodSpecArgs(
        containers=[k8s.core.v1.ContainerArgs(name="main", image=image, env=[variable], **({} if careless else safe))]
    ),
    opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[secret])),
)
pulumi.export("password", password)
