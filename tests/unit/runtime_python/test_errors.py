"""What a caller is told of exceptions."""

from __future__ import annotations

import pytest

from .support import INT4, TEXT, CallError, Sandbox


def failure(sandbox: Sandbox, source: str) -> CallError:
    """The error of a function, after which the next call works."""
    with pytest.raises(CallError) as caught:
        sandbox.run(source)
    assert sandbox.run("return 1") == 1
    return caught.value


def test_traceback_shows_the_users_lines(sandbox: Sandbox) -> None:
    error = failure(sandbox, "\n# container: x\ndef g(n):\n    return 1/n\n\nreturn g(0)\n")
    assert error.sqlstate == "38000"
    assert str(error) == "ZeroDivisionError: division by zero"
    assert error.context == (
        "Traceback (most recent call last):\n"
        '  PL/Container function "f", line 6, in <module>\n'
        "    return g(0)\n"
        '  PL/Container function "f", line 4, in g\n'
        "    return 1/n"
    )


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("1/0", 1, "1/0"),
        ("  1/0", 1, "1/0"),
        ("  x = 1\n  1/0", 2, "1/0"),
        ("\n  x = '''\na'''\n  1/0 # here", 4, "1/0 # here"),
        ("\r\n\r\n1/0\r\n", 3, "1/0"),
    ],
)
def test_line_numbers_are_those_of_the_source(sandbox: Sandbox, source: str, line: int, text: str) -> None:
    context = failure(sandbox, source).context
    assert context.splitlines()[1:] == [f'  PL/Container function "f", line {line}, in <module>', f"    {text}"]


def test_frames_of_libraries_name_their_files(sandbox: Sandbox) -> None:
    error = failure(sandbox, "import json\nreturn json.loads('{')")
    assert str(error).startswith("json.decoder.JSONDecodeError: Expecting property name")
    lines = error.context.splitlines()
    assert lines[1] == '  PL/Container function "f", line 2, in <module>'
    assert any("json/decoder.py" in line and "in raw_decode" in line for line in lines)


def test_functions_of_other_functions_keep_their_name(sandbox: Sandbox) -> None:
    first = sandbox.define("\n\ndef g(): return 1/0\nGD['g'] = g", name="first")
    sandbox.call(first)
    with pytest.raises(CallError) as caught:
        sandbox.call(sandbox.define("return GD['g']()", name="second"))
    assert caught.value.context.splitlines()[1::2] == [
        '  PL/Container function "second", line 1, in <module>',
        '  PL/Container function "first", line 3, in g',
    ]


def test_the_runtimes_own_frames_are_hidden(sandbox: Sandbox) -> None:
    error = failure(sandbox, "\nplpy.error('m')")
    assert error.context == (
        "Traceback (most recent call last):\n  PL/Container function \"f\", line 2, in <module>\n    plpy.error('m')"
    )


def test_recursion_without_end(sandbox: Sandbox) -> None:
    error = failure(sandbox, "def g(): return g()\nreturn g()")
    assert str(error).startswith("RecursionError: maximum recursion depth exceeded")
    assert "more times]" in error.context
    assert len(error.context.splitlines()) < 20


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError()", "ValueError: "),
        ("raise ValueError('a', 1)", "ValueError: ('a', 1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("raise GeneratorExit", "GeneratorExit: "),
        ("raise MemoryError('x')", "MemoryError: x"),
        ("class E(Exception): pass\nraise E('x')", "E: x"),
        ("class E(Exception):\n  def __str__(self): raise TypeError\nraise E('x')", "E: unknown"),
        ("class E(Exception):\n  __module__ = 'a.b'\nraise E('x')", "a.b.E: x"),
        ("raise ValueError('a\\0b\\ud800')", "ValueError: a\\x00b\\ud800"),
        ("try:\n  1/0\nexcept Exception as e:\n  raise KeyError('k') from e", "KeyError: 'k'"),
        ("raise 5", "TypeError: exceptions must derive from BaseException"),
        ("exec('1 +')", "SyntaxError: invalid syntax (<string>, line 1)"),
        ("assert False, 'no'", "AssertionError: no"),
    ],
)
def test_messages(sandbox: Sandbox, source: str, message: str) -> None:
    error = failure(sandbox, source)
    assert str(error) == message
    assert error.sqlstate == "38000"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("'22012'", "22012"),
        ("'P0001'", "P0001"),
        ("'00000'", "38000"),
        ("'2201'", "38000"),
        ("'abcde'", "38000"),
        ("22012", "38000"),
        ("None", "38000"),
        ("property(lambda self: 1/0)", "38000"),
    ],
)
def test_sqlstate_of_an_exception(sandbox: Sandbox, state: str, expected: str) -> None:
    assert failure(sandbox, f"class E(Exception): sqlstate = {state}\nraise E('x')").sqlstate == expected


