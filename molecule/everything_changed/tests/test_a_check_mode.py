"""Check mode on a finished host finds nothing to do. Runs first, before other tests touch the hosts."""

from __future__ import annotations

from pathlib import Path

from tests.support.segment_host import host_names, playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]


def test_a_check_of_finished_hosts_changes_nothing() -> None:
    done = playbook(SCENARIO, "--check", "--diff")
    counts = recap(done.stdout)
    assert done.returncode == 0, done.stdout
    assert sorted(counts) == sorted(host_names(SCENARIO))
    for host, count in counts.items():
        assert count["changed"] == 0, f"{host}: {done.stdout}"
