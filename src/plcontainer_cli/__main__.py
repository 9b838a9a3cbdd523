"""`python3 -m plcontainer_cli`: the command line."""

from __future__ import annotations

from plcontainer_cli.cli import run

run()
