"""A cluster whose control plane is a host of a scenario, for tests: kubectl, pods that run Python, the audit log."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.support.segment_host import SegmentHost, wait_until

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


# The package of a host with another version, and its programs, that tell another one of the same length.
OTHER = """
set -e
cd /var/tmp
dpkg-deb --raw-extract "$(ls -t /var/cache/apt/archives/caisson-kubernetes_*.deb | head -n 1)" other
sed -i 's/^Version: .*/Version: 0~other/' other/DEBIAN/control
LC_ALL=C sed -i "s/$1/$2/g" other/usr/bin/kube*
dpkg-deb -Znone --root-owner-group --build other other.deb
dpkg --install other.deb
rm -r other other.deb
systemctl try-restart 'kube-*.service' 'kubelet*.service'
"""


class Cluster:
    """A cluster, asked with kubectl on its control plane, the host ``name`` of the lab ``lab``."""

    def __init__(self, lab: str, name: str) -> None:
        self.host = SegmentHost(lab, name)

    @staticmethod
    def _argv(argv: tuple[str, ...]) -> list[str]:
        return ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout", "30s", *argv]

    def run(self, *argv: str) -> str:
        """Run kubectl, which must succeed."""
        return self.host.run(*self._argv(argv))

    def fails(self, *argv: str) -> str:
        """Run kubectl, which must fail; returns what it said."""
        return self.host.fails(*self._argv(argv))

    def get(self, *argv: str) -> dict[str, Any]:
        """Return an object."""
        found: dict[str, Any] = json.loads(self.run("get", *argv, "--output", "json"))
        return found

    def apply(self, *objects: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Apply objects, and tell how that went."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        argv = ["docker", "exec", "-i", self.host.container, *self._argv(("apply", "--filename", "-"))]
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)

    def made(self, *objects: dict[str, Any]) -> None:
        """Apply objects, which must succeed."""
        done = self.apply(*objects)
        assert done.returncode == 0, done.stderr

    def version(self) -> str:
        """Return what the API server says of its version."""
        return str(json.loads(self.run("get", "--raw", "/version"))["gitVersion"])

    def other_version(self, version: str) -> str:
        """Give the host another version of Kubernetes than the one it has, and return which."""
        other = re.sub(r"\d$", lambda found: str((int(found[0]) + 1) % 10), version)
        self.host.run("sh", "-c", OTHER, "sh", version.replace(".", r"\."), other)
        return other

    def image(self, name: str) -> str:
        """Return how pods call an image that the host has."""
        listed = self.host.run("ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
        return next(line for line in listed.splitlines() if f"/{name}@sha256:" in line)

    def pod(self, name: str, script: str, *, namespace: str = "default", **more: Any) -> dict[str, Any]:
        """Return a pod that runs a Python script; ``annotations``, ``container`` and keys of its spec may be given."""
        container = {
            "name": "python",
            "image": self.image("plpython"),
            "imagePullPolicy": "Never",
            "command": ["python3", "-u", "-c", script],
            "securityContext": RESTRICTED,
            **more.pop("container", {}),
        }
        metadata = {"name": name, "namespace": namespace, "annotations": more.pop("annotations", {})}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", **more}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def answer(self, name: str, script: str, **more: Any) -> str:
        """Run a script in a pod, and return what it printed when it ended well."""
        self.made(self.pod(name, script, **more))
        namespace = more.get("namespace", "default")
        try:
            wait_until(lambda: self.phase(name, namespace) in ("Succeeded", "Failed"), 60, f"{name} ends")
            said = self.run("logs", name, "--namespace", namespace)
            assert self.phase(name, namespace) == "Succeeded", said
            return said
        finally:
            self.run("delete", "pod", name, "--namespace", namespace, "--now")

    def phase(self, name: str, namespace: str = "default") -> str:
        """Return the phase of a pod."""
        return str(self.get("pod", name, "--namespace", namespace)["status"].get("phase"))

    def audited(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the entries of the audit log whose fields, dots in their names as __, are as wanted."""
        entries = [json.loads(line) for line in self.host.run("cat", "/var/log/kubernetes/audit.log").splitlines()]
        return [entry for entry in entries if all(_field(entry, key) == value for key, value in wanted.items())]


def _field(entry: dict[str, Any], key: str) -> Any:
    value: Any = entry
    for part in key.split("__"):
        value = value.get(part) if isinstance(value, dict) else None
    return value
