"""A host in a directory: configuration, a store with one small image, and a server that answers."""

from __future__ import annotations

import getpass
import grp
import hashlib
import io
import json
import os
import shutil
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from plcontainer_cli.cli import main
from protocol_server.images import ImageStore

SITE = """\
runtimes:
  - {{id: site, language: python, image: "{image}", image_name: tiny:1, memory_mb: 64, cpu_shares: 512,
     cpus: 1, pids: 9, tmpfs_mb: 8, nofile: 64}}
"""


def tar_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def archive_of(layers: list[bytes], name: str, diff_ids: list[str] | None = None) -> bytes:
    """A Docker archive with these layers."""
    found = diff_ids or [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = json.dumps({"config": {"Env": ["A=1"]}, "rootfs": {"type": "layers", "diff_ids": found}}).encode()
    names = [f"{index}.tar" for index in range(len(layers))]
    manifest = json.dumps([{"Config": "config.json", "Layers": names, "RepoTags": [name]}]).encode()
    return tar_of({**dict(zip(names, layers, strict=True)), "config.json": config, "manifest.json": manifest})


@dataclass
class Server:
    """The operator's socket of a server: what it was asked, and what it says."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)


@dataclass
class Machine:
    """A host, and the command on it."""

    root: Path
    image: str
    archive: Path
    server: Server

    @property
    def local(self) -> Path:
        return self.root / "runtimes.local.xml"

    def run(self, *arguments: str, status: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, ["--config", str(self.root / "server.yml"), *arguments], input=stdin)
        assert result.exit_code == status, (result.output, result.exception)
        return result

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)


class _Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        known: Server = self.server.known  # type: ignore[attr-defined]
        known.asked.append((self.command, self.path, body))
        status, answer = known.answers.get(self.path, (404, {"error": "not there"}))
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer  # noqa: N815

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def machine() -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="plcli-"))
    archive = root / "tiny.tar"
    archive.write_bytes(archive_of([tar_of({"bin/sh": b"x"})], "tiny:1"))
    image, _ = ImageStore(root / "images").add(archive)
    settings = {
        "backend": "process",
        "socket": str(root / "server.sock"),
        "control_socket": str(root / "control.sock"),
        "socket_group": grp.getgrgid(os.getgid()).gr_name,
        "allowed_users": [getpass.getuser()],
        "state_directory": str(root),
        "runtimes_file": str(root / "runtimes.yml"),
        "local_runtimes_file": str(root / "runtimes.local.xml"),
        "image_directory": str(root / "images"),
        "allowed_mounts": ["/data"],
    }
    (root / "server.yml").write_text(json.dumps(settings))
    (root / "runtimes.yml").write_text(SITE.format(image=image.id))
    server = Server()
    state = {"version": "1", "leases": 0, "draining": False}
    server.answers = dict.fromkeys(("/v1/state", "/v1/reload", "/v1/drain", "/v1/undrain"), (200, state))
    with socketserver.ThreadingUnixStreamServer(str(root / "control.sock"), _Handler) as listener:
        listener.known = server  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Machine(root, image.id, archive, server)
        finally:
            listener.shutdown()
            thread.join()
            shutil.rmtree(root)
