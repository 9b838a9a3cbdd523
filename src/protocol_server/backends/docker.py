"""Sandboxes as Docker containers.

Deaths are noticed through a pidfd of the container's first process, faster than Docker tells, and in time to read the
cgroup's counters; Docker's event stream adds the exit status and covers hosts where processes are hidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from protocol_server.backends import Backend, Connections, Exit
from protocol_server.backends.accounts import HOME, account, account_mounts, write_accounts
from protocol_server.backends.docker_api import DockerApi, DockerError, DockerSilentError
from protocol_server.backends.exits import describe_exit
from protocol_server.backends.process_cgroup import slice_path
from protocol_server.backends.rendezvous import (
    SOCKET_NAME,
    Rendezvous,
    free_space,
    remove_directory,
    sandboxes_directory,
)
from protocol_server.cgroup import MemoryCounters, MemoryEvents, Usage, systemd_root, usage_of_process
from protocol_server.config import Runtime, ServerConfig
from protocol_server.errors import (
    SQLSTATE_SYSTEM_ERROR,
    SQLSTATE_TOO_MANY_CONNECTIONS,
    SQLSTATE_UNDEFINED_FILE,
    BackendUnavailableError,
    StartFailedError,
)
from protocol_server.logs import Log
from protocol_server.process import Watch
from protocol_server.runtimes import DeviceRequest, Mount
from protocol_server.selinux import NETWORK_SANDBOX_TYPE, SANDBOX_TYPE, Label, Levels, LevelsExhaustedError, Selinux

MIB: Final = 1024 * 1024
SANDBOX_RUN_DIRECTORY: Final = "/run/caisson"
LABEL_COMPONENT: Final = "caisson.component"
LABEL_INSTANCE: Final = "caisson.instance"
LABEL_SANDBOX: Final = "caisson.sandbox"
LABEL_RUNTIME: Final = "caisson.runtime"
LABEL_MEMORY: Final = "caisson.memory_mb"
LABEL_LEVEL: Final = "caisson.selinux_level"
#: Docker's name for what runs a container, by a runtime's isolation.
ISOLATION_RUNTIMES: Final = {"default": "", "gvisor": "runsc"}
_LOG_TAIL_LINES: Final = 20
_LOG_TAIL_CHARACTERS: Final = 4000
#: A backend must hear of a death within a second; Docker's exit status usually follows in 20 ms.
_EXIT_STATUS_WAIT_S: Final = 0.5
_LATE_CREATION_S: Final = 10.0


def container_name(sandbox: str) -> str:
    """The name of a sandbox's container."""
    return f"plcontainer-{sandbox}"


def cgroup_parent(config: ServerConfig, runtime: Runtime, driver: str, root: PurePosixPath) -> str:
    """The parent of a sandbox's cgroup as Docker's cgroup driver wants it: a slice's name, or its path below `root`."""
    parent, group = config.cgroup_parent, runtime.resource_group_id
    if not parent.endswith(".slice"):
        return parent
    path = slice_path(parent, group)
    return path.name if driver == "systemd" else str(root / path)


def _network(config: ServerConfig, runtime: Runtime) -> dict[str, Any]:
    """None, or the host's network for sandboxes, whose packets the host filters."""
    if not runtime.enable_network:
        return {"NetworkMode": "none"}
    # Docker's own resolver would ask the host's name servers; one that does not answer keeps it from that.
    return {"NetworkMode": config.network, "Dns": list(config.network_dns) or ["127.0.0.1"], "DnsSearch": ["."]}


