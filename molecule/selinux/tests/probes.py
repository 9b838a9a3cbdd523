"""What a sandbox may not, tried one by one: runs with the host's files below /host, its own IPC directory at /ipc.

Each probe is a process of its own whose name the kernel tells when it denies something. Prints JSON: probe -> the name
of its errno or ``done``. Arguments: the process id of the protocol server, the IPC directory of another sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable

SERVER, OTHER = int(sys.argv[1]), "/host" + sys.argv[2]
LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PR_SET_NAME = 0x4206, 15


def checked(result: int) -> None:
    """Raise the error of a function of the C library."""
    if result == -1:
        raise OSError(ctypes.get_errno(), "")


def connect(path: str) -> None:
    socket.socket(socket.AF_UNIX).connect(path)


def read(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - the runtime's Python is all there is
        file.read(1)


def entries(path: str) -> None:
    os.listdir(path)  # noqa: PTH208


def write(path: str) -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"x")


PROBES: dict[str, Callable[[], object]] = {
    "inet_socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "inet6_socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "raw_socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "netlink_socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "packet_socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "server_config": lambda: read("/host/etc/plcontainer/protocol_server.yml"),
    "pgdata": lambda: entries("/host/var/lib/postgresql"),
    "shadow": lambda: read("/host/etc/shadow"),
    "docker_socket": lambda: connect("/host/run/docker.sock"),
    "docker_files": lambda: entries("/host/var/lib/docker"),
    "server_socket": lambda: connect("/host/run/plcontainer/protocol_server.sock"),
    "database_socket": lambda: connect("/host/run/postgresql/.s.PGSQL.5432"),
    "other_sandbox": lambda: entries(OTHER),
    "own_ipc_file": lambda: write("/ipc/file"),
    "server_ptrace": lambda: checked(LIBC.ptrace(PTRACE_SEIZE, SERVER, 0, 0)),
    "server_signal": lambda: os.kill(SERVER, 0),
    "server_memory": lambda: read(f"/proc/{SERVER}/maps"),
    "mount": lambda: checked(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
}


def attempted(name: str) -> str:
    """Run a probe in a process of its name."""
    output, its_end = os.pipe()
    child = os.fork()
    if child == 0:
        LIBC.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        try:
            PROBES[name]()
            answer = "done"
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error.errno))
        os.write(its_end, answer.encode())
        os._exit(0)
    os.close(its_end)
    answer = os.read(output, 100).decode()
    os.waitpid(child, 0)
    os.close(output)
    return answer


if __name__ == "__main__":
    print(json.dumps({name: attempted(name) for name in PROBES}))
