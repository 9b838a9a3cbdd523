"""Serve the provider, as Pulumi's engine starts plugins: the port goes to standard output."""

from __future__ import annotations

import os
import select
import signal
import threading
from concurrent import futures

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from tests.support.kubernetes_provider.provider import Provider

_MOST_BYTES = 400 * 1024 * 1024


def _end_with(engine: int, ended: threading.Event) -> None:
    """Wait for the end of the engine: one that is killed ends no plugin."""
    with os.fdopen(os.pidfd_open(engine)) as process:
        select.select([process], [], [])
    ended.set()


def main() -> None:
    """Serve until the engine ends, or ends the process."""
    ended = threading.Event()
    threading.Thread(target=_end_with, args=(os.getppid(), ended), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", _MOST_BYTES)]
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    ended.wait()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
