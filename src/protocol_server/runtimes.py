"""Runtimes: what users name in a function's first line, and the rules for their lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from protocol_server.document import Document, DocumentPath, read_schema, with_defaults

if TYPE_CHECKING:
    from protocol_server.config import ServerConfig

#: What runs in a sandbox when the runtime names no command, by language.
DEFAULT_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "python": ("python3", "-I", "/opt/caisson/runtime_python"),
    "r": ("Rscript", "--vanilla", "/opt/caisson/runtime_r/main.R"),
}

#: What is the server's own inside of a sandbox; nothing may be mounted there or beneath.
RESERVED_TARGETS: Final = ("/run/caisson", "/opt/caisson", "/etc/passwd", "/etc/group", "/proc", "/sys", "/dev")
#: The largest user or group id; the last two numbers mean none.
MAX_ID: Final = 2**32 - 3


@dataclass(frozen=True)
class Pool:
    """How many sandboxes of a runtime are kept ready: `min` always, `max` under load."""

    min: int
    max: int


@dataclass(frozen=True)
class Mount:
    """A directory of the host that sandboxes see at `container`."""

    host: str
    container: str
    writable: bool


@dataclass(frozen=True)
class DeviceRequest:
    """Devices for Docker to give, all or by id; `capabilities` say what they must be able to do, as `gpu`."""

    driver: str
    all: bool
    ids: tuple[str, ...]
    capabilities: tuple[str, ...]


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
    cpuset: str
    max_sandboxes: int
    resource_group_id: str
    enable_network: bool
    roles: tuple[str, ...]
    pool: Pool
    isolation: str = "default"
    container_logging: bool = True
    mounts: tuple[Mount, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    user: str = ""


def plain(runtime: Runtime) -> dict[str, Any]:
    """A runtime as runtimes.yml has it."""
    values = asdict(runtime)
    values["command"] = list(runtime.command)
    values["roles"] = list(runtime.roles)
    values["mounts"] = [
        {"host": mount.host, "container": mount.container, "access": "rw" if mount.writable else "ro"}
        for mount in runtime.mounts
    ]
    values["device_requests"] = [_plain_request(request) for request in runtime.device_requests]
    return values


def _plain_request(request: DeviceRequest) -> dict[str, Any]:
    values: dict[str, Any] = {"all": request.all, "capabilities": list(request.capabilities)}
    if request.driver:
        values["driver"] = request.driver
    if request.ids:
        values["ids"] = list(request.ids)
    return values


def load_runtimes(document: Document, server: ServerConfig | None) -> dict[str, Runtime]:
    """The runtimes of a document by id, in its order; what is wrong with them goes to the document's problems.

    Without `server` the rules that need the server's configuration are left out.
    """
    schema = read_schema("runtimes")
    if document.value is not None:
        document.validate(schema)
    if document.problems:
        return {}
    rules = schema["$defs"]["runtime"]
    runtimes: dict[str, Runtime] = {}
    first_lines: dict[str, int] = {}
    for index, item in enumerate(document.value["runtimes"]):
        path: DocumentPath = ("runtimes", index)
        values = with_defaults(rules, item)
        identifier = values["id"]
        line = document.lines[(*path, "id")]
        if identifier in first_lines:
            document.report((*path, "id"), f"id {identifier!r} is repeated, first in line {first_lines[identifier]}")
            continue
        first_lines[identifier] = line
        _check_runtime(document, path, values)
        if server is not None:
            _check_with_server(document, path, values, server)
        runtimes[identifier] = _runtime(values, rules)
    return runtimes


def _runtime(values: Mapping[str, Any], rules: Mapping[str, Any]) -> Runtime:
    integers = {key: int(values[key]) for key, rule in rules["properties"].items() if rule["type"] == "integer"}
    fixed = {
        "command": _command(values),
        "roles": tuple(values["roles"]),
        "pool": Pool(int(values["pool"]["min"]), int(values["pool"]["max"])),
        "cpus": float(values["cpus"]),
        "mounts": tuple(Mount(item["host"], item["container"], item["access"] == "rw") for item in values["mounts"]),
        "device_requests": tuple(
            DeviceRequest(
                item.get("driver", ""),
                item.get("all", False),
                tuple(item.get("ids", ())),
                tuple(item.get("capabilities", ("gpu",))),
            )
            for item in values["device_requests"]
        ),
    }
    return Runtime(**{**values, **integers, **fixed})


def _command(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(values.get("command") or DEFAULT_COMMANDS.get(values["language"], ()))


def _check_runtime(document: Document, path: DocumentPath, values: Mapping[str, Any]) -> None:
    """What a schema cannot say of one runtime."""
    minimum, maximum = values["pool"]["min"], values["pool"]["max"]
    if minimum > maximum:
        document.report((*path, "pool"), f"min of {minimum} is more than max of {maximum}")
    if 0 < values["max_sandboxes"] < maximum:
        document.report((*path, "max_sandboxes"), f"must be at least the pool's max of {maximum}")
    if not _command(values):
        document.report(path, f"key 'command' is missing, and language {values['language']!r} has no default for it")
    if values["enable_network"] and not values["roles"]:
        document.report((*path, "enable_network"), "a network needs roles: name those that may use it")
    if values["enable_network"] and values["isolation"] == "gvisor":
        document.report((*path, "enable_network"), "sandboxes with the isolation 'gvisor' have no network")
    if values["device_requests"] and not values["roles"]:
        document.report((*path, "device_requests"), "devices need roles: name those that may use them")
    if any(int(number) > MAX_ID for number in filter(None, values["user"].split(":"))):
        document.report((*path, "user"), f"ids are at most {MAX_ID}")
    for index, item in enumerate(values["device_requests"]):
        if item.get("all", False) == bool(item.get("ids")):
            document.report((*path, "device_requests", index), "either all devices or some by their ids")
    _check_mounts(document, path, values["mounts"])


def _check_mounts(document: Document, path: DocumentPath, mounts: list[dict[str, str]]) -> None:
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        where: DocumentPath = (*path, "mounts", index)
        for key in ("host", "container"):
            if not _is_normal(mount[key]):
                document.report((*where, key), f"{mount[key]!r} is not an absolute path without '.', '..' and '//'")
        target = mount["container"]
        for reserved in RESERVED_TARGETS:
            if _overlap(target, reserved):
                document.report((*where, "container"), f"{target!r} is the server's own ({reserved})")
        if target in seen:
            document.report((*where, "container"), f"{target!r} is used by another directory of this runtime")
        seen.add(target)


def _is_normal(path: str) -> bool:
    return path.startswith("/") and path != "/" and str(PurePosixPath(path)) == path and ".." not in path.split("/")


def _overlap(one: str, other: str) -> bool:
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)


def _check_with_server(document: Document, path: DocumentPath, values: Mapping[str, Any], server: ServerConfig) -> None:
    """What one runtime may do on this host."""
    language, group = values["language"], values["resource_group_id"]
    if language not in server.runtime_directories:
        known = ", ".join(server.runtime_directories)
        document.report((*path, "language"), f"{language!r} is not in runtime_directories, which has {known}")
    if group and group not in server.resource_groups:
        known = ", ".join(server.resource_groups) or "none"
        document.report((*path, "resource_group_id"), f"{group!r} is not in resource_groups, which has {known}")
    if values["enable_network"] and not server.network:
        document.report((*path, "enable_network"), "this host has no network for sandboxes (network is empty)")
    if server.backend == "process":
        _check_with_process(document, path, values)
    for index, mount in enumerate(values["mounts"]):
        host = PurePosixPath(mount["host"])
        if not any(host.is_relative_to(allowed) for allowed in server.allowed_mounts):
            known = ", ".join(server.allowed_mounts) or "none"
            document.report(
                (*path, "mounts", index, "host"), f"{mount['host']!r} is not beneath allowed_mounts, which has {known}"
            )


def _check_with_process(document: Document, path: DocumentPath, values: Mapping[str, Any]) -> None:
    if values["isolation"] != "default":
        document.report((*path, "isolation"), f"{values['isolation']!r} needs the backend docker, not process")
    for key in ("enable_network", "device_requests"):
        if values[key]:
            document.report((*path, key), "the backend process cannot give that; docker can")
