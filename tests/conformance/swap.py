"""Turns the regression suite of another procedural language into one of plcontainer.

Every function gets the line that names its runtime as the first line of its body. Where the body begins with a line
break that costs no line; where its first statement follows the quote, everything moves down by one, and so do the line
numbers that the expected output has of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
    | (?P<command>^\\[^\n]*)
    | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>'(?:[^']|'')*')
    | (?P<dollar>(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag))
    | (?P<identifier>"(?:[^"]|"")*")
    | (?P<end>;)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_HEAD = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\s+(?:\w+\.)?\"?(\w+)", re.IGNORECASE)
_INLINE = re.compile(r"\s*DO\b", re.IGNORECASE)
_BODY_FOLLOWS = re.compile(r"\bAS\s*$", re.IGNORECASE)
_LANGUAGE_FOLLOWS = re.compile(r"\bLANGUAGE\s*$", re.IGNORECASE)
_INLINE_NAME = "anonymous code block"
TARGET_NAME = "plcontainer"
TARGET_TITLE = "PL/Container"


@dataclass(frozen=True)
class Language:
    """What is replaced by plcontainer."""

    names: tuple[str, ...]
    """As SQL names it: in LANGUAGE, in CREATE EXTENSION."""
    title: str
    """As messages name it."""
    runtime: str


@dataclass(frozen=True)
class _Literal:
    start: int
    """Of its content."""
    before: str
    """The statement up to the literal, without comments and other literals."""


@dataclass
class _Statement:
    text: str
    plain: str = ""
    """Without comments and literals."""
    literals: list[_Literal] = field(default_factory=list)


def statements(sql: str) -> Iterator[_Statement]:
    """Yield the statements of a psql script; what only comments or commands psql is left out."""
    start = 0
    plain: list[str] = []
    literals: list[_Literal] = []
    for token in _TOKEN.finditer(sql):
        kind = token.lastgroup if token.lastgroup != "tag" else "dollar"
        if kind in ("escaped", "quoted", "dollar"):
            content = token.start() + (len(token["tag"]) if kind == "dollar" else token[0].index("'") + 1)
            literals.append(_Literal(content - start, "".join(plain)))
            plain.append(token[0] if kind == "quoted" and _LANGUAGE_FOLLOWS.search("".join(plain)) else " ")
        elif kind in ("comment", "command"):
            if not "".join(plain).strip():
                start, plain = token.end(), []
            else:
                plain.append(" ")
        elif kind == "end":
            yield _Statement(sql[start : token.end()].lstrip(), "".join(plain), _shifted(literals, sql, start))
            start, plain, literals = token.end(), [], []
        else:
            plain.append(token[0])


def _shifted(literals: list[_Literal], sql: str, start: int) -> list[_Literal]:
    """Return literals counted from the first character of a statement that is no white space."""
    blanks = len(sql[start:]) - len(sql[start:].lstrip())
    return [_Literal(literal.start - blanks, literal.before) for literal in literals]


class Swap:
    """A language and what it has become; use one for each test."""

    def __init__(self, language: Language) -> None:
        self._language = language
        names = "|".join(map(re.escape, language.names))
        self._uses = re.compile(rf"\bLANGUAGE\s+'?(?:{names})\b", re.IGNORECASE)
        self._named = re.compile(rf"\b(?:{names})\b")
        self._nested = re.compile(rf"(?P<context>^SQL statement \")?\bDO LANGUAGE (?:{names}) \$\w+\$", re.MULTILINE)
        self._inner = re.compile(
            rf"\bAS\s*\$\w*\$(?=[ \t]*\n(?:(?!\$\w*\$).)*\$\w*\$\s*LANGUAGE\s+'?(?:{names})\b)",
            re.IGNORECASE | re.DOTALL,
        )
        self._line = f"# container: {language.runtime}"

    def script(self, sql: str) -> str:
        """Return a test's script."""
        result, position = [], 0
        for statement in statements(sql):
            at = sql.index(statement.text, position)
            result += [sql[position:at], self._statement(statement)[0]]
            position = at + len(statement.text)
        return self._rename("".join([*result, sql[position:]]))

    def output(self, sql: str, expected: str) -> str:
        """Return the expected output of a test's script, which holds its statements as they are."""
        moved: dict[str, bool] = {}
        result, position = [], 0
        for statement in statements(sql):
            text, name, has_moved = self._statement(statement)
            at = expected.find(statement.text, position)
            if at < 0:
                continue
            result += [self._renumber(expected[position:at], moved), text]
            position = at + len(statement.text)
            if name:
                moved[name] = has_moved
        return self._rename("".join([*result, self._renumber(expected[position:], moved)]))

    def _statement(self, statement: _Statement) -> tuple[str, str, bool]:
        """Return a statement, the name of the function that it makes, if any, and whether its lines have moved."""
        head = _HEAD.match(statement.plain)
        inline = _INLINE.match(statement.plain)
        name = head[1] if head else _INLINE_NAME
        if not (head or inline) or not self._uses.search(statement.plain):
            return statement.text, head[1] if head else "", False
        for literal in statement.literals:
            if _BODY_FOLLOWS.search(literal.before) if head else not _LANGUAGE_FOLLOWS.search(literal.before):
                before = statement.text[: literal.start]
                # a body may create functions, too
                body = self._inner.sub(lambda match: match[0] + self._line, statement.text[literal.start :])
                if re.match(r"[ \t]*\n", body):
                    return before + self._line + body, name, False
                return f"{before}{self._line}\n{body}", name, True
        return statement.text, name, False

    def _renumber(self, output: str, moved: dict[str, bool]) -> str:
        """Return output with the line numbers of those functions raised that have moved."""

        def by_one(match: re.Match[str]) -> str:
            name = match["name"] or _INLINE_NAME
            return f"{match['before']}{int(match['line']) + moved.get(name, False)}"

        title = re.escape(self._language.title)
        named = rf'{title} (?:function "(?P<name>\w+)"|{_INLINE_NAME})'
        output = re.sub(rf"(?P<before>{named}, line )(?P<line>\d+)", by_one, output)
        compiled = rf"(?P<before>could not compile {named}\nDETAIL:  [^\n]*<string>, line )(?P<line>\d+)"
        return re.sub(compiled, by_one, output)

    def _rename(self, text: str) -> str:
        # A statement in a string of a body has its line break as an escape; the context of an error as it is.
        text = self._nested.sub(lambda match: match[0] + self._line + ("\n" if match["context"] else "\\n"), text)
        return self._named.sub(TARGET_NAME, text).replace(self._language.title, TARGET_TITLE)
