"""Write the tables of options in the roles' README files, from their argument_specs, defaults and settings/.

`python scripts/role_options.py` writes them, `--check` only tells which are out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- options: written by `make docs` -->", "<!-- end of options -->"


def load(path: Path) -> Any:
    """Return the contents of a YAML file, an empty mapping when there is none."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def role_names(root: Path = ROOT) -> list[str]:
    """Return the roles that describe their options."""
    return sorted(path.parents[1].name for path in (root / "roles").glob("*/meta/argument_specs.yml"))


def options(role: str, root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return the options of a role's entry point ``main``, as its argument_specs have them."""
    specs = load(root / "roles" / role / "meta" / "argument_specs.yml")
    found: dict[str, dict[str, Any]] = specs.get("argument_specs", {}).get("main", {}).get("options", {})
    return found


def defaults(role: str, root: Path = ROOT) -> dict[str, Any]:
    """Return the defaults of a role."""
    found: dict[str, Any] = load(root / "roles" / role / "defaults" / "main.yml")
    return found


def settings(root: Path = ROOT) -> dict[str, str]:
    """Return each key of settings/ with the name of the file that has it."""
    return {key: file.name for file in sorted((root / "settings").glob("*.yml")) for key in load(file)}


def _kind(option: dict[str, Any]) -> str:
    kind: str = option.get("type", "str")
    if kind == "list" and "elements" in option:
        kind = f"list of {option['elements']}"
    if "choices" in option:
        kind += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
    return kind


def _default(name: str, known: dict[str, Any], facts: dict[str, str]) -> str:
    if name in known:
        return f"`{json.dumps(known[name], ensure_ascii=False)}`"
    return f"[{facts[name]}](../../settings/{facts[name]})" if name in facts else "required"


def _description(option: dict[str, Any]) -> str:
    text = option["description"]
    whole = " ".join(text) if isinstance(text, list) else str(text)
    return re.sub(r"\b[CV]\(([^)]*)\)", r"`\1`", whole)


def table(role: str, root: Path = ROOT) -> str:
    """Return the table of a role's options as Markdown. An option of an option is indented below it."""
    known, facts = defaults(role, root), settings(root)
    lines = ["| option | type | default | what it says |", "|---|---|---|---|"]
    for name, option in options(role, root).items():
        lines.append(f"| `{name}` | {_kind(option)} | {_default(name, known, facts)} | {_description(option)} |")
        for part, inner in option.get("options", {}).items():
            needed = "required" if inner.get("required") else ""
            lines.append(f"| &emsp;`{part}` | {_kind(inner)} | {needed} | {_description(inner)} |")
    return "\n".join(lines)


def readme(role: str, root: Path = ROOT) -> str:
    """Return the README of a role with its table brought up to date."""
    path = root / "roles" / role / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {role}\n\n## Options\n\n{BEGIN}\n{END}\n"
    if not options(role, root):
        return text
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(role, root)}\n{END}{after}"


def main() -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a table is out of date")
    check = parser.parse_args().check
    stale = []
    for role in role_names():
        path = ROOT / "roles" / role / "README.md"
        wanted = readme(role)
        if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(wanted, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
