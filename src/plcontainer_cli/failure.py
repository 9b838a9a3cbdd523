"""How a command fails: with a message and exit status 1. Wrong usage is 2, and click's."""

from __future__ import annotations

from collections.abc import Sequence

import click


class Failure(click.ClickException):
    """A refusal or a fault; `details` are more lines, such as problems with file and line."""

    exit_code = 1

    def __init__(self, message: str, details: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message)
        self.details = tuple(details)
        self.hint = hint

    def format_message(self) -> str:
        """Message, details and hint, a line each."""
        lines = [self.message, *(f"  {detail}" for detail in self.details)]
        return "\n".join([*lines, f"Hint: {self.hint}"] if self.hint else lines)
