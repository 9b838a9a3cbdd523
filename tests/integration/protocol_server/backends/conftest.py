"""One server per test, with each backend in turn."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.description import image_releases
from builder.images import BuiltImage, build_image
from protocol_server.backends.docker import ISOLATION_RUNTIMES
from protocol_server.images import ImageStore
from tests.integration.protocol_server.support import Backend, Daemon, docker, eventually, inspect
from tests.support.gvisor import docker_with_runsc

PROBE = Path(__file__).parent / "probe"
DOCKER_SOCKET = os.environ.get("DOCKER_HOST", "unix:///run/docker.sock").removeprefix("unix://")


@dataclass(frozen=True)
class Kind:
    """A backend under test, and what has to be said to a server to use it."""

    name: str
    settings: dict[str, Any]
    runtime: dict[str, Any]


class Session(Backend):
    """A backend with a sandbox of the probe."""

    def __enter__(self) -> Session:
        return self

    def run(self, source: str) -> Any:
        """What `source` leaves in `result`."""
        answer = self.try_to(source)
        assert "error" not in answer, answer
        return answer["result"]

    def fails(self, source: str) -> tuple[str, int | None, str]:
        """Type, errno and text of the exception that `source` must raise."""
        answer = self.try_to(source)
        assert "error" in answer, f"it went well: {answer}"
        kind, number, text = answer["error"]
        return kind, number, text

    def send(self, source: str) -> None:
        assert self.data is not None
        self.data.sendall(json.dumps(source).encode() + b"\n")

    def try_to(self, source: str) -> dict[str, Any]:
        self.send(source)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.data is not None
        line = b""
        while not line.endswith(b"\n"):
            piece = self.data.recv(65536)
            assert piece, "the sandbox closed its connection"
            line += piece
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self) -> tuple[str, str]:
        """Reason and SQLSTATE of the end of the sandbox, which must come next."""
        sandbox, reason, sqlstate = self.exited()
        assert sandbox == self.sandbox
        return reason, sqlstate


@dataclass
class Host:
    """A server with one backend, and sessions on it."""

    kind: Kind
    daemon: Daemon
    stack: ExitStack

    def start(self) -> Host:
        self.daemon.start()
        return self

    def session(self, runtime: str = "probe", role: str = "alice") -> Session:
        session = self.again()
        session.lease(runtime, role)
        return session

    def again(self) -> Session:
        """A connection that has asked for nothing yet."""
        return self.stack.enter_context(Session(self.daemon.socket))

    def kill(self, session: Session) -> None:
        """Kill a sandbox as somebody on the host would."""
        if self.kind.name == "process":
            pid = int((self.daemon.root / "processes" / session.sandbox / "pid").read_text().split()[0])
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
        else:
            os.kill(int(inspect(f"plcontainer-{session.sandbox}")["State"]["Pid"]), signal.SIGKILL)

    def runtime(self, identifier: str, *, pool: tuple[int, int] = (0, 0), **more: Any) -> dict[str, Any]:
        limits = {"memory_mb": 96, "cpu_shares": 512, "cpus": 1, "pids": 32, "tmpfs_mb": 8, "nofile": 64}
        return {
            "id": identifier,
            "language": "python",
            **limits,
            "pool": {"min": pool[0], "max": pool[1]},
            **self.kind.runtime,
            **more,
        }

    def left(self) -> list[str]:
        """What there is of sandboxes on this host: directories, containers, cgroups."""
        root = self.daemon.root
        found = [str(path) for name in ("sandboxes", "processes", "leases") for path in (root / name).glob("*")]
        if self.kind.name != "process":
            return found + sorted(self.daemon.containers())
        groups = Path("/sys/fs/cgroup").glob(f"*/plcontainer-{self.daemon.instance}-*")
        return found + [str(path) for path in groups]

    def gone(self) -> None:
        """Wait until nothing is left."""
        eventually(lambda: not self.left(), f"all is removed: {self.left()}", 10)


@pytest.fixture(scope="session")
def plpython() -> BuiltImage:
    return build_image("plpython", image_releases("plpython")[-1], say=print)


@pytest.fixture(scope="session")
def image_store(plpython: BuiltImage) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="plimages-"))
    root.chmod(0o755)
    ImageStore(root / "images").add(plpython.archive)
    yield root / "images"
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def gvisor_socket() -> Iterator[str]:
    """The socket of a Docker that knows gVisor as the server names it: this machine's, or one for the tests."""
    assert ISOLATION_RUNTIMES["gvisor"] == "runsc"
    if "runsc" in docker("info", "--format", "{{json .Runtimes}}"):
        yield DOCKER_SOCKET
        return
    if os.geteuid() != 0:
        pytest.skip("needs a Docker with the runtime runsc, or root to start one")
    with docker_with_runsc() as socket:
        yield socket


@pytest.fixture(params=["docker", "process", "runsc"])
def kind(request: pytest.FixtureRequest, plpython: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> Kind:
    image = {"image": plpython.id, "image_name": plpython.tag}
    if request.param == "process":
        if shutil.which("bwrap") is None:
            pytest.skip("needs bubblewrap")
        store = request.getfixturevalue("image_store")
        return Kind("process", {"backend": "process", "image_directory": str(store)}, image)
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs a Docker that answers")
    if request.param == "docker":
        plpython.load()
        return Kind("docker", {"docker_socket": DOCKER_SOCKET}, image)
    socket = request.getfixturevalue("gvisor_socket")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    plpython.load()
    return Kind("runsc", {"docker_socket": socket}, {**image, "isolation": "gvisor"})


@pytest.fixture
def host(kind: Kind) -> Iterator[Host]:
    """A server that is not started yet, with a runtime `probe`."""
    # pytest's own directories are too deep for the path of a unix socket.
    root = Path(tempfile.mkdtemp(prefix="plserver-"))
    root.chmod(0o755)
    settings = {
        "runtime_directories": {"python": str(PROBE)},
        "control_socket": str(root / "control.sock"),
        "local_runtimes_file": str(root / "runtimes.local.xml"),
        **kind.settings,
    }
    daemon = Daemon(root, kind.runtime["image"], f"test-{secrets.token_hex(4)}", settings)
    with ExitStack() as stack:
        made = Host(kind, daemon, stack)
        daemon.runtimes = [made.runtime("probe")]
        yield made
    if daemon.process is not None and not daemon.process_ended():
        # What it leaves behind is what the next one of the same instance would find.
        daemon.stop()
    daemon.remove()
    shutil.rmtree(root)
