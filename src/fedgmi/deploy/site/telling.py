"""What a coordinator is told of a failure at a site: what its own request was like, else no more than the kind."""

from __future__ import annotations

from fedgmi.errors import ConfigError, DataError, DivergedError, LimitError, RequestError, StorageError
from fedgmi.protocol.wire import WireError
from fedgmi.protocol.words import one_line

TOLD = (WireError, RequestError, DivergedError)
"""Errors that say nothing but of the request, of both sides' versions, or that training ran away."""
KINDS: tuple[tuple[type[Exception], str], ...] = (
    (LimitError, "its own limits do not allow it"),
    (DataError, "its rows cannot be used"),
    (ConfigError, "its settings cannot be used"),
    (StorageError, "its folder cannot be written"),
)
"""What is told of errors of other kinds. Of all else the name of the error's class is."""


def disclosable(error: Exception) -> str:
    """What a coordinator may know of a failure: no row, no limit that the site has set itself, no path of its disk.

    Args:
        error: As it was raised. The site's log.txt has the whole of it.

    Returns:
        One line.

    Examples:
        >>> disclosable(LimitError("it would be release 2, and max_releases is 1"))
        "its own limits do not allow it; the site's log.txt says more"
        >>> disclosable(RequestError("the coordinator has fedgmi 0.2, this site 0.1"))
        'the coordinator has fedgmi 0.2, this site 0.1.'
    """
    if isinstance(error, TOLD) and not isinstance(error, LimitError):
        return one_line(str(error))
    kind = next((words for kind, words in KINDS if isinstance(error, kind)), type(error).__name__)
    return f"{kind}; the site's log.txt says more"
