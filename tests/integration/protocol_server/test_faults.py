"""Restarts of the server, faults of Docker and bad configuration, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
