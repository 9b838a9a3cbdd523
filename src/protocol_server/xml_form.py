"""The XML form of runtimes: what PL/Container's users know, read strictly and written back.

    <configuration>
        <runtime>
            <id>plc_python</id>
            <image name="caisson/plpython:1">sha256:...</image>
            <language>python</language>
            <command>python3 -I /opt/caisson/runtime_python</command>
            <shared_directory host="/data" container="/data" access="ro"/>
            <setting memory_mb="512"/>
            <setting roles="analysts,ops"/>
            <device_request type="gpu" all="yes"/>
        </runtime>
        <removed>plc_python_shared</removed>
    </configuration>

It is turned into the same plain values that runtimes.yml has, so the same schema and the same rules hold for both.
Documents with a DTD are refused: nothing is expanded and nothing is fetched.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from protocol_server.document import Document, DocumentPath, Problem
from protocol_server.runtimes import DEFAULT_COMMANDS

#: What a runtime has that does not say otherwise: PL/Container's values where it has them.
DEFAULTS: Final[Mapping[str, Any]] = {
    "memory_mb": 1024,
    "cpu_shares": 1024,
    "cpus": 1.0,
    "pids": 64,
    "tmpfs_mb": 64,
    "nofile": 1024,
}

_MAX_DEPTH: Final = 8
_CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "configuration": ("runtime", "removed"),
    "runtime": ("id", "image", "language", "command", "shared_directory", "setting", "device_request"),
    "device_request": ("deviceid", "capacity"),
}
_ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("name",),
    "shared_directory": ("host", "container", "access"),
    "device_request": ("type", "all", "driver"),
}
_TEXT: Final = ("id", "image", "language", "command", "removed", "deviceid", "capacity")
#: PL/Container's own clients stand for a language; the server brings what runs in a sandbox itself.
_CLIENT_DIRECTORY: Final = "/clientdir"
_CLIENTS: Final = ((re.compile(r"/clientdir/(py|python)[0-9]*client[^\s]*"), "python"),
                   (re.compile(r"/clientdir/rclient[^\s]*"), "r"))  # fmt: skip
_UNWRITABLE: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _ValueProblem(Exception):  # noqa: N818 - caught where it is reported
    """A text that is not of the form that its place wants."""


@dataclass
class _Element:
    name: str
    line: int
    attributes: dict[str, str]
    text: str = ""
    children: list[_Element] = field(default_factory=list)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _ValueProblem(f"must be a whole number, not {text!r}")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise _ValueProblem(f"must be a number, not {text!r}")
    return float(text)


def _flag(text: str) -> bool:
    try:
        return {"yes": True, "no": False}[text]
    except KeyError:
        raise _ValueProblem(f"must be yes or no, not {text!r}") from None


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise _ValueProblem(f"must be names with commas between them, not {text!r}")
    return names


#: Attribute of <setting> -> key in runtimes.yml and how its text is read.
_SETTINGS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "memory_mb": ("memory_mb", _integer),
    "cpu_share": ("cpu_shares", _integer),
    "cpus": ("cpus", _number),
    "cpuset": ("cpuset", str),
    "pids": ("pids", _integer),
    "tmpfs_mb": ("tmpfs_mb", _integer),
    "nofile": ("nofile", _integer),
    "max_sandboxes": ("max_sandboxes", _integer),
    "pool_min": ("pool_min", _integer),
    "pool_max": ("pool_max", _integer),
    "isolation": ("isolation", str),
    "user": ("user", str),
    "use_container_logging": ("container_logging", _flag),
    "enable_network": ("enable_network", _flag),
    "resource_group_id": ("resource_group_id", str),
    "roles": ("roles", _names),
}


def setting_names() -> tuple[str, ...]:
    """The attributes that <setting> may have."""
    return tuple(_SETTINGS)


def read_setting(name: str, text: str) -> tuple[str, Any]:
    """Key in runtimes.yml (pool_min and pool_max for those of `pool`) and value of a setting. Raises ValueError."""
    if name not in _SETTINGS:
        raise ValueError(f"unknown setting; known are {', '.join(_SETTINGS)}")
    key, convert = _SETTINGS[name]
    try:
        return key, convert(text)
    except _ValueProblem as error:
        raise ValueError(str(error)) from error


class _RefusedError(Exception):
    """What comes does not matter any more."""


class XmlDocument(Document):
    """An XML file of runtimes; `value` has them as runtimes.yml does; `removed`: id -> line of what shall not be."""

    def __init__(self, file: Path) -> None:
        """Read `file`; see Document."""
        self.removed: dict[str, int] = {}
        super().__init__(file)

    def parse(self, data: bytes) -> None:
        """Fill `value`, `removed` and `lines`."""
        root = self._read(data)
        if root is None:
            return
        self.lines[()] = root.line
        if root.name != "configuration":
            self._problem(root.line, f"<{root.name}>: the outermost element must be <configuration>")
            return
        if not self._check(root):
            return
        runtimes: list[dict[str, Any]] = []
        for child in root.children:
            if child.name == "runtime":
                runtimes.append(self._runtime(child, len(runtimes)))
            elif child.text in self.removed:
                self._problem(child.line, f"<removed>: {child.text!r} is repeated")
            else:
                self.removed[child.text] = child.line
        if not self.problems:
            self.value = {"runtimes": runtimes}

    def _problem(self, line: int, rule: str) -> None:
        self.problems.append(Problem(self.file, line, rule))

    def _read(self, data: bytes) -> _Element | None:
        """The file as a tree; None when it is not one."""
        parser = expat.ParserCreate()
        open_elements: list[_Element] = []
        roots: list[_Element] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            element = _Element(name, parser.CurrentLineNumber, attributes)
            (open_elements[-1].children if open_elements else roots).append(element)
            open_elements.append(element)
            if len(open_elements) > _MAX_DEPTH:
                self._problem(parser.CurrentLineNumber, "nested too deeply")
                raise _RefusedError

        def end(_name: str) -> None:
            open_elements.pop()

        def text(piece: str) -> None:
            open_elements[-1].text += piece

        def doctype(*_: object) -> None:
            self._problem(parser.CurrentLineNumber, "a document type declaration is not accepted")
            raise _RefusedError

        parser.buffer_text = True
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = text
        parser.StartDoctypeDeclHandler = doctype
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            self._problem(error.lineno, f"not valid XML: {expat.ErrorString(error.code)}")
            return None
        except _RefusedError:
            return None
        return roots[0]

    def _check(self, element: _Element) -> bool:
        """Report what an element must not have, and everything beneath it; whether there was nothing."""
        before = len(self.problems)
        element.text = element.text.strip()
        allowed = _SETTINGS if element.name == "setting" else _ATTRIBUTES.get(element.name, ())
        for name in element.attributes:
            if name not in allowed:
                known = ", ".join(sorted(allowed)) or "none"
                self._problem(element.line, f"<{element.name}>: unknown attribute {name!r}; known are {known}")
        if element.text and element.name not in _TEXT:
            self._problem(element.line, f"<{element.name}>: text has no place here: {element.text[:40]!r}")
        if not element.text and element.name in _TEXT:
            self._problem(element.line, f"<{element.name}> is empty")
        if element.name == "setting" and not element.attributes:
            self._problem(element.line, "<setting> has no attribute")
        children = _CHILDREN.get(element.name, ())
        for child in element.children:
            if child.name in children:
                self._check(child)
            elif child.name == "backend":
                self._problem(child.line, "<backend>: what isolates sandboxes is said in protocol_server.yml")
            else:
                known = ", ".join(children) or "none"
                self._problem(child.line, f"<{child.name}> has no place in <{element.name}>; known are {known}")
        return len(self.problems) == before

    def _runtime(self, element: _Element, index: int) -> dict[str, Any]:
        """A runtime's values; those that the schema cannot judge are judged here."""
        path: DocumentPath = ("runtimes", index)
        self.lines[path] = element.line
        values: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for child in element.children:
            if child.name in ("id", "image", "language", "command"):
                self._single(child, path, values)
            elif child.name == "setting":
                self._setting(child, path, settings)
            elif child.name == "shared_directory":
                self._shared_directory(child, path, values)
            else:
                self._device_request(child, path, values)
        self._settle(element, path, values)
        minimum = settings.pop("pool_min", 0)
        pool = {"min": minimum, "max": settings.pop("pool_max", minimum)}
        self.lines.setdefault((*path, "pool"), element.line)
        return {**DEFAULTS, **settings, "pool": pool, **values}

    def _single(self, child: _Element, path: DocumentPath, values: dict[str, Any]) -> None:
        if child.name in values:
            first = self.lines[(*path, child.name)]
            self._problem(child.line, f"<{child.name}> is repeated, first in line {first}")
            return
        self.lines[(*path, child.name)] = child.line
        values[child.name] = child.text
        if child.name == "image" and "name" in child.attributes:
            values["image_name"] = child.attributes["name"]
            self.lines[(*path, "image_name")] = child.line
        if child.name == "command":
            try:
                values["command"] = shlex.split(child.text)
            except ValueError as error:
                self._problem(child.line, f"<command>: {error}")

    def _settle(self, element: _Element, path: DocumentPath, values: dict[str, Any]) -> None:
        """What follows from what was said: language, command and the image's name."""
        for name in ("id", "image", "command"):
            if name not in values and not (name == "command" and "language" in values):
                self._problem(element.line, f"<runtime>: <{name}> is missing")
        command = values.get("command") or [""]
        for pattern, language in _CLIENTS:
            if pattern.fullmatch(command[0]):
                values.setdefault("language", language)
                del values["command"]
        if "language" not in values and "command" in values:
            self._problem(
                self.lines[(*path, "command")], "<command>: not one of PL/Container's, so <language> must be there"
            )
            values["language"] = "unknown"
        values.setdefault("language", "unknown")
        values.setdefault("image_name", values.get("image", ""))

    def _setting(self, child: _Element, path: DocumentPath, settings: dict[str, Any]) -> None:
        for name, text in child.attributes.items():
            key, convert = _SETTINGS[name]
            if key in settings:
                self._problem(child.line, f"<setting>: {name!r} is repeated, first in line {self.lines[(*path, key)]}")
                continue
            self.lines[(*path, key)] = child.line
            if key.startswith("pool_"):
                self.lines[(*path, "pool")] = self.lines[(*path, "pool", key.removeprefix("pool_"))] = child.line
            try:
                settings[key] = convert(text)
            except _ValueProblem as error:
                self._problem(child.line, f"<setting>: {name} {error}")

    def _shared_directory(self, child: _Element, path: DocumentPath, values: dict[str, Any]) -> None:
        missing = [name for name in _ATTRIBUTES["shared_directory"] if name not in child.attributes]
        for name in missing:
            self._problem(child.line, f"<shared_directory>: attribute {name!r} is missing")
        if missing or child.attributes["container"] == _CLIENT_DIRECTORY:
            # There PL/Container has its clients, in whose place the server mounts its own.
            return
        mounts = values.setdefault("mounts", [])
        where: DocumentPath = (*path, "mounts", len(mounts))
        for step in (where, *((*where, name) for name in child.attributes)):
            self.lines[step] = child.line
        mounts.append(dict(child.attributes))

    def _device_request(self, child: _Element, path: DocumentPath, values: dict[str, Any]) -> None:
        requests = values.setdefault("device_requests", [])
        self.lines.setdefault((*path, "device_requests"), child.line)
        self.lines[(*path, "device_requests", len(requests))] = child.line
        kind = child.attributes.get("type")
        if kind is None:
            self._problem(child.line, "<device_request>: attribute 'type' is missing")
            return
        request: dict[str, Any] = {}
        try:
            request["all"] = _flag(child.attributes.get("all", "no"))
        except _ValueProblem as error:
            self._problem(child.line, f"<device_request>: all {error}")
        if "driver" in child.attributes:
            request["driver"] = child.attributes["driver"]
        texts = {name: [one.text for one in child.children if one.name == name] for name in ("deviceid", "capacity")}
        if texts["deviceid"]:
            request["ids"] = texts["deviceid"]
        request["capabilities"] = list(dict.fromkeys([kind, *texts["capacity"]]))
        requests.append(request)


