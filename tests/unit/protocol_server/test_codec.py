"""Frames and messages of the lease conversation, byte by byte."""

from __future__ import annotations

import random
import struct

import pytest

from protocol_server import codec
from protocol_server.errors import LeaseError, ProtocolViolationError

HELLO = struct.pack("<IHH", 0x31434C50, 1, 0)


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def lease_payload(
    hello: bytes = HELLO, runtime: bytes = b"r", role: bytes = b"alice", members: tuple[bytes, ...] = (b"staff",)
) -> bytes:
    listed = struct.pack("<I", len(members)) + b"".join(map(text, members))
    return hello + text(runtime) + text(role) + listed + text(b"db")


def decode(payload: bytes, kind: int = 32) -> codec.Request:
    return codec.decode_request(codec.Header(1, kind, len(payload)), payload)


def test_lease_as_bytes() -> None:
    request = codec.LeaseRequest("r", "alice", ("staff",), "db")
    frame = codec.encode_lease(7, request)
    assert frame == struct.pack("<IBBHQ", 7, 32, 0, 0, len(lease_payload())) + lease_payload()
    header = codec.decode_header(frame[:16])
    assert header == codec.Header(7, 32, len(frame) - 16)
    assert codec.decode_request(header, frame[16:]) == request


def test_reclaim_as_bytes() -> None:
    frame = codec.encode_reclaim(9, "token")
    assert frame == struct.pack("<IBBHQ", 9, 34, 0, 0, 17) + HELLO + text(b"token")
    assert codec.decode_request(codec.decode_header(frame[:16]), frame[16:]) == codec.ReclaimRequest("token")


def test_answers_as_bytes() -> None:
    assert codec.encode_grant(7, "sb", "tk") == struct.pack("<IBBHQ", 7, 33, 0, 0, 12) + text(b"sb") + text(b"tk")
    assert codec.encode_reclaimed(7, "sb") == struct.pack("<IBBHQ", 7, 35, 0, 0, 6) + text(b"sb")
    exited = text(b"sb") + text(b"terminated by signal KILL") + text(b"08006")
    assert codec.encode_exited("sb", "terminated by signal KILL", "08006") == (
        struct.pack("<IBBHQ", 0, 36, 0, 0, len(exited)) + exited
    )
    error = b"C" + text(b"42704") + b"M" + text("größer".encode()) + b"\0"
    fields = LeaseError("42704", "größer").fields()
    assert codec.encode_error(3, fields) == struct.pack("<IBBHQ", 3, 4, 0, 0, len(error)) + error
    assert codec.decode_fields(error) == fields


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ((1, 33, 0, 0, 0), "type 33"),
        ((1, 1, 0, 0, 0), "type 1"),
        ((1, 32, 1, 0, 0), "reserved bits"),
        ((1, 32, 128, 0, 0), "reserved bits"),
        ((1, 32, 0, 1, 0), "reserved bits"),
        ((1, 32, 0, 0, 65537), "larger than 65536"),
        ((1, 32, 0, 0, 2**64 - 1), "larger than 65536"),
    ],
)
def test_bad_header(header: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ProtocolViolationError, match=complaint) as caught:
        codec.decode_header(struct.pack("<IBBHQ", *header))
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "ends inside"),
        (lease_payload(hello=struct.pack("<IHH", 0x31434C51, 1, 0)), "magic"),
        (
            lease_payload(hello=struct.pack("<IHH", 0x31434C50, 2, 0)),
            "version 2 is not supported, this server speaks 1",
        ),
        (lease_payload(hello=struct.pack("<IHH", 0x31434C50, 1, 1)), "reserved word"),
        (lease_payload() + b"x", "1 bytes follow"),
        (lease_payload()[:-1], "ends inside the database"),
        (lease_payload(runtime=b"\xff"), "UTF-8"),
        (lease_payload(runtime=b"a\0b"), "NUL"),
        (lease_payload(role=b"x" * 64), "longer than 63"),
        (lease_payload(members=(b"y" * 64,)), "longer than 63"),
        (HELLO + text(b"r") + text(b"a") + struct.pack("<I", 2**32 - 1), "more than the payload holds"),
        (HELLO + struct.pack("<I", 2**32 - 1), "longer than"),
        (HELLO + struct.pack("<I", 100) + b"short", "ends inside"),
    ],
)
def test_bad_lease(payload: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolViolationError, match=complaint):
        decode(payload)


def test_every_cut_and_every_flipped_byte_is_an_answer_or_a_violation() -> None:
    payload = lease_payload()
    for end in range(len(payload)):
        with pytest.raises(ProtocolViolationError):
            decode(payload[:end])
    chance = random.Random(1)
    refused = 0
    for _ in range(20000):
        mutated = bytearray(payload)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            decode(bytes(mutated), chance.choice((32, 34)))
        except ProtocolViolationError:
            refused += 1
    assert refused > 10000


def test_answers_fit_whatever_they_say() -> None:
    fields = {"C": "58000", "M": "\0\ud800" * 100_000, "D": "ä" * 100_000, "H": "x" * 100_000}
    frame = codec.encode_error(1, fields)
    assert len(frame) <= 16 + 64 * 1024
    assert codec.decode_fields(frame[16:])["D"].endswith("...")


@pytest.mark.parametrize("payload", [b"Q" + text(b"x") + b"\0", b"M" + text(b"a") + b"M" + text(b"b") + b"\0", b"M"])
def test_bad_fields(payload: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        codec.decode_fields(payload)
