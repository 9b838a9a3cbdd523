"""Bills of materials: every part with its package URL, and the same bytes for the same contents."""

from __future__ import annotations

import json
from pathlib import Path

from builder import sbom
from builder.records import Record

MODULES = """\
multus: go1.26.6
\tpath\tgopkg.in/theirs/cmd/multus
\tmod\tcaisson/x\t(devel)\t
\tdep\tgithub.com/Big/name\tv1.0.0+incompatible\th1:aa=
\tdep\tk8s.io/api\tv0.0.0
\t=>\tk8s.io/api\tv0.36.3\th1:bb=
\tbuild\t-trimpath=true
check: go1.26.6
\tpath\tcaisson/x/cmd/check
\tdep\tgithub.com/Big/name\tv1.0.0+incompatible\th1:aa=
"""


def test_a_program_is_made_of_the_modules_that_were_compiled() -> None:
    parts, needs = sbom.of_go(MODULES)
    name, api, stdlib = (
        "pkg:golang/github.com/big/name@v1.0.0%2Bincompatible",
        "pkg:golang/k8s.io/api@v0.36.3",
        "pkg:golang/stdlib@1.26.6",
    )
    assert needs == {"program:multus": [stdlib, name, api], "program:check": [stdlib, name]}
    assert parts.keys() == {"program:multus", "program:check", name, api, stdlib}
    assert parts[name]["name"] == "github.com/Big/name"
    assert parts[api]["properties"] == [{"name": "caisson:go.sum", "value": "h1:bb="}]


def test_debian_and_python_packages_are_named_as_their_registries_do(tmp_path: Path) -> None:
    (ref,) = parts = sbom.of_debian([Record("libgcc-s1", "1:14.2~x+b1", "amd64", "ab" * 32)], "13")
    assert ref == "pkg:deb/debian/libgcc-s1@1%3A14.2~x%2Bb1?arch=amd64&distro=debian-13"
    assert parts[ref]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.1.0 \\\n    --hash=sha256:00\npandas==3.0 ; python_version > '3'\n")
    assert set(sbom.of_python([lock])) == {"pkg:pypi/numpy@2.1.0", "pkg:pypi/pandas@3.0"}


def test_the_document_holds_together() -> None:
    parts, needs = sbom.of_go(MODULES)
    text = sbom.document("x", "1.0", "application", parts, needs)
    again = sbom.document("x", "1.0", "application", dict(reversed(parts.items())), needs)
    assert text == again, "in whatever order parts are found"
    read = json.loads(text)
    refs = {item["bom-ref"] for item in read["components"]} | {read["metadata"]["component"]["bom-ref"]}
    assert len(refs) == len(parts) + 1
    assert {item["ref"] for item in read["dependencies"]} <= refs
    assert {ref for item in read["dependencies"] for ref in item["dependsOn"]} <= refs
    (top,) = [item for item in read["dependencies"] if item["ref"] == "x@1.0"]
    assert top["dependsOn"] == ["program:check", "program:multus"]
    assert sbom.document("y", "1.0", "application", parts, needs) != text
