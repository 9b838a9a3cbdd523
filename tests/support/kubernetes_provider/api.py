"""The API server, as a client of few words."""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import requests
import yaml

Object = dict[str, Any]
_PATIENCE_S = 60.0


class RefusedError(Exception):
    """What the API server did not do, with its reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Objects of a cluster, found by the apiVersion and kind that they have themselves."""

    def __init__(self, kubeconfig: str, context: str) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, dict[str, Object]] = {}
        self._session = requests.Session()
        self._session.trust_env = False
        self.server = ""
        self._open(_text(kubeconfig), context)

    def apply(self, wanted: Object, *, manager: str, force: bool, dry: bool) -> Object:
        """Server-side apply an object. Returns it as it is then, or would be. Raises RefusedError."""
        options = {"fieldManager": manager, "force": str(force).lower(), **({"dryRun": "All"} if dry else {})}
        return self._ask(
            "PATCH",
            self._url(wanted),
            params=options,
            data=yaml.safe_dump(wanted),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    def get(self, wanted: Object) -> Object | None:
        """Return an object as it is, nothing when it is not there. Raises RefusedError."""
        try:
            return self._ask("GET", self._url(wanted))
        except RefusedError as refused:
            if refused.status == requests.codes.not_found:
                return None
            raise

    def delete(self, wanted: Object) -> None:
        """Ask that an object go, and what belongs to it. Raises RefusedError."""
        try:
            self._ask("DELETE", self._url(wanted), json={"propagationPolicy": "Background"})
        except RefusedError as refused:
            if refused.status != requests.codes.not_found:
                raise

    def is_namespaced(self, wanted: Object) -> bool:
        """Tell whether objects of this kind lie in namespaces. Raises RefusedError."""
        return bool(self._kind(wanted)["namespaced"])

    def _url(self, wanted: Object) -> str:
        kind, metadata = self._kind(wanted), wanted["metadata"]
        place = f"/namespaces/{metadata.get('namespace', 'default')}" if kind["namespaced"] else ""
        return f"{_group(wanted['apiVersion'])}{place}/{kind['name']}/{metadata['name']}"

    def _kind(self, wanted: Object) -> Object:
        version, kind = wanted["apiVersion"], wanted["kind"]
        with self._lock:
            # a kind that is unknown may have been defined meanwhile
            if kind not in self._kinds.get(version, {}):
                found = self._ask("GET", _group(version))["resources"]
                self._kinds[version] = {one["kind"]: one for one in found if "/" not in one["name"]}
        if kind not in self._kinds[version]:
            raise RefusedError(requests.codes.not_found, f"no matches for kind {kind!r} in version {version!r}")
        return self._kinds[version][kind]

    def _ask(self, verb: str, path: str, **options: Any) -> Object:
        try:
            answer = self._session.request(verb, self.server + path, timeout=_PATIENCE_S, **options)
        except requests.RequestException as error:
            raise RefusedError(0, f"the API server {self.server} does not answer: {error}") from error
        body: Object = answer.json() if "json" in answer.headers.get("Content-Type", "") else {"message": answer.text}
        if not answer.ok:
            raise RefusedError(answer.status_code, body.get("message", answer.reason))
        return body

    def _open(self, text: str, context: str) -> None:
        content = yaml.safe_load(text)
        named = {
            many: {entry["name"]: entry[one] for entry in content.get(many) or []}
            for many, one in (("contexts", "context"), ("clusters", "cluster"), ("users", "user"))
        }
        chosen = named["contexts"][context or content["current-context"]]
        cluster, user = named["clusters"][chosen["cluster"]], named["users"][chosen["user"]]
        self.server = cluster["server"].rstrip("/")
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)

        def file(of: Object, key: str) -> str:
            if f"{key}-data" not in of:
                return str(of.get(key, ""))
            path = folder / key
            path.write_bytes(base64.b64decode(of[f"{key}-data"]))
            path.chmod(0o600)
            return str(path)

        self._session.verify = file(cluster, "certificate-authority") or True
        if certificate := file(user, "client-certificate"):
            self._session.cert = (certificate, file(user, "client-key"))
        if token := user.get("token"):
            self._session.headers["Authorization"] = f"Bearer {token}"


def _text(kubeconfig: str) -> str:
    """Return a kubeconfig that is given as a path or as its text, or else where kubectl looks for one."""
    if "\n" in kubeconfig or kubeconfig.startswith("{"):
        return kubeconfig
    path = kubeconfig or os.environ.get("KUBECONFIG", "").split(":")[0] or "~/.kube/config"
    return Path(path).expanduser().read_text(encoding="utf-8")


def _group(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
