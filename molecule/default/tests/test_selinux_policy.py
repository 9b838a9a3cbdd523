"""Hosts without SELinux: what is recorded, and that sandboxes start unlabelled."""

from __future__ import annotations

import json

from tests.support.segment_host import SegmentHost, Session


def test_the_record_says_why_there_are_no_labels(segment: SegmentHost) -> None:
    assert json.loads(segment.run("cat", "/etc/plcontainer/selinux.json")) == {
        "asked": "auto",
        "state": "unavailable",
        "reason": "the kernel of this host runs without SELinux",
    }


def test_sandboxes_start_without_labels(segment: SegmentHost, session: Session) -> None:
    sandbox = session.run("SELECT test_sandbox()")
    options = segment.run("docker", "inspect", "--format", "{{json .HostConfig.SecurityOpt}}", f"plcontainer-{sandbox}")
    assert json.loads(options) == ["no-new-privileges"]
