"""`python3 -m protocol_server`: the daemon and the check of its configuration."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys
from pathlib import Path

from protocol_server import __version__
from protocol_server.config import ConfigError, load
from protocol_server.logs import Log


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="plcontainer-protocol-server", description="The protocol server of a host.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="protocol_server.yml")
    parser.add_argument("--runtimes", type=Path, metavar="FILE", help="use this file instead of the one configured")
    parser.add_argument(
        "--check-config", action="store_true", help="check the configuration and exit, 0 when it is good"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the server; the exit status is 0 after an orderly end and 1 when it cannot start."""
    options = _arguments(sys.argv[1:] if arguments is None else arguments)
    log = Log()
    try:
        config = load(options.config, options.runtimes)
    except ConfigError as error:
        for problem in error.problems:
            if options.check_config:
                print(problem, file=sys.stderr)
            else:
                log.alert("config_rejected", file=problem.file, line=problem.line, rule=problem.rule)
        return 1
    if options.check_config:
        print(f"configuration ok: {len(config.runtimes)} runtimes")
        return 0

    # The rest is only imported by a server that runs: a check of the configuration stays fast.
    from protocol_server.server import Server, ServerError  # noqa: PLC0415

    log.set_level(config.server.log_level)
    os.umask(0o077)
    # Descriptors are what a server of many leases runs out of first; the hard limit is the operator's.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    log.debug("limits", nofile=soft)

    async def serve() -> None:
        await Server(config, log, lambda: load(options.config, options.runtimes)).run()

    try:
        asyncio.run(serve())
    except ServerError as error:
        log.alert("start_failed", problem=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
