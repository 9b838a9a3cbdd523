"""Records of packages: read, written, compared."""

from pathlib import Path

from builder.records import Record, differing, parse_stanzas, read_records, write_records

A = Record("a", "1", "amd64", "00")
B = Record("b", "1:2-3", "all", "11")


def test_records_survive_a_file(tmp_path: Path) -> None:
    write_records(tmp_path / "x", [B, A, A])
    assert (tmp_path / "x").read_text() == "a 1 amd64 00\nb 1:2-3 all 11\n"
    assert read_records(tmp_path / "x") == [A, B]
    assert read_records(tmp_path / "missing") == []


def test_stanzas_of_apt_are_read() -> None:
    text = "Package: a\nVersion: 1\nArchitecture: amd64\nDescription: x\n with: more\nSHA256: 00\n\n"
    text += "Package: b\nSHA256: 11\nArchitecture: all\nVersion: 1:2-3\n"
    assert parse_stanzas(text) == [A, B]


def test_what_differs_is_named_once() -> None:
    newer = Record("a", "2", "amd64", "22")
    assert differing([A, B], [newer, B], "amd64") == ["a"]
    assert differing([A, B], [A], "amd64") == ["b"]
    assert differing([A, B], [B, A], "amd64") == []


def test_a_record_of_another_architecture_says_nothing() -> None:
    assert differing([A, B], [Record("a", "1", "arm64", "33")], "arm64") == []
