"""The table of PostgreSQL's conditions."""

from __future__ import annotations

from pathlib import Path

from plc.conditions import CONDITIONS
from scripts import conditions

ERRCODES = """\
# a comment
Section: Class 22 - Data Exception
01004    W    ERRCODE_WARNING_STRING_DATA_RIGHT_TRUNCATION    string_data_right_truncation
22008    E    ERRCODE_DATETIME_FIELD_OVERFLOW                 datetime_field_overflow
22008    E    ERRCODE_DATETIME_VALUE_OUT_OF_RANGE
2F003    E    ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED    prohibited_sql_statement_attempted
"""


def test_a_list_is_read_as_plpython_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "errcodes.txt"
    path.write_text(ERRCODES)
    names = {"22008": "DatetimeFieldOverflow", "2F003": "ProhibitedSqlStatementAttempted"}
    assert conditions.read_list(path) == names


def test_the_table_is_as_it_would_be_written() -> None:
    assert conditions.read_table() == CONDITIONS
    assert conditions.TABLE.read_text(encoding="utf-8") == conditions.render(CONDITIONS)


def test_the_table_has_the_conditions_of_every_version_here() -> None:
    for path in Path("/usr/share/postgresql").glob("*/errcodes.txt"):
        assert conditions.read_list(path).items() <= CONDITIONS.items()
