"""A protocol server that hands out sandboxes that say anything but what they should."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("<IBBHQ")
PING, CALL, RESULT, ERROR, LOG, SQL, SUBTRANSACTION = range(1, 8)
REGISTER, ROWS, CREDIT = 9, 11, 12
LEASE, GRANT, EXITED = 32, 33, 36
REPLY, MORE = 1, 2
FEATURES = 11
SET, TRIGGER = 1, 2
FIXED = {1: 1, 2: 2, 3: 4, 4: 8, 5: 4, 6: 8, 11: 4}
TEXT, BYTEA, NUMERIC, OTHER, ARRAY, COMPOSITE, RECORD = 7, 8, 9, 10, 16, 17, 18
DEEPEST_CALL = 3
MOST_FRAMES = 6
BAD_GREETINGS = 0.01

TEXTS = (b"", b"1", b"-7", b"1.5", b"abc", b"{1,2}", b"(1,a)", b"2024-02-29", b"\xff", b"a\0b", "\u00e9\u20ac".encode())
QUERIES = (
    b"SELECT 1",
    b"SELECT * FROM many",
    b"SELECT i, repeat('x', 3000) FROM generate_series(1, 300) i",
    b"INSERT INTO sink VALUES (1, 'x') RETURNING *",
    b"SELECT fuzz_int(1)",
    b"SELECT * FROM fuzz_set(1) LIMIT 2",
    b"SELECT fuzz_row(ROW(1, 'a')::thing)",
    b"SELECT 1/0",
    b"SELEC",
    b"",
    b"SELECT $1::int4 + 1",
    b"SELECT $1::thing, $2::text[]",
    b"COMMIT",
    b"SAVEPOINT s",
    b"CREATE TEMP TABLE IF NOT EXISTS t (a int4)",
    b"DO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0009'; END$$",
    b"SELECT pg_sleep(0)",
    b"SELECT ROW(1, ROW('a', 2.5), ARRAY[ROW(1)])",
    b"EXPLAIN SELECT 1",
    b"DECLARE c CURSOR FOR SELECT * FROM many",
    b"CLOSE ALL",
    b"\xff",
    b"SELECT 'a\0b'",
)
TYPES = (b"int4", b"text", b"thing", b"text[]", b"numeric(4,1)", b"varchar(3)", b"short", b"nonsense", b"", b"int4 x")
LENGTHS = (0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class GoneError(Exception):
    """The backend has closed the connection."""


@dataclass(frozen=True)
class Type:
    """A type as a descriptor says it."""

    kind: int
    parts: tuple[Type, ...] = ()


@dataclass
class Function:
    """What of a registration the answers depend on."""

    flags: int
    result: Type


class Cursor:
    """Reads a payload of the backend's, which is right."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.at = 0

    def number(self, code: str) -> int:
        """Read an integer that struct describes by `code`."""
        (value,) = struct.unpack_from("<" + code, self.payload, self.at)
        self.at += struct.calcsize("<" + code)
        return int(value)

    def text(self) -> bytes:
        """Read a `str`."""
        length = self.number("I")
        self.at += length
        return self.payload[self.at - length : self.at]

    def type(self) -> Type:
        """Read a type descriptor."""
        kind = self.number("B")
        if kind == OTHER:
            self.text()
        elif kind == ARRAY:
            return Type(kind, (self.type(),))
        elif kind == COMPOSITE:
            self.text()
            return Type(kind, tuple(self._field() for _ in range(self.number("I"))))
        return Type(kind)

    def _field(self) -> Type:
        self.text()
        return self.type()


def text(value: bytes) -> bytes:
    """Return a `str`."""
    return struct.pack("<I", len(value)) + value


def frame(call: int, kind: int, payload: bytes, flags: int = 0) -> bytes:
    """Return a frame that is right."""
    return HEADER.pack(call, kind, flags, 0, len(payload)) + payload


@dataclass
class Counts:
    """What has been sent, over all sandboxes."""

    sandboxes: int = 0
    frames: int = 0


