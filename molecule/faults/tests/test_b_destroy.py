"""destroy.yml: refused without the word; what was there before is there after, and nothing else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.playbooks import Run
from tests.support.segment_host import SegmentHost, recap
from tests.support.snapshot import Snapshot, difference, snapshot

# What stays or goes, each with its reason.
EXPLAINED = {
    r"files: /etc/(passwd|group|shadow|gshadow|subuid|subgid)-": "useradd keeps the file before beside it",
    r"files: /etc/default/locale is gone": "the package locales takes it along, whoever made it; it led nowhere",
    r"files: /usr/share/man is gone": "the last package that had something in it removes it",
    r"files: /root/\.ansible": "Ansible's own folder",
    r"units: systemd-sysctl\.service is new": "packages that set kernel parameters have run it once",
}
CONFIRMED = ("--limit", "segment1", "-e", "destroy_confirm=segment1", "-e", "destroy_data=true")


def test_without_the_word_nothing_happens(one: SegmentHost, two: SegmentHost, run: Run) -> None:
    before = one.server_pid(), two.server_pid()
    for word in ("", "segment1", "3 hosts"):
        done = run("destroy.yml", *(["-e", f"destroy_confirm='{word}'"] if word else []))
        assert done.returncode != 0
        assert "Nothing was changed" in done.stdout
        assert "-e destroy_confirm='2 hosts'" in done.stdout
    assert (one.server_pid(), two.server_pid()) == before


def test_check_mode_tells_what_would_go(one: SegmentHost, run: Run) -> None:
    before = one.server_pid()
    done = run("destroy.yml", "--check", *CONFIRMED)
    assert done.returncode == 0, done.stdout[-3000:]
    assert recap(done.stdout)["segment1"]["changed"] > 3
    assert one.server_pid() == before


@pytest.fixture(scope="module")
def destroyed(one: SegmentHost, two: SegmentHost, run: Run) -> Snapshot:
    """Take the platform off the first host with its data, off the second one and on again; return what the first is."""
    two.sql("CREATE TABLE kept AS SELECT 42 AS answer")

    def there_and_back() -> None:
        done = run("destroy.yml", "--limit", "segment2", "-e", "destroy_confirm=segment2")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert two.host.run("command -v psql dockerd plcontainer").stdout == ""
        done = run("site.yml", "--limit", "segment2")
        assert done.returncode == 0, done.stdout[-3000:]

    with ThreadPoolExecutor() as pool:
        other = pool.submit(there_and_back)
        done = run("destroy.yml", *CONFIRMED)
        found = snapshot(one)
        other.result()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return found


def test_what_was_there_before_is_there_after(bare: Snapshot, destroyed: Snapshot, one: SegmentHost) -> None:
    found = difference(bare, destroyed)
    print("\n".join(found))
    assert [line for line in found if not any(re.match(pattern, line) for pattern in EXPLAINED)] == []
    for folder in ("/var/lib/postgresql", "/var/lib/docker", "/var/lib/containerd"):
        assert one.run("ls", "-A", folder) == ""
    assert "/srv/shuffle" not in destroyed["mounts"]


@pytest.mark.usefixtures("destroyed")
def test_data_stay_unless_they_are_meant(two: SegmentHost) -> None:
    assert two.sql("SELECT answer FROM kept") == "42"
    two.sql(
        "CREATE FUNCTION destroyed() RETURNS int LANGUAGE plcontainer AS '# container: plc_python_shared\nreturn 7'"
    )
    assert two.sql("SELECT destroyed()") == "7"


@pytest.mark.usefixtures("destroyed")
def test_again_there_is_nothing_to_do(run: Run) -> None:
    done = run("destroy.yml", *CONFIRMED)
    assert done.returncode == 0, done.stdout[-3000:]
    assert recap(done.stdout)["segment1"]["changed"] == 0, done.stdout[-3000:]
