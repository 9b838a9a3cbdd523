"""The extension's own regression tests, under the sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess

from . import campaign
from .cluster import EXTENSION, Cluster
from .interpreter import interpreting


def registered() -> list[str]:
    """Return the tests that the extension's Makefile runs."""
    found = re.search(r"^REGRESS = ((?:[^\n\\]|\\\n)*)", (EXTENSION / "Makefile").read_text(), re.MULTILINE)
    assert found
    return found[1].replace("\\\n", " ").split()


def test_pg_regress(cluster: Cluster) -> None:
    output = cluster.directory / "regress"
    output.mkdir()
    # pg_regress reads both beside what it writes, and does not run as root.
    for name in ("sql", "expected"):
        shutil.copytree(EXTENSION / name, output / name)
    shutil.chown(output, cluster.user)
    installation = cluster.installation
    driver = installation.directory("--pkglibdir") / "pgxs/src/test/regress/pg_regress"
    command = [str(driver), f"--bindir={installation.directory('--bindir')}", f"--inputdir={output}"]
    command += [
        f"--outputdir={output}",
        f"--host={cluster.directory}",
        "--user=postgres",
        "--load-extension=plcontainer",
    ]
    path = cluster.directory / "interpreters"
    with interpreting(path) as server, cluster.connect() as session:
        before = campaign.identity(session)
        session.execute("LOAD 'plcontainer'")
        session.execute(f"ALTER SYSTEM SET plcontainer.server_socket = '{path}'")
        session.execute("SELECT pg_reload_conf()")
        done = subprocess.run(
            [*command, *registered()], cwd=output, capture_output=True, text=True, check=False, **cluster.identity
        )
        session.execute("ALTER SYSTEM RESET plcontainer.server_socket")
        session.execute("SELECT pg_reload_conf()")
        assert not cluster.findings()
        assert campaign.identity(session) == before
        assert not server.errors
    differences = output / "regression.diffs"
    assert not done.returncode, differences.read_text() if differences.exists() else done.stdout + done.stderr
