"""What hostile code gets, with each backend: a clean refusal, a limit of its own, or its own end; never the host."""

from __future__ import annotations

import contextlib
import errno
import secrets
import time
from pathlib import Path

import pytest

from tests.integration.protocol_server.support import eventually

from .conftest import Host

CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    got = libc.syscall(number, *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments])
    return ctypes.get_errno() if got == -1 else 0
"""
#: System calls of x86-64 with arguments that would be harmless if they were let through.
CALLS = {
    "mount": (165, "0, b'/tmp', b'tmpfs', 0, 0"),
    "unshare user": (272, "0x10000000"),
    "unshare mount": (272, "0x00020000"),
    "setns": (308, "0, 0"),
    "pivot_root": (155, "b'/', b'/'"),
    "keyctl": (250, "0, 0, 0, 0, 0"),
    "add_key": (248, "b'user', b'x', b'y', 1, -3"),
    "bpf": (321, "0, 0, 0"),
    "perf_event_open": (298, "0, 0, -1, -1, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "init_module": (175, "0, 0, 0"),
    "reboot": (169, "0, 0, 0, 0"),
    "swapon": (167, "b'/tmp', 0"),
    "sethostname": (170, "b'x', 1"),
    "open_by_handle_at": (304, "-1, 0, 0"),
}
#: gVisor's kernel has these itself; what it gives is its own and not the host's.
OF_GVISOR = {
    "unshare user": (0,),
    "setns": (errno.EINVAL, errno.EBADF),
    "perf_event_open": (errno.ENODEV,),
    "open_by_handle_at": (errno.ENOTSUP,),
}
HOST_PATHS = ("/var/run/docker.sock", "/run/docker.sock", "/run/postgresql", "/var/lib/postgresql", "/etc/plcontainer")


@pytest.mark.parametrize("name", CALLS)
def test_system_calls(host: Host, name: str) -> None:
    number, arguments = CALLS[name]
    host.start()
    got = host.session().run(f"{CALL}\nresult = call({number}, {arguments})")
    expected: tuple[int, ...] = (errno.EPERM, errno.ENOSYS, errno.EACCES)
    if host.kind.name == "runsc":
        expected = (*expected, *OF_GVISOR.get(name, ()))
    assert got in expected, errno.errorcode.get(got, got)


def test_clone_with_a_namespace(host: Host) -> None:
    host.start()
    got = host.session().run(f"{CALL}\nresult = call(56, 0x10000000 | 17, 0, 0, 0, 0)")
    if host.kind.name == "runsc":
        # gVisor has namespaces of its own; what one of them gives is not the host's.
        assert got in (0, errno.EPERM, errno.EINVAL, errno.ENOSYS)
    else:
        assert got in (errno.EPERM, errno.ENOSYS)


def test_ptrace_of_others(host: Host) -> None:
    host.start()
    got = host.session().run(f"{CALL}\nresult = call(101, 16, 1, 0, 0)")
    assert got in (errno.EPERM, errno.ENOSYS, errno.ESRCH)


def test_fork_bomb(host: Host) -> None:
    host.start()
    session = host.session()
    session.send("""
import os, signal, time
children = []
try:
    while len(children) < 500:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
    result = ["no limit", len(children)]
except OSError as error:
    result = [error.errno, len(children)]
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
""")
    if host.kind.name == "runsc":
        # The limit of processes or of memory ends gVisor's kernel, with all that is in it.
        assert session.ended()[1] in ("08006", "53200")
        assert host.session().run("result = 'another'") == "another"
        return
    made = session.answer()["result"]
    assert made[0] == errno.EAGAIN
    assert made[1] <= 64
    assert session.run("result = 'alive'") == "alive"


def test_descriptors_run_out_inside_only(host: Host) -> None:
    host.start()
    session = host.session()
    kind, number, _ = session.fails("files = [open('/dev/null') for _ in range(10000)]")
    assert (kind, number) == ("OSError", errno.EMFILE)
    assert session.run("result = 'alive'") == "alive"


def test_egress(host: Host) -> None:
    host.start()
    session = host.session()
    for address in ("10.0.0.1", "192.0.2.1", "169.254.169.254", "127.0.0.1"):
        began = time.monotonic()
        kind, number, _ = session.fails(
            f"import socket; s = socket.socket(); s.settimeout(5); s.connect(({address!r}, 80))"
        )
        assert number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EPERM, errno.EACCES), kind
        assert time.monotonic() - began < 1
    kind, number, _ = session.fails("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)")
    assert number in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT)


def test_host_is_out_of_sight(host: Host) -> None:
    host.start()
    session = host.session()
    assert session.run(f"import os; result = [p for p in {HOST_PATHS!r} if os.path.exists(p)]") == []
    mine = session.run("""
