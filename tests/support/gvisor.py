"""A Docker of the tests' own that knows gVisor, for machines whose Docker does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.archive import unpacked
from tests.support.segment_host import wait_until

# the release of Debian whose gVisor works
RELEASE = "13"


def runsc() -> Path:
    """Return gVisor's program: the machine's, or Debian's, unpacked into the cache."""
    installed = shutil.which("runsc")
    if installed:
        return Path(installed)
    with tempfile.TemporaryDirectory() as scratch:
        return unpacked("runsc", RELEASE, Path(scratch)) / "usr/bin/runsc"


@contextmanager
def docker_with_runsc() -> Iterator[str]:
    """Run a Docker with the runtime runsc; yields the path of its socket."""
    root = Path(tempfile.mkdtemp(prefix="plgvisor-", dir="/var/tmp"))
    socket = root / "docker.sock"
    configuration = {
        "data-root": str(root / "data"),
        "exec-root": str(root / "exec"),
        "hosts": [f"unix://{socket}"],
        "pidfile": str(root / "docker.pid"),
        # its sandboxes have no network
        "bridge": "none",
        "iptables": False,
        "runtimes": {"runsc": {"path": str(runsc()), "runtimeArgs": ["--host-uds=open", "--network=none"]}},
    }
    (root / "daemon.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(
            # A Docker without a bridge removes docker0, which is another Docker's: it gets a network of its own.
            ["unshare", "--net", "dockerd", "--config-file", str(root / "daemon.json")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _answers(socket) or daemon.poll() is not None, 60, "a Docker of the tests' own answers")
        assert daemon.poll() is None, (root / "log").read_text(encoding="utf-8")[-2000:]
        yield str(socket)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        shutil.rmtree(root, ignore_errors=True)


def _answers(socket: Path) -> bool:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
    return subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode == 0
