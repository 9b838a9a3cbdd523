"""Sandboxes as plain processes in namespaces of their own, made by bubblewrap: no Docker, no daemon.

What is known of a sandbox lies in files, so that a server that was restarted finds it again: the process that
bubblewrap waits with, and what bubblewrap says of its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol_server.backends import Backend, Connections, Exit
from protocol_server.backends.accounts import write_accounts
from protocol_server.backends.exits import describe_exit
from protocol_server.backends.output import Output
from protocol_server.backends.process_cgroup import Cgroups, Group, find_cgroups
from protocol_server.backends.process_command import (
    Host,
    MountPointError,
    launch_arguments,
    probe_command,
    sandbox_command,
)
from protocol_server.backends.rendezvous import Rendezvous, describe_full, remove_directory, sandboxes_directory
from protocol_server.backends.seccomp import SeccompError, build_program
from protocol_server.cgroup import MemoryCounters, Usage, read_usage
from protocol_server.config import Runtime, ServerConfig
from protocol_server.errors import (
    SQLSTATE_SYSTEM_ERROR,
    SQLSTATE_UNDEFINED_FILE,
    BackendUnavailableError,
    StartFailedError,
)
from protocol_server.images import ImageError, ImageStore, StoredImage
from protocol_server.logs import Log
from protocol_server.process import Watch, start_time

_PID_FILE: Final = "pid"
_STATUS_FILE: Final = "status"
_OUTPUT_FILE: Final = "output"
_RUNTIME_FILE: Final = "runtime"
_PROBE_S: Final = 10.0
_PROBE_PAUSE_S: Final = 5.0
_KILL_S: Final = 5.0
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7


def processes_directory(state_directory: Path) -> Path:
    """The directory that holds one directory per sandbox, with what the next server must know of it."""
    return state_directory / "processes"


class _Process:
    """What is known of one sandbox's processes while they live."""

    def __init__(self, directory: Path, group: Group | None, memory_mb: int | None) -> None:
        self.directory = directory
        self.group = group
        self.memory_mb = memory_mb
        self.pid = 0
        self.child = False
        self.ended = asyncio.Event()
        self.output: Output | None = None
        self.counters: MemoryCounters | None = None
        self._watch: Watch | None = None

    def attach(self, pid: int, *, child: bool) -> None:
        """Watch the process that waits for the sandbox's end."""
        self.pid, self.child = pid, child
        if self.group is not None:
            self.counters = self.group.counters()
        try:
            self._watch = Watch(pid, self._on_end)
        except OSError:
            self._on_end()

    def _on_end(self) -> None:
        if self.child:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        self.ended.set()

    def alive(self) -> bool:
        return not self.ended.is_set() and self._watch is not None and not self._watch.ended

    def status(self) -> int | None:
        """The exit status that bubblewrap noted; None when it did not come to that."""
        with contextlib.suppress(OSError):
            for line in (self.directory / _STATUS_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return int(json.loads(line)["exit-code"])
        return None

    def exit(self) -> Exit:
        """How the sandbox ended."""
        events = self.counters.read() if self.counters is not None else None
        kills, limit_hit = (events.kills > 0, events.limit_hit) if events is not None else (False, False)
        return describe_exit(self.status(), kills, limit_hit, self.memory_mb)

    def kill(self) -> None:
        """Kill everything: the group of the first process has the namespace's first one, with which all others die."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in self.group.processes() if self.group is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def detach(self) -> None:
        """Give all descriptors back."""
        if self._watch is not None:
            self._watch.close()
        if self.counters is not None:
            self.counters.close()
            self.counters = None
        if self.output is not None:
            self.output.close()


class ProcessBackend(Backend):
    """Starts, watches and removes sandboxes made by bubblewrap."""

    def __init__(self, config: ServerConfig, log: Log, on_available: Callable[[], None]) -> None:
        super().__init__(config, log, on_available)
        self._images = ImageStore(config.image_directory)
        self._processes: dict[str, _Process] = {}
        self._available = asyncio.Event()
        self._problem = "it was not tried yet"
        self._host = Host("", own_user=False, proc=False)
        self._seccomp = b""
        self._prober: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Find out what this host can do."""
        self._prober = asyncio.create_task(self._probe_until_it_works())

    async def close(self) -> None:
        """Stop to look after sandboxes, which go on."""
        if self._prober is not None:
            self._prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prober
        for process in self._processes.values():
            process.detach()

    @property
    def available(self) -> bool:
        """Whether a sandbox could be made when it was tried."""
        return self._available.is_set()

    async def wait_available(self, timeout_s: float) -> bool:
        """Wait until sandboxes can be made; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._available.wait()
        except TimeoutError:
            return False
        return True

    def unavailable_message(self) -> str:
        """Why no sandbox can be made on this host."""
        return f"this host lets no sandbox be made: {self._problem}"

    async def _probe_until_it_works(self) -> None:
        told = ""
        while True:
            try:
                self._host, self._seccomp = await asyncio.to_thread(_probe, self.config)
                break
            except (OSError, SeccompError, subprocess.SubprocessError) as error:
                self._problem = str(error)
                if told != self._problem:
                    self.log.alert("process_unavailable", problem=self._problem)
                told = self._problem
            await asyncio.sleep(_PROBE_PAUSE_S)
        missing = self._cgroups("").missing
        if missing:
            self.log.warning("cgroups_not_delegated", controllers=", ".join(missing))
        self.log.info("process_ready", own_user=self._host.own_user, proc=self._host.proc)
        self._available.set()
        self.on_available()

    def _cgroups(self, group: str) -> Cgroups:
        return find_cgroups(self.config.cgroup_parent, group)

    async def check(self, runtime: Runtime) -> str | None:
        """Whether the runtime's image is on this host and has room for all that is mounted."""
        try:
            self._refuse_required_labels()
            await asyncio.to_thread(self._image, runtime)
        except StartFailedError as error:
            return error.message
        return None

    def _refuse_required_labels(self) -> None:
        if self.config.selinux == "required":
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR,
                "no sandbox is started without the protection of SELinux",
                detail="The backend process does not label its sandboxes.",
                hint="Use the backend docker where SELinux is required.",
            )

    def _image(self, runtime: Runtime) -> StoredImage:
        try:
            image = self._images.get(runtime.image)
        except ImageError as error:
            raise StartFailedError(SQLSTATE_SYSTEM_ERROR, str(error)) from error
        if image is None:
            raise StartFailedError(
                SQLSTATE_UNDEFINED_FILE,
                f'image "{runtime.image_name}" ({runtime.image}) of runtime "{runtime.id}" is not on this host',
                hint="Bring it to this host with `plcontainer image-add` or by running the playbook site.yml again.",
            )
        return image

    async def start(self, sandbox: str, runtime: Runtime) -> Connections:
        """Start a sandbox and take its two connections."""
        self._refuse_required_labels()
        image = await asyncio.to_thread(self._image, runtime)
        rendezvous = Rendezvous(sandboxes_directory(self.config.state_directory) / sandbox)
        await rendezvous.open()
        timeout_s = self.config.start_timeout_s
        try:
            await asyncio.to_thread(write_accounts, self.config, runtime)
            async with asyncio.timeout(timeout_s):
                return await self._start(sandbox, runtime, image, rendezvous)
        except TimeoutError:
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR,
                f'a sandbox of runtime "{runtime.id}" was not ready within {timeout_s:g} s',
                detail=self._tail(sandbox),
                hint="The limit is start_timeout_s in the protocol server's configuration.",
            ) from None
        finally:
            rendezvous.close()

    async def _start(self, sandbox: str, runtime: Runtime, image: StoredImage, rendezvous: Rendezvous) -> Connections:
        try:
            process = await asyncio.shield(asyncio.create_task(self._launch(sandbox, runtime, image, rendezvous)))
        except MountPointError as error:
            raise _not_started(runtime, str(error)) from error
        except OSError as error:
            raise _not_started(runtime, describe_full(self.config.state_directory, error)) from error
        accept = asyncio.create_task(rendezvous.accept())
        ended = asyncio.create_task(process.ended.wait())
        try:
            await asyncio.wait((accept, ended), return_when=asyncio.FIRST_COMPLETED)
            if accept.done():
                return accept.result()
        finally:
            accept.cancel()
            ended.cancel()
        reason = process.exit().reason
        verb = f"was {reason}" if reason.startswith("terminated") else reason
        raise StartFailedError(
            SQLSTATE_SYSTEM_ERROR,
            f'a sandbox of runtime "{runtime.id}" {verb} before it was ready',
            detail=self._tail(sandbox),
        )

    async def _launch(self, sandbox: str, runtime: Runtime, image: StoredImage, rendezvous: Rendezvous) -> _Process:
        """Start the processes and remember them; never cancelled, so that `stop` finds what there is."""
        directory = processes_directory(self.config.state_directory) / sandbox
        process = self._processes[sandbox] = _Process(directory, None, runtime.memory_mb)
        cgroups = self._cgroups(runtime.resource_group_id)
        directory.mkdir(mode=0o700, parents=True)
        (directory / _RUNTIME_FILE).write_text(f"{runtime.resource_group_id}\n{runtime.memory_mb}\n", encoding="utf-8")
        process.group = cgroups.make(self._group_name(sandbox), runtime) if cgroups.parents else None
        entrances = process.group.entrances if process.group is not None else ()
        sandbox_side = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        if runtime.container_logging:
            os.close(sandbox_side)
            process.output, sandbox_side = Output.create(directory / _OUTPUT_FILE, sandbox, runtime.id)
        status = os.open(directory / _STATUS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        seccomp = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            os.write(seccomp, self._seccomp)
            os.lseek(seccomp, 0, os.SEEK_SET)
            command = [
                *launch_arguments(self.config, runtime, directory / _PID_FILE, entrances, cgroups.missing),
                *sandbox_command(
                    self.config,
                    runtime,
                    self._host,
                    root=image.root,
                    environment=image.environment,
                    directory=rendezvous.directory,
                    status=status,
                    seccomp=seccomp,
                ),
            ]
            started = await asyncio.to_thread(_spawn, command, sandbox_side, (status, seccomp))
        finally:
            for descriptor in (sandbox_side, status, seccomp):
                os.close(descriptor)
        process.attach(started, child=True)
        return process

    def _group_name(self, sandbox: str) -> str:
        return f"plcontainer-{self.config.instance}-{sandbox}"

    def _tail(self, sandbox: str) -> str:
        process = self._processes.get(sandbox)
        if process is None or process.output is None:
            return ""
        text = process.output.tail().strip()
        return f"The end of its log:\n{text}" if text else "It wrote nothing to its log."

    async def wait(self, sandbox: str) -> Exit:
        """Wait for the end of the process that waits for the sandbox's."""
        process = self._processes.get(sandbox) or self._adopt(sandbox)
        await process.ended.wait()
        return process.exit()

    def _adopt(self, sandbox: str) -> _Process:
        """What an earlier server started."""
        directory = processes_directory(self.config.state_directory) / sandbox
        resource_group, memory_mb = "", None
        with contextlib.suppress(OSError, ValueError):
            lines = (directory / _RUNTIME_FILE).read_text(encoding="utf-8").splitlines()
            resource_group, memory_mb = lines[0], int(lines[1])
        cgroups = self._cgroups(resource_group)
        group = cgroups.find(self._group_name(sandbox)) if cgroups.parents else None
        process = self._processes[sandbox] = _Process(directory, group, memory_mb)
        with contextlib.suppress(OSError):
            process.output = Output.reopen(directory / _OUTPUT_FILE, sandbox)
        pid = _noted_pid(directory / _PID_FILE)
        if pid:
            process.attach(pid, child=False)
        else:
            process.ended.set()
        return process

    def alive(self, sandbox: str) -> bool:
        """Ask the kernel whether the process that waits for the sandbox's end lives."""
        process = self._processes.get(sandbox)
        return process is not None and process.alive()

    async def usage(self, sandbox: str) -> Usage | None:
        """What the sandbox's cgroup counts; without one nobody does."""
        process = self._processes.get(sandbox)
        if process is None or process.group is None or not process.alive():
            return None
        return read_usage(process.group.directories)

    async def stop(self, sandbox: str) -> None:
        """Kill a sandbox's processes and remove its directories and cgroups."""
        process = self._processes.get(sandbox) or self._adopt(sandbox)
        if process.pid:
            process.kill()
            try:
                async with asyncio.timeout(_KILL_S):
                    await process.ended.wait()
            except TimeoutError:
                raise BackendUnavailableError(f"process {process.pid} was killed and does not end") from None
        if process.group is not None:
            try:
                await asyncio.to_thread(process.group.remove)
            except OSError as error:
                raise BackendUnavailableError(f"the cgroup of a sandbox cannot be removed: {error}") from error
        self._processes.pop(sandbox, None)
        process.detach()
        for directory in (sandboxes_directory(self.config.state_directory) / sandbox, process.directory):
            await asyncio.to_thread(remove_directory, directory)

    async def list_sandboxes(self) -> set[str]:
        """The sandboxes that have a directory with what is known of their processes."""
        try:
            return {path.name for path in processes_directory(self.config.state_directory).iterdir()}
        except FileNotFoundError:
            return set()


def _spawn(command: list[str], output: int, descriptors: tuple[int, ...]) -> int:
    # A group of its own: bubblewrap and the first process of the namespace are killed with it.
    started = subprocess.Popen(  # the backend waits for it by a pidfd
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=descriptors, start_new_session=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    # Popen would wait for it when it is collected; whoever watches it does.
    started.returncode = 0
    return started.pid


def _noted_pid(file: Path) -> int:
    """The process that a launcher noted, if it still is the same one; 0 if not."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        pid, began = int(text.split(maxsplit=1)[0]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0
    return pid if start_time(pid) == began else 0


def _may_switch_user() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            wanted = 1 << _CAP_SETGID | 1 << _CAP_SETUID
            return int(line.split()[1], 16) & wanted == wanted
    return False


def _probe(config: ServerConfig) -> tuple[Host, bytes]:
    """What this host can do, and the filter of system calls. Raises OSError, SeccompError or SubprocessError."""
    bubblewrap = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if bubblewrap is None:
        raise FileNotFoundError(errno.ENOENT, "bubblewrap is not installed")
    program = build_program()
    own_user = _may_switch_user()
    if own_user:
        # Sandboxes reach their own directories, others none.
        directory = sandboxes_directory(config.state_directory)
        os.chown(directory, -1, config.sandbox_gid)
        directory.chmod(0o710)
    problem = ""
    # Containers hide parts of /proc, and where parts are hidden the kernel gives nobody a new one.
    for proc in (True, False):
        host = Host(bubblewrap, own_user=own_user, proc=proc)
        done = subprocess.run(
            probe_command(config, host), capture_output=True, text=True, check=False, timeout=_PROBE_S
        )
        if done.returncode == 0:
            return host, program
        problem = done.stderr.strip() or f"bubblewrap exited with status {done.returncode}"
    raise PermissionError(errno.EPERM, problem)


def _not_started(runtime: Runtime, detail: str) -> StartFailedError:
    return StartFailedError(
        SQLSTATE_SYSTEM_ERROR, f'could not start a sandbox of runtime "{runtime.id}"', detail=detail
    )
