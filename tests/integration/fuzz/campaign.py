"""Fuzzing for a time, and what has to hold whatever was sent."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from .cluster import HERE, Cluster
from .hostile import serving

SCALARS = (
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "text",
    "bytea",
    "numeric",
    "oid",
    "varchar",
    "bpchar",
    "name",
    "date",
    "timestamptz",
    "interval",
    "jsonb",
    "json",
    "uuid",
    "inet",
    "bit",
    "int4range",
    "point",
    "record",
    "color",
    "positive",
    "short",
    "price",
    "pair",
)
ROWS = ("point3", "ahead", "leaf", "branch", "tree", "nothing", "thing", "sink")
TYPES = ("void", *SCALARS, *ROWS, *(f"{name}[]" for name in (*SCALARS, *ROWS)))
STATEMENTS = (
    "SELECT fuzz_int(1)",
    "SELECT fuzz_text('x')",
    "SELECT fuzz_array('{1,2,NULL}')",
    "SELECT fuzz_row(ROW(1, 'x'))",
    "SELECT fuzz_tree(NULL)",
    "SELECT fuzz_positive(1)",
    "SELECT fuzz_stable()",
    "SELECT count(*) FROM fuzz_set(1)",
    "SELECT fuzz_set(1) LIMIT 2",
    "SELECT count(n), count(t) FROM fuzz_rows()",
    "INSERT INTO sink VALUES (1, 'x', DEFAULT, '{a}')",
    "DO LANGUAGE plcontainer E'# container: fuzz\\n'",
    "SELECT sum(fuzz_int(n)) FROM many",
)
UTF8 = "postgres"
LATIN = "latin"
SEED = 20240229
# Of one type, one after another: all types have more than a million in sum.
ROUNDS = 14_000
CALLS = 50
STATEMENT_TIMEOUT_S = 5
SLOWEST_MESSAGE_US = 1_000_000
GROWTH_BYTES = 4 << 20
# What a lease keeps for its next messages in each direction, however few have this size.
KEPT_BUFFERS_BYTES = 2 * (16 << 20)


@dataclass
class Totals:
    """What was sent, and what became of it."""

    messages: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    growth: int = 0
    sandboxes: int = 0
    slowest_us: int = 0
    slowest_call_s: float = 0.0


def prepare(cluster: Cluster) -> None:
    """Make what the campaigns use, in two databases of different encodings."""
    with cluster.connect() as session:
        session.execute(f"CREATE DATABASE {LATIN} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    for database in (UTF8, LATIN):
        with cluster.connect(database) as session:
            session.execute((HERE / "schema.sql").read_text())


def identity(session: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """Return what stays as it is as long as neither the backend nor the server has ended."""
    row = session.execute("SELECT pg_backend_pid(), pg_postmaster_start_time()").fetchone()
    assert row is not None
    return tuple(row)


def memory(session: psycopg.Connection[Any]) -> int:
    """Return the bytes of all memory contexts of the backend."""
    row = session.execute("SELECT sum(total_bytes)::int8 FROM pg_backend_memory_contexts").fetchone()
    assert row is not None
    return int(row[0])


def fuzz_decoder(cluster: Cluster, seconds: float, seed: int = SEED, database: str = UTF8) -> Totals:
    """Feed the decoders messages for so long, at least once around."""
    totals = Totals()
    deadline = time.monotonic() + seconds
    with cluster.connect(database) as session:
        before = identity(session)
        first = True
        while first or time.monotonic() < deadline:
            for name in (*TYPES, "fields of an error"):
                if name in TYPES:
                    query = session.execute("SELECT * FROM fuzz_values(%s, %s, %s)", (name, seed, ROUNDS))
                else:
                    query = session.execute("SELECT * FROM fuzz_fields(%s, %s)", (seed, ROUNDS))
                row = query.fetchone()
                assert row is not None
                accepted, refused, raised, slowest_us, growth = row
                totals.messages.update(accepted=accepted, refused=refused, raised=raised)
                totals.slowest_us = max(totals.slowest_us, slowest_us)
                assert growth < GROWTH_BYTES, f"{name}, seed {seed}: the backend grew by {growth} bytes"
            first = False
            seed += ROUNDS
        assert identity(session) == before
    assert not cluster.findings(), cluster.findings()
    return totals


def fuzz_conversation(cluster: Cluster, seconds: float, seed: int = SEED) -> Totals:
    """Call functions whose sandboxes lie for so long."""
    totals = Totals()
    deadline = time.monotonic() + seconds
    path = cluster.directory / "sandboxes"
    with serving(path, seed=seed) as server, cluster.connect() as session:
        session.execute(f"SET plcontainer.server_socket = '{path}'")
        session.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
        session.execute("SET client_min_messages = error")
        session.execute("SET plcontainer.lease_timeout = '2s'")
        before = identity(session)
        warm = 0
        while time.monotonic() < deadline:
            for statement in STATEMENTS:
                begun = time.monotonic()
                row = session.execute("SELECT drive(%s, %s)", (statement, CALLS)).fetchone()
                totals.slowest_call_s = max(totals.slowest_call_s, time.monotonic() - begun)
                assert row is not None
                totals.states.update(row[0])
            try:
                session.execute("CALL fuzz_procedure()")
            except psycopg.Error as error:
                assert not session.closed, error
                totals.states[error.sqlstate or "?"] += 1
            warm = warm or memory(session)
        totals.growth = memory(session) - warm
        assert totals.growth < KEPT_BUFFERS_BYTES + GROWTH_BYTES, f"the backend grew by {totals.growth} bytes"
        assert identity(session) == before
        assert not server.errors, server.errors
        totals.frames, totals.sandboxes = server.counts.frames, server.counts.sandboxes
    assert not cluster.findings(), cluster.findings()
    internal = [state for state in totals.states if state.startswith("XX")]
    assert not internal, internal
    return totals
