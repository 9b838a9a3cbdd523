"""Write the table of PostgreSQL's error conditions that the Python runtime makes exceptions of.

`python scripts/conditions.py ERRCODES_TXT...` adds what it finds in the lists that come with PostgreSQL
(`/usr/share/postgresql/<version>/errcodes.txt`). Conditions of other versions stay in the table.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "src" / "runtime_python" / "plc" / "conditions.py"
HEAD = '''"""PostgreSQL's error conditions: SQLSTATE and name of the exception. Written by `scripts/conditions.py`."""

from __future__ import annotations

from typing import Dict

CONDITIONS: Dict[str, str] = {
'''
# SQLSTATE, E for error, macro, and the name for PL/pgSQL, which not every condition has
ERROR_LINE = re.compile(r"^([0-9A-Z]{5})\s+E\s+\S+\s+([a-z0-9_]+)\s*$")
ROW = re.compile(r'^    "([0-9A-Z]{5})": "(\w+)",$')


def class_name(condition: str) -> str:
    """Return the name PL/Python gives the exception of a condition."""
    return "".join(part[:1].upper() + part[1:] for part in condition.split("_"))


def read_list(path: Path) -> dict[str, str]:
    """Return the names by SQLSTATE of an errcodes.txt."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {found[1]: class_name(found[2]) for line in lines if (found := ERROR_LINE.match(line))}


def read_table(path: Path = TABLE) -> dict[str, str]:
    """Return the names by SQLSTATE of the table as it is, empty where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {found[1]: found[2] for line in lines if (found := ROW.match(line))}


def render(names: dict[str, str]) -> str:
    """Return the module's text, in the order of the states."""
    return HEAD + "".join(f'    "{state}": "{name}",\n' for state, name in sorted(names.items())) + "}\n"


def main() -> None:
    """Add the conditions of the lists that are named as arguments."""
    names = read_table()
    for argument in sys.argv[1:]:
        names |= read_list(Path(argument))
    TABLE.write_text(render(names), encoding="utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(names)} conditions")


if __name__ == "__main__":
    main()