class Values:
    """Values of types, most of them right."""

    def __init__(self, source: random.Random) -> None:
        self.random = source

    def value(self, declared: Type, slip: float) -> bytes:
        """Return a value; `slip` is how likely each of its parts is wrong."""
        if self.random.random() < slip:
            return bytes((self.random.randrange(6),)) + self.random.randbytes(self.random.randrange(9))
        if declared.kind == 0 or self.random.random() < 0.1:
            return b"\0"
        if declared.kind == RECORD or self.random.random() < 0.1:
            return b"\2" + text(self.random.choice(TEXTS))
        return b"\1" + self._binary(declared, slip)

    def _binary(self, declared: Type, slip: float) -> bytes:
        if declared.kind == COMPOSITE:
            return b"".join(self.value(part, slip) for part in declared.parts)
        if declared.kind == ARRAY:
            # In form TEXT elements are not aligned: where the array lies does not matter.
            rows = declared.parts[0].kind in {COMPOSITE, RECORD}
            count = self.random.randrange(1, 4)
            head = struct.pack("<BBHii", 1, 0 if rows else 2, 0, count, 1)
            return head + b"".join(
                self.value(declared.parts[0], slip) if rows else text(self.random.choice(TEXTS[:6]))
                for _ in range(count)
            )
        if declared.kind == 1:
            return bytes((self.random.randrange(2),))
        if declared.kind in FIXED:
            return self.random.randbytes(FIXED[declared.kind])
        return text(b"12" if declared.kind in {NUMERIC, OTHER} else self.random.choice(TEXTS[:8]))


