"""Restarts of the server, faults of Docker and bad configuration, for real."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .support import Backend, Daemon, DockerProxy, ServerError, eventually, inspect, refused

Make = Callable[..., Daemon]


def test_killed_server_and_reclaim(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("echo"), one.runtime("warm", pool=(1, 1))]
    with one.running():
        eventually(one.warm, "one is warm")
        backend = Backend(one.socket).lease()
        leased = f"plcontainer-{backend.sandbox}"
        warm = one.containers() - {leased}
        one.kill()
        with pytest.raises(ConnectionResetError):
            backend.receive()
        assert backend.echo(b"the server is not in the path") == b"the server is not in the path"
        with pytest.raises(ConnectionRefusedError):
            Backend(one.socket)
        began = time.monotonic()
        one.start()
        again = Backend(one.socket)
        assert again.reclaim(backend.token) == backend.sandbox
        assert time.monotonic() - began < 5
        eventually(lambda: not one.containers() & warm, "the old pool is reaped")
        assert backend.echo(b"still there") == b"still there"
        os.kill(inspect(leased)["State"]["Pid"], signal.SIGKILL)
        assert again.exited() == (backend.sandbox, "terminated by signal KILL", "08006")
        again.close()
        backend.close()
        eventually(lambda: leased not in one.containers(), "the lease is over")


def test_out_of_memory_after_a_reclaim(daemon: Make) -> None:
    with daemon().running() as one:
        backend = Backend(one.socket).lease()
        one.kill()
        one.start()
        with Backend(one.socket) as again:
            again.reclaim(backend.token)
            assert backend.data is not None
            backend.data.sendall(b"oom")
            assert again.exited() == (backend.sandbox, "exceeded its memory limit of 32 MB", "53200")
        backend.close()


def test_what_is_not_reclaimed_is_reaped(daemon: Make) -> None:
    with daemon(reclaim_grace_s=1).running() as one:
        backend = Backend(one.socket).lease()
        one.kill()
        one.start()
        eventually(lambda: not one.containers(), "reaped")
        assert one.wait_event("lease_reaped")["why"] == "not reclaimed"
        with Backend(one.socket) as late, pytest.raises(ServerError) as caught:
            late.reclaim(backend.token)
        assert caught.value.fields["C"] == "08003"
        eventually(lambda: not list((one.root / "sandboxes").iterdir()), "its directory is removed")
        assert not list((one.root / "leases").iterdir())


def test_lease_of_a_backend_that_ended_with_the_server(daemon: Make) -> None:
    code = "import sys; from pathlib import Path; from support import Backend; "
    code += "b = Backend(Path(sys.argv[1])).lease(); print(b.sandbox, b.token, flush=True); sys.stdin.read()"
    with daemon(reclaim_grace_s=3600).running() as one:
        environment = {
            **one.environment(),
            "PYTHONPATH": f"{one.environment()['PYTHONPATH']}:{Path(__file__).parent}",
        }
        client = subprocess.Popen(
            [sys.executable, "-c", code, str(one.socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert client.stdout is not None
        sandbox, token = client.stdout.readline().split()
        one.kill()
        one.start()
        with Backend(one.socket) as thief, pytest.raises(ServerError) as caught:
            thief.reclaim(token)
        assert caught.value.fields["C"] == "42501"
        assert one.containers() == {f"plcontainer-{sandbox}"}
        client.kill()
        client.communicate()
        eventually(lambda: not one.containers(), "reaped when the backend ended", 5)


def test_terminated_server_leaves_leases_only(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("echo"), one.runtime("warm", pool=(2, 2))]
    with one.running():
        backend = Backend(one.socket).lease()
        eventually(lambda: len(one.warm()) == 2, "two are warm")
        began = time.monotonic()
        assert one.stop() == 0
        assert time.monotonic() - began < 6
        assert one.containers() == {f"plcontainer-{backend.sandbox}"}
        assert not one.socket.exists()
        assert backend.echo(b"in flight") == b"in flight"
        one.start()
        with Backend(one.socket) as again:
            assert again.reclaim(backend.token) == backend.sandbox
        eventually(lambda: f"plcontainer-{backend.sandbox}" not in one.containers(), "released")
        backend.close()


def test_sandbox_that_died_while_there_was_no_server(daemon: Make) -> None:
    with daemon().running() as one:
        backend = Backend(one.socket).lease()
        pid = inspect(f"plcontainer-{backend.sandbox}")["State"]["Pid"]
        one.kill()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not inspect(f"plcontainer-{backend.sandbox}")["State"]["Running"], "dead")
        one.start()
        with Backend(one.socket) as again:
            again.reclaim(backend.token)
            assert again.exited() == (backend.sandbox, "terminated by signal KILL", "08006")
        backend.close()
        eventually(lambda: not one.containers(), "removed")


def test_other_instances_are_left_alone(daemon: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = daemon()
    with first.running(), Backend(first.socket).lease() as backend:
        root = tmp_path_factory.mktemp("o")
        root.chmod(0o755)
        second = Daemon(root, first.image, first.instance + "-other")
        with second.running():
            assert second.wait_event("reconciled")["found"] == 0
            assert backend.echo(b"x") == b"x"


# Docker, through a socket that can fail as the daemon's does.


@pytest.fixture
def flaky(daemon: Make) -> Iterator[tuple[Daemon, DockerProxy]]:
    one = daemon(start_retry_s=3, start_timeout_s=4)
    proxy = DockerProxy(one.root / "docker.sock")
    proxy.up()
    one.settings["docker_socket"] = str(proxy.path)
    with one.running():
        one.wait_event("docker_connected")
        yield one, proxy
    proxy.resume()
    proxy.down()


def test_docker_restarts(flaky: tuple[Daemon, DockerProxy]) -> None:
    one, proxy = flaky
    running = Backend(one.socket).lease()
    released = Backend(one.socket).lease()
    proxy.down()
    one.wait_event("docker_down")
    assert running.echo(b"goes on") == b"goes on"
    released.close()
    with ThreadPoolExecutor() as pool, Backend(one.socket) as waiting:
        granted = pool.submit(waiting.lease)
        one.wait_event("lease_ended", sandbox=released.sandbox)
        proxy.up()
        assert granted.result(60).echo(b"new") == b"new"
    one.wait_event("docker_back")
    eventually(lambda: one.containers() == {f"plcontainer-{running.sandbox}"}, "what was released meanwhile is removed")
    os.kill(inspect(f"plcontainer-{running.sandbox}")["State"]["Pid"], signal.SIGKILL)
    assert running.exited()[1] == "terminated by signal KILL"
    running.close()


def test_docker_stays_away(flaky: tuple[Daemon, DockerProxy]) -> None:
    one, proxy = flaky
    proxy.down()
    one.wait_event("docker_down")
    began = time.monotonic()
    fields = refused(one.socket, runtime="echo")
    assert 2 < time.monotonic() - began < 6
    assert fields["C"] == "58000"
    assert fields["M"] == f"Docker does not answer at {proxy.path}"
    assert len(one.events("docker_down")) == 1
    proxy.up()
    one.wait_event("docker_back")
    with Backend(one.socket).lease() as backend:
        assert backend.echo(b"x") == b"x"


def test_death_while_docker_is_away(flaky: tuple[Daemon, DockerProxy]) -> None:
    one, proxy = flaky
    with Backend(one.socket).lease() as backend:
        pid = inspect(f"plcontainer-{backend.sandbox}")["State"]["Pid"]
        proxy.down()
        one.wait_event("docker_down")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert backend.exited() == (backend.sandbox, "ended, and its exit status was not told", "08006")
        assert time.monotonic() - began < 1.2
    proxy.up()
    eventually(lambda: not one.containers(), "removed when Docker is back")


def test_docker_hangs(flaky: tuple[Daemon, DockerProxy]) -> None:
    one, proxy = flaky
    proxy.hang()
    began = time.monotonic()
    fields = refused(one.socket, runtime="echo")
    assert time.monotonic() - began < 12
    assert fields["C"] == "58000"
    # Nobody else has to wait for Docker meanwhile.
    began = time.monotonic()
    assert refused(one.socket, runtime="nope")["C"] == "42704"
    assert time.monotonic() - began < 1
    proxy.resume()
    with Backend(one.socket).lease() as backend:
        assert backend.echo(b"x") == b"x"
    eventually(lambda: not one.containers(), "the container that was made meanwhile is removed", 20)


def test_start_without_docker(daemon: Make) -> None:
    one = daemon(start_retry_s=0.5)
    proxy = DockerProxy(one.root / "docker.sock")
    one.settings["docker_socket"] = str(proxy.path)
    one.runtimes = [one.runtime("echo", pool=(1, 1))]
    with one.running():
        assert refused(one.socket, runtime="echo")["C"] == "58000"
        proxy.up()
        eventually(one.warm, "the pool is filled when Docker comes")
        with Backend(one.socket).lease() as backend:
            assert backend.echo(b"x") == b"x"
    proxy.down()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")
def test_full_run_directory(daemon: Make) -> None:
    """Room for the directory of a sandbox, but not for its socket."""
    one = daemon()
    state = one.root / "state"
    state.mkdir()
    state.chmod(0o755)
    one.settings["state_directory"] = str(state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=4,mode=755", "tmpfs", state], check=True)
    try:
        with one.running():
            fields = refused(one.socket, runtime="echo")
            assert fields["C"] == "58000"
            assert str(state) in fields["D"]
            assert "0 inodes are free there" in fields["D"]
            eventually(lambda: not one.containers(), "nothing is left behind")
            assert not list((state / "sandboxes").iterdir())
            subprocess.run(["mount", "-o", "remount,nr_inodes=100", state], check=True)
            with Backend(one.socket).lease() as backend:
                assert backend.echo(b"x") == b"x"
    finally:
        one.remove()
        subprocess.run(["umount", "--lazy", state], check=True)


@pytest.fixture
def small_docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The socket and the directory of a Docker of its own, whose disk is small."""
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs root and dockerd")
    root = tmp_path_factory.mktemp("docker")
    data, socket = root / "data", root / "docker.sock"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", data], check=True)
    # A Docker without a bridge removes docker0, which is another Docker's: it gets a network of its own.
    command = [
        "unshare",
        "--net",
        "dockerd",
        f"--host=unix://{socket}",
        f"--data-root={data}",
        f"--exec-root={root}/exec",
    ]
    command += [f"--pidfile={root}/pid", "--bridge=none", "--iptables=false", "--ip-masq=false"]
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        ask = ["docker", f"--host=unix://{socket}", "version"]
        eventually(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, "Docker answers", 60)
        yield socket, data
    finally:
        daemon.terminate()
        daemon.wait(60)
        subprocess.run(["umount", "--lazy", data], check=True)


