"""Records of an image's Debian packages: one line each, `name version architecture sha256`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Record:
    """One Debian package, exactly."""

    name: str
    version: str
    architecture: str
    sha256: str

    def line(self) -> str:
        """Return the record as its line in a file."""
        return f"{self.name} {self.version} {self.architecture} {self.sha256}"


def parse_stanzas(text: str) -> list[Record]:
    """Read the output of `apt-cache show`."""
    records = []
    for stanza in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        records.append(Record(fields["Package"], fields["Version"], fields["Architecture"], fields["SHA256"]))
    return records


def read_records(path: Path) -> list[Record]:
    """Read a file of records; one that is not there has none."""
    if not path.is_file():
        return []
    return [Record(*line.split()) for line in path.read_text(encoding="utf-8").splitlines()]


def write_records(path: Path, records: list[Record]) -> None:
    """Write records, sorted, one a line."""
    path.write_text("".join(f"{record.line()}\n" for record in sorted(set(records))), encoding="utf-8")


def differing(recorded: list[Record], built: list[Record], architecture: str) -> list[str]:
    """Return the names of packages that were not built as recorded.

    A record of another architecture says nothing about this one: the answer is then empty.
    """
    if not any(record.architecture == architecture for record in recorded):
        return []
    return sorted({record.name for record in set(recorded) ^ set(built)})
