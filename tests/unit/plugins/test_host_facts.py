"""The module host_facts."""

from __future__ import annotations

import pytest
from plugins.modules import host_facts


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ('NAME="Debian GNU/Linux"\nVERSION_ID="13"\n', ("Debian", "13")),
        ('NAME="Ubuntu"\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n', ("Ubuntu", "24")),
        ("# nothing\n", ("", "")),
    ],
)
def test_the_system_has_the_names_that_ansible_gives_it(text: str, system: tuple[str, str]) -> None:
    assert host_facts.system(text) == system


def test_only_what_is_installed_counts() -> None:
    listing = "installed runc 1.1.5+ds1-1\nconfig-files docker.io 26.1.5\nnot-installed x \ninstalled libc6 2.41-12\n"
    assert host_facts.installed(listing) == {"runc": "1.1.5+ds1-1", "libc6": "2.41-12"}


def test_what_an_interrupted_installation_left() -> None:
    listing = "installed runc 1\nunpacked docker.io 26\nhalf-configured x 1\nconfig-files y 2\nhalf-installed z \n"
    assert host_facts.unfinished(listing) == ["docker.io", "x", "z"]


def test_the_address_is_the_one_that_packets_would_carry() -> None:
    assert host_facts.address("127.0.0.1") == "127.0.0.1"
    # nothing leads to a broadcast address without being asked for
    assert host_facts.address("255.255.255.255") == ""
