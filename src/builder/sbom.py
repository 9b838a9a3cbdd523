"""Bills of materials: what a result was made of, as CycloneDX 1.6 in JSON, the same bytes for the same contents."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from builder.records import Record

Components = dict[str, dict[str, Any]]
"""Package URL -> component."""

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def document(name: str, version: str, kind: str, parts: Components, needs: dict[str, list[str]]) -> str:
    """Return the document of a result; `kind` is its type for CycloneDX, `needs` says what a part is made of."""
    top = {"type": kind, "name": name, "version": version, "bom-ref": f"{name}@{version}"}
    within = {ref for refs in needs.values() for ref in refs}
    graph = {**needs, top["bom-ref"]: [ref for ref in parts if ref not in within]}
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": top},
        "components": [parts[ref] for ref in sorted(parts)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(graph[ref])} for ref in sorted(graph)],
    }
    text = json.dumps(content, sort_keys=True)
    return json.dumps({**content, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, text)}"}, indent=1) + "\n"


def of_go(modules: str) -> tuple[Components, dict[str, list[str]]]:
    """Return the programs and modules in what `go version -m` said, and which program has which modules in it."""
    parts: Components = {}
    needs: dict[str, list[str]] = {}
    program = ""
    replaced = ""
    for line in modules.splitlines():
        if not line.startswith("\t"):
            name, _, toolchain = line.partition(": go")
            program, number = f"program:{name}", toolchain.split()[0]
            parts[program] = {"type": "application", "name": name, "bom-ref": program}
            needs[program] = [_add(parts, "golang", "stdlib", number)]
            continue
        kind, *fields = line[1:].split("\t")
        if kind == "path":
            parts[program]["description"] = fields[0]
        elif kind in ("dep", "=>"):
            if kind == "=>":
                # what stands behind the arrow was compiled in the place of the module before it
                needs[program].remove(replaced)
            replaced = _add(parts, "golang", fields[0], fields[1], checksum=fields[2] if len(fields) > 2 else "")
            needs[program].append(replaced)
    used = {ref for refs in needs.values() for ref in refs}
    return {ref: part for ref, part in parts.items() if ref in needs or ref in used}, needs


def of_debian(records: list[Record], release: str) -> Components:
    """Return Debian packages of a release."""
    parts: Components = {}
    for record in records:
        qualifiers = f"?arch={record.architecture}&distro=debian-{release}"
        ref = _add(parts, "deb/debian", record.name, record.version, qualifiers=qualifiers)
        parts[ref]["hashes"] = [{"alg": "SHA-256", "content": record.sha256}]
    return parts


def of_python(locks: list[Path]) -> Components:
    """Return the Python packages that locks name."""
    parts: Components = {}
    for lock in locks:
        for name, version in _PINNED.findall(lock.read_text(encoding="utf-8")):
            _add(parts, "pypi", name, version)
    return parts


def _add(parts: Components, kind: str, name: str, version: str, *, qualifiers: str = "", checksum: str = "") -> str:
    """Add a library under its package URL, which is returned."""
    path = quote(name.lower(), safe="/._-~")
    ref = f"pkg:{kind}/{path}@{quote(version, safe='._-~')}{qualifiers}"
    parts[ref] = {"type": "library", "name": name, "version": version, "purl": ref, "bom-ref": ref}
    if checksum:
        parts[ref]["properties"] = [{"name": "caisson:go.sum", "value": checksum}]
    return ref
