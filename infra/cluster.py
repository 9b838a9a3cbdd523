"""Whether there is a cluster to work on, asked before anything is created."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pulumi_kubernetes as k8s
import yaml

from infra.settings import SettingsError

_PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """An API server, as a kubeconfig names it."""

    url: str
    certificates: ssl.SSLContext
    name: str
    """Under which its certificate is checked."""
    reached_by_proxy: bool


def kubeconfig(given: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the kubeconfig that the provider will take; none where it takes the account of the pod that it runs in.

    Raises SettingsError when there is none.
    """
    if given:
        places = [Path(given).expanduser()]
    elif environment.get("KUBECONFIG"):
        places = [Path(place) for place in environment["KUBECONFIG"].split(":") if place]
    else:
        places = [Path.home() / ".kube" / "config"]
    for place in places:
        if place.is_file():
            return place
    if not given and "KUBECONFIG" not in environment and "KUBERNETES_SERVICE_HOST" in environment:
        return None
    where = ", ".join(map(str, places))
    raise SettingsError(
        [f"there is no kubeconfig at {where}: set KUBECONFIG, or `pulumi config set kubeconfig <file>`"]
    )


def server(path: Path, context: str) -> Server:
    """Return the API server of a context of a kubeconfig, of its current one when that is empty.

    Raises SettingsError with what the file lacks.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError([f"{path} cannot be read as a kubeconfig: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, dict):
        raise SettingsError([f"{path} is not a kubeconfig"])
    context = context or str(content.get("current-context") or "")
    found = _named(content, "contexts", "context", context)
    if found is None:
        raise SettingsError([f"{path} has no context {context!r}"])
    cluster = _named(content, "clusters", "cluster", str(found.get("cluster")))
    if cluster is None or not cluster.get("server"):
        raise SettingsError([f"{path} has no server for the context {context!r}"])
    url = str(cluster["server"])
    try:
        certificates = _certificates(cluster, path.parent)
    except (OSError, ValueError, ssl.SSLError) as error:
        raise SettingsError([f"{path}: its certificate authority cannot be used: {error}"]) from error
    return Server(
        url=url,
        certificates=certificates,
        name=str(cluster.get("tls-server-name") or urlsplit(url).hostname or ""),
        reached_by_proxy=bool(cluster.get("proxy-url")),
    )


def check(given: str, context: str, oldest: str) -> None:
    """Look whether the API server answers, and whether it is as new as `oldest` (1.36, say).

    The question needs no account. Raises SettingsError.
    """
    path = kubeconfig(given)
    if path is None:
        return
    asked = server(path, context)
    if asked.reached_by_proxy:
        return
    version = _ask(asked)
    if version and version < _number(oldest):
        said = ".".join(map(str, version))
        raise SettingsError([f"the API server {asked.url} is Kubernetes {said}; the platform needs {oldest} or newer"])


def provider(given: str, context: str) -> k8s.Provider:
    """Return the provider of a cluster. Of a kubeconfig only its path goes into the state.

    What was changed by hand is put back, and an object that a killed run has made but not written down is taken over.
    """
    return k8s.Provider(
        "cluster",
        kubeconfig=given or None,
        context=context or None,
        enable_patch_force=True,
        upsert_existing_objects=True,
    )


def _ask(asked: Server) -> tuple[int, ...] | None:
    """Return the version of an API server, nothing when it tells that to accounts only."""
    parts = urlsplit(asked.url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = _NamedHTTPSConnection(host, parts.port or 443, asked)
    else:
        connection = http.client.HTTPConnection(host, parts.port or 80, timeout=_PATIENCE_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/version")
        answer = connection.getresponse()
        text = answer.read()
    except ssl.SSLCertVerificationError as error:
        raise SettingsError(
            [f"the API server {asked.url} is not the one of the kubeconfig: {error.verify_message}"]
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SettingsError([f"the API server {asked.url} does not answer: {reason}"]) from error
    finally:
        connection.close()
    if answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise SettingsError([f"the API server {asked.url} is not ready: {answer.status} {answer.reason}"])
    try:
        said = json.loads(text)
        return _number(f"{said['major']}.{said['minor']}")
    except (ValueError, KeyError, TypeError):
        return None


class _NamedHTTPSConnection(http.client.HTTPSConnection):
    """A connection whose certificate is checked under a name that need not be the host's."""

    def __init__(self, host: str, port: int, asked: Server) -> None:
        super().__init__(host, port, timeout=_PATIENCE_S, context=asked.certificates)
        self._asked = asked

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._asked.certificates.wrap_socket(self.sock, server_hostname=self._asked.name)


def _named(content: dict[str, Any], many: str, one: str, name: str) -> dict[str, Any] | None:
    for entry in content.get(many) or []:
        if entry.get("name") == name and isinstance(entry.get(one), dict):
            found: dict[str, Any] = entry[one]
            return found
    return None


def _certificates(cluster: dict[str, Any], folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif cluster.get("certificate-authority-data"):
        context = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode("ascii")
        )
    elif cluster.get("certificate-authority"):
        context = ssl.create_default_context(cafile=str(folder / cluster["certificate-authority"]))
    return context


def _number(text: str) -> tuple[int, ...]:
    return tuple(int("".join(c for c in part if c.isdigit())) for part in text.split("."))
