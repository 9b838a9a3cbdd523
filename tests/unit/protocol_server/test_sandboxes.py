"""Pools, the cap, the queue, failing starts and reloads, without any sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol_server.config import Config, Pool, Runtime
from protocol_server.errors import BackendUnavailableError, LeaseError, StartFailedError
from protocol_server.sandboxes import Sandboxes, State

from .memory import LogLines, MemoryBackend, make_config, runtime, until


class World:
    def __init__(self, directory: Path, *runtimes: Runtime, **settings: Any) -> None:
        self.directory = directory
        self.lines = LogLines()
        self.config: Config = make_config(directory, *runtimes, **settings)
        self.backend = MemoryBackend(self.config.server, self.lines.log, self.available)
        self.sandboxes = Sandboxes(self.config, self.backend, self.lines.log)

    def available(self) -> None:
        self.sandboxes.backend_available()

    async def warm(self, count: int) -> None:
        await self.backend.open()
        await until(lambda: self.sandboxes.count(State.READY) == count, f"{count} warm sandboxes")


Test = Callable[[World], Awaitable[None]]


def run(directory: Path, test: Test, *runtimes: Runtime, **settings: Any) -> None:
    async def body() -> None:
        world = World(directory, *runtimes, **settings)
        try:
            async with asyncio.timeout(20):
                await test(world)
        finally:
            world.backend.up.set()
            world.backend.gate.set()
            world.backend.stop_gate.set()
            await world.sandboxes.close(1)
            await world.backend.close()

    asyncio.run(body())


def test_pool_is_kept_at_min_and_refilled(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        sandbox, warm = await world.sandboxes.acquire("r", "alice")
        assert warm
        assert sandbox.state is State.LEASED
        await until(lambda: world.sandboxes.count(State.READY) == 2)
        assert world.backend.started == 3

    run(tmp_path, test, runtime("r", 2, 4))


def test_no_sandbox_is_handed_out_twice(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        seen = set()
        for _ in range(20):
            sandbox, _ = await world.sandboxes.acquire("r", "alice")
            assert sandbox.id not in seen
            seen.add(sandbox.id)
            world.sandboxes.retire(sandbox, "released")
        await until(lambda: not seen & world.backend.running.keys())

    run(tmp_path, test, runtime("r", 1, 2))


def test_without_a_pool_a_sandbox_is_started(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        _, warm = await world.sandboxes.acquire("r", "alice")
        assert not warm
        assert world.backend.started == 1

    run(tmp_path, test, runtime("r"))


def test_pool_grows_under_load_up_to_max_and_shrinks_when_idle(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        taken = [(await world.sandboxes.acquire("r", "alice"))[0] for _ in range(4)]
        await until(lambda: world.sandboxes.count(State.READY) == 3, "grown to max")
        assert len(taken) == 4
        await until(lambda: world.sandboxes.count(State.READY) == 1, "shrunk to min")
        assert world.sandboxes.count(State.LEASED) == 4

    run(tmp_path, test, runtime("r", 1, 3), pool_idle_s=0.3, max_sandboxes=20)


def test_unknown_runtime_lists_what_exists(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(LeaseError, match='runtime "nope" does not exist') as caught:
            await world.sandboxes.acquire("nope", "alice")
        assert caught.value.sqlstate == "42704"
        assert caught.value.detail == "Runtimes on this host: a, b."

    run(tmp_path, test, runtime("b"), runtime("a"))


def test_cap_and_full_queue(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        held = [(await world.sandboxes.acquire("r", "alice"))[0] for _ in range(2)]
        waiting = [asyncio.create_task(world.sandboxes.acquire("r", "alice")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LeaseError, match=r"this host allows 2 \(max_sandboxes\)") as caught:
            await world.sandboxes.acquire("r", "alice")
        assert caught.value.sqlstate == "53300"
        assert "queue_length" in caught.value.detail
        for sandbox in held:
            world.sandboxes.retire(sandbox, "released")
        got = await asyncio.gather(*waiting)
        assert len({sandbox.id for sandbox, _ in got}) == 2
        assert world.sandboxes.count(State.LEASED) == 2

    run(tmp_path, test, runtime("r"), max_sandboxes=2, queue_length=2)


def test_a_busy_runtime_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        world.backend.gate.clear()
        waiting = [asyncio.create_task(world.sandboxes.acquire(name, "alice")) for name in "aaabaaa"]
        await until(lambda: world.sandboxes.waiting == 7)
        world.backend.gate.set()
        await asyncio.gather(*waiting)
        assert world.backend.start_calls == list("aaabaaa")

    run(tmp_path, test, runtime("a"), runtime("b"), start_concurrency=1)


def test_queue_times_out(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        await world.sandboxes.acquire("r", "alice")
        with pytest.raises(LeaseError, match="this host allows 1") as caught:
            await world.sandboxes.acquire("r", "alice")
        assert caught.value.sqlstate == "53300"
        assert "queue_timeout_s" in caught.value.detail

    run(tmp_path, test, runtime("r"), max_sandboxes=1, queue_timeout_s=0.1)


def test_the_queue_is_first_come_first_served(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        order: list[int] = []

        async def wait(number: int) -> None:
            got, _ = await world.sandboxes.acquire("r", "alice")
            order.append(number)
            world.sandboxes.retire(got, "released")

        tasks = [asyncio.create_task(wait(number)) for number in range(4)]
        await asyncio.sleep(0)
        world.sandboxes.retire(sandbox, "released")
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]

    run(tmp_path, test, runtime("r"), max_sandboxes=1)


def test_a_warm_sandbox_of_another_runtime_makes_room(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        sandbox, _ = await world.sandboxes.acquire("cold", "alice")
        assert sandbox.runtime == "cold"
        await until(lambda: world.sandboxes.count(State.STOPPING) == 0)
        assert len(world.sandboxes) == 2

    run(tmp_path, test, runtime("warm", 2, 2), runtime("cold"), max_sandboxes=2, queue_length=0)


def test_sandboxes_being_removed_count_against_the_cap(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        world.backend.stop_gate.clear()
        world.sandboxes.retire(sandbox, "released")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await asyncio.sleep(0.02)
        assert world.backend.started == 1
        world.backend.stop_gate.set()
        await waiting
        assert world.backend.started == 2

    run(tmp_path, test, runtime("r"), max_sandboxes=1)


def test_a_caller_who_gives_up_costs_no_sandbox(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        world.backend.gate.clear()
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        # One for the caller and one for the pool, which would have helped him.
        await until(lambda: world.backend.at_once == 2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        world.backend.gate.set()
        await until(lambda: world.backend.started == 2 and len(world.sandboxes) == 1)
        _, warm = await world.sandboxes.acquire("r", "alice")
        assert warm

    run(tmp_path, test, runtime("r", 0, 1))


def test_starts_at_once_are_bounded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        got = await asyncio.gather(*(world.sandboxes.acquire("r", "alice") for _ in range(30)))
        assert len({sandbox.id for sandbox, _ in got}) == 30
        assert world.backend.most_at_once == 3

    run(tmp_path, test, runtime("r"), max_sandboxes=30, start_concurrency=3)


def test_refills_leave_half_of_the_places_free(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(8)
        assert world.backend.most_at_once == 2

    run(tmp_path, test, runtime("r", 8, 8), max_sandboxes=30, start_concurrency=4)


def test_a_failing_start_is_told_and_not_repeated_in_a_loop(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.backend.failure = StartFailedError("58P01", "no such image")
        await world.backend.open()
        await until(lambda: world.lines.events("pool_failing"))
        with pytest.raises(LeaseError, match="no such image"):
            await world.sandboxes.acquire("r", "alice")
        tries = len(world.backend.start_calls)
        await asyncio.sleep(0.3)
        assert len(world.backend.start_calls) == tries <= 3
        assert len(world.lines.events("pool_failing")) == 1
        world.backend.failure = None
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        assert world.backend.alive(sandbox.id)
        assert len(world.lines.events("pool_recovered")) == 1

    run(tmp_path, test, runtime("r", 1, 1))


def test_a_warm_sandbox_that_dies_is_replaced_with_a_pause(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        first = next(iter(world.backend.running))
        world.backend.end(first)
        await until(lambda: world.lines.events("sandbox_exited"))
        assert world.lines.events("sandbox_exited")[0]["state"] == "ready"
        await asyncio.sleep(0.2)
        assert world.backend.started == 1
        await until(lambda: world.sandboxes.count(State.READY) == 1, "replaced after the pause")

    run(tmp_path, test, runtime("r", 1, 1))


def test_a_dead_warm_sandbox_is_never_handed_out(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        first = next(iter(world.backend.running))
        # Dead, and the loop has not heard of it yet.
        world.backend.end(first)
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        assert sandbox.id != first

    run(tmp_path, test, runtime("r", 1, 1))


def test_the_end_of_a_leased_sandbox_is_known(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        world.backend.end(sandbox.id, "exceeded its memory limit of 32 MB", "53200")
        await sandbox.exited.wait()
        assert sandbox.exit is not None
        assert (sandbox.exit.reason, sandbox.exit.sqlstate) == ("exceeded its memory limit of 32 MB", "53200")
        await until(lambda: sandbox.id not in world.sandboxes)

    run(tmp_path, test, runtime("r"))


def test_a_start_waits_for_the_backend_to_come_back(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.backend.up.clear()
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        world.backend.up.set()
        await waiting

    run(tmp_path, test, runtime("r"))


def test_a_backend_that_stays_away_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.backend.up.clear()
        with pytest.raises(LeaseError, match="the memory backend is away") as caught:
            await world.sandboxes.acquire("r", "alice")
        assert caught.value.sqlstate == "58000"
        assert not world.backend.start_calls

    run(tmp_path, test, runtime("r", 1, 1), start_retry_s=0.1)


def test_a_start_that_lost_the_backend_is_tried_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.backend.failure = BackendUnavailableError("connection reset")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: len(world.backend.start_calls) == 1)
        world.backend.failure = None
        await waiting
        assert len(world.backend.start_calls) == 2

    run(tmp_path, test, runtime("r"))


def test_a_stop_is_repeated_until_it_is_done(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        sandbox, _ = await world.sandboxes.acquire("r", "alice")
        world.backend.up.clear()
        world.sandboxes.retire(sandbox, "released")
        await asyncio.sleep(0.05)
        assert sandbox.id in world.sandboxes
        world.backend.up.set()
        await until(lambda: sandbox.id not in world.sandboxes)
        assert sandbox.id not in world.backend.running

    run(tmp_path, test, runtime("r"))


def changed(config: Config, *runtimes: Runtime) -> Config:
    return Config(config.server, {one.id: one for one in runtimes})


def test_reload_replaces_warm_sandboxes_of_changed_runtimes_only(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        leased, _ = await world.sandboxes.acquire("changes", "alice")
        await until(lambda: world.sandboxes.count(State.READY) == 2)
        before = set(world.backend.running)
        world.sandboxes.apply(changed(world.config, runtime("same", 1, 1), runtime("changes", 1, 1, memory_mb=64)))
        await until(lambda: world.sandboxes.count(State.READY) == 2 and not world.sandboxes.count(State.STOPPING))
        after = set(world.backend.running)
        assert leased.id in after
        assert leased.state is State.LEASED
        assert len(before - after) == len(after - before) == 1

    run(tmp_path, test, runtime("same", 1, 1), runtime("changes", 1, 1))


def test_reload_of_roles_or_pool_keeps_warm_sandboxes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        before = set(world.backend.running)
        world.sandboxes.apply(changed(world.config, runtime("r", roles=("a",), pool=Pool(1, 2))))
        await asyncio.sleep(0.05)
        assert set(world.backend.running) == before
        sandbox, warm = await world.sandboxes.acquire("r", "alice")
        assert warm
        assert sandbox.id in before

    run(tmp_path, test, runtime("r", 2, 2))


def test_reload_while_a_start_is_under_way(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        world.backend.gate.clear()
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: world.backend.at_once == 1)
        world.sandboxes.apply(changed(world.config, runtime("r", memory_mb=64)))
        world.backend.gate.set()
        sandbox, _ = await waiting
        assert sandbox.definition is not None
        assert sandbox.definition.memory_mb == 64
        await until(lambda: len(world.backend.running) == 1)

    run(tmp_path, test, runtime("r"))


def test_reload_that_removes_a_runtime(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        leased, _ = await world.sandboxes.acquire("r", "alice")
        await until(lambda: world.sandboxes.count(State.READY) == 1)
        world.backend.gate.clear()
        first = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        second = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await first
        world.sandboxes.apply(changed(world.config))
        with pytest.raises(LeaseError, match="does not exist"):
            await second
        world.backend.gate.set()
        await until(lambda: world.sandboxes.count(State.READY) == world.sandboxes.count(State.STARTING) == 0)
        assert leased.id in world.backend.running

    run(tmp_path, test, runtime("r", 1, 1))


def test_close_leaves_leased_sandboxes_and_nothing_else(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        leased, _ = await world.sandboxes.acquire("r", "alice")
        world.backend.gate.clear()
        waiting = asyncio.create_task(world.sandboxes.acquire("other", "alice"))
        await until(lambda: "other" in world.backend.start_calls)
        await world.sandboxes.close(1)
        with pytest.raises(LeaseError, match="shutting down"):
            await waiting
        assert set(world.backend.running) == {leased.id}

    run(tmp_path, test, runtime("r", 2, 2), runtime("other"))


def test_close_is_bounded_when_the_backend_is_away(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        world.backend.up.clear()
        async with asyncio.timeout(2):
            await world.sandboxes.close(0.2)

    run(tmp_path, test, runtime("r", 1, 1))


def test_random_life_leaks_nothing(tmp_path: Path) -> None:
    """Sessions come, give up, end and lose their sandbox in any order; in the end only the pool is left."""
    import random

    async def test(world: World) -> None:
        chance = random.Random(7)
        await world.backend.open()

        async def session(name: str) -> None:
            try:
                async with asyncio.timeout(chance.choice((0.001, 0.01, 5))):
                    sandbox, _ = await world.sandboxes.acquire(name, "alice")
            except (TimeoutError, LeaseError):
                return
            try:
                await asyncio.sleep(chance.random() * 0.01)
                if chance.random() < 0.3 and sandbox.id in world.backend.running:
                    world.backend.end(sandbox.id)
                    await asyncio.sleep(chance.random() * 0.005)
            finally:
                world.sandboxes.retire(sandbox, "released")

        sessions = [asyncio.create_task(session(chance.choice("ab"))) for _ in range(400)]
        for task in sessions[::7]:
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        await until(lambda: not world.sandboxes.count(State.LEASED) and not world.sandboxes.count(State.STARTING))
        await until(lambda: not world.sandboxes.count(State.STOPPING))
        assert world.sandboxes.count(State.READY) == len(world.backend.running) == len(world.sandboxes) <= 6

    run(
        tmp_path, test, runtime("a", 1, 3), runtime("b", 0, 2), max_sandboxes=10, queue_length=1000, start_concurrency=4
    )
