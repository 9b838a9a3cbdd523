"""What the acceptance suite runs in a sandbox: connects like a runtime does, then runs the code that it is sent.

A request is a line with Python source as a JSON string; the answer is a line with what the source left in `result`, or
with its exception as [type, errno or null, text].
"""

from __future__ import annotations

import json
import os
import socket


def connect() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.environ["PLC_SOCKET"])
    return sock


def answer(source: str) -> object:
    scope: dict[str, object] = {}
    try:
        exec(source, scope)
    except BaseException as error:  # noqa: BLE001 - whatever it was, it is told
        return {"error": [type(error).__name__, getattr(error, "errno", None), str(error)]}
    return {"result": scope.get("result")}


def main() -> None:
    data = connect()
    signal = connect()
    signal.sendall(b"s")
    stream = data.makefile("rwb")
    for line in stream:
        stream.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        stream.flush()


main()