def container_config(
    config: ServerConfig, runtime: Runtime, sandbox: str, driver: str = "cgroupfs", label: Label | None = None
) -> dict[str, Any]:
    """The body of Docker's create call: everything that locks a sandbox in is in here.

    `driver` is that of cgroups; `label` is SELinux's, None where it is not used.
    """
    directory = sandboxes_directory(config.state_directory) / sandbox
    runtime_directory = f"/opt/caisson/runtime_{runtime.language}"
    memory = runtime.memory_mb * MIB
    ulimits = {"nofile": runtime.nofile, "core": 0}
    return {
        "Image": runtime.image,
        "Cmd": list(runtime.command),
        # An image's own entry point would run the command as its arguments.
        "Entrypoint": [],
        "User": str(account(config, runtime)),
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "NetworkDisabled": not runtime.enable_network,
        "Env": [f"PLC_SOCKET={SANDBOX_RUN_DIRECTORY}/{SOCKET_NAME}", f"PLC_RUNTIME_ID={runtime.id}", f"HOME={HOME}"],
        "Labels": {
            LABEL_COMPONENT: "sandbox",
            LABEL_SANDBOX: sandbox,
            LABEL_RUNTIME: runtime.id,
            LABEL_INSTANCE: config.instance,
            LABEL_MEMORY: str(runtime.memory_mb),
            **({LABEL_LEVEL: label.level} if label is not None else {}),
        },
        "HostConfig": {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges", *(label.docker_options if label is not None else ())],
            "ReadonlyRootfs": True,
            **_network(config, runtime),
            "IpcMode": "private",
            "Memory": memory,
            "MemorySwap": memory,
            "CpuShares": runtime.cpu_shares,
            "NanoCpus": round(runtime.cpus * 1e9),
            "CpusetCpus": runtime.cpuset,
            "PidsLimit": _pids_limit(runtime),
            # On a host that runs out of memory, sandboxes go before the database does.
            "OomScoreAdj": 500,
            "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in ulimits.items()],
            "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,size={runtime.tmpfs_mb}m,mode=1777"},  # noqa: S108
            "ShmSize": runtime.tmpfs_mb * MIB,
            "Init": False,
            "Mounts": [
                {"Type": "bind", "Source": str(directory), "Target": SANDBOX_RUN_DIRECTORY, "ReadOnly": True},
                {
                    "Type": "bind",
                    "Source": config.runtime_directories[runtime.language],
                    "Target": runtime_directory,
                    "ReadOnly": True,
                },
                *(
                    {"Type": "bind", "Source": str(file), "Target": target, "ReadOnly": True}
                    for target, file in account_mounts(config, runtime).items()
                ),
                *map(_mount, runtime.mounts),
            ],
            "DeviceRequests": [_device_request(request) for request in runtime.device_requests],
            # Empty: Docker's default.
            "Runtime": ISOLATION_RUNTIMES[runtime.isolation],
            "CgroupParent": cgroup_parent(config, runtime, driver, systemd_root()),
            "LogConfig": _log_config(config, runtime),
            "RestartPolicy": {"Name": "no"},
        },
    }


def _pids_limit(runtime: Runtime) -> int:
    # gVisor's own threads are some 30, and it needs up to two of the host's for each of the sandbox's.
    return runtime.pids if runtime.isolation == "default" else 2 * runtime.pids + 64


def _mount(mount: Mount) -> dict[str, Any]:
    # Nothing of what a sandbox mounts beneath is seen on the host, and the other way round.
    options = {"Propagation": "private"}
    return {
        "Type": "bind",
        "Source": mount.host,
        "Target": mount.container,
        "ReadOnly": not mount.writable,
        "BindOptions": options,
    }


def _device_request(request: DeviceRequest) -> dict[str, Any]:
    return {
        "Driver": request.driver,
        "Count": -1 if request.all else 0,
        "DeviceIDs": list(request.ids),
        "Capabilities": [list(request.capabilities)],
    }


def _log_config(config: ServerConfig, runtime: Runtime) -> dict[str, Any]:
    if not runtime.container_logging:
        return {"Type": "none", "Config": {}}
    limits = {"max-size": f"{config.sandbox_log_mb}m", "max-file": str(config.sandbox_log_files)}
    return {"Type": "json-file", "Config": limits}


