"""What strangers' yardsticks make of a host: lynis, and OpenSCAP with the guide that Debian ships.

A host as the image has it is measured beside one that is finished. A finding that is left needs a reason in waivers/.

Debian 13 ships a guide for Debian 12 and none for itself: lynis looks at a host with Debian 13, OpenSCAP at the other.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from tests.support.segment_host import ROOT, SegmentHost, lab_name

SCENARIO = Path(__file__).resolve().parents[1]
WAIVERS = Path(__file__).parent / "waivers"
RULE = "xccdf_org.ssgproject.content_rule_"
PROFILE = "xccdf_org.ssgproject.content_profile_anssi_bp28_enhanced"
GUIDE = "usr/share/xml/scap/ssg/content/ssg-debian12-ds.xml"
INSTALL = "apt-get -qq update && apt-get -qq install --yes --no-install-recommends"
Findings = tuple[int, set[str]]


def playbook(name: str, inventory: Path) -> None:
    command = ["ansible-playbook", "-i", str(inventory), f"playbooks/{name}.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SegmentHost]]:
    """Start hosts on which nothing was run, and return them by name."""
    inventory = tmp_path_factory.mktemp("bare") / "inventory"
    shutil.copytree(SCENARIO / "inventory", inventory)
    lab = f"{lab_name(SCENARIO)}-bare"
    settings = inventory / "group_vars/all/settings_of_this_lab.yml"
    settings.write_text(f"lab_name: {lab}\nlab_postgresql_first_port: 0\n", encoding="utf-8")
    playbook("lab_up", inventory)
    yield {name: SegmentHost(lab, name) for name in ("segment1", "segment2")}
    playbook("lab_down", inventory)


def lynis(host: SegmentHost) -> Findings:
    """Return the hardening index and the tests that found something."""
    host.run("sh", "-c", f"{INSTALL} lynis >&2")
    # it would fetch lists of packages once more
    host.put("/etc/lynis/custom.prf", "skip-test=PKGS-7392\n")
    report = "/tmp/lynis.dat"
    audit = f"lynis audit system --quick --quiet --no-colors --report-file {report} --log-file /dev/null"
    # its status says how much it found
    host.run("sh", "-c", f"{audit} </dev/null >&2 || true")
    text = host.run("cat", report)
    index = re.search(r"^hardening_index=(\d+)$", text, re.MULTILINE)
    assert index, text[-500:]
    return int(index[1]), set(re.findall(r"^(?:warning|suggestion)\[\]=([^|]+)\|", text, re.MULTILINE))


def openscap(host: SegmentHost, guide: str) -> Findings:
    """Return how many rules hold, and those that do not."""
    host.run("sh", "-c", f"{INSTALL} openscap-scanner >&2")
    host.put("/root/guide.xml", guide)
    # its status is 2 when a rule does not hold
    said = host.run("sh", "-c", f"oscap xccdf eval --profile {PROFILE} /root/guide.xml 2>/dev/null || test $? = 2")
    results = re.findall(rf"^Rule\s+{RULE}(\S+)\nResult\s+(\w+)$", said, re.MULTILINE)
    assert len(results) > 50, said[-500:]
    failed = {rule for rule, result in results if result in ("fail", "error", "unknown")}
    return sum(result == "pass" for _, result in results), failed


@pytest.fixture(scope="module")
def measured(bare: dict[str, SegmentHost]) -> dict[str, tuple[Findings, Findings]]:
    """Return what each yardstick found before and after, all measured at the same time."""
    lab = lab_name(SCENARIO)
    unpack = (
        "cd $(mktemp -d) && apt-get -qq update && apt-get -qq download ssg-debian >&2 && dpkg -x ssg-debian_*.deb ."
    )
    guide = bare["segment1"].run("sh", "-c", f"{unpack} && cat {GUIDE}")
    with ThreadPoolExecutor() as pool:
        by_lynis = [pool.submit(lynis, host) for host in (bare["segment1"], SegmentHost(lab, "segment1"))]
        by_openscap = [pool.submit(openscap, host, guide) for host in (bare["segment2"], SegmentHost(lab, "segment2"))]
        found = {"lynis": by_lynis, "openscap": by_openscap}
        return {name: (before.result(), after.result()) for name, (before, after) in found.items()}


@pytest.mark.parametrize(("yardstick", "better_by"), [("lynis", 3), ("openscap", 1)])
def test_a_finished_host_is_better_and_what_is_left_has_a_reason(
    measured: dict[str, tuple[Findings, Findings]], yardstick: str, better_by: int
) -> None:
    (before, found_before), (after, found) = measured[yardstick]
    print(f"{yardstick}: {before} before, {after} after; findings: {len(found_before)} before, {len(found)} after")
    assert after >= before + better_by
    waivers = yaml.safe_load((WAIVERS / f"{yardstick}.yml").read_text(encoding="utf-8"))
    waived = {name for name in found for pattern in waivers if fnmatch(name, pattern)}
    assert found - waived == set(), "neither fixed nor waived"
    assert {pattern for pattern in waivers if not any(fnmatch(name, pattern) for name in found)} == set(), (
        "waives nothing"
    )
    assert all(len(reason) > 10 for reason in waivers.values())