def test_full_disk_under_docker(daemon: Make, image: str, small_docker: tuple[Path, Path]) -> None:
    socket, data = small_docker
    archive = subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout
    subprocess.run(["docker", f"--host=unix://{socket}", "load"], input=archive, capture_output=True, check=True)
    one = daemon(docker_socket=str(socket))
    with one.running():
        running = Backend(one.socket).lease()
        ballast = data / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while stream.write(b"x" * 4096):
                pass
        began = time.monotonic()
        fields = refused(one.socket, runtime="echo")
        assert time.monotonic() - began < 15
        assert fields["C"] == "58000"
        assert "no space left" in fields["D"]
        assert f"at {data}, 0 bytes and " in fields["D"]
        assert running.echo(b"goes on") == b"goes on"
        ballast.unlink()
        with Backend(one.socket).lease() as again:
            assert again.echo(b"x") == b"x"
        running.close()
        eventually(lambda: one.control("GET", "/v1/state")[1]["sandboxes"]["stopping"] == 0, "all are removed")
        assert not one.control("GET", "/v1/sandboxes")[1]["sandboxes"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to look at Docker's files")
def test_log_flood(daemon: Make) -> None:
    one = daemon(sandbox_log_mb=1, sandbox_log_files=2)
    with one.running(), Backend(one.socket).lease() as loud, Backend(one.socket).lease() as neighbour:
        file = Path(inspect(f"plcontainer-{loud.sandbox}")["LogPath"])
        with ThreadPoolExecutor() as pool:
            flood = pool.submit(loud.echo, b"flood 32")
            slowest_s = 0.0
            while not flood.done():
                began = time.monotonic()
                assert neighbour.echo(b"x") == b"x"
                slowest_s = max(slowest_s, time.monotonic() - began)
            assert flood.result() == b"flood 32"
        assert slowest_s < 1
        sizes = [path.stat().st_size for path in file.parent.glob(f"{file.name}*")]
        assert len(sizes) == 2
        # Docker cuts behind the line that is too much.
        assert sum(sizes) < 2 * 1024 * 1024 + 64 * 1024
        assert len(one.log.read_bytes()) < 64 * 1024, "nothing of it comes to the server's own log"


@pytest.mark.parametrize(
    ("settings", "runtime", "cap"),
    [
        ({"max_sandboxes_per_role": 1}, {}, 'role "alice" may hold 1 (max_sandboxes_per_role)'),
        ({"role_limits": {"alice": 1}}, {}, 'role "alice" may hold 1 (role_limits)'),
        ({}, {"max_sandboxes": 1}, 'runtime "echo" allows 1 (its max_sandboxes)'),
    ],
)
def test_caps(daemon: Make, settings: dict[str, Any], runtime: dict[str, Any], cap: str) -> None:
    one = daemon(queue_timeout_s=0.3, **settings)
    one.runtimes = [one.runtime("echo", **runtime), one.runtime("other")]
    with one.running(), Backend(one.socket).lease("echo", "alice") as held:
        fields = refused(one.socket, runtime="echo", role="alice")
        assert (fields["C"], fields["M"]) == ("53300", f"too many sandboxes: {cap}")
        with Backend(one.socket).lease("other", "bob") as other:
            assert other.echo(b"x") == b"x"
        assert held.echo(b"x") == b"x"


# Configuration


def test_bad_configuration_is_refused_at_the_start(daemon: Make) -> None:
    one = daemon(max_sandboxes=0)
    one.runtimes = [one.runtime("a b")]
    one.write()
    check = subprocess.run(
        one.command("--check-config"), env=one.environment(), capture_output=True, text=True, check=False
    )
    assert check.returncode == 1
    places = [line.split(": ")[0].rpartition("/")[2] for line in check.stderr.splitlines()]
    assert [place.split(":")[0] for place in places] == ["protocol_server.yml", "runtimes.yml"]
    assert all(place.split(":")[1].isdigit() for place in places)
    run = subprocess.run(one.command(), env=one.environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 1
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["config_rejected"] * 2
    one.settings["max_sandboxes"] = 1
    one.runtimes = [one.runtime("a")]
    one.write()
    check = subprocess.run(
        one.command("--check-config"), env=one.environment(), capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout) == (0, "configuration ok: 1 runtimes\n")


def test_reload(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("echo", pool=(1, 1))]
    with one.running(), Backend(one.socket).lease() as backend:
        eventually(one.warm, "one is warm")
        good = list(one.runtimes)
        file = one.root / "runtimes.yml"
        file.write_text("runtimes:\n  - id: echo\n    memory_mb: lots\n")
        one.signal(signal.SIGHUP)
        rejected = one.wait_event("config_rejected", line=3)
        assert rejected["file"] == str(file)
        assert "memory_mb" in rejected["rule"]
        with Backend(one.socket).lease("echo") as another:
            assert another.echo(b"the old one is in force") == b"the old one is in force"
        eventually(one.warm, "one is warm again")
        before = one.warm_containers()
        one.runtimes = [{**good[0], "memory_mb": 48}]
        one.write()
        one.signal(signal.SIGHUP)
        one.wait_event("config_applied")
        eventually(lambda: one.warm_containers() and not one.warm_containers() & before, "the pool is replaced")
        eventually(lambda: not one.containers() & before, "the old pool is removed")
        (fresh,) = one.warm_containers()
        assert inspect(fresh)["HostConfig"]["Memory"] == 48 * 1024 * 1024
        assert backend.echo(b"leases go on") == b"leases go on"