@dataclass(frozen=True)
class _Listed:
    """A sandbox's container in Docker's list."""

    sandbox: str
    instance: str
    level: str
    state: str

    @classmethod
    def read(cls, labels: Mapping[str, Any], state: str) -> _Listed:
        sandbox, instance, level = (str(labels.get(name, "")) for name in (LABEL_SANDBOX, LABEL_INSTANCE, LABEL_LEVEL))
        return cls(sandbox, instance, level, state)


class _Container:
    """What is known of one sandbox's container while it lives."""

    def __init__(self, memory_mb: int | None) -> None:
        self.memory_mb = memory_mb
        self.ended = asyncio.Event()
        self.status_known = asyncio.Event()
        self.status: int | None = None
        self.oom_reported = False
        self.gvisor = False
        self.memory_events: MemoryEvents | None = None
        self.creating: asyncio.Task[Any] | None = None
        self.seen_running = False
        self.gone_at: float | None = None
        self.pid = 0
        self._counters: MemoryCounters | None = None
        self._watch: Watch | None = None

    def attach(self, pid: int) -> None:
        """Watch the container's first process, when it can be seen."""
        self.seen_running = True
        if self.ended.is_set() or self._watch is not None:
            return
        try:
            self._watch = Watch(pid, self.on_end)
        except OSError:
            # Hidden or gone already: Docker's events and its list of containers tell as well.
            return
        self.pid = pid
        self._counters = MemoryCounters.of_process(pid)

    def on_end(self) -> None:
        """The first process has ended: read the counters now, the cgroup is about to go."""
        if self._counters is not None:
            self.memory_events = self._counters.read() or self.memory_events
        self.detach()
        self.ended.set()

    def on_status(self, status: int) -> None:
        """Docker told the exit status."""
        self.status = status
        self.status_known.set()
        self.on_end()

    def may_appear(self) -> bool:
        """Whether the container, which is not there, may yet come: a Docker that was stuck works off old requests."""
        if self.creating is None or not self.creating.done() or self.creating.cancelled():
            return False
        if not isinstance(self.creating.exception(), DockerSilentError):
            return False
        now = asyncio.get_running_loop().time()
        self.gone_at = self.gone_at or now
        return now - self.gone_at < _LATE_CREATION_S

    def alive(self) -> bool:
        return not self.ended.is_set() and (self._watch is None or not self._watch.ended)

    def detach(self) -> None:
        """Give all descriptors back."""
        if self._watch is not None:
            self._watch.close()
        if self._counters is not None:
            self._counters.close()
            self._counters = None


