"""A PostgreSQL of the tests' own, whose extension is built with the sanitizers."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
EXTENSION = ROOT / "src/plcontainer"
START_TIMEOUT_S = 60.0


class UnavailableError(Exception):
    """This machine lacks what is needed to build or run a PostgreSQL with the sanitizers."""


def pg_config() -> Path:
    """Return the pg_config of the newest PostgreSQL here that has headers for extensions."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"), key=lambda path: int(path.parts[-3]))
    for path in reversed(found):
        if Path(_ask(path, "--pgxs")).exists() and (path.parent / "postgres").exists():
            return path
    raise UnavailableError("needs a PostgreSQL with the headers for extensions")


def _ask(config: Path, option: str) -> str:
    return subprocess.run([config, option], capture_output=True, text=True, check=True).stdout.strip()


def sanitizer_library() -> str:
    """Return the path of AddressSanitizer's library, which a program that loads the extension needs from its start."""
    if shutil.which("gcc") is None or shutil.which("make") is None:
        raise UnavailableError("needs gcc and make")
    name = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    library = Path(name.strip())
    if not library.is_absolute():
        raise UnavailableError("needs gcc's AddressSanitizer")
    return str(library.resolve())


@dataclass
class Installation:
    """Programs and files of a PostgreSQL in a directory of its own: it looks for its files beside its programs."""

    root: Path
    config: Path
    preload: str

    @classmethod
    def make(cls, root: Path) -> Installation:
        """Build the extension and put it beside links to the files of the PostgreSQL that is installed."""
        config = pg_config()
        library = sanitizer_library()
        build = root / "build"
        build.mkdir()
        command = ["make", "-s", "-j2", "-f", str(HERE / "Makefile"), f"VPATH={HERE}", f"PG_CONFIG={config}"]
        subprocess.run(command, cwd=build, check=True)
        for option in ("--bindir", "--pkglibdir", "--sharedir"):
            source = Path(_ask(config, option))
            _link_files(source, root / source.relative_to("/"), copies=option == "--bindir")
        made = cls(root, config, f"{library} {build / 'asan_first.so'}")
        shutil.copy(build / "plcontainer.so", made.directory("--pkglibdir"))
        for path in (EXTENSION / "plcontainer.control", *EXTENSION.glob("plcontainer--*.sql")):
            shutil.copy(path, made.directory("--sharedir") / "extension")
        return made

    def directory(self, option: str) -> Path:
        """Return the directory here that stands for the one pg_config names."""
        return self.root / Path(_ask(self.config, option)).relative_to("/")

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs."""
        return str(self.directory("--bindir") / name)


def _link_files(source: Path, target: Path, *, copies: bool) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name == "extension":
            _link_files(path, target / path.name, copies=False)
        elif copies:
            shutil.copy(path, target / path.name)
        elif not path.name.startswith("plcontainer"):
            (target / path.name).symlink_to(path)


class Cluster:
    """A cluster of databases with one server, which no other test uses."""

    def __init__(self, installation: Installation, directory: Path, settings: dict[str, str]) -> None:
        self.installation = installation
        self.directory = directory
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._settings = settings
        self.identity: dict[str, Any] = {"user": self.user, "group": self.user} if os.getuid() == 0 else {}
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the cluster and start its server."""
        if self.identity:
            shutil.chown(self.directory, self.user)
        # initdb's own backends have no need of the sanitizers.
        command = [self.installation.program("initdb"), "-D", f"{self.directory}/data", "-A", "trust", "-U", "postgres"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.directory, **self.identity)
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.directory), "fsync": "off"}
        settings |= {"shared_buffers": "16MB", "max_stack_depth": "2MB"} | self._settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        environment = os.environ | {
            "LD_PRELOAD": self.installation.preload,
            "ASAN_OPTIONS": f"detect_leaks=0:abort_on_error=1:log_path={self.directory}/sanitizer",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={self.directory}/sanitizer",
        }
        with (self.directory / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [self.installation.program("postgres"), "-D", self.directory / "data", *options],
                env=environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                **self.identity,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.directory / "log").read_text())
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Open a session of a superuser that commits by itself."""
        return psycopg.connect(f"host={self.directory} user=postgres dbname={database}", autocommit=True)

    def findings(self) -> str:
        """Return what the sanitizers have reported, shortened; empty when all was well."""
        reports = [path.read_text(errors="replace")[:4000] for path in sorted(self.directory.glob("sanitizer*"))]
        lines = (self.directory / "log").read_text(errors="replace").splitlines()
        return "\n".join([*reports, *(line for line in lines if ": runtime error: " in line)])

    def stop(self) -> None:
        """Stop the server at once."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(60)


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Cluster]:
    """Build and start all of it, and remove it in the end."""
    # Paths of sockets are short, and the database's user has to get there.
    root = Path(tempfile.mkdtemp(prefix="plfuzz-"))
    root.chmod(0o755)
    try:
        installation = Installation.make(root)
        directory = root / "c"
        directory.mkdir()
        cluster = Cluster(installation, directory, settings)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(root)
