"""The machine of the scenario for its tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.support.segment_host import ROOT
from tests.support.selinux_guest import Guest

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def guest() -> Guest:
    hosts = yaml.safe_load((SCENARIO / "inventory/hosts.yml").read_text(encoding="utf-8"))
    guest = Guest(Path(hosts["segment_hosts"]["hosts"]["guest"]["guest_directory"]))
    create = (ROOT / "playbooks/files/pylog10.sql").read_text(encoding="utf-8").partition("\\timing")[0]
    guest.sql(create)
    return guest
