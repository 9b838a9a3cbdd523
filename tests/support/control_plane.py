"""A real API server with its store on this machine's loopback: no nodes, and so no pod ever runs."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from builder.errors import BuildError
from builder.packages import find_package

RELEASE = "13"
_PATIENCE_S = 120.0
# what tests need of it: namespaces go away, quotas count, accounts are there, the types in policies are checked
_CONTROLLERS = (
    "namespace-controller,resourcequota-controller,serviceaccount-controller,garbage-collector-controller,"
    "validatingadmissionpolicy-status-controller"
)


class MissingError(Exception):
    """A program is neither on PATH nor built."""


def programs(wanted: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the path of each program: of PATH, or of the package that is named for it and built already.

    Raises MissingError with what would build it. Nothing is built here.
    """
    names = {name: package for package, several in wanted.items() for name in several}
    found = {name: path for name in names if (path := shutil.which(name))}
    for package in dict.fromkeys(package for name, package in names.items() if name not in found):
        try:
            built = find_package(package, RELEASE)
        except BuildError:
            built = None
        if built is None:
            missing = ", ".join(name for name in wanted[package] if name not in found)
            raise MissingError(f"no {missing} on PATH, and `python -m builder package {package}` has not been run")
        for name in wanted[package]:
            found.setdefault(name, str(built.unpacked() / "usr/bin" / name))
    return found


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(done: Callable[[], bool], what: str, patience: float = _PATIENCE_S) -> None:
    """Wait for a condition. Raises AssertionError with `what` when it does not come."""
    end = time.monotonic() + patience
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@dataclass
class ControlPlane:
    """An API server, its store and its controllers. Each user has a token, which is their name."""

    folder: Path
    programs: dict[str, str]
    users: dict[str, list[str]]
    """User -> groups. There is `admin`, too."""
    port: int = field(default_factory=free_port)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._keys()
        self._files()
        store = f"http://127.0.0.1:{free_port()}"
        self._store(store)
        self.run("kube-apiserver", *self._api_options(store))
        until(self._answers, f"the API server is not ready: {self.log('kube-apiserver')}")
        options = [f"--kubeconfig={self.kubeconfig()}", f"--controllers={_CONTROLLERS}", "--leader-elect=false"]
        self.run("kube-controller-manager", *options, "--secure-port=0")

    def stop(self) -> None:
        # nothing of it is kept, and an API server that is asked to end waits for its watchers
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()

    def run(self, program: str, *options: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            command = [self.programs[program], *options]
            self.running.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
            )

    def log(self, program: str) -> str:
        return "\n".join((self.folder / f"{program}.log").read_text(errors="replace").splitlines()[-5:])

    def kubeconfig(self, user: str = "admin") -> Path:
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "api.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": user}}],
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def token(self, user: str) -> str:
        return f"token-of-{user}"

    def ask(self, verb: str, path: str, user: str = "admin", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token(user)}", **options.pop("headers", {})}
        verify = str(self.folder / "api.crt")
        with requests.Session() as session:
            session.trust_env = False
            return session.request(verb, self.url + path, headers=headers, verify=verify, timeout=30, **options)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.ok, answer.text
        return answer.json()

    def audited(self) -> list[dict[str, Any]]:
        text = (self.folder / "audit.log").read_text()
        # the last line may be half written
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _answers(self) -> bool:
        assert self.running[-1].poll() is None, self.log("kube-apiserver")
        try:
            return self.ask("GET", "/readyz").ok
        except requests.RequestException:
            return False

    def _store(self, url: str) -> None:
        # without a patience kine gives up on its own lock, and nothing here needs to outlive a crash
        options = "_journal_mode=WAL&_busy_timeout=30000&_txlock=immediate&_synchronous=OFF"
        endpoint = f"--endpoint=sqlite://{self.folder}/kine.db?{options}"
        self.run("kine", endpoint, f"--listen-address={url}", "--metrics-bind-address=0")
        until(lambda: _listens(url), f"kine does not listen: {self.log('kine')}")

    def _keys(self) -> None:
        key, certificate = self.folder / "api.key", self.folder / "api.crt"
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api -addext subjectAltName=IP:127.0.0.1"
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)

    def _files(self) -> None:
        users = {"admin": ["system:masters"], **self.users}
        lines = [f'{self.token(user)},{user},{user},"{",".join(groups)}"' for user, groups in users.items()]
        (self.folder / "tokens.csv").write_text("\n".join(lines))
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "None", "users": ["system:apiserver"]}, {"level": "Metadata"}],
        }
        (self.folder / "audit.yml").write_text(yaml.safe_dump(policy))

    def _api_options(self, store: str) -> list[str]:
        key = self.folder / "api.key"
        return [
            f"--etcd-servers={store}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.folder / 'api.crt'}",
            f"--tls-private-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://api",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={self.folder / 'audit.yml'}",
            f"--audit-log-path={self.folder / 'audit.log'}",
        ]


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), 1).close()
    except OSError:
        return False
    return True


def memory_mb() -> int:
    """Return the memory that is free (MiB)."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) // 1024