class Sandbox:
    """The far end of a data connection."""

    def __init__(self, data: socket.socket, source: random.Random, counts: Counts) -> None:
        # What was damaged may leave both ends waiting.
        data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
        self.data = data
        self.random = source
        self.values = Values(source)
        self.counts = counts
        self.functions: dict[int, Function] = {}
        self.sets: dict[int, Function] = {}
        self.plans: list[tuple[int, tuple[Type, ...]]] = []
        self.cursors: list[bytes] = [b"", b"c"]
        self.damage = 1.0 if source.random() < BAD_GREETINGS else 0.0
        self.slip = 0.0
        self.depth = 0
        self.broken = False

    # --- bytes

    def receive(self) -> tuple[int, int, int, bytes]:
        """Return the next frame's call, type, flags and payload."""
        call, kind, flags, _, length = HEADER.unpack(self._exactly(HEADER.size))
        return call, kind, flags, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        try:
            received = self.data.recv(length, socket.MSG_WAITALL) if length else b""
        except OSError as error:
            raise GoneError from error
        if len(received) < length:
            raise GoneError
        return received

    def send(self, call: int, kind: int, payload: bytes, flags: int = 0) -> None:
        """Send a frame, or what is left of it."""
        self.counts.frames += 1
        message = frame(call, kind, payload, flags)
        if self.random.random() < self.damage:
            message = self._damaged(message)
        try:
            self.data.sendall(message)
        except OSError as error:
            raise GoneError from error

    def _damaged(self, message: bytes) -> bytes:
        bytes_ = bytearray(message)
        where = self.random.randrange(len(bytes_))
        match self.random.randrange(6):
            case 0:
                bytes_[where] ^= 1 << self.random.randrange(8)
                self.broken |= where < HEADER.size
            case 1:
                del bytes_[where:]
                self.broken = True
            case 2 if len(bytes_) >= HEADER.size + 4:
                where = self.random.randrange(HEADER.size, len(bytes_) - 3)
                struct.pack_into("<I", bytes_, where, self.random.choice(LENGTHS))
            case 3:
                struct.pack_into("<Q", bytes_, 8, self.random.choice((0, 1, 1 << 31, (1 << 64) - 1)))
                self.broken = True
            case 4:
                bytes_[4] = self.random.randrange(40)
            case _:
                junk = self.random.randbytes(self.random.randrange(64))
                bytes_ = bytearray(HEADER.pack(*HEADER.unpack(message[:16])[:4], len(junk)) + junk)
        return bytes(bytes_)

    # --- the conversation

    def serve(self) -> None:
        """Answer until the backend has enough."""
        while True:
            self.dispatch(*self.receive())

    def dispatch(self, call: int, kind: int, flags: int, payload: bytes) -> None:
        """Take one message of the backend's."""
        cursor = Cursor(payload)
        if kind == PING:
            answer = struct.pack("<IHHQQ", 0x31434C50, 1, 0, FEATURES, 1 << 30) + text(b"fuzz") + text(b"c")
            self.send(call, PING, answer, REPLY)
            if self.broken:
                raise GoneError
        elif kind == REGISTER:
            number, its_flags = cursor.number("I"), cursor.number("I")
            cursor.text()
            cursor.text()
            for _ in range(cursor.number("I")):
                cursor.text()
                cursor.type()
            self.functions[number] = Function(its_flags, cursor.type())
        elif kind == CALL:
            self.run(call, self.functions[cursor.number("I")])
        elif kind == CREDIT and cursor.number("I") > 0:
            self.finish(call, self.sets[call])

    def run(self, call: int, function: Function) -> None:
        """Make a call: some requests, then an answer."""
        if self.depth == 0:
            self.damage = self.random.choice((0.0, 0.0, 0.05, 0.3))
            self.slip = self.random.choice((0.0, 0.0, 0.05, 0.2))
            self.broken = False
        self.depth += 1
        if self.depth <= DEEPEST_CALL:
            for _ in range(min(int(self.random.expovariate(0.8)), MOST_FRAMES)):
                self.step(call)
        self.finish(call, function)
        self.depth -= 1
        if self.broken:
            # Bytes are missing, and none follow.
            raise GoneError

    def step(self, call: int) -> None:
        """Send one message of a call before its answer."""
        choice = self.random.random()
        if choice < 0.2:
            self.send(call, LOG, bytes((self.random.choice((1, 1, 2, 4, 5, 0, 200)),)) + self.fields())
        elif choice < 0.35:
            self.request(call, SUBTRANSACTION, bytes((self.random.choice((1, 1, 2, 3, 3, 9)),)))
        elif choice < 0.4:
            discarded = struct.pack("<BII", 10, 1, self.random.randrange(4))
            self.send(call, SQL, discarded + struct.pack("<I", 1) + text(self.random.choice(self.cursors)))
        elif choice < 0.95:
            self.request(call, SQL, self.statement())
        else:
            self.send(call, self.random.randrange(40), self.random.randbytes(self.random.randrange(40)))

    def request(self, call: int, kind: int, payload: bytes) -> None:
        """Send a request and, mostly, wait for its answer."""
        self.send(call, kind, payload)
        if self.broken or self.random.random() < 0.05:
            return
        flags = MORE
        while flags & MORE:
            answer = self.receive()
            while not answer[2] & REPLY:
                self.dispatch(*answer)
                answer = self.receive()
            flags = answer[2]
            if kind == answer[1] == SQL and payload[0] in {2, 4, 5}:
                # A damaged request was taken for another one.
                with contextlib.suppress(struct.error):
                    self.remember(payload[0], answer[3])

    def remember(self, verb: int, answer: bytes) -> None:
        """Keep a plan or a cursor for later requests."""
        cursor = Cursor(answer)
        if verb == 2:
            plan = cursor.number("I")
            self.plans.append((plan, tuple(cursor.type() for _ in range(cursor.number("I")))))
        else:
            self.cursors.append(cursor.text())

    def statement(self) -> bytes:
        """Return the payload of an SQL request."""
        verb = self.random.choice((1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 6, 7, 8, 9, self.random.randrange(256)))
        payload = bytes((verb,))
        limit = struct.pack("<Q", self.random.choice((0, 1, 100, (1 << 63) - 1, (1 << 64) - 1)))
        if verb in {1, 2, 4}:
            payload += text(self.random.choice(QUERIES))
        if verb == 1:
            payload += limit
        elif verb == 2:
            types = [self.random.choice(TYPES) for _ in range(self.random.choice((0, 0, 1, 2)))]
            payload += struct.pack("<I", len(types)) + b"".join(map(text, types))
        elif verb in {3, 5}:
            plan, types_ = self.random.choice(self.plans) if self.plans else (7, ())
            payload += struct.pack("<I", plan) + (limit if verb == 3 else b"") + struct.pack("<I", len(types_))
            payload += b"".join(self.values.value(each, self.slip) for each in types_)
        elif verb in {6, 7}:
            payload += text(self.random.choice(self.cursors)) + (limit if verb == 6 else b"")
        return payload

    def fields(self) -> bytes:
        """Return the fields of an Error or Log."""
        message = self.random.choice(TEXTS)
        made = b"M" + text(message)
        for _ in range(self.random.randrange(3)):
            key = self.random.choice(b"CDHWstcdnqpM\x01\xff")
            made += bytes((key,)) + text(self.random.choice((b"22012", b"00000", b"ABCDE", b"57014", message)))
        return made + b"\0"

    def finish(self, call: int, function: Function) -> None:
        """Answer a call."""
        if self.random.random() < 0.15:
            self.send(call, ERROR, self.fields())
        elif function.flags & SET:
            self.sets[call] = function
            count = self.random.choice((0, 1, 3, 70))
            rows = b"".join(self.values.value(function.result, self.slip) for _ in range(count))
            flags = MORE if count and self.random.random() < 0.3 else 0
            self.send(call, ROWS, struct.pack("<I", count) + rows, flags)
        elif function.flags & TRIGGER:
            self.send(call, RESULT, self.action(function.result))
        else:
            self.send(call, RESULT, self.values.value(function.result, self.slip))

    def action(self, row: Type) -> bytes:
        """Return what a trigger's Result holds."""
        verb = self.random.choice((0, 1, 2, 2, 2, 2, 7))
        payload = bytes((verb,))
        if verb == 2:
            count = self.random.randrange(len(row.parts) + 1)
            payload += struct.pack("<I", count)
            for _ in range(count):
                index = self.random.randrange(len(row.parts) + (self.random.random() < self.slip))
                payload += struct.pack("<I", index) + self.values.value(
                    row.parts[min(index, len(row.parts) - 1)], self.slip
                )
        return payload


