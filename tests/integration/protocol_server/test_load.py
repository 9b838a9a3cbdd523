"""Many at once, and none at all: figures that the server promises."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .support import Backend, Daemon, eventually

Make = Callable[..., Daemon]


def resident_kb(one: Daemon) -> int:
    assert one.process is not None
    lines = Path(f"/proc/{one.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def processor_s(one: Daemon) -> float:
    """CPU time of the server so far: fields 14 and 15 of proc(5)'s stat."""
    assert one.process is not None
    fields = Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(one: Daemon) -> int:
    assert one.process is not None
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))


def test_50_sandboxes_are_released_at_once(daemon: Make) -> None:
    one = daemon(max_sandboxes=60, start_concurrency=8)
    with one.running():
        with ThreadPoolExecutor(10) as pool:
            held = list(pool.map(lambda _: Backend(one.socket, 120).lease(), range(50)))
        assert len(one.containers()) == 50
        began = time.monotonic()
        for backend in held:
            backend.close()
        eventually(lambda: one.control("GET", "/v1/state")[1]["sandboxes"]["stopping"] == 0, "all are gone", 60)
        took_s = time.monotonic() - began
        assert not one.containers()
        assert not list((one.root / "sandboxes").iterdir())
        print(f"50 sandboxes were removed in {took_s:.1f} s")
        assert took_s < 5


def test_200_leases_from_20_backends(daemon: Make) -> None:
    one = daemon(max_sandboxes=200, queue_length=200, queue_timeout_s=120, start_concurrency=8)
    one.runtimes = [one.runtime("echo", memory_mb=16)]
    with one.running():
        at_rest = descriptors(one)

        def client(number: int) -> list[Backend]:
            """Ten requests at once, as a session with ten runtimes and roles has."""
            backends = [Backend(one.socket, 300) for _ in range(10)]
            for backend in backends:
                backend.ask("echo", f"role{number}")
            return [backend.granted() for backend in backends]

        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            held = [backend for group in pool.map(client, range(20)) for backend in group]
        took_s = time.monotonic() - began
        assert len({backend.sandbox for backend in held}) == 200
        assert all(backend.echo(b"x") == b"x" for backend in held)
        size_kb = resident_kb(one)
        print(f"200 leases were granted in {took_s:.1f} s; the server uses {size_kb / 1024:.0f} MiB")
        assert size_kb < 120 * 1024
        for backend in held:
            backend.close()
        eventually(lambda: not one.containers(), "all are removed", 120)
        eventually(lambda: descriptors(one) <= at_rest + 10, "descriptors are given back")
        assert not one.events("internal_error", "request_refused")


def test_an_idle_server_costs_nothing(daemon: Make) -> None:
    one = daemon(lease_idle_s=60)
    one.runtimes = [one.runtime("echo", pool=(1, 1))]
    with one.running(), Backend(one.socket).lease():
        eventually(one.warm, "one is warm")
        one.wait_event("reconciled")
        began, used = time.monotonic(), processor_s(one)
        # Nothing else can be waited for than that nothing happens.
        time.sleep(10)
        share = (processor_s(one) - used) / (time.monotonic() - began)
        print(f"an idle server uses {share:.2%} of a processor")
        assert share < 0.005


def test_soak(daemon: Make) -> None:
    """Sessions come and go, die and wait; what the server holds is the same at the end as after the first of them.

    CAISSON_SOAK_S says for how many seconds, 20 by default.
    """
    one = daemon(max_sandboxes=10, queue_length=50, queue_timeout_s=60, log_level="info")
    one.runtimes = [one.runtime("echo", pool=(1, 3)), one.runtime("other")]
    with one.running():
        eventually(one.warm, "one is warm")

        def sessions(number: int, until: float) -> int:
            count = 0
            while time.monotonic() < until:
                with Backend(one.socket, 90).lease("other" if number % 4 == 0 else "echo", f"role{number}") as backend:
                    assert backend.echo(b"x") == b"x"
                    if count % 5 == 4 and backend.data is not None:
                        backend.data.sendall(b"exit3")
                        backend.exited()
                one.control("GET", "/metrics")
                count += 1
            return count

        def run(duration_s: float) -> tuple[int, int, int]:
            """Leases, then what the server has when they are over: resident KiB and descriptors."""
            until = time.monotonic() + duration_s
            with ThreadPoolExecutor(12) as pool:
                leases = sum(pool.map(lambda number: sessions(number, until), range(12)))
            eventually(lambda: one.control("GET", "/v1/state")[1]["leases"] == 0, "all leases are over")
            eventually(lambda: len(one.containers()) <= 3, "only the pool is left", 60)
            eventually(lambda: descriptors(one) < 60, "descriptors are given back")
            return leases, resident_kb(one), descriptors(one)

        run(5)
        _, size_kb, _ = run(5)
        leases, last_kb, _ = run(float(os.environ.get("CAISSON_SOAK_S", "20")))
        print(f"{leases} leases; the server grew from {size_kb} to {last_kb} KiB")
        # A page for what the allocator keeps is no leak; one per lease would be more than this.
        assert last_kb - size_kb < 4096
        assert not list((one.root / "leases").iterdir())
        assert not one.events("internal_error", "container_lost")
