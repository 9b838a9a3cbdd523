"""Configuration: protocol_server.yml and runtimes.yml, validated whole before any of it takes effect.

Every problem is reported with file and line; nothing is guessed and nothing unknown is accepted.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol_server.document import ConfigError, Document, Problem, YamlDocument, read_schema, with_defaults
from protocol_server.runtimes import Pool, Runtime, load_runtimes
from protocol_server.xml_form import XmlDocument

__all__ = ["Config", "ConfigError", "Pool", "Problem", "Runtime", "ServerConfig", "load"]

#: Settings that only a restart can change: sockets, labels and directories in use.
RESTART_KEYS: Final = (
    "instance",
    "socket",
    "socket_group",
    "control_socket",
    "control_group",
    "metrics_port",
    "state_directory",
    "backend",
    "docker_socket",
    "image_directory",
)


@dataclass(frozen=True)
class ServerConfig:
    """protocol_server.yml. Durations are seconds; ids are those of this host, -1 is the server's own."""

    instance: str
    socket: Path
    socket_group: str
    socket_gid: int
    control_socket: Path
    control_group: str
    control_gid: int
    metrics_port: int
    allowed_users: tuple[str, ...]
    allowed_uids: frozenset[int]
    state_directory: Path
    runtimes_file: Path
    local_runtimes_file: Path
    image_directory: Path
    allowed_mounts: tuple[str, ...]
    runtime_directories: Mapping[str, str]
    backend: str
    docker_socket: Path
    cgroup_parent: str
    resource_groups: tuple[str, ...]
    network: str
    network_dns: tuple[str, ...]
    sandbox_uid: int
    sandbox_gid: int
    selinux: str
    max_sandboxes: int
    max_sandboxes_per_role: int
    role_limits: Mapping[str, int]
    queue_length: int
    queue_timeout_s: float
    max_connections: int
    request_timeout_s: float
    start_timeout_s: float
    start_retry_s: float
    start_concurrency: int
    reclaim_grace_s: float
    lease_idle_s: float
    pool_idle_s: float
    sandbox_log_mb: int
    sandbox_log_files: int
    log_level: str


@dataclass(frozen=True)
class Config:
    """All files, checked together."""

    server: ServerConfig
    runtimes: Mapping[str, Runtime]
    """Those in force: the host's own win over those that were rolled out."""
    rolled_out: Mapping[str, Runtime] = field(default_factory=dict)
    local: Mapping[str, Runtime] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    """Ids that this host's own file takes away."""


_PATH_KEYS: Final = (
    "socket",
    "control_socket",
    "state_directory",
    "runtimes_file",
    "docker_socket",
    "local_runtimes_file",
    "image_directory",
)


def _load_server(document: YamlDocument) -> ServerConfig | None:
    schema = read_schema("protocol_server")
    if document.value is not None:
        document.validate(schema)
    if document.problems:
        return None
    values = with_defaults(schema, document.value)
    uids = set()
    for index, user in enumerate(values["allowed_users"]):
        try:
            uids.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            document.report(("allowed_users", index), f"user {user!r} does not exist on this host")
    gids = {key: _gid(document, key, values[key]) for key in ("socket_group", "control_group")}
    if values["resource_groups"] and not values["cgroup_parent"].endswith(".slice"):
        document.report(("resource_groups",), "cgroup_parent must name a slice then, as caisson.slice")
    if document.problems:
        return None
    rules = schema["properties"]
    paths = {key: Path(values[key]) for key in _PATH_KEYS}
    integers = {key: int(values[key]) for key, rule in rules.items() if rule.get("type") == "integer"}
    lists = {key: tuple(values[key]) for key, rule in rules.items() if rule.get("type") == "array"}
    return ServerConfig(
        **{**values, **paths, **integers, **lists},
        allowed_uids=frozenset(uids),
        socket_gid=gids["socket_group"],
        control_gid=gids["control_group"],
    )


def _gid(document: Document, key: str, group: str) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        document.report((key,), f"group {group!r} does not exist on this host")
        return -1


def load(server_file: Path, runtimes_file: Path | None = None, local_file: Path | None = None) -> Config:
    """Read and check all files; `runtimes_file` and `local_file` stand in for those that the server's file names.

    Raises ConfigError with every problem of all files, in the order of file and line.
    """
    server_document = YamlDocument(server_file)
    server = _load_server(server_document)
    problems = list(server_document.problems)
    # Also when the server's file is refused: whoever mends it wants to know of the others' problems, too.
    file = runtimes_file or _named_file(server_document, server, "runtimes_file")
    rolled_out: dict[str, Runtime] = {}
    if file is not None:
        document = YamlDocument(file)
        rolled_out = load_runtimes(document, server)
        problems += document.problems
    file = local_file or _named_file(server_document, server, "local_runtimes_file")
    local: dict[str, Runtime] = {}
    removed: tuple[str, ...] = ()
    if file is not None and (local_file is not None or file.exists()):
        xml = XmlDocument(file)
        local = load_runtimes(xml, server)
        removed = tuple(xml.removed)
        for identifier in local.keys() & xml.removed.keys():
            xml.problems.append(Problem(xml.file, xml.removed[identifier], f"<removed>: {identifier!r} is a <runtime>"))
        problems += xml.problems
    if problems or server is None:
        raise ConfigError(sorted(set(problems)))
    kept = {identifier: runtime for identifier, runtime in rolled_out.items() if identifier not in removed}
    return Config(server, {**kept, **local}, rolled_out, local, removed)


def _named_file(document: YamlDocument, server: ServerConfig | None, key: str) -> Path | None:
    if server is not None:
        path: Path = getattr(server, key)
        return path
    named = document.value.get(key) if isinstance(document.value, dict) else None
    return Path(named) if isinstance(named, str) else None