class DockerBackend(Backend):
    """Starts, watches and removes containers of one Docker daemon."""

    def __init__(self, config: ServerConfig, log: Log, on_available: Callable[[], None]) -> None:
        super().__init__(config, log, on_available)
        self._api = DockerApi(config.docker_socket)
        self._containers: dict[str, _Container] = {}
        self._available = asyncio.Event()
        self._was_down = False
        self._cgroup_driver = ""
        self._data_root = ""
        self._selinux = Selinux()
        self._levels = Levels()
        self._listener: asyncio.Task[None] | None = None
        # Docker slows down for everyone when asked to remove hundreds of containers at once.
        self._stops = asyncio.Semaphore(8)

    async def open(self) -> None:
        """Begin to follow Docker's events."""
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop to follow Docker; containers are left as they are."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        for container in self._containers.values():
            container.detach()
        await self._api.close()

    @property
    def available(self) -> bool:
        """Whether the event stream is open."""
        return self._available.is_set()

    async def wait_available(self, timeout_s: float) -> bool:
        """Wait until the event stream is open; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._available.wait()
        except TimeoutError:
            return False
        return True

    def unavailable_message(self) -> str:
        """Names the socket at which Docker does not answer."""
        return f"Docker does not answer at {self.config.docker_socket}"

    async def check(self, runtime: Runtime) -> str | None:
        """Whether the runtime's image is on this host, and what isolates it; nothing is pulled."""
        try:
            self._labelled(runtime)
        except StartFailedError as error:
            return f"{error.message}: {error.detail}"
        try:
            needed = ISOLATION_RUNTIMES[runtime.isolation]
            if needed and needed not in ((await self._api.call("GET", "/info", timeout_s=10)).get("Runtimes") or {}):
                return f'Docker has no runtime {needed}, which the isolation of runtime "{runtime.id}" needs'
            await self._api.call("GET", f"/images/{runtime.image}/json", timeout_s=10)
        except DockerError as error:
            if error.status == 404:
                return _missing_image(runtime)
            return error.message
        except BackendUnavailableError:
            return None
        return None

    async def start(self, sandbox: str, runtime: Runtime) -> Connections:
        """Create and start a container and take its two connections."""
        label = self._label(sandbox, runtime)
        rendezvous = Rendezvous(sandboxes_directory(self.config.state_directory) / sandbox, label)
        await rendezvous.open()
        timeout_s = self.config.start_timeout_s
        try:
            await asyncio.to_thread(write_accounts, self.config, runtime)
            async with asyncio.timeout(timeout_s):
                return await self._start(sandbox, runtime, rendezvous, label)
        except TimeoutError:
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR,
                f'a sandbox of runtime "{runtime.id}" was not ready within {timeout_s:g} s',
                detail=await self._tail(sandbox),
                hint="The limit is start_timeout_s in the protocol server's configuration.",
            ) from None
        finally:
            rendezvous.close()

    def _labelled(self, runtime: Runtime) -> bool:
        """Whether sandboxes of `runtime` get a label. Raises StartFailedError when they have to and cannot."""
        if not self._selinux.wanted(self.config.selinux):
            return False
        if runtime.isolation == "default":
            return True
        if self.config.selinux == "required":
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR,
                "no sandbox is started without the protection of SELinux",
                detail=f'SELinux cannot label sandboxes with the isolation "{runtime.isolation}".',
                hint='Give the runtime the isolation "default".',
            )
        return False

    def _label(self, sandbox: str, runtime: Runtime) -> Label | None:
        if not self._labelled(runtime):
            return None
        try:
            level = self._levels.take(sandbox)
        except LevelsExhaustedError as error:
            raise StartFailedError(SQLSTATE_TOO_MANY_CONNECTIONS, str(error)) from error
        return Label(NETWORK_SANDBOX_TYPE if runtime.enable_network else SANDBOX_TYPE, level)

    async def _start(self, sandbox: str, runtime: Runtime, rendezvous: Rendezvous, label: Label | None) -> Connections:
        name = container_name(sandbox)
        container = self._containers[sandbox] = _Container(runtime.memory_mb)
        body = container_config(self.config, runtime, sandbox, self._cgroup_driver, label)
        # The caller's limit is on the whole start; calls need none of their own below it.
        timeout_s = self.config.start_timeout_s + 1
        try:
            # Docker goes on creating when the request is dropped, so it never is: `stop` waits for its end.
            container.creating = asyncio.create_task(
                self._api.call("POST", "/containers/create", params={"name": name}, body=body, timeout_s=timeout_s)
            )
            await asyncio.shield(container.creating)
            await self._api.call("POST", f"/containers/{name}/start", timeout_s=timeout_s)
            accept = asyncio.create_task(rendezvous.accept())
            try:
                # The state is asked for while the runtime warms up, so it costs no time.
                await self._attach(sandbox, container)
                if label is not None:
                    # Docker may have been told to leave labels alone: nothing is said to a sandbox that has none.
                    await self._selinux.wait_for_process(
                        container.pid, label, accept, limit_s=self.config.start_timeout_s / 2
                    )
                ended = asyncio.create_task(container.ended.wait())
                await asyncio.wait((accept, ended), return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if accept.done():
                    return accept.result()
            finally:
                accept.cancel()
        except DockerError as error:
            if error.status == 404 and "no such image" in error.message.lower():
                raise StartFailedError(
                    SQLSTATE_UNDEFINED_FILE,
                    _missing_image(runtime),
                    hint="Bring the image to this host, for example by running the playbook site.yml again.",
                ) from error
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR,
                f'could not start a sandbox of runtime "{runtime.id}"',
                detail=f"Docker says: {error.message}{self._full_disk(error)}",
            ) from error
        end = await self._describe(sandbox, container)
        raise StartFailedError(
            SQLSTATE_SYSTEM_ERROR,
            f'a sandbox of runtime "{runtime.id}" {_sentence(end.reason)} before it was ready',
            detail=await self._tail(sandbox),
        )

    def _full_disk(self, error: DockerError) -> str:
        """How much is free under Docker, where that is what is missing."""
        if "no space left" not in error.message.lower() or not self._data_root:
            return ""
        try:
            return f"\nUnder Docker, at {self._data_root}, {free_space(Path(self._data_root))} are free."
        except OSError:
            return f"\nDocker's directory is {self._data_root}."

    async def _attach(self, sandbox: str, container: _Container) -> None:
        try:
            facts = await self._api.call("GET", f"/containers/{container_name(sandbox)}/json", timeout_s=5)
        except DockerError as error:
            if error.status == 404:
                container.on_end()
            return
        state = facts["State"]
        container.gvisor = facts["HostConfig"].get("Runtime") == ISOLATION_RUNTIMES["gvisor"]
        if container.memory_mb is None:
            container.memory_mb = int(facts["HostConfig"].get("Memory") or 0) // MIB or None
        if state.get("Running") and state.get("Pid"):
            container.attach(int(state["Pid"]))
        elif state.get("Status") in ("exited", "dead"):
            container.oom_reported = container.oom_reported or bool(state.get("OOMKilled"))
            container.on_status(int(state.get("ExitCode", 0)))

    async def _tail(self, sandbox: str) -> str:
        with contextlib.suppress(BackendUnavailableError):
            text = (await self._api.log_tail(container_name(sandbox), _LOG_TAIL_LINES)).strip()
            return f"The end of its log:\n{text[-_LOG_TAIL_CHARACTERS:]}" if text else "It wrote nothing to its log."
        return ""

    async def wait(self, sandbox: str) -> Exit:
        """Wait for the end of a container's first process."""
        container = self._containers.setdefault(sandbox, _Container(None))
        while not container.seen_running and not container.ended.is_set():
            # An earlier server started it.
            await self._available.wait()
            try:
                await self._attach(sandbox, container)
            except BackendUnavailableError:
                await asyncio.sleep(0.5)
        await container.ended.wait()
        return await self._describe(sandbox, container)

    async def _describe(self, sandbox: str, container: _Container) -> Exit:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_STATUS_WAIT_S):
                await container.status_known.wait()
        if not container.status_known.is_set() and self.available:
            # The event may have been lost with its stream.
            with contextlib.suppress(TimeoutError, BackendUnavailableError):
                async with asyncio.timeout(_EXIT_STATUS_WAIT_S):
                    await self._attach(sandbox, container)
        events = container.memory_events
        # gVisor is one process to the host: a kill ends all of it, and Docker then gives 1 for the status.
        killed = container.gvisor and (container.oom_reported or (events is not None and events.kills > 0))
        status = None if killed else container.status
        if events is not None:
            return describe_exit(status, events.kills > 0, events.limit_hit, container.memory_mb)
        return describe_exit(status, container.oom_reported, True, container.memory_mb)

    def alive(self, sandbox: str) -> bool:
        """Ask the kernel whether the container's first process lives."""
        container = self._containers.get(sandbox)
        return container is not None and container.alive()

    async def usage(self, sandbox: str) -> Usage | None:
        """What the container's cgroup counts."""
        container = self._containers.get(sandbox)
        if container is None or not container.pid or not container.alive():
            return None
        return usage_of_process(container.pid)

    async def stop(self, sandbox: str) -> None:
        """Kill and remove a container and its directory."""
        container = self._containers.get(sandbox)
        if container is not None and container.creating is not None:
            await asyncio.wait((container.creating,))
        async with self._stops:
            try:
                await self._api.call(
                    "DELETE", f"/containers/{container_name(sandbox)}", params={"force": "1", "v": "1"}, timeout_s=30
                )
            except DockerError as error:
                # 409: somebody else is removing it at this moment; the caller looks again.
                if error.status != 404:
                    raise BackendUnavailableError(f"Docker did not remove the container: {error.message}") from error
                if container is not None and container.may_appear():
                    raise BackendUnavailableError("Docker may still be creating the container") from error
        self._containers.pop(sandbox, None)
        if container is not None:
            container.detach()
        self._levels.free(sandbox)
        await asyncio.to_thread(remove_directory, sandboxes_directory(self.config.state_directory) / sandbox)

    async def list_sandboxes(self) -> set[str]:
        """The sandboxes that have a container with this instance's label."""
        return {item.sandbox for item in await self._list() if item.instance == self.config.instance}

    async def _list(self) -> list[_Listed]:
        """All sandboxes that Docker has, also those of other servers."""
        filters = {"label": [f"{LABEL_COMPONENT}=sandbox"]}
        try:
            found = await self._api.call(
                "GET", "/containers/json", params={"all": "1", "filters": json.dumps(filters)}, timeout_s=15
            )
        except DockerError as error:
            raise BackendUnavailableError(f"Docker does not list containers: {error.message}") from error
        return [_Listed.read(item["Labels"], str(item["State"])) for item in found]

    async def _listen(self) -> None:
        """Follow Docker's events for ever; their stream is also how its end and its return are noticed."""
        filters = {
            "type": ["container"],
            "event": ["die", "oom"],
            "label": [f"{LABEL_INSTANCE}={self.config.instance}", f"{LABEL_COMPONENT}=sandbox"],
        }
        while True:
            try:
                async with self._api.events(filters) as events:
                    facts = await self._api.call("GET", "/info")
                    self._cgroup_driver = str(facts.get("CgroupDriver", ""))
                    self._data_root = str(facts.get("DockerRootDir", ""))
                    listed = await self._list()
                    for item in listed:
                        self._levels.learn(item.sandbox, item.level)
                    self._came_back()
                    self._catch_up(listed)
                    async for event in events:
                        self._on_event(event)
                problem = "Docker closed the event stream"
            except (BackendUnavailableError, DockerError, ValueError) as error:
                problem = str(error)
            self._went_away(problem)
            await asyncio.sleep(0.5)

    def _came_back(self) -> None:
        self._available.set()
        self.log.info("docker_back" if self._was_down else "docker_connected", socket=str(self.config.docker_socket))
        self._was_down = False
        self.on_available()

    def _went_away(self, problem: str) -> None:
        self._available.clear()
        if not self._was_down:
            self.log.alert("docker_down", problem=problem)
        self._was_down = True

    def _catch_up(self, listed: list[_Listed]) -> None:
        """What ended while no events came is found in the list of containers."""
        before = [item for item in self._containers.items() if item[1].seen_running and not item[1].ended.is_set()]
        if not before:
            return
        running = {item.sandbox for item in listed if item.state not in ("exited", "dead")}
        for sandbox, container in before:
            if sandbox in running:
                continue
            if container.alive():
                # Docker lost a container whose process lives on: it cannot be controlled any more.
                self.log.alert("container_lost", sandbox=sandbox)
            container.on_end()

    def _on_event(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor", {}).get("Attributes", {})
        container = self._containers.get(actor.get(LABEL_SANDBOX, ""))
        if container is None:
            return
        if event.get("Action") == "oom":
            container.oom_reported = True
        elif event.get("Action") == "die":
            container.on_status(int(actor.get("exitCode") or 0))


def _missing_image(runtime: Runtime) -> str:
    return f'image "{runtime.image_name}" ({runtime.image}) of runtime "{runtime.id}" is not on this host'


def _sentence(reason: str) -> str:
    # "a sandbox terminated by signal KILL" needs its verb.
    return f"was {reason}" if reason.startswith("terminated") else reason
