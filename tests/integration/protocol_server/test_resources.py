"""Limits of many sandboxes together, and the network that a runtime may have, for real."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jinja2
import pytest

from .support import Backend, Daemon, docker, eventually, inspect, refused

Make = Callable[..., Daemon]
MIB = 1024 * 1024
MEMORY = Path("/sys/fs/cgroup/memory")
TEMPLATE = Path(__file__).resolve().parents[3] / "roles/protocol_server/templates/etc/plcontainer/network.nft.j2"


def ask(backend: Backend, text: str) -> str:
    return backend.echo(text.encode()).decode()


# groups of resources


@pytest.fixture
def slices(daemon: Make) -> Iterator[tuple[Daemon, Path]]:
    """A server whose resource group "small" has 24 MiB, as a slice of systemd would give it."""
    if not os.access(MEMORY, os.W_OK) or not (MEMORY / "memory.limit_in_bytes").exists():
        pytest.skip("needs cgroups of version 1 and the right to make some")
    one = daemon()
    name = one.instance.replace("-", "")
    group = MEMORY / f"{name}.slice" / f"{name}-small.slice"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(24 * MIB))
    one.settings |= {"cgroup_parent": f"{name}.slice", "resource_groups": ["small"]}
    yield one, group
    one.remove()
    for controller in Path("/sys/fs/cgroup").iterdir():
        for directory in (controller / group.parent.name / group.name, controller / group.parent.name):
            if directory.is_dir():
                eventually(partial(_remove, directory), f"{directory} is removed", 10)


def _remove(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def test_a_resource_group_holds_its_sandboxes_together(slices: tuple[Daemon, Path]) -> None:
    one, group = slices
    one.runtimes = [one.runtime("member", resource_group_id="small"), one.runtime("other")]
    with one.running():
        first, second, other = (Backend(one.socket).lease(name) for name in ("member", "member", "other"))
        assert (group / inspect(f"plcontainer-{first.sandbox}")["Id"]).is_dir()
        assert (group.parent / inspect(f"plcontainer-{other.sandbox}")["Id"]).is_dir()
        # Each may have 32 MiB, both together 24.
        assert ask(first, "eat 16") == "eat 16"
        assert second.data is not None
        second.data.sendall(b"eat 16")
        losers = [backend for backend in (first, second) if _ended(backend)]
        assert len(losers) == 1
        assert losers[0].exited()[1:] == (
            "was killed because its resource group or the host ran out of memory",
            "53200",
        )
        assert ask(other, "eat 20") == "eat 20", "others have limits of their own"
        for backend in (first, second, other):
            backend.close()
        eventually(lambda: not one.containers(), "all are removed")


def _ended(backend: Backend) -> bool:
    """Whether the sandbox of a backend has ended, which it hears of within two seconds."""
    backend.sock.settimeout(2)
    try:
        return bool(backend.sock.recv(1, 2))  # MSG_PEEK
    except TimeoutError:
        return False
    finally:
        backend.sock.settimeout(60)


def test_a_group_that_the_server_does_not_know(daemon: Make) -> None:
    one = daemon()
    with one.running():
        one.runtimes = [one.runtime("echo", resource_group_id="nobody")]
        one.write()
        status, answer = one.control("POST", "/v1/reload")
        assert status == 422
        assert "resource_groups" in answer["problems"][0]["rule"]


def test_processors(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("pinned", cpuset="0")]
    with one.running(), Backend(one.socket).lease("pinned") as backend:
        pid = inspect(f"plcontainer-{backend.sandbox}")["State"]["Pid"]
        assert os.sched_getaffinity(pid) == {0}


# the network


@pytest.fixture
def world() -> Iterator[str]:
    """Somebody outside of this host who listens on port 8080 and 8081: their address."""
    if os.getuid() != 0 or subprocess.run(["which", "nft", "ip"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, nft and ip")
    if (
        subprocess.run(["nft", "list", "table", "inet", "plcontainer"], capture_output=True, check=False).returncode
        == 0
    ):
        pytest.skip("this host has a filter of its own")

    def run(command: str, check: bool = True) -> None:
        subprocess.run(command.split(), check=check, capture_output=not check)

    run("ip netns add plcworld")
    listeners: list[subprocess.Popen[bytes]] = []
    try:
        run("ip link add plcworld0 type veth peer name eth0 netns plcworld")
        run("ip address add 198.51.100.1/24 dev plcworld0")
        run("ip link set plcworld0 up")
        run("ip -n plcworld address add 198.51.100.2/24 dev eth0")
        run("ip -n plcworld link set eth0 up")
        serve = (
            "import socket, sys; s = socket.create_server(('', int(sys.argv[1])))\nwhile True: s.accept()[0].close()"
        )
        for port in ("8080", "8081"):
            command = ["ip", "netns", "exec", "plcworld", "python3", "-c", serve, port]
            listeners.append(subprocess.Popen(command))
        eventually(lambda: _listens("198.51.100.2", 8081) and _listens("198.51.100.2", 8080), "the world listens")
        run(
            "docker network create --opt com.docker.network.bridge.name=plcontainer0 "
            "--opt com.docker.network.bridge.enable_icc=false plcontainer-test"
        )
        yield "198.51.100.2"
    finally:
        for listener in listeners:
            listener.kill()
            listener.wait()
        run("docker network rm plcontainer-test", check=False)
        run("nft delete table inet plcontainer", check=False)
        run("ip link delete plcworld0", check=False)
        run("ip netns delete plcworld", check=False)


def _listens(host: str, port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def test_a_network_leads_where_it_is_allowed_to(daemon: Make, world: str, tmp_path: Path) -> None:
    rules = tmp_path / "network.nft"
    template = jinja2.Template(TEMPLATE.read_text(), trim_blocks=True)
    rules.write_text(
        template.render(protocol_server_sandbox_network_allow=[{"address": f"{world}/32", "ports": [8080]}])
    )
    one = daemon(network="plcontainer-test")
    one.runtimes = [one.runtime("open", enable_network=True, roles=["analyst"]), one.runtime("closed")]
    with one.running():
        assert refused(one.socket, runtime="open")["C"] == "42501"
        with (
            Backend(one.socket).lease("open", "analyst") as backend,
            Backend(one.socket).lease("open", "analyst") as neighbour,
            Backend(one.socket).lease("closed", "analyst") as closed,
        ):
            networks = inspect(f"plcontainer-{neighbour.sandbox}")["NetworkSettings"]["Networks"]
            near, gateway = (networks["plcontainer-test"][key] for key in ("IPAddress", "Gateway"))
            # Without the filter all of the world is there: else this test would prove nothing.
            assert ask(backend, f"tcp {world} 8081") == "0"
            subprocess.run(["nft", "--file", rules], check=True)
            assert ask(backend, f"tcp {world} 8080") == "0"
            for where in (f"{world} 8081", f"{near} 22", f"{gateway} 22", "192.0.2.1 443", "169.254.169.254 80"):
                began = time.monotonic()
                assert int(ask(backend, f"tcp {where}")) in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES), (
                    where
                )
                assert time.monotonic() - began < 2, f"{where} is refused at once"
            assert int(ask(closed, f"tcp {world} 8080")) == errno.ENETUNREACH
    assert docker("network", "inspect", "plcontainer-test", "--format", "{{len .Containers}}") == "0"