def test_a_very_long_message_is_cut(sandbox: Sandbox) -> None:
    message = str(failure(sandbox, "raise ValueError('x' * 10**8)"))
    assert message.startswith("ValueError: xxx")
    assert message.endswith(" [truncated]")
    assert len(message) < 1 << 20


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("\nreturn 1 +\n", 2, "return 1 +"),
        ("\n  x = 1\n return x", 3, "return x"),
        ("\n  x = 1\nreturn x", 3, "return x"),
        ("  return )", 1, "return )"),
        ("nonlocal x", 1, "nonlocal x"),
        ("x = 1\n\n  y = 2", 3, "y = 2"),
    ],
)
def test_syntax_errors_name_the_users_line(sandbox: Sandbox, source: str, line: int, text: str) -> None:
    function = sandbox.define(source, name="broken")
    for _ in range(2):
        with pytest.raises(CallError) as caught:
            sandbox.call(function)
        error = caught.value
        assert error.sqlstate == "42601"
        assert str(error) == 'could not compile PL/Container function "broken"'
        assert error.fields["D"].endswith(f" (line {line})")
        assert "Error: " in error.fields["D"]
        assert error.context == f'PL/Container function "broken", line {line}\n    {text}'
    sandbox.define("return 3", function_id=function)
    assert sandbox.call(function) == 3


def test_line_numbers_within_messages_of_syntax_errors(sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run("  if True:\n  return 1")
    assert caught.value.fields["D"].startswith("IndentationError: expected an indented block")
    assert "line 2" not in caught.value.fields["D"].split(" (line ")[0]


@pytest.mark.parametrize("source", ["return " + "(" * 5000 + ")" * 5000, "return 1\0"])
def test_sources_that_the_compiler_can_not_take(sandbox: Sandbox, source: str) -> None:
    assert str(failure(sandbox, source)) == 'could not compile PL/Container function "f"'


def test_errors_of_conversion_show_the_method_that_failed(sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run("class T:\n  def __str__(self):\n    return 1/0\nreturn T()", TEXT)
    assert caught.value.context == (
        "Traceback (most recent call last):\n"
        '  PL/Container function "f", line 3, in __str__\n'
        "    return 1/0\n"
        "while creating return value"
    )


def test_a_result_beyond_max_frame(sandbox: Sandbox) -> None:
    sandbox.greet(max_frame=1 << 16)
    with pytest.raises(CallError) as caught:
        sandbox.run("return 'x' * 100000", TEXT)
    assert (caught.value.sqlstate, str(caught.value)) == ("54000", "result of function is too large for a message")
    with pytest.raises(CallError, match="truncated"):
        sandbox.run("raise ValueError('\U0001f40d' * 100000)", TEXT)
    assert sandbox.run("return 'x' * 60000", TEXT) == "x" * 60000


def test_an_error_keeps_the_interpreter(sandbox: Sandbox) -> None:
    function = sandbox.define("SD['n'] = SD.get('n', 0) + 1\nif fail: 1/0\nreturn SD['n']", INT4, [("fail", INT4)])
    assert sandbox.call(function, 0) == 1
    with pytest.raises(CallError):
        sandbox.call(function, 1)
    assert sandbox.call(function, 0) == 3


def test_the_traceback_module_shows_the_source_too(sandbox: Sandbox) -> None:
    source = "\nimport traceback\ntry:\n  1/0  # marked\nexcept Exception:\n  return traceback.format_exc()"
    text = sandbox.run(source, TEXT)
    assert "line 4, in" in text
    assert "1/0  # marked" in text
