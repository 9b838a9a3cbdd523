"""Errors that a backend is told about, each with its SQLSTATE."""

from __future__ import annotations

SQLSTATE_CONNECTION_DOES_NOT_EXIST = "08003"
SQLSTATE_CONNECTION_FAILURE = "08006"
SQLSTATE_PROTOCOL_VIOLATION = "08P01"
SQLSTATE_INSUFFICIENT_PRIVILEGE = "42501"
SQLSTATE_UNDEFINED_OBJECT = "42704"
SQLSTATE_OUT_OF_MEMORY = "53200"
SQLSTATE_TOO_MANY_CONNECTIONS = "53300"
SQLSTATE_OBJECT_IN_USE = "55006"
SQLSTATE_CANNOT_CONNECT_NOW = "57P03"
SQLSTATE_IDLE_SESSION_TIMEOUT = "57P05"
SQLSTATE_SYSTEM_ERROR = "58000"
SQLSTATE_UNDEFINED_FILE = "58P01"
SQLSTATE_CONFIG_FILE_ERROR = "F0000"


class LeaseError(Exception):
    """Why there is no lease: becomes an Error frame on the backend's connection.

    `sqlstate` is 5 of [0-9A-Z]; `detail` and `hint` may be empty.
    """

    def __init__(self, sqlstate: str, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint

    def fields(self) -> dict[str, str]:
        """The error's fields by their protocol key (C, M, D, H); empty ones are left out."""
        all_fields = {"C": self.sqlstate, "M": self.message, "D": self.detail, "H": self.hint}
        return {key: value for key, value in all_fields.items() if value}


class ProtocolViolationError(LeaseError):
    """The peer sent what PROTOCOL.md does not allow; the connection ends."""

    def __init__(self, message: str) -> None:
        super().__init__(SQLSTATE_PROTOCOL_VIOLATION, message)


class BackendUnavailableError(Exception):
    """The isolation backend (Docker ...) cannot be reached now; trying again later may help."""


class StartFailedError(LeaseError):
    """A sandbox could not be started, and trying again at once would not help."""
