"""What may keep a host from serving, looked at one by one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plcontainer_cli.failure import Failure
from plcontainer_cli.host import Host, differences
from plcontainer_cli.images import images_of
from plcontainer_cli.unix_http import NoAnswerError, ask
from protocol_server.backends.process_cgroup import find_cgroups
from protocol_server.config import Config, ServerConfig

_LOW_BYTES: Final = {"run": 16 << 20, "images": 1 << 30}
_LOW_INODES: Final = 1000


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is (`ok`, `warning`, `failed`), and what was seen."""

    name: str
    state: str
    detail: str


def examine(host: Host) -> list[Check]:
    """All checks that can be made; without a valid configuration there is one."""
    try:
        config = host.load()
    except Failure as failure:
        return [Check("configuration", "failed", "; ".join([failure.message, *failure.details]))]
    checks = [Check("configuration", "ok", f"{len(config.runtimes)} runtimes")]
    parts: list[Callable[[Config], Iterator[Check]]] = [
        _drift,
        _server,
        _lease_socket,
        _backend,
        _images,
        _cgroups,
        _room,
    ]
    for part in parts:
        try:
            checks += part(config)
        except Failure as failure:
            checks.append(Check(part.__name__.strip("_"), "failed", failure.format_message()))
    return checks


def _drift(config: Config) -> Iterator[Check]:
    changes = differences(config.rolled_out, config.runtimes)
    if changes:
        names = ", ".join(f"{change['id']} ({change['change']})" for change in changes)
        yield Check("drift", "warning", f"differs from what site.yml rolled out: {names}")
    else:
        yield Check("drift", "ok", "as site.yml rolled it out")


def _server(config: Config) -> Iterator[Check]:
    try:
        answer = ask(config.server.control_socket, "GET", "/v1/state")
    except NoAnswerError as error:
        yield Check("server", "failed", str(error))
        return
    if not answer.ok:
        yield Check("server", "failed", answer.error)
        return
    draining = bool(answer.body.get("draining"))
    shown = ", ".join(f"{key} {value}" for key, value in answer.body.items() if isinstance(value, int | str | float))
    yield Check("server", "warning" if draining else "ok", shown)


def _lease_socket(config: Config) -> Iterator[Check]:
    path = config.server.socket
    try:
        found = path.stat()
    except OSError as error:
        yield Check("lease socket", "failed", f"{path}: {error.strerror}")
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield Check("lease socket", "failed", f"{path} is no socket")
    elif found.st_gid != config.server.socket_gid:
        yield Check("lease socket", "failed", f"{path} does not belong to group {config.server.socket_group}")
    else:
        yield Check("lease socket", "ok", str(path))


def _backend(config: Config) -> Iterator[Check]:
    if config.server.backend == "process":
        yield _bubblewrap()
        return
    try:
        answer = ask(config.server.docker_socket, "GET", "/info")
    except NoAnswerError as error:
        yield Check("docker", "failed", str(error))
        return
    if not answer.ok:
        yield Check("docker", "failed", answer.error)
        return
    yield Check("docker", "ok", f"{answer.body.get('ServerVersion')} at {config.server.docker_socket}")
    wanted = [runtime.id for runtime in config.runtimes.values() if runtime.isolation == "gvisor"]
    if wanted:
        there = "runsc" in (answer.body.get("Runtimes") or {})
        detail = (
            "Docker has the runtime runsc" if there else f"Docker has no runtime runsc, which {', '.join(wanted)} need"
        )
        yield Check("gvisor", "ok" if there else "failed", detail)


def _bubblewrap() -> Check:
    program = shutil.which("bwrap")
    if program is None:
        return Check("bubblewrap", "failed", "bwrap is not installed")
    command = [program, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "--", "/bin/true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode:
        return Check("bubblewrap", "failed", f"the host lets no namespace be made: {done.stderr.strip()}")
    return Check("bubblewrap", "ok", program)


def _images(config: Config) -> Iterator[Check]:
    there = {image.id for image in images_of(config.server).list()}
    for runtime in config.runtimes.values():
        found = runtime.image in there
        detail = f"{runtime.image_name} ({runtime.image})"
        yield Check(f"image of {runtime.id}", "ok" if found else "failed", detail if found else f"{detail} is missing")


def _cgroups(config: Config) -> Iterator[Check]:
    kind = "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1"
    if config.server.backend != "process":
        yield Check("cgroups", "ok", f"version {kind}, made by Docker")
        return
    if not config.server.cgroup_parent:
        yield Check("cgroups", "ok", f"version {kind}; the server looks for a group of its own when it starts")
        return
    missing = find_cgroups(config.server.cgroup_parent).missing
    if missing:
        detail = f"no limits of {', '.join(missing)} can be set in {config.server.cgroup_parent}"
        yield Check("cgroups", "warning", detail)
    else:
        yield Check("cgroups", "ok", f"version {kind} in {config.server.cgroup_parent}")


def _room(config: Config) -> Iterator[Check]:
    yield _free("room for sandboxes", config.server.state_directory, _LOW_BYTES["run"])
    yield _free("room for images", _image_directory(config.server), _LOW_BYTES["images"])


def _image_directory(config: ServerConfig) -> Path:
    if config.backend == "process":
        return config.image_directory
    try:
        answer = ask(config.docker_socket, "GET", "/info")
    except NoAnswerError:
        return Path("/var/lib")
    return Path(answer.body.get("DockerRootDir", "/var/lib")) if answer.ok else Path("/var/lib")


def _free(name: str, directory: Path, least: int) -> Check:
    try:
        space = os.statvfs(directory)
    except OSError as error:
        return Check(name, "failed", f"{directory}: {error.strerror}")
    free = space.f_bavail * space.f_frsize
    detail = f"{free >> 20} MiB and {space.f_favail} inodes are free in {directory}"
    # File systems without a table of inodes tell 0 of 0.
    few = space.f_files > 0 and space.f_favail < _LOW_INODES
    return Check(name, "failed" if free < least or few else "ok", detail)
