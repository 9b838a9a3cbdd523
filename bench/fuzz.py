"""Junk to the database's side of the protocol, for as long as one likes.

The extension is built with AddressSanitizer and UndefinedBehaviorSanitizer into a PostgreSQL of its own. Decoders and
whole conversations take turns with seeds that were not used before; what fails names its seed. No lab is needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.integration.fuzz import campaign
from tests.integration.fuzz.cluster import UnavailableError, running

CONVERSATION_S = 60.0
SEEDS_OF_TURN = 1_000_000_000


def main() -> int:
    """Fuzz until the time is over; print what was sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000_000)
    options = parser.parse_args()
    messages = frames = sandboxes = 0
    try:
        with running(**{"plcontainer.cancel_grace": "100ms"}) as cluster:
            campaign.prepare(cluster)
            deadline = time.monotonic() + options.minutes * 60
            turn = 0
            while (left := deadline - time.monotonic()) > 0:
                seed = options.seed + turn * SEEDS_OF_TURN
                print(f"seed {seed}: ", end="", flush=True)
                decoded = campaign.fuzz_decoder(cluster, min(left / 2, CONVERSATION_S), seed)
                talked = campaign.fuzz_conversation(cluster, min(left / 2, CONVERSATION_S), seed)
                messages += decoded.messages.total()
                frames += talked.frames
                sandboxes += talked.sandboxes
                turn += 1
                print(f"{messages:,} messages decoded, {frames:,} frames of {sandboxes:,} sandboxes", flush=True)
    except UnavailableError as reason:
        print(f"This machine can't: it {reason}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
