"""What a script and its expected output become when their language is replaced."""

from __future__ import annotations

import pytest

from tests.conformance.swap import Language, Swap

LANGUAGE = Language(("plother", "plotheru"), "PL/Other", "the_runtime")


def script(sql: str) -> str:
    return Swap(LANGUAGE).script(sql)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("AS $$\nbody\n$$ LANGUAGE plother;", "AS $$# container: the_runtime\nbody\n$$ LANGUAGE plcontainer;"),
        ("AS $$ body $$ LANGUAGE plotheru;", "AS $$# container: the_runtime\n body $$ LANGUAGE plcontainer;"),
        ("AS $x$b;$$$x$ LANGUAGE plother;", "AS $x$# container: the_runtime\nb;$$$x$ LANGUAGE plcontainer;"),
        ("AS 'it''s' LANGUAGE 'plother';", "AS '# container: the_runtime\nit''s' LANGUAGE 'plcontainer';"),
        (r"AS E'a\'b' LANGUAGE plother;", r"AS E'# container: the_runtime" + "\n" + r"a\'b' LANGUAGE plcontainer;"),
        ("LANGUAGE 'plother' AS 'b';", "LANGUAGE 'plcontainer' AS '# container: the_runtime\nb';"),
        ("LANGUAGE plother AS\n'b';", "LANGUAGE plcontainer AS\n'# container: the_runtime\nb';"),
        ("AS $$ b $$ LANGUAGE plpgsql;", "AS $$ b $$ LANGUAGE plpgsql;"),
    ],
)
def test_a_body_gets_its_first_line(before: str, after: str) -> None:
    head = "CREATE FUNCTION f(a text DEFAULT 'x; y') RETURNS text "
    assert script(f"-- 'comment; $$\n{head}{before}\nSELECT 1;\n") == f"-- 'comment; $$\n{head}{after}\nSELECT 1;\n"


def test_code_blocks_and_names() -> None:
    assert script("DO LANGUAGE plother $$\nb\n$$;") == "DO LANGUAGE plcontainer $$# container: the_runtime\nb\n$$;"
    assert script("DO $$b$$ LANGUAGE plother;") == "DO $$# container: the_runtime\nb$$ LANGUAGE plcontainer;"
    assert script("CREATE EXTENSION plotheru;") == "CREATE EXTENSION plcontainer;"


def test_lines_of_output_move_with_their_function() -> None:
    first = "CREATE FUNCTION f() RETURNS int AS 'one' LANGUAGE plother;\n"
    second = "CREATE FUNCTION g() RETURNS int AS $$\none\n$$ LANGUAGE plother;\n"
    third = "CREATE OR REPLACE FUNCTION f() RETURNS int AS $$\none\n$$ LANGUAGE plother;\n"
    place = '  PL/Other function "{}", line {}, in <module>\n'
    sql = f"{first}{second}SELECT f();\n{third}SELECT f();\n"
    output = Swap(LANGUAGE).output(
        sql,
        f"{first}{second}SELECT f();\n{place.format('f', 7)}{place.format('g', 7)}{third}{place.format('f', 7)}",
    )
    numbers = [line.split(",")[1] for line in output.splitlines() if ", line " in line]
    assert numbers == [" line 8", " line 7", " line 7"]
    assert "PL/Container" in output
    assert "PL/Other" not in output
    assert script(first) in output


def test_a_statement_within_a_body() -> None:
    sql = 'CREATE FUNCTION f() RETURNS int AS $$\nrun("DO LANGUAGE plother $x$ b $x$")\n$$ LANGUAGE plother;\n'
    nested = 'run("DO LANGUAGE plcontainer $x$# container: the_runtime\\n b $x$")'
    assert nested in script(sql)
    output = Swap(LANGUAGE).output(sql, sql + 'SQL statement "DO LANGUAGE plother $x$ b $x$"\n')
    assert nested in output
    assert 'SQL statement "DO LANGUAGE plcontainer $x$# container: the_runtime\n b $x$"\n' in output


def test_a_function_that_creates_one() -> None:
    inner = 'run("CREATE FUNCTION g() RETURNS int AS $${}\nb\n$$ LANGUAGE {}")'
    sql = f"CREATE FUNCTION f() RETURNS int AS $x$\n{inner.format('', 'plother')}\n$x$ LANGUAGE plother;\n"
    assert inner.format("# container: the_runtime", "plcontainer") in script(sql)
    assert script(sql).count("# container") == 2
    assert script(sql.replace("$$ LANGUAGE plother", "$$ LANGUAGE sql")).count("# container") == 1