# What a sandbox does on its data connection until one of the ends has enough.
Behaviour = Callable[[socket.socket], None]


@dataclass
class Server:
    """Listens where a backend asks for sandboxes; each is a thread of this process."""

    path: Path
    behave: Behaviour
    counts: Counts = field(default_factory=Counts)
    errors: list[BaseException] = field(default_factory=list)

    def lease(self, control: socket.socket) -> None:
        """Grant one sandbox and be it."""
        ours, theirs = socket.socketpair()
        signal_ours, signal_theirs = socket.socketpair()
        with control, ours, theirs, signal_ours, signal_theirs, contextlib.suppress(OSError):
            kind = HEADER.unpack(control.recv(HEADER.size, socket.MSG_WAITALL))[1]
            if kind != LEASE:
                return
            self.counts.sandboxes += 1
            granted = frame(0, GRANT, text(b"fuzz%d" % self.counts.sandboxes) + text(b"token"))
            socket.send_fds(control, [granted], [theirs.fileno(), signal_theirs.fileno()])
            theirs.close()
            signal_theirs.close()
            try:
                self.behave(ours)
            except (GoneError, OSError):
                pass
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
            control.sendall(frame(0, EXITED, text(b"fuzz") + text(b"enough") + text(b"58000")))

    def serve(self, listener: socket.socket) -> None:
        """Grant sandboxes until the listener is shut down."""
        while True:
            try:
                control, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.lease, args=(control,), daemon=True).start()


@contextlib.contextmanager
def listening(server: Server) -> Iterator[None]:
    """Have a server listen."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.path))
        server.path.chmod(0o777)
        listener.listen(64)
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    server.path.unlink()


@contextlib.contextmanager
def serving(path: Path, behave: Behaviour | None = None, seed: int = 0) -> Iterator[Server]:
    """Serve sandboxes on `path`; without a behaviour they are random ones that `seed` determines."""
    server = Server(path, lambda _: None)
    server.behave = behave or (
        lambda data: Sandbox(data, random.Random(f"{seed}/{server.counts.sandboxes}"), server.counts).serve()
    )
    with listening(server):
        yield server
