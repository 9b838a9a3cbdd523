"""`pulumi up` here gives a cluster its tenants, and what they share."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as k8s
from infra import cluster
from stacks.platform import configuration, deployment

config = pulumi.Config()
kubeconfig, context = config.get("kubeconfig") or "", config.get("context") or ""
platform = configuration.load(pulumi.runtime.get_config_env(), pulumi.get_project())
cluster.check(kubeconfig, context, platform.kubernetes_minimum)

# nothing of a kubeconfig goes into the state: the provider reads the file
provider = k8s.Provider("cluster", kubeconfig=kubeconfig or None, context=context or None)
for name, value in deployment.deploy(platform, provider).items():
    pulumi.export(name, value)
