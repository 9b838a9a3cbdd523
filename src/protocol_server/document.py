"""A file of settings as plain values with the line of each, and the problems that were found in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

SCHEMA_DIRECTORY: Final = Path(__file__).parent / "schemas"

#: A configuration beyond this is a mistake, and reading it would stall the server.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, order=True)
class Problem:
    """One broken rule. `line` counts from 1; 0 stands for the file as a whole."""

    file: str
    line: int
    rule: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}" if self.line else f"{self.file}: {self.rule}"


class ConfigError(Exception):
    """The configuration is not fit to be used; `problems` is never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


#: Steps from the root of a file to a value in it: keys and indexes.
DocumentPath = tuple[str | int, ...]


class Document:
    """A file's contents as plain values, with the line of every key and item."""

    def __init__(self, file: Path) -> None:
        """Read `file`; what is wrong with it is in `problems` then, and `value` is None where nothing could be read."""
        self.file = str(file)
        self.problems: list[Problem] = []
        self.lines: dict[DocumentPath, int] = {}
        self.value: Any = None
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self.report((), f"cannot be read: {error.strerror}")
            return
        if len(data) > MAX_FILE_BYTES:
            self.report((), f"the file is larger than {MAX_FILE_BYTES} bytes")
            return
        self.parse(data)

    def parse(self, data: bytes) -> None:
        """Fill `value` and `lines`; each form of file has its own way."""
        raise NotImplementedError

    def report(self, path: DocumentPath, rule: str) -> None:
        """Record a broken rule at the line of `path`, or of the nearest thing around it."""
        where = path
        while where and where not in self.lines:
            where = where[:-1]
        name = _path_text(path)
        self.problems.append(Problem(self.file, self.lines.get(where, 0), f"{name}: {rule}" if name else rule))

    def validate(self, schema: Mapping[str, Any]) -> None:
        """Hold the value against a JSON Schema and record what does not fit."""
        validator = jsonschema.Draft202012Validator(schema)
        for error in validator.iter_errors(self.value):
            path = tuple(error.absolute_path)
            # What a mapping is for does not help whoever forgot or misspelt one of its keys.
            about = error.schema if error.validator not in ("required", "additionalProperties") else {}
            description = about.get("description", "")
            for where, rule in _rules(error, path):
                self.report(where, f"{rule} ({description})" if description else rule)


class YamlDocument(Document):
    """A YAML file."""

    def parse(self, data: bytes) -> None:
        """Fill `value` and `lines`."""
        try:
            loader = yaml.SafeLoader(data)
            try:
                root = loader.get_single_node()
                if root is None:
                    self.report((), "the file is empty")
                    return
                self.value = self._build(loader, root, (), ())
            finally:
                loader.dispose()
        except RecursionError:
            self.report((), "nested too deeply")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.problems.append(Problem(self.file, mark.line + 1 if mark else 0, f"not valid YAML: {error.problem}"))
        except yaml.YAMLError as error:
            self.report((), f"not valid YAML: {' '.join(str(error).split())}")

    def _build(self, loader: yaml.SafeLoader, node: yaml.Node, path: DocumentPath, above: tuple[int, ...]) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in above:
            self.report(path, "an alias may not contain itself")
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(loader, node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(loader, item, (*path, index), above) for index, item in enumerate(node.value)]
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self.report(path, f"not a plain value: {problem}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.report(path, "not a finite number")
            return None
        return value

    def _build_mapping(
        self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: DocumentPath, above: tuple[int, ...]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                self.problems.append(Problem(self.file, line, f"key {key_node.value!r} must be a string"))
                continue
            key = str(key_node.value)
            if key in result:
                self.problems.append(
                    Problem(self.file, line, f"key {key!r} is repeated, first in line {self.lines[(*path, key)]}")
                )
                continue
            self.lines[(*path, key)] = line
            result[key] = self._build(loader, value_node, (*path, key), above)
        return result


def _path_text(path: DocumentPath) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _rules(error: jsonschema.ValidationError, path: DocumentPath) -> Iterator[tuple[DocumentPath, str]]:
    """What an error of jsonschema says, in words of people, at the place they must edit."""
    value: Any = error.instance
    schema: Any = error.schema
    rule: Any = error.validator_value
    if error.validator == "additionalProperties" and isinstance(rule, bool):
        known = sorted(schema["properties"])
        for key in value:
            if key not in known:
                yield (*path, key), f"unknown key; known are {', '.join(known)}"
    elif error.validator == "required":
        # jsonschema reports each missing key on its own and names it in the message only.
        missing = [key for key in rule if error.message.startswith(repr(key))]
        yield path, f"key {missing[0]!r} is missing" if missing else error.message
    elif error.validator == "type":
        yield path, f"must be of type {rule}, not {_type_name(value)}"
    elif error.validator in ("minimum", "maximum"):
        word = "least" if error.validator == "minimum" else "most"
        yield path, f"must be at {word} {rule}, not {value}"
    elif error.validator == "pattern":
        yield path, f"{value!r} is not of the expected form"
    elif error.validator == "enum":
        yield path, f"must be one of {', '.join(rule)}, not {value!r}"
    else:
        yield path, error.message


def _type_name(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def read_schema(name: str) -> Mapping[str, Any]:
    """The JSON Schema of the file `name`.yml."""
    schema: Mapping[str, Any] = json.loads((SCHEMA_DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def with_defaults(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with the defaults that `schema` has for keys that are not there."""
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    return {**{key: rule["default"] for key, rule in properties.items() if "default" in rule}, **value}
