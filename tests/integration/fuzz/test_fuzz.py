"""What a sandbox may send: nothing of it harms the backend that receives it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import psycopg
import pytest

from . import campaign
from .cluster import Cluster
from .hostile import (
    CALL,
    FEATURES,
    LOG,
    PING,
    REPLY,
    RESULT,
    SQL,
    SUBTRANSACTION,
    GoneError,
    Sandbox,
    frame,
    serving,
    text,
)

CONVERSATION_S = 25.0
TIMEOUT_S = 0.5
# Above the timeout and the grace that a cancelled call has: the sanitizers and a busy machine.
SLACK_S = 5.0


@pytest.mark.parametrize("database", [campaign.UTF8, campaign.LATIN])
def test_a_million_messages_to_the_decoders(cluster: Cluster, database: str) -> None:
    totals = campaign.fuzz_decoder(cluster, 0, database=database)
    assert totals.messages.total() >= 1_000_000
    # Each way to take a message was taken often.
    assert min(totals.messages[outcome] for outcome in ("accepted", "refused", "raised")) >= 50_000
    assert totals.slowest_us < campaign.SLOWEST_MESSAGE_US


def test_sandboxes_that_lie(cluster: Cluster) -> None:
    totals = campaign.fuzz_conversation(cluster, CONVERSATION_S)
    assert totals.frames >= 10_000
    assert totals.states["00000"] >= 500
    assert totals.states["08P01"] >= 500
    assert totals.slowest_call_s < campaign.CALLS * campaign.STATEMENT_TIMEOUT_S


Act = Callable[[socket.socket, int], None]


def behaviour(act: Act) -> Callable[[socket.socket], None]:
    """A sandbox that greets as it should and does `act` in every call."""

    def behave(data: socket.socket) -> None:
        reader = Reader(data)
        while True:
            call, kind, _, _ = reader.receive()
            if kind == PING:
                greeting = struct.pack("<IHHQQ", 0x31434C50, 1, 0, FEATURES, 1 << 30) + text(b"fuzz") + text(b"c")
                data.sendall(frame(call, PING, greeting, REPLY))
            elif kind == CALL:
                act(data, call)

    return behave


class Reader(Sandbox):
    """Reads frames; what is sent is up to the test."""

    def __init__(self, data: socket.socket) -> None:
        self.data = data


def silent(data: socket.socket, call: int) -> None:
    data.recv(1)
    raise GoneError


def drip(data: socket.socket, call: int) -> None:
    """A frame whose bytes come one at a time, and never to an end."""
    data.sendall(struct.pack("<IBBHQ", call, RESULT, 0, 0, 1 << 29))
    while True:
        data.sendall(b"x")


def huge(data: socket.socket, call: int) -> None:
    """A frame that announces all a frame may have."""
    data.sendall(struct.pack("<IBBHQ", call, RESULT, 0, 0, 1 << 30))
    data.recv(1)
    raise GoneError


def flood(kind: int, payload: bytes) -> Act:
    def act(data: socket.socket, call: int) -> None:
        frames = frame(call, kind, payload) * 1000
        while True:
            data.sendall(frames)

    return act


def greedy(kind: int, payload: bytes) -> Act:
    """Asks and waits for the answer, and asks again."""

    def act(data: socket.socket, call: int) -> None:
        reader = Reader(data)
        while True:
            data.sendall(frame(call, kind, payload))
            reader.receive()

    return act


FLOODS = {
    "silence": silent,
    "a byte at a time": drip,
    "a frame of the largest size": huge,
    "log lines": flood(LOG, b"\1M" + text(b"x") + b"\0"),
    "discards": flood(SQL, b"\x0a" + bytes(8)),
    "statements without end": flood(SQL, b"\1" + text(b"SELECT 1") + bytes(8)),
    "statements": greedy(SQL, b"\1" + text(b"SELECT 1") + bytes(8)),
    "plans": greedy(SQL, b"\2" + text(b"SELECT 1") + bytes(4)),
    "cursors": greedy(SQL, b"\4" + text(b"SELECT 1")),
    "subtransactions": greedy(SUBTRANSACTION, b"\1"),
    "a call of itself": greedy(SQL, b"\1" + text(b"SELECT fuzz_int(1)") + bytes(8)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_statement_can_be_ended_whatever_its_sandbox_does(cluster: Cluster, name: str) -> None:
    path = cluster.directory / "flood"
    with serving(path, behaviour(FLOODS[name])) as server, cluster.connect() as session:
        session.execute(f"SET plcontainer.server_socket = '{path}'")
        session.execute(f"SET statement_timeout = '{TIMEOUT_S}s'")
        before = campaign.identity(session)
        begun = time.monotonic()
        with pytest.raises(psycopg.Error) as raised:
            session.execute("SELECT fuzz_int(1)")
        assert time.monotonic() - begun < TIMEOUT_S + SLACK_S
        assert raised.value.sqlstate in {"57014", "54000", "54001", "53400", "08P01", "58000"}
        assert campaign.identity(session) == before
        assert not server.errors
    assert not cluster.findings()
