"""`pulumi up` here gives a cluster its tenants, and what they share."""

from __future__ import annotations

import pulumi
from infra import cluster
from stacks.platform import configuration, deployment

config = pulumi.Config()
kubeconfig, context = config.get("kubeconfig") or "", config.get("context") or ""
platform = configuration.load(pulumi.runtime.get_config_env(), pulumi.get_project())
cluster.check(kubeconfig, context, platform.kubernetes_minimum)

outputs = deployment.deploy(platform, cluster.provider(kubeconfig, context))
for name, value in outputs.items():
    pulumi.export(name, value)
