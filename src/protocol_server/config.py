"""Configuration: protocol_server.yml and runtimes.yml, validated whole before any of it takes effect.

Every problem is reported with file and line; nothing is guessed and nothing unknown is accepted.
"""

from __future__ import annotations

import grp
import json
import math
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

SCHEMA_DIRECTORY: Final = Path(__file__).parent / "schemas"

#: What runs in a sandbox when the runtime names no command, by language.
DEFAULT_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "python": ("python3", "-I", "/opt/caisson/runtime_python"),
}

#: A configuration beyond this is a mistake, and reading it would stall the server.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024

#: Settings that only a restart can change: sockets, labels and directories in use.
RESTART_KEYS: Final = ("instance", "socket", "socket_group", "state_directory", "backend", "docker_socket")


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


@dataclass(frozen=True)
class Pool:
    """How many sandboxes of a runtime are kept ready: `min` always, `max` under load."""

    min: int
    max: int


@dataclass(frozen=True)
class Runtime:
    """A runtime as users name it: image, command and limits. Sizes are MiB, `cpus` are CPUs."""

    id: str
    language: str
    image: str
    image_name: str
    command: tuple[str, ...]
    memory_mb: int
    cpu_shares: int
    cpus: float
    pids: int
    tmpfs_mb: int
    nofile: int
    roles: tuple[str, ...]
    pool: Pool


@dataclass(frozen=True)
class ServerConfig:
    """protocol_server.yml. Durations are seconds; `allowed_uids` and `socket_gid` are resolved on this host."""

    instance: str
    socket: Path
    socket_group: str
    socket_gid: int
    allowed_users: tuple[str, ...]
    allowed_uids: frozenset[int]
    state_directory: Path
    runtimes_file: Path
    runtime_directories: Mapping[str, str]
    backend: str
    docker_socket: Path
    cgroup_parent: str
    sandbox_uid: int
    sandbox_gid: int
    max_sandboxes: int
    queue_length: int
    queue_timeout_s: float
    max_connections: int
    request_timeout_s: float
    start_timeout_s: float
    start_retry_s: float
    start_concurrency: int
    reclaim_grace_s: float
    pool_idle_s: float
    sandbox_log_mb: int
    sandbox_log_files: int
    log_level: str


@dataclass(frozen=True)
class Config:
    """Both files, checked together."""

    server: ServerConfig
    runtimes: Mapping[str, Runtime]


_Path = tuple[str | int, ...]


