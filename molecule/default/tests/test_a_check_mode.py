"""Check mode on a finished host finds nothing to do. Runs first, before other tests touch the hosts."""

from __future__ import annotations

from pathlib import Path

from tests.support.segment_host import SegmentHost, host_names, lab_name, playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]


def test_a_check_of_finished_hosts_changes_nothing() -> None:
    done = playbook(SCENARIO, "--check", "--diff")
    counts = recap(done.stdout)
    assert done.returncode == 0, done.stdout
    assert sorted(counts) == sorted(host_names(SCENARIO))
    for host, count in counts.items():
        assert count["changed"] == 0, f"{host}: {done.stdout}"


def test_a_user_with_sudo_sees_the_same() -> None:
    lab = lab_name(SCENARIO)
    for name in host_names(SCENARIO):
        segment = SegmentHost(lab, name)
        segment.run("useradd", "--create-home", "--shell", "/bin/sh", "deploy")
        segment.put("/etc/sudoers.d/deploy", "deploy ALL=(ALL) NOPASSWD: ALL\n")
    try:
        done = playbook(SCENARIO, "--check", "-e", "ansible_user=deploy")
    finally:
        for name in host_names(SCENARIO):
            SegmentHost(lab, name).run("sh", "-c", "rm /etc/sudoers.d/deploy; userdel --remove --force deploy 2>&1")
    assert done.returncode == 0, done.stdout
    assert {count["changed"] for count in recap(done.stdout).values()} == {0}
