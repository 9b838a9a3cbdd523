"""Settings for stacks: the files that Ansible reads, as typed values, with Pulumi's configuration on top.

A key that nobody knows and a value of the wrong type are told with their place, all of them at once, before anything is
created.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pulumi
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "settings"

T = TypeVar("T")

_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class SettingsError(pulumi.RunError):
    """Settings that cannot be used. Pulumi prints its text alone, without a stack trace."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("Nothing was created or changed:\n" + "\n".join(f"  - {problem}" for problem in problems))


def files(folder: Path = FOLDER) -> dict[str, tuple[str, Any]]:
    """Return each key of the settings with the file that has it and its value.

    Raises SettingsError when a file cannot be read.
    """
    found: dict[str, tuple[str, Any]] = {}
    paths = sorted(folder.glob("*.yml"))
    if not paths:
        raise SettingsError([f"there are no settings in {folder}"])
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError([f"{path}: {' '.join(str(error).split())}"]) from error
        if not isinstance(content, dict):
            raise SettingsError([f"{path}: it is not a mapping of names to values"])
        found |= {str(key): (path.name, value) for key, value in content.items()}
    return found


def load(kind: type[T], prefix: str, overrides: Mapping[str, Any], folder: Path = FOLDER) -> T:
    """Return the settings whose names start with `prefix` as the dataclass `kind`.

    `overrides` has names without the prefix and wins. A field whose name starts otherwise is taken as it is from the
    settings: `cni_plugins_networks`, say. Raises SettingsError.
    """
    problems: list[str] = []
    found = files(folder)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    own = {key.removeprefix(prefix): entry for key, entry in found.items() if key.startswith(prefix)}
    problems += [
        f"{own[name][0]}: {prefix}{name}: {_unknown(prefix + name, [prefix + field for field in fields])}"
        for name in own.keys() - fields.keys()
    ]
    problems += [
        f"Pulumi configuration: {name}: {_unknown(name, list(fields))}" for name in overrides.keys() - fields.keys()
    ]
    values: dict[str, Any] = {}
    for name in fields:
        if name in overrides:
            place, value = f"Pulumi configuration: {name}", overrides[name]
        elif name in own or name in found:
            file, value = own.get(name) or found[name]
            place = f"{file}: {prefix if name in own else ''}{name}"
        else:
            problems.append(f"{folder}: {prefix}{name} is missing")
            continue
        values[name] = convert(value, hints[name], place, problems)
    if problems:
        raise SettingsError(sorted(problems))
    return kind(**values)


def convert(value: Any, kind: Any, place: str, problems: list[str]) -> Any:
    """Return a parsed value as the type `kind`; what does not fit is added to `problems`, with `place` in front."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else convert(value, inner, place, problems)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _convert_mapping(value, kind, place, problems)
    if origin is None:
        return _convert_scalar(value, kind, place, problems)
    return _convert_several(value, origin, arguments, place, problems)


def _convert_several(value: Any, origin: Any, arguments: tuple[Any, ...], place: str, problems: list[str]) -> Any:
    if origin is Literal:
        if value not in arguments:
            problems.append(f"{place} is {_shown(value)}, and it is one of {', '.join(map(str, arguments))}")
        return value
    if origin is dict and isinstance(value, dict):
        return {str(key): convert(item, arguments[1], f"{place}.{key}", problems) for key, item in value.items()}
    if origin is not dict and isinstance(value, list):
        return origin(convert(item, arguments[0], f"{place}[{n}]", problems) for n, item in enumerate(value))
    asked = "mapping of names to values" if origin is dict else "list"
    problems.append(f"{place} is {_shown(value)}, and it is a {asked}")
    return origin()


def _convert_scalar(value: Any, kind: Any, place: str, problems: list[str]) -> Any:
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        problems.append(f"{place} is {_shown(value)}, and it is {_WORDS[kind]}")
    return float(value) if fits and kind is float else value


def _convert_mapping(value: Any, kind: type, place: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{place} is {_shown(value)}, and it is a mapping of names to values")
        return None
    before = len(problems)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    problems += [f"{place}.{name}: {_unknown(str(name), list(fields))}" for name in value.keys() - fields.keys()]
    values = {}
    for name, field in fields.items():
        if name in value:
            values[name] = convert(value[name], hints[name], f"{place}.{name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{place}.{name} is missing")
    return kind(**values) if len(problems) == before else None


def overrides(kind: type, project: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Return what a stack's configuration says for the fields of `kind`, parsed; empty values say nothing.

    `given` has the names as Pulumi knows them, `project:name`, with their texts. Names of other projects are left out.
    """
    hints = get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for full, text in given.items():
        if not full.startswith(f"{project}:"):
            continue
        name = full.removeprefix(f"{project}:")
        value: Any = text
        if hints.get(name) is not str:
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                value = text
        if value not in ("", 0, [], {}):
            parsed[name] = value
    return parsed


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"there is no such setting; did you mean {close[0]}?" if close else "there is no such setting"


def _shown(value: Any) -> str:
    return "empty" if value is None else json.dumps(value, default=str, ensure_ascii=False)