def write_xml(runtimes: Iterable[Mapping[str, Any]], removed: Iterable[str] = (), comment: str = "") -> str:
    """Runtimes in the form of runtimes.yml as XML. Raises ValueError for text that XML cannot hold."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    if comment:
        lines.append(f"<!-- {comment.replace('--', '- -')} -->")
    lines.append("<configuration>")
    for runtime in runtimes:
        lines += ["    <runtime>", *(f"        {line}" for line in _runtime_lines(runtime)), "    </runtime>"]
    lines += [f"    <removed>{escape(identifier)}</removed>" for identifier in removed]
    text = "\n".join([*lines, "</configuration>", ""])
    unwritable = _UNWRITABLE.search(text)
    if unwritable is not None:
        raise ValueError(f"XML cannot hold the character {unwritable[0]!r}")
    return text


def _runtime_lines(runtime: Mapping[str, Any]) -> list[str]:
    lines = [
        f"<id>{escape(runtime['id'])}</id>",
        f"<image name={quoteattr(runtime['image_name'])}>{escape(runtime['image'])}</image>",
        f"<language>{escape(runtime['language'])}</language>",
    ]
    command = tuple(runtime.get("command", ()))
    if command not in ((), DEFAULT_COMMANDS.get(runtime["language"])):
        lines.append(f"<command>{escape(shlex.join(command))}</command>")
    for mount in runtime.get("mounts", ()):
        attributes = " ".join(f"{name}={quoteattr(mount[name])}" for name in ("host", "container", "access"))
        lines.append(f"<shared_directory {attributes}/>")
    pool = runtime.get("pool", {})
    flat = {**runtime, **{f"pool_{name}": value for name, value in pool.items()}}
    for name, (key, _) in _SETTINGS.items():
        if flat.get(key) not in (None, "", []):
            lines.append(f"<setting {name}={quoteattr(_text(flat[key]))}/>")
    return [*lines, *(line for request in runtime.get("device_requests", ()) for line in _device_lines(request))]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _device_lines(request: Mapping[str, Any]) -> list[str]:
    kind, *more = request.get("capabilities") or ["gpu"]
    driver = f" driver={quoteattr(request['driver'])}" if request.get("driver") else ""
    lines = [f'<device_request type={quoteattr(kind)} all="{_text(bool(request.get("all")))}"{driver}>']
    lines += [f"    <deviceid>{escape(one)}</deviceid>" for one in request.get("ids", ())]
    lines += [f"    <capacity>{escape(one)}</capacity>" for one in more]
    return [*lines, "</device_request>"]
