"""A run on a finished host changes nothing, and says so beforehand."""

from __future__ import annotations

from pathlib import Path

from tests.support.segment_host import playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]


def test_check_mode_finds_nothing_to_do() -> None:
    done = playbook(SCENARIO, "--check", file="playbooks/kubernetes.yml")
    assert done.returncode == 0, done.stdout
    count = recap(done.stdout)["node1"]
    assert count["changed"] == 0, done.stdout
    assert count["skipped"] <= 0.05 * (count["ok"] + count["skipped"]), done.stdout
