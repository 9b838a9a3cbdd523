"""A backend for tests, and the real server as a process of its own."""

from __future__ import annotations

import array
import contextlib
import json
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from protocol_server import codec

SOURCE = Path(__file__).resolve().parents[3] / "src"


class ServerError(Exception):
    """The server answered with an Error; `fields` are its fields."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields)
        self.fields = fields


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """The first true value of `condition`, which is asked again and again."""
    deadline = time.monotonic() + timeout_s
    pause = select.poll()
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        pause.poll(5)
    return value


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def inspect(container: str) -> Any:
    return json.loads(docker("inspect", container))[0]


class Backend:
    """The database side of a lease conversation."""

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(str(path))
        self.data: socket.socket | None = None
        self.signal: socket.socket | None = None
        self.sandbox = ""
        self.token = ""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (self.sock, self.data, self.signal):
            if sock is not None:
                sock.close()

    def receive(self) -> tuple[int, bytes]:
        """Type and payload of the next frame; descriptors that come with it are kept."""
        data, ancillary, _, _ = self.sock.recvmsg(codec.HEADER.size, socket.CMSG_SPACE(8 * 4))
        descriptors = array.array("i")
        for level, kind, piece in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(piece[: len(piece) - len(piece) % descriptors.itemsize])
        if descriptors:
            assert len(descriptors) == 2
            self.data, self.signal = (socket.socket(fileno=descriptor) for descriptor in descriptors)
            for sock in (self.data, self.signal):
                sock.settimeout(30)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        while len(data) < codec.HEADER.size:
            data += self.sock.recv(codec.HEADER.size - len(data))
        _, kind, _, _, length = codec.HEADER.unpack(data)
        payload = b""
        while len(payload) < length:
            payload += self.sock.recv(length - len(payload))
        if kind == codec.TYPE_ERROR:
            raise ServerError(codec.decode_fields(payload))
        return kind, payload

    def ask(self, runtime: str, role: str = "alice", member_of: tuple[str, ...] = (), database: str = "db") -> None:
        self.sock.sendall(codec.encode_lease(7, codec.LeaseRequest(runtime, role, member_of, database)))

    def lease(self, runtime: str = "echo", role: str = "alice", member_of: tuple[str, ...] = ()) -> Backend:
        self.ask(runtime, role, member_of)
        return self.granted()

    def granted(self) -> Backend:
        """Take the Grant that must come next."""
        kind, payload = self.receive()
        assert kind == codec.TYPE_GRANT
        reader = codec.Reader(payload)
        self.sandbox, self.token = reader.text("sandbox"), reader.text("token")
        reader.end()
        assert self.data is not None, "no descriptors came with the Grant"
        return self

    def reclaim(self, token: str) -> str:
        self.sock.sendall(codec.encode_reclaim(8, token))
        kind, payload = self.receive()
        assert kind == codec.TYPE_RECLAIMED
        return codec.Reader(payload).text("sandbox")

    def exited(self) -> tuple[str, str, str]:
        """Sandbox, reason and SQLSTATE of the Exited that must come next."""
        kind, payload = self.receive()
        assert kind == codec.TYPE_EXITED
        reader = codec.Reader(payload)
        result = reader.text("sandbox"), reader.text("reason"), reader.text("sqlstate")
        reader.end()
        return result

    def echo(self, text: bytes) -> bytes:
        assert self.data is not None
        self.data.sendall(text)
        return self.data.recv(4096)


def refused(path: Path, **request: Any) -> dict[str, str]:
    """The fields of the Error with which a lease request must be refused."""
    with Backend(path) as backend:
        try:
            backend.lease(**request)
        except ServerError as error:
            return error.fields
    raise AssertionError("the lease was granted")


@dataclass
class Daemon:
    """The real server in a directory of its own, with an instance label of its own."""

    root: Path
    image: str
    instance: str
    settings: dict[str, Any] = field(default_factory=dict)
    runtimes: list[dict[str, Any]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        (self.root / "runtime_python").mkdir(exist_ok=True)
        (self.root / "runtime_python").chmod(0o755)
        self.settings = {
            "instance": self.instance,
            "socket": str(self.socket),
            "control_socket": str(self.control_socket),
            "socket_group": "root" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name,
            "allowed_users": [pwd.getpwuid(os.getuid()).pw_name],
            "state_directory": str(self.root),
            "runtimes_file": str(self.root / "runtimes.yml"),
            "runtime_directories": {"python": str(self.root / "runtime_python")},
            "docker_socket": "/run/docker.sock",
            "log_level": "debug",
            "max_sandboxes": 8,
            **self.settings,
        }
        if not self.runtimes:
            self.runtimes = [self.runtime("echo")]

    @property
    def socket(self) -> Path:
        return self.root / "server.sock"

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of one exchange on the operator's socket."""
        connection = HTTPConnection("server", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(60)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.control_socket))
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(text) if is_json else text

    @property
    def log(self) -> Path:
        return self.root / "log"

    def runtime(self, identifier: str, *arguments: str, pool: tuple[int, int] = (0, 0), **more: Any) -> dict[str, Any]:
        limits = {"memory_mb": 32, "cpu_shares": 512, "cpus": 0.5, "pids": 16, "tmpfs_mb": 8, "nofile": 64}
        return {
            "id": identifier,
            "language": "python",
            "image": self.image,
            "image_name": "test/sandbox",
            "command": ["/sandbox", *arguments],
            **limits,
            "pool": {"min": pool[0], "max": pool[1]},
            **more,
        }

    def write(self) -> None:
        # JSON is YAML.
        (self.root / "runtimes.yml").write_text(json.dumps({"runtimes": self.runtimes}, indent=1))
        (self.root / "protocol_server.yml").write_text(json.dumps(self.settings, indent=1))

    def command(self, *arguments: str) -> list[str]:
        config = str(self.root / "protocol_server.yml")
        return [sys.executable, "-m", "protocol_server", "--config", config, *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(SOURCE)}

    def start(self) -> Daemon:
        self.write()
        known = len(self.events("ready"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, env=self.environment())
        eventually(lambda: len(self.events("ready")) > known or self.process_ended(), "the server is ready")
        assert not self.process_ended(), self.log.read_text()
        return self

    def process_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def events(self, *names: str) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        # The last line may be half written.
        lines = self.log.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] in names or not names]

    def wait_event(self, name: str, timeout_s: float = 30.0, **fields: Any) -> dict[str, Any]:
        def find() -> Any:
            matches = (event for event in self.events(name) if fields.items() <= event.items())
            return next(matches, None)

        found: dict[str, Any] = eventually(find, f"event {name} {fields}", timeout_s)
        return found

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def containers(self) -> set[str]:
        names = docker("ps", "-a", "--filter", f"label=caisson.instance={self.instance}", "--format", "{{.Names}}")
        return set(names.split())

    def warm(self) -> set[str]:
        """Sandboxes that wait for a lease, as far as this server's log tells."""
        events = self.events()
        starts = [index for index, event in enumerate(events) if event["event"] == "ready"]
        since = events[starts[-1] :] if starts else []
        ready = {event["sandbox"] for event in since if event["event"] == "sandbox_started"}
        return ready - {
            event["sandbox"]
            for event in since
            if event["event"] in ("lease_granted", "sandbox_removed", "sandbox_exited")
        }

    def warm_containers(self) -> set[str]:
        return {f"plcontainer-{sandbox}" for sandbox in self.warm()}

    def remove(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for name in self.containers():
            docker("rm", "-f", name, check=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[Daemon]:
        try:
            yield self.start()
        finally:
            self.remove()


class DockerProxy:
    """Docker's socket under another path, which can go away or fall silent like a daemon does."""

    def __init__(self, path: Path, upstream: str = "/run/docker.sock") -> None:
        self.path = path
        self._upstream = upstream
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._upstreams: list[socket.socket] = []
        self._flowing = threading.Event()
        self.requests = bytearray()
        self._flowing.set()

    def up(self) -> None:
        """Listen, like a daemon that has started."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Break every connection and refuse new ones, like a daemon that was killed."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Accept and answer nothing, like a daemon that is stuck."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(self._upstream)
            self._open += [near, far]
            self._upstreams.append(far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                self._flowing.wait()
                if source not in self._upstreams:
                    self.requests += piece
                sink.sendall(piece)
        except OSError:
            pass
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
