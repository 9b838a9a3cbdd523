"""Where packages come from: settings first, then the machine's own mirrors."""

import dataclasses

import pytest

from builder import debian
from builder.errors import BuildError
from builder.project import settings

MACHINE = {"debian": "http://mirror.example/debian", "debian-security": "http://mirror.example/security"}


def lines(release: str, *, mirror: str = "", snapshot: str = "") -> list[str]:
    config = dataclasses.replace(settings(), debian_mirror=mirror, debian_security_mirror="", debian_snapshot=snapshot)
    return [source.line() for source in debian.sources(release, config, MACHINE)]


def test_the_machines_mirrors_serve_every_release() -> None:
    assert lines("13") == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb http://mirror.example/security trixie-security main",
    ]
    assert lines("12")[0] == "deb http://mirror.example/debian bookworm main"


def test_settings_win_over_the_machine() -> None:
    assert lines("13", mirror="http://own.example/d")[0] == "deb http://own.example/d trixie main"


def test_a_snapshot_is_taken_for_all_archives_whatever_its_age() -> None:
    found = lines("13", snapshot="http://snapshot.example/{archive}/20260101T000000Z")
    assert found[0] == "deb [check-valid-until=no] http://snapshot.example/debian/20260101T000000Z trixie main"
    assert found[2].split()[2:] == [
        "http://snapshot.example/debian-security/20260101T000000Z",
        "trixie-security",
        "main",
    ]


def test_without_any_mirror_the_choice_is_mmdebstraps() -> None:
    config = dataclasses.replace(settings(), debian_mirror="", debian_snapshot="")
    assert debian.sources("13", config, {}) == []


def test_the_machines_apt_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = (
        "Debian|Debian|http://a.example/debian/\nOther|Other|http://b.example/\n"
        "Debian|Debian-Security|http://a.example/security/\nDebian|Debian|http://c.example/debian/\n"
    )
    monkeypatch.setattr(debian, "_output", lambda _command: listing)
    debian.machine_mirrors.cache_clear()
    try:
        assert debian.machine_mirrors() == {
            "debian": "http://a.example/debian",
            "debian-security": "http://a.example/security",
        }
    finally:
        debian.machine_mirrors.cache_clear()


def test_an_unknown_release_is_named_with_those_there_are() -> None:
    with pytest.raises(BuildError, match=r'"11".*12, 13'):
        debian.suite("11")
