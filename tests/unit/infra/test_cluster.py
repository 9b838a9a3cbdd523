"""Which cluster, and whether it answers: told in one line each, before anything is created."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from infra import cluster
from infra.settings import SettingsError

OLDEST = "1.36"


@contextmanager
def answering(status: int, body: Any, certificate: Path | None = None) -> Iterator[str]:
    """An API server that answers each question the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()


def written(folder: Path, server: str, **more: str) -> str:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me"}}],
                "clusters": [{"name": "one", "cluster": {"server": server, **more}}],
            }
        )
    )
    return str(path)


def refusal(given: str, context: str = "") -> str:
    with pytest.raises(SettingsError) as refused:
        cluster.check(given, context, OLDEST)
    (problem,) = refused.value.problems
    return problem


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for the name api.test, with its key."""
    path = tmp_path / "api.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=api.test"
    options = ["-addext", "subjectAltName=DNS:api.test", "-keyout", str(path), "-out", str(tmp_path / "ca.pem")]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    with path.open("a") as both:
        both.write((tmp_path / "ca.pem").read_text())
    return path


def test_a_missing_kubeconfig_is_told_with_what_to_do(tmp_path: Path) -> None:
    said = refusal(str(tmp_path / "nowhere"))
    assert said.startswith(f"there is no kubeconfig at {tmp_path}/nowhere: set KUBECONFIG")


def test_where_a_kubeconfig_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    there = tmp_path / "there"
    there.write_text("")
    assert cluster.kubeconfig("", {"KUBECONFIG": f"/nowhere:{there}"}) == there
    with pytest.raises(SettingsError, match=r"no kubeconfig at /nowhere"):
        cluster.kubeconfig("", {"KUBECONFIG": "/nowhere"})
    with pytest.raises(SettingsError, match=r"\.kube/config"):
        cluster.kubeconfig("", {})
    assert cluster.kubeconfig("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "cannot be read as a kubeconfig"),
        ("- a", "is not a kubeconfig"),
        ("current-context: x", "has no context 'x'"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: y}}]}", "has no server for the context 'x'"),
    ],
)
def test_a_broken_kubeconfig_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    assert said in refusal(str(path))


def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "http://127.0.0.1:1"), "elsewhere").endswith("has no context 'elsewhere'")


def test_a_server_that_does_not_listen(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said = refusal(written(tmp_path, f"https://127.0.0.1:{taken.getsockname()[1]}"))
    assert said.endswith("does not answer: Connection refused")


def test_a_server_that_is_not_ready(tmp_path: Path) -> None:
    with answering(503, {}) as url:
        assert "is not ready: 503" in refusal(written(tmp_path, url))


def test_an_old_server(tmp_path: Path) -> None:
    with answering(200, {"major": "1", "minor": "33+"}) as url:
        said = refusal(written(tmp_path, url))
    assert said.endswith("is Kubernetes 1.33; the platform needs 1.36 or newer")


@pytest.mark.parametrize(("status", "body"), [(200, {"major": "1", "minor": "36"}), (403, {"kind": "Status"})])
def test_a_server_that_answers_will_do(tmp_path: Path, status: int, body: Any) -> None:
    with answering(status, body) as url:
        cluster.check(written(tmp_path, url), "", OLDEST)


def test_another_server_than_the_kubeconfigs(tmp_path: Path, certificate: Path) -> None:
    with answering(200, {"major": "1", "minor": "36"}, certificate) as url:
        assert "is not the one of the kubeconfig" in refusal(written(tmp_path, url))
        authority = base64.b64encode((tmp_path / "ca.pem").read_bytes()).decode()
        trusted = {"certificate-authority-data": authority, "tls-server-name": "api.test"}
        cluster.check(written(tmp_path, url, **trusted), "", OLDEST)
        assert "is not the one" in refusal(written(tmp_path, url, **trusted | {"tls-server-name": "other.test"}))


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    said = refusal(written(tmp_path, "https://127.0.0.1:1", **{"certificate-authority": "nowhere.pem"}))
    assert "its certificate authority cannot be used" in said


def test_behind_a_proxy_the_provider_asks(tmp_path: Path) -> None:
    cluster.check(written(tmp_path, "https://127.0.0.1:1", **{"proxy-url": "http://127.0.0.1:2"}), "", OLDEST)
