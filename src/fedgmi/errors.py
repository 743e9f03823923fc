"""What fedgmi raises when the user, the data or a file is at fault."""

from __future__ import annotations


class FedgmiError(Exception):
    """Any failure that fedgmi explains itself; the command line prints it without a traceback."""


class UserError(FedgmiError):
    """A mistake that the user can mend: what was found, where, and the likely fix.

    >>> print(UserError("rows_per_client is 0", where="scenario.rows_per_client", fix="set it to 1 or more"))
    scenario.rows_per_client: rows_per_client is 0. Likely fix: set it to 1 or more.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        text = text if text.endswith((".", "?", "!")) else f"{text}."
        super().__init__(f"{text} Likely fix: {fix.rstrip('.')}." if fix else text)


class DataError(UserError):
    """The data cannot be used as they are (NaN, mixed sizes, missing column, empty client)."""


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class CheckpointError(UserError):
    """A checkpoint is truncated, foreign, or of another configuration."""
