"""The CIS benchmark for Kubernetes, asked by kube-bench on the node, against the waivers that have reasons."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster import Cluster
from tests.support.segment_host import wait_until

from builder.packages import build_package

FOLDER = Path(__file__).with_name("kube_bench")
PLACE = "/var/tmp/kube-bench"
BENCHMARK = "cis-1.9"
# Its questions are written for bash and jq.
RUN = f"""
set -eu
mount --bind /usr/bin/bash /usr/bin/dash
cd {PLACE}
export KUBECONFIG=/etc/kubernetes/admin.conf
exec usr/bin/kube-bench run --benchmark {BENCHMARK} --config-dir etc/kube-bench/cfg --config config.yml --json
"""


@pytest.fixture(scope="module")
def found(cluster: Cluster) -> dict[str, Any]:
    """What kube-bench says."""
    root = build_package("kube_bench", "13", say=print).unpacked()
    cluster.host.run("mkdir", "-p", PLACE)
    for source, target in ((f"{root}/.", PLACE), (str(FOLDER / "config.yml"), f"{PLACE}/config.yml")):
        subprocess.run(["docker", "cp", "--quiet", source, f"{cluster.host.container}:{target}"], check=True)
    cluster.host.run("apt-get", "-qq", "install", "--yes", "--no-install-recommends", "jq")
    # namespaces of other tests are on their way out
    wait_until(lambda: _settled(cluster), 120, "the namespaces of tests are gone")
    try:
        answer: dict[str, Any] = json.loads(cluster.host.run("unshare", "--mount", "bash", "-c", RUN))
        return answer
    finally:
        cluster.host.run("rm", "-r", PLACE)
        cluster.host.run("apt-get", "-qq", "purge", "--yes", "--autoremove", "jq")


def _settled(cluster: Cluster) -> bool:
    names = {one["metadata"]["name"] for one in cluster.get("namespaces")["items"]}
    return names == {"default", "kube-node-lease", "kube-public", "kube-system"}


@pytest.fixture(scope="module")
def waivers() -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "waivers.yml").read_text(encoding="utf-8"))
    return {str(number): waiver for number, waiver in read.items()}


def results(found: dict[str, Any], status: str) -> dict[str, dict[str, Any]]:
    """Return the findings of a status by their numbers."""
    tests = [test for control in found["Controls"] for test in control["tests"]]
    return {one["test_number"]: one for test in tests for one in test["results"] if one["status"] == status}


def test_what_fails_has_a_reason(
    found: dict[str, Any], waivers: dict[str, dict[str, Any]], pytestconfig: pytest.Config
) -> None:
    terminal = pytestconfig.pluginmanager.getplugin("terminalreporter")
    if terminal:
        totals = {name.removeprefix("total_"): number for name, number in found["Totals"].items()}
        terminal.write_line(f"\nkube-bench, {BENCHMARK}, before waivers: {totals}; waived: {', '.join(waivers)}")
    # it looked at everything: a program that it does not find is not asked about
    assert found["Totals"]["total_pass"] >= 75
    failed = results(found, "FAIL")
    assert {number: one["test_desc"] for number, one in failed.items() if number not in waivers} == {}


def test_waivers_are_needed_and_go_no_further(found: dict[str, Any], waivers: dict[str, dict[str, Any]]) -> None:
    failed = results(found, "FAIL")
    assert [number for number in waivers if number not in failed] == []
    for number, waiver in waivers.items():
        assert waiver["reason"], number
        if "only" in waiver:
            lines = [line for line in failed[number]["actual_value"].splitlines() if "compliant: false" in line]
            assert lines, number
            beyond = [line for line in lines if not any(re.search(one, line) for one in waiver["only"])]
            assert beyond == [], number


def test_what_the_benchmark_cannot_see_is_so(cluster: Cluster) -> None:
    for name in ("admin.conf", "super-admin.conf"):
        assert cluster.host.run("stat", "--format=%a %U:%G", f"/etc/kubernetes/{name}") == "600 root:root"
