"""Several control planes of one cluster, for tests: their members of etcd, and how they are lost and found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import Cluster
from tests.support.segment_host import lab_name, playbook, recap, wait_until

PKI = "/etc/kubernetes/pki"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class ControlPlanes:
    """The control planes of a scenario, by their names."""

    def __init__(self, scenario: Path) -> None:
        self.scenario = scenario
        hosts = yaml.safe_load((scenario / "inventory/hosts.yml").read_text(encoding="utf-8"))
        self.names: list[str] = list(hosts["kubernetes_control_planes"]["hosts"])
        group = (scenario / "inventory/group_vars/kubernetes_control_planes.yml").read_text(encoding="utf-8")
        self.options: dict[str, Any] = yaml.safe_load(group)
        self.clusters = {name: Cluster(lab_name(scenario), name) for name in self.names}

    def etcdctl(self, name: str, *argv: str) -> list[str]:
        """Return the command that asks the member of a host, to run there."""
        port = self.options["kubernetes_control_plane_etcd_port"]
        credentials = {"cacert": "ca.crt", "cert": "healthcheck-client.crt", "key": "healthcheck-client.key"}
        flags = [f"--{flag}={PKI}/etcd/{file}" for flag, file in credentials.items()]
        return ["etcdctl", f"--endpoints=https://127.0.0.1:{port}", *flags, *argv]

    def members(self, asked: str) -> dict[str, dict[str, Any]]:
        """Return what a host's member says of all members, by their names."""
        said = self.clusters[asked].host.run(*self.etcdctl(asked, "member", "list", "--write-out", "json", "--hex"))
        return {member.get("name", ""): member for member in json.loads(said)["members"]}

    def well(self, name: str) -> bool:
        """Tell whether the member of a host answers for the cluster, and its API server serves."""
        host = self.clusters[name].host.host
        api = f"kubectl --kubeconfig /etc/kubernetes/admin.conf --server {self.server(name)} get --raw /readyz"
        health = " ".join(self.etcdctl(name, "--command-timeout=3s", "endpoint", "health"))
        return bool(host.run(health).rc == 0 and host.run(api).rc == 0)

    def all_well(self) -> bool:
        """Tell whether all of them are well, and all members have a vote."""
        if not all(self.well(name) for name in self.names):
            return False
        members = self.members(self.names[0])
        return sorted(members) == self.names and not any(member.get("isLearner") for member in members.values())

    def address(self, name: str) -> str:
        """Return the address of a host."""
        unit = self.clusters[name].host.run("cat", "/etc/systemd/system/kube-apiserver.service")
        return next(word.partition("=")[2] for word in unit.split() if word.startswith("--advertise-address="))

    def server(self, name: str) -> str:
        """Return where the API server of a host answers, with nothing in between."""
        return f"https://{self.address(name)}:{self.options['kubernetes_control_plane_port']}"

    def server_version(self, name: str) -> str:
        """Return the version that the API server of a host tells, empty where it does not answer."""
        command = f"kubectl --kubeconfig /etc/kubernetes/admin.conf --server {self.server(name)} get --raw /version"
        done = self.clusters[name].host.host.run(command)
        return str(json.loads(done.stdout)["gitVersion"]) if done.rc == 0 else ""

    def lead(self, name: str) -> None:
        """Make the member of a host the leader."""
        member = self.members(name)[name]["ID"]
        every = ",".join(
            f"https://{self.address(one)}:{self.options['kubernetes_control_plane_etcd_port']}" for one in self.names
        )
        argv = self.etcdctl(name, "move-leader", member)
        argv[1] = f"--endpoints={every}"
        said = self.clusters[name].host.host.run(" ".join(argv))
        assert said.rc == 0 or "is already the leader" in said.stderr, said.stderr

    @contextmanager
    def gone(self, *names: str) -> Iterator[None]:
        """Freeze hosts, which answers nobody and closes nothing, as when their cable is cut."""
        containers = [self.clusters[name].host.container for name in names]
        subprocess.run(["docker", "pause", *containers], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["docker", "unpause", *containers], check=True, capture_output=True)

    def play(self, *arguments: str, file: str = "playbooks/kubernetes.yml") -> tuple[str, dict[str, dict[str, int]]]:
        """Run a playbook that must succeed; returns what it said and its counts."""
        done = playbook(self.scenario, *arguments, file=file)
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout, recap(done.stdout)

    def refused(self, *arguments: str, file: str = "playbooks/kubernetes.yml") -> tuple[str, dict[str, dict[str, int]]]:
        """Run a playbook that must fail; returns what it said and its counts."""
        done = playbook(self.scenario, *arguments, file=file)
        assert done.returncode != 0, done.stdout[-8000:]
        return done.stdout, recap(done.stdout)

    def wait_until_well(self, timeout_s: float = 60) -> None:
        """Wait until all of them are well."""
        wait_until(self.all_well, timeout_s, "all control planes are well")