import os
result = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
""")
    assert max(mine, default=0) < 1000, "only its own processes"
    assert session.run("import os; result = os.path.exists('/run/caisson/sandbox.sock')") is False


def test_proc_sys(host: Host) -> None:
    host.start()
    session = host.session()
    for name in ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory", "kernel/sysrq"):
        answer = session.try_to(f"open('/proc/sys/{name}', 'w').write('1')")
        assert "error" in answer, name
    assert "error" in session.try_to("open('/proc/sysrq-trigger', 'w').write('h')")


def test_symbolic_links_lead_nowhere(host: Host) -> None:
    host.start()
    session = host.session()
    secret = host.daemon.root / "protocol_server.yml"
    session.run("import os; os.symlink('/', '/tmp/up'); os.symlink('/proc/1/root', '/tmp/one')")
    for path in (f"/tmp/up{secret}", f"/tmp/one{secret}", f"/proc/1/root{secret}", "/proc/1/environ/../../../x"):
        assert "error" in session.try_to(f"open({path!r}).read()"), path
    assert secret.exists()


@pytest.mark.parametrize("user", ["", "1000660000:0"])
def test_nobody_changes_who_they_are(host: Host, user: str) -> None:
    host.daemon.runtimes = [host.runtime("probe", user=user)]
    host.start()
    session, neighbour = host.session(), host.session()
    files = {name: session.run(f"result = open({name!r}).read()") for name in ("/etc/passwd", "/etc/group")}
    for name in files:
        for attempt in (
            f"open({name!r}, 'a').write('eve:x:0:0::/:/bin/sh')",
            f"open({name!r}, 'r+').truncate(0)",
            f"import os; os.chmod({name!r}, 0o666)",
            f"import os; os.unlink({name!r})",
            f"import os; os.rename('/tmp', {name!r})",
            f"import os; open('/tmp/mine', 'w').write('eve:x:0:0::/:/bin/sh'); os.replace('/tmp/mine', {name!r})",
            f"import os; os.symlink('/tmp/mine', {name!r} + '-')",
            "import os; os.symlink('/etc/shadow', '/run/caisson/passwd')",
            f"import os; os.link({name!r}, '/tmp/linked')",
        ):
            session.fails(attempt)
    for one in (session, neighbour, host.session()):
        assert {name: one.run(f"result = open({name!r}).read()") for name in files} == files
    written = list((host.daemon.root / "accounts").rglob("*"))
    assert written
    assert not [path for path in written if path.is_symlink() or path.stat().st_mode & 0o022]


def test_junk_to_every_descriptor(host: Host) -> None:
    host.start()
    session = host.session()
    assert host.daemon.process is not None
    session.send("""
import os
for fd in range(64):
    try:
        os.write(fd, os.urandom(4096))
    except OSError:
        pass
os._exit(9)
""")
    assert session.ended() == ("exited with status 9", "08006")
    assert not host.daemon.process_ended()
    assert host.session().run("result = 1") == 1


def test_processes_die_with_their_sandbox(host: Host) -> None:
    host.start()
    session = host.session()
    seconds = 100_000 + secrets.randbelow(900_000)
    session.run(f"""
import subprocess
for _ in range(3):
    subprocess.Popen(["sleep", "{seconds}"], start_new_session=True)
result = 1
""")
    if host.kind.name != "runsc":
        # gVisor's processes are no processes of the host.
        eventually(lambda: len(sleepers(seconds)) == 3, "all of them sleep")
    session.close()
    host.gone()
    eventually(lambda: not sleepers(seconds), "no process is left")


def sleepers(seconds: int) -> list[str]:
    """Processes of this host that sleep for so many seconds."""
    wanted = f"sleep\0{seconds}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == wanted:
                found.append(path.parent.name)
    return found
