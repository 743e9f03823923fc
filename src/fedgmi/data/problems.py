"""All that is wrong with data, told at once rather than one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedgmi.errors import DataError

MOST = 10
"""So many problems are told one by one."""


class Problems:
    """What was found while data were read.

    Attributes:
        found: In their order.

    Examples:
        >>> problems = Problems()
        >>> for column in ("age", "sex"):
        ...     with problems.noted():
        ...         raise DataError("it is missing", where=column, fix="add it")
        >>> problems.tell()
        Traceback (most recent call last):
        fedgmi.errors.DataError: 2 problems.
          age: it is missing. Likely fix: add it.
          sex: it is missing. Likely fix: add it.
    """

    def __init__(self) -> None:
        self.found: list[DataError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Go on after a DataError; `tell` raises it."""
        try:
            yield
        except DataError as error:
            self.found.append(error)

    def tell(self) -> None:
        """Say what was found.

        Raises:
            DataError: Where anything was: the one problem as it is, or a list of all of them.
        """
        error = together(self.found)
        if error is not None:
            raise error


def together(found: Sequence[DataError]) -> DataError | None:
    """Several problems as one error.

    Args:
        found: In their order.

    Returns:
        None for no problem, the problem where there is one, and otherwise an error that lists them, one a line.
    """
    if len(found) < 2:
        return next(iter(found), None)
    lines = [f"  {error}" for error in found[:MOST]]
    more = [f"  and {len(found) - MOST} more"] if len(found) > MOST else []
    return DataError(f"{len(found)} problems.\n" + "\n".join([*lines, *more]))
