"""What the return value of a trigger means, as PL/Python has it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

from . import codec, plpy
from .convert import ConversionError

CONTEXT = "while modifying trigger row"

Action = Tuple[int, List[Tuple[int, Any]]]


def action(result: object, data: Dict[str, Any], event: object, fields: Mapping[str, int]) -> Action:
    """Return what the database shall do, and the numbers and new values of the row's fields.

    `data` is what the function had as TD, `event` what TD["event"] was, `fields` numbers the row's fields.
    """
    if result is None:
        return codec.TRIGGER_UNCHANGED, []
    if not isinstance(result, str):
        raise _unexpected("Expected None or a string.")
    answer = result.upper()
    if answer == "SKIP":
        return codec.TRIGGER_SKIP, []
    if answer == "MODIFY":
        if event in ("INSERT", "UPDATE"):
            return codec.TRIGGER_MODIFY, _changes(data, fields)
        plpy.warning('PL/Container trigger function returned "MODIFY" in a DELETE trigger -- ignored')
    elif answer != "OK":
        raise _unexpected('Expected None, "OK", "SKIP", or "MODIFY".')
    return codec.TRIGGER_UNCHANGED, []


def _unexpected(detail: str) -> ConversionError:
    return ConversionError("22000", "unexpected return value from trigger procedure", detail)


def _changes(data: Dict[str, Any], fields: Mapping[str, int]) -> List[Tuple[int, Any]]:
    if "new" not in data:
        raise ConversionError("42704", 'TD["new"] deleted, cannot modify row', context=CONTEXT)
    new = data["new"]
    if not isinstance(new, dict):
        raise ConversionError("42804", 'TD["new"] is not a dictionary', context=CONTEXT)
    changes = []
    for position, (key, value) in enumerate(new.items()):
        if not isinstance(key, str):
            message = 'TD["new"] dictionary key at ordinal position %d is not a string' % position
            raise ConversionError("42804", message, context=CONTEXT)
        if key not in fields:
            message = 'key "%s" found in TD["new"] does not exist as a column in the triggering row' % key
            raise ConversionError("42703", message, context=CONTEXT)
        changes.append((fields[key], value))
    return changes
