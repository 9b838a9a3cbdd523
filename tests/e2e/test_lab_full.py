"""`make up LAB=full`: a Kubernetes node beside the segment hosts, and the platform's stack on it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = "caisson-e2e"
ENVIRONMENT = {**os.environ, "LAB": "full", "LAB_NAME": LAB, "LAB_POSTGRESQL_FIRST_PORT": "25432"}
UP_AGAIN_LIMIT_S = 8.0
PROVIDER = "tests/support/kubernetes_provider/bin"

pytestmark = pytest.mark.kubernetes


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One verb of the Makefile, with the whole lab."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )


def kubectl(*arguments: str) -> str:
    """What kubectl says on the node, as its administrator."""
    command = ["docker", "exec", f"{LAB}-node1", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def up() -> Iterator[str]:
    make("down")
    done = make("up")
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout[-3000:])
    yield done.stdout
    make("down")


def test_hosts_answer_and_the_node_is_ready(up: str) -> None:
    rows = [line.split() for line in up.splitlines() if line.startswith(("segment1", "segment2"))]
    assert {row[0]: row[2] for row in rows} == {"segment1": "2", "segment2": "2"}
    (node,) = json.loads(kubectl("get", "nodes", "--output", "json"))["items"]
    assert {one["type"]: one["status"] for one in node["status"]["conditions"]}["Ready"] == "True"


def test_the_platform_is_on_it(up: str) -> None:
    settings = yaml.safe_load((ROOT / "settings/platform.yml").read_text(encoding="utf-8"))
    expected = {settings["platform_namespace"], *(tenant["name"] for tenant in settings["platform_tenants"])}
    namespaces = json.loads(kubectl("get", "namespaces", "--output", "json"))["items"]
    assert expected <= {one["metadata"]["name"] for one in namespaces}
    for tenant in settings["platform_tenants"]:
        assert json.loads(kubectl("get", "resourcequotas", "--namespace", tenant["name"], "--output", "json"))["items"]


def test_the_stack_again_changes_nothing(up: str) -> None:
    done = make("stacks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout
    assert "created" not in done.stdout


def test_pulumi_up_with_nothing_to_do_is_quick(up: str) -> None:
    """Pulumi's own time: `make stacks` looks at every object first, too."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    command = [".venv/bin/python", "scripts/stack.py", "up", "platform", "--stack", LAB]
    command += ["--kubeconfig", str(state / f"caisson/{LAB}.kubeconfig"), "--provider", PROVIDER]
    times = []
    for _ in range(3):
        begin = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        times.append(time.monotonic() - begin)
        assert done.returncode == 0, done.stdout + done.stderr
    print(f"pulumi up again: {', '.join(f'{took:.1f}' for took in times)} s")
    assert statistics.median(times) <= UP_AGAIN_LIMIT_S


def test_all_is_well_and_nothing_differs(up: str) -> None:
    for verb in ("status", "check"):
        done = make(verb)
        assert done.returncode == 0, done.stdout + done.stderr


def test_down_leaves_nothing(up: str) -> None:
    done = make("down")
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        command = ["docker", *kind, "-q", "--filter", f"label=caisson.lab={LAB}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
