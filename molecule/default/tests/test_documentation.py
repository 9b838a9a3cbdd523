"""Every SQL statement of docs/functions.md runs."""

from __future__ import annotations

import re

from tests.support.segment_host import ROOT, SegmentHost


def test_statements_of_the_guide(segment: SegmentHost) -> None:
    text = (ROOT / "docs" / "functions.md").read_text(encoding="utf-8")
    statements = re.findall(r"^```sql\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(statements) >= 5
    script = "\n".join(["BEGIN;", *statements, "ROLLBACK;"])
    answers = segment.sql(script)
    assert "ERROR" not in answers, answers
    for expected in ("5", "6.5", "0|0\n1|1\n2|1\n3|2\n4|3", "done|refused: 23514", "10.13"):
        assert f"\n{expected}\n" in f"\n{answers}\n", answers
