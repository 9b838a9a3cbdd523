"""The module plcontainer_databases, over answers of databases."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from plugins.modules import plcontainer_databases


def test_what_differs() -> None:
    answers = {
        "good": (True, "1.0|t"),
        "old": (True, "0.9|f"),
        "none": (True, ""),
        "gone": (False, 'FATAL:  database "gone" does not exist\nmore'),
        "still": (True, "1.0|t"),
        "clean": (True, ""),
    }
    assert plcontainer_databases.differences(["good", "old", "none", "gone"], ["still", "clean"], answers) == [
        "database old: extension 0.9 is not the newest",
        "database none: no extension",
        'database gone: FATAL:  database "gone" does not exist',
        "database still: has the extension",
    ]


def test_a_database_cannot_be_both() -> None:
    done = subprocess.run(
        [sys.executable, plcontainer_databases.__file__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"port": 1, "present": ["a"], "absent": ["a"]}}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["msg"] == "present and absent both name a"


def test_a_host_without_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("getgrnam(): name not found: 'postgres'")

    monkeypatch.setattr(subprocess, "run", fail)
    assert plcontainer_databases.ask(5432, "postgres") == (False, "getgrnam(): name not found: 'postgres'")
