"""Caps per role and per runtime, and draining, without any sandbox."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from protocol_server.caps import RoleCaps
from protocol_server.config import Config, Pool
from protocol_server.errors import LeaseError
from protocol_server.sandboxes import State

from .memory import make_config, runtime, server_config, until
from .test_sandboxes import World, run


def test_a_role_waits_for_its_own_and_others_go_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        first, _ = await world.sandboxes.acquire("r", "alice")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: world.sandboxes.waiting == 1)
        other, _ = await world.sandboxes.acquire("r", "bob")
        assert not waiting.done()
        world.sandboxes.retire(other, "released")
        await until(lambda: other.id not in world.sandboxes)
        assert not waiting.done(), "another role's place is no help"
        world.sandboxes.retire(first, "released")
        second, _ = await waiting
        assert second.role == "alice"
        assert world.sandboxes.waiting == 0

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=1)


def test_a_role_s_cap_is_named(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        for _ in range(2):
            await world.sandboxes.acquire("r", "alice")
        with pytest.raises(LeaseError, match=r'role "alice" may hold 2 \(max_sandboxes_per_role\)') as caught:
            await world.sandboxes.acquire("r", "alice")
        assert caught.value.sqlstate == "53300"
        assert "queue_timeout_s" in caught.value.detail
        await world.sandboxes.acquire("r", "bob")
        with pytest.raises(LeaseError, match=r'role "bob" may hold 1 \(role_limits\)'):
            await world.sandboxes.acquire("r", "bob")

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=2, role_limits={"bob": 1}, queue_timeout_s=0.05)


def test_the_queue_of_a_role_is_bounded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        await world.sandboxes.acquire("r", "alice")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: world.sandboxes.waiting == 1)
        with pytest.raises(LeaseError, match="may hold 1") as caught:
            await world.sandboxes.acquire("r", "alice")
        assert "queue_length" in caught.value.detail
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert world.sandboxes.waiting == 0

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=1, queue_length=1)


def test_a_failed_start_gives_the_role_its_place_back(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        with pytest.raises(LeaseError, match="does not exist"):
            await world.sandboxes.acquire("nope", "alice")
        world.backend.failure = LeaseError("58000", "no")
        with pytest.raises(LeaseError, match="no"):
            await world.sandboxes.acquire("r", "alice")
        world.backend.failure = None
        await world.sandboxes.acquire("r", "alice")

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=1)


def test_one_who_gives_up_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        caps = RoleCaps(server_config(tmp_path, max_sandboxes_per_role=1))
        await caps.enter("alice", 0)
        first = asyncio.create_task(caps.enter("alice", 0))
        second = asyncio.create_task(caps.enter("alice", 0))
        await until(lambda: caps.waiting == 2)
        caps.leave("alice")
        # The place is given already, its new holder has not run since.
        first.cancel()
        await second
        assert caps.taken("alice") == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(test())


def test_adopted_leases_count(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        old = world.sandboxes.adopt("0" * 16, "r", "alice")
        with pytest.raises(LeaseError, match="may hold 1"):
            await world.sandboxes.acquire("r", "alice")
        world.sandboxes.retire(old, "released")
        await world.sandboxes.acquire("r", "alice")

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=1, queue_timeout_s=0.05)


def test_a_raised_cap_lets_those_in_who_wait(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        await world.sandboxes.acquire("r", "alice")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: world.sandboxes.waiting == 1)
        world.sandboxes.apply(Config(server_config(tmp_path, max_sandboxes_per_role=2), world.config.runtimes))
        await waiting

    run(tmp_path, test, runtime("r"), max_sandboxes_per_role=1)


def test_a_runtime_s_cap_is_named_and_others_go_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(0)
        held, _ = await world.sandboxes.acquire("small", "alice")
        with pytest.raises(LeaseError, match=r'runtime "small" allows 1 \(its max_sandboxes\)') as caught:
            await world.sandboxes.acquire("small", "bob")
        assert caught.value.sqlstate == "53300"
        waiting = asyncio.create_task(world.sandboxes.acquire("small", "bob"))
        await asyncio.sleep(0)
        await world.sandboxes.acquire("big", "bob")
        world.sandboxes.retire(held, "released")
        await waiting

    run(tmp_path, test, runtime("small", max_sandboxes=1), runtime("big"), queue_timeout_s=0.1)


def test_who_waits_at_a_runtime_s_cap_does_not_keep_pools_empty(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.backend.open()
        await world.sandboxes.acquire("small", "alice")
        waiting = asyncio.create_task(world.sandboxes.acquire("small", "bob"))
        await world.sandboxes.acquire("warm", "bob")
        await until(lambda: world.sandboxes.count(State.READY) == 1, "the pool is refilled")
        waiting.cancel()

    run(tmp_path, test, runtime("small", max_sandboxes=1), runtime("warm", 1, 1))


def test_a_pool_stays_below_its_runtime_s_cap(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(2)
        for _ in range(2):
            await world.sandboxes.acquire("r", "alice")
        world.sandboxes.backend_available()
        assert world.sandboxes.count(State.STARTING) == 0

    run(tmp_path, test, runtime("r", 2, 2, max_sandboxes=2))


def test_drain_and_undrain(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.warm(1)
        held, _ = await world.sandboxes.acquire("r", "alice")
        waiting = asyncio.create_task(world.sandboxes.acquire("r", "alice"))
        await until(lambda: world.sandboxes.waiting == 1)
        world.sandboxes.drain()
        with pytest.raises(LeaseError, match="drained") as caught:
            await waiting
        assert caught.value.sqlstate == "57P03"
        assert "drain --off" in caught.value.hint
        with pytest.raises(LeaseError, match="drained"):
            await world.sandboxes.acquire("r", "bob")
        await until(lambda: len(world.sandboxes) == 1, "only the lease is left")
        assert world.backend.alive(held.id)
        # A reload is no reason to fill the pool.
        world.sandboxes.apply(make_config(tmp_path, runtime("r", 2, 2)))
        assert world.sandboxes.count(State.STARTING) == 0
        world.sandboxes.undrain()
        await until(lambda: world.sandboxes.count(State.READY) == 2, "the pool is filled again")
        await world.sandboxes.acquire("r", "bob")

    run(tmp_path, test, runtime("r", 1, 1, pool=Pool(1, 1)), max_sandboxes_per_role=1)


def test_what_is_started_while_draining_is_not_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.backend.gate.clear()
        await world.backend.open()
        await until(lambda: world.backend.start_calls)
        world.sandboxes.drain()
        world.backend.gate.set()
        await until(lambda: len(world.sandboxes) == 0)
        assert not world.backend.running

    run(tmp_path, test, runtime("r", 1, 1))
