"""What functions have cost, summed up over the sessions of this host since the server was started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, fields
from typing import Final

from protocol_server.codec import FunctionStatistics

#: Sums beyond this many are not begun: they would be of functions that are made and dropped all the time.
_MAX_SUMS: Final = 100_000
_KEYS: Final = tuple(field.name for field in fields(FunctionStatistics))


class Statistics:
    """Sums by database, function and role."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int, str], list[int]] = {}

    def add(self, database: str, role: str, items: Iterable[FunctionStatistics]) -> None:
        """Add what a session of `role` has counted."""
        for item in items:
            key = (database, item.function, role)
            sums = self._sums.get(key)
            if sums is None:
                if len(self._sums) >= _MAX_SUMS:
                    continue
                sums = self._sums[key] = [0] * (len(_KEYS) - 1)
            for index, value in enumerate(astuple(item)[1:]):
                sums[index] += value

    def rows(self, database: str, role: str | None) -> list[dict[str, object]]:
        """One row per function of `database`: of the calls of `role` only, or of all when it is None."""
        totals: dict[int, list[int]] = {}
        for (where, function, who), sums in self._sums.items():
            if where == database and role in (None, who):
                total = totals.setdefault(function, [0] * len(sums))
                totals[function] = [one + other for one, other in zip(total, sums, strict=True)]
        return [dict(zip(_KEYS, (function, *sums), strict=True)) for function, sums in sorted(totals.items())]