class _Document:
    """A YAML file as plain values, with the line of every key and item."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)
        self.problems: list[Problem] = []
        self.lines: dict[_Path, int] = {}
        self.value: Any = None
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                self.report((), f"the file is larger than {MAX_FILE_BYTES} bytes")
                return
            loader = yaml.SafeLoader(data)
            try:
                root = loader.get_single_node()
                if root is None:
                    self.report((), "the file is empty")
                    return
                self.value = self._build(loader, root, (), ())
            finally:
                loader.dispose()
        except OSError as error:
            self.report((), f"cannot be read: {error.strerror}")
        except RecursionError:
            self.report((), "nested too deeply")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.problems.append(Problem(self.file, mark.line + 1 if mark else 0, f"not valid YAML: {error.problem}"))
        except yaml.YAMLError as error:
            self.report((), f"not valid YAML: {' '.join(str(error).split())}")

    def report(self, path: _Path, rule: str) -> None:
        """Record a broken rule at the line of `path`, or of the nearest thing around it."""
        where = path
        while where and where not in self.lines:
            where = where[:-1]
        name = _path_text(path)
        self.problems.append(Problem(self.file, self.lines.get(where, 0), f"{name}: {rule}" if name else rule))

    def _build(self, loader: yaml.SafeLoader, node: yaml.Node, path: _Path, above: tuple[int, ...]) -> Any:
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
        self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: _Path, above: tuple[int, ...]
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


def _path_text(path: _Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _rules(error: jsonschema.ValidationError, path: _Path) -> Iterator[tuple[_Path, str]]:
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


def _schema(name: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads((SCHEMA_DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def _with_defaults(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    return {**{key: rule["default"] for key, rule in properties.items() if "default" in rule}, **value}


def _load_server(document: _Document) -> ServerConfig | None:
    schema = _schema("protocol_server")
    if document.value is not None:
        document.validate(schema)
    if document.problems:
        return None
    values = _with_defaults(schema, document.value)
    uids = set()
    for index, user in enumerate(values["allowed_users"]):
        try:
            uids.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            document.report(("allowed_users", index), f"user {user!r} does not exist on this host")
    try:
        gid = grp.getgrnam(values["socket_group"]).gr_gid
    except KeyError:
        document.report(("socket_group",), f"group {values['socket_group']!r} does not exist on this host")
        gid = -1
    if document.problems:
        return None
    paths = {key: Path(values[key]) for key in ("socket", "state_directory", "runtimes_file", "docker_socket")}
    integers = {key: int(values[key]) for key, rule in schema["properties"].items() if rule.get("type") == "integer"}
    allowed = tuple(values["allowed_users"])
    return ServerConfig(
        **{**values, **paths, **integers, "allowed_users": allowed}, allowed_uids=frozenset(uids), socket_gid=gid
    )


def _load_runtimes(document: _Document, languages: Mapping[str, str] | None) -> dict[str, Runtime]:
    schema = _schema("runtimes")
    if document.value is not None:
        document.validate(schema)
    if document.problems:
        return {}
    rules = schema["$defs"]["runtime"]
    runtimes: dict[str, Runtime] = {}
    first_lines: dict[str, int] = {}
    for index, item in enumerate(document.value["runtimes"]):
        path: _Path = ("runtimes", index)
        values = _with_defaults(rules, item)
        identifier = values["id"]
        line = document.lines[(*path, "id")]
        if identifier in first_lines:
            document.report((*path, "id"), f"id {identifier!r} is repeated, first in line {first_lines[identifier]}")
            continue
        first_lines[identifier] = line
        pool = Pool(int(values["pool"]["min"]), int(values["pool"]["max"]))
        if pool.min > pool.max:
            document.report((*path, "pool"), f"min of {pool.min} is more than max of {pool.max}")
        language = values["language"]
        if languages is not None and language not in languages:
            document.report(
                (*path, "language"), f"{language!r} is not in runtime_directories, which has {', '.join(languages)}"
            )
        command = tuple(values.get("command") or DEFAULT_COMMANDS.get(language, ()))
        if not command:
            document.report(path, f"key 'command' is missing, and language {language!r} has no default for it")
        integers = {key: int(values[key]) for key, rule in rules["properties"].items() if rule["type"] == "integer"}
        fixed = {"command": command, "roles": tuple(values["roles"]), "pool": pool, "cpus": float(values["cpus"])}
        runtimes[identifier] = Runtime(**{**values, **integers, **fixed})
    return runtimes


def load(server_file: Path, runtimes_file: Path | None = None) -> Config:
    """Read and check both files; `runtimes_file` stands in for the one that the server's file names.

    Raises ConfigError with every problem of both files, in the order of file and line.
    """
    server_document = _Document(server_file)
    server = _load_server(server_document)
    problems = list(server_document.problems)
    runtimes: dict[str, Runtime] = {}
    file = runtimes_file
    if file is None and isinstance(server_document.value, dict):
        # Also when the server's file is refused: whoever mends it wants to know of the other one's problems, too.
        named = server.runtimes_file if server is not None else server_document.value.get("runtimes_file")
        file = Path(named) if isinstance(named, str | Path) else None
    if file is not None:
        document = _Document(file)
        runtimes = _load_runtimes(document, server.runtime_directories if server is not None else None)
        problems += document.problems
    if problems or server is None:
        raise ConfigError(sorted(set(problems)))
    return Config(server, runtimes)
