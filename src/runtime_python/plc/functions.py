"""Compiles registered sources to functions."""

from __future__ import annotations

import builtins
import importlib
import linecache
import re
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from . import codec, errors, plpy

if TYPE_CHECKING:
    import ast

_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without the price of the module
_ON_LINE = re.compile(r"\bon line (\d+)")

# GD of PL/Python: shared by all functions of this interpreter
global_data: Dict[Any, Any] = {}


class Function:
    """A registered function, ready to be called.

    `call` takes nothing: arguments are set in `namespace`, the function's globals. `failure` is
    the payload of the Error that answers each call when the source did not compile. `globals` names what
    a call sets in the namespace, `heavy` those of them that it lets go of, `fields` numbers the fields of a
    trigger's row.
    """

    __slots__ = ("arguments", "call", "failure", "fields", "flags", "globals", "heavy", "namespace", "result")

    def __init__(self, register: codec.Register) -> None:
        self.arguments: Tuple[Tuple[str, codec.Type], ...] = tuple(register.arguments)
        self.result = register.result
        self.flags = register.flags
        self.globals, self.heavy = _globals(register)
        self.fields = {name: number for number, (name, _) in enumerate(register.result.fields)}
        self.failure: Optional[bytes] = None
        self.namespace: Dict[str, Any] = {
            "__builtins__": builtins,
            "__name__": "__main__",
            "plpy": plpy,
            "GD": global_data,
            "SD": {},
        }
        self.call: Optional[FunctionType] = None
        try:
            self.call = _compile(register, self.namespace)
        except Exception as error:
            self.failure = _failure(register, error)
        if self.flags & codec.FUNCTION_NUMPY and self.failure is None:
            self.failure = _missing_numpy()


def _globals(register: codec.Register) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    if register.flags & (codec.FUNCTION_TRIGGER | codec.FUNCTION_EVENT_TRIGGER):
        return ("TD",), ("TD",)
    names = [name for name, _ in register.arguments if name]
    heavy = [name for name, declared in register.arguments if declared.kind not in codec.FIXED]
    return (*names, "args"), (*filter(None, heavy), "args") if heavy else ()


def check(register: codec.Register) -> Optional[bytes]:
    """Return the payload of the Error of a source that does not compile, None for one that does."""
    try:
        _compile_body(register)
    except Exception as error:
        return _failure(register, error)
    return None


def _failure(register: codec.Register, error: Exception) -> bytes:
    return codec.encode_fields(errors.describe_compilation(_name(register), register.source, error))


def _missing_numpy() -> Optional[bytes]:
    try:
        importlib.import_module("numpy")
    except Exception as error:
        fields = [("C", "0A000"), ("M", "runtime has no numpy"), ("D", errors.clean(errors.message_of(error)))]
        return codec.encode_fields(fields)
    return None


def _name(register: codec.Register) -> Optional[str]:
    return None if register.flags & codec.FUNCTION_INLINE else register.name


def forget_source(function_id: int) -> None:
    """Drop what tracebacks needed of a function."""
    for name in [name for name in errors.sources if name.endswith(" #%d>" % function_id)]:
        del errors.sources[name]
        linecache.cache.pop(name, None)


def _compile(register: codec.Register, namespace: Dict[str, Any]) -> FunctionType:
    body, source = _compile_body(register)
    filename = body.co_filename
    lines = source.split("\n")
    forget_source(register.function_id)
    errors.sources[filename] = errors.Source(_name(register), body, lines)
    # For the traceback module in the hands of users; None: there is no file to compare with.
    linecache.cache[filename] = (len(source), None, [line + "\n" for line in lines], filename)
    return FunctionType(body, namespace)


def _compile_body(register: codec.Register) -> Tuple[CodeType, str]:
    """Return the code of a function's body, and the source that its lines are those of."""
    # plpython3u normalises line ends in the same way.
    source = register.source.replace("\r\n", "\n").replace("\r", "\n")
    filename = '<PL/Container function "%s" #%d>' % (register.name, register.function_id)
    entry = "__plcontainer_function_" + re.sub(r"\W", "_", register.name, flags=re.ASCII)
    module: ast.Module = compile("def _(): pass", filename, "exec", flags=_ONLY_AST, dont_inherit=True)
    definition: Any = module.body[0]
    definition.name = entry
    definition.body = _parse(source, filename) or definition.body
    code = compile(module, filename, "exec", dont_inherit=True)
    (body,) = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return body, source


def _parse(source: str, filename: str) -> List[ast.stmt]:
    """Return the statements of a body.

    A body may be indented as a whole: it is that of a function. It then becomes the block of an
    `if`, which stands in the place of a blank line before it so that lines keep their numbers.
    """
    lines = source.split("\n")
    first = next((i for i, line in enumerate(lines) if _is_code(line)), None)
    if first is None or lines[first][:1] not in (" ", "\t", "\f"):
        return _statements(source, filename)
    if first > 0:
        return _block("\n".join(["if 1:", *lines[1:]]), filename)
    try:
        block = _block("if 1:\n" + source, filename)
    except SyntaxError as error:
        error.lineno = error.lineno and error.lineno - 1
        error.msg = _ON_LINE.sub(lambda m: "on line %d" % (int(m[1]) - 1), error.msg)
        raise
    import ast

    for statement in block:
        ast.increment_lineno(statement, -1)
    return block


def _is_code(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


def _statements(source: str, filename: str) -> List[ast.stmt]:
    module: Any = compile(source, filename, "exec", flags=_ONLY_AST, dont_inherit=True)
    return module.body  # type: ignore[no-any-return]


def _block(source: str, filename: str) -> List[ast.stmt]:
    first: Any
    first, *rest = _statements(source, filename)
    outside = first.orelse or rest
    if outside:
        raise IndentationError(
            "unindent does not match any outer indentation level",
            (filename, outside[0].lineno, None, None),
        )
    return first.body  # type: ignore[no-any-return]
