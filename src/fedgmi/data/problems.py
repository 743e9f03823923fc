"""All that is wrong with data, told at once rather than one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedgmi.errors import DataError

MOST = 10
"""So many problems are told one by one."""


class Several(DataError):
    """More than one problem.

    Attributes:
        found: Each of them, in their order.
    """

    def __init__(self, found: Sequence[DataError]) -> None:
        self.found = tuple(found)
        lines = [f"  {error}" for error in found[:MOST]]
        more = [f"  and {len(found) - MOST} more"] if len(found) > MOST else []
        super().__init__(f"{len(found)} problems.\n" + "\n".join([*lines, *more]))

    def __reduce__(self) -> tuple[type[Several], tuple[tuple[DataError, ...]]]:
        return Several, (self.found,)


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
        fedgmi.data.problems.Several: 2 problems.
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
        except Several as error:
            self.found += error.found
        except DataError as error:
            self.found.append(error)

    def tell(self) -> None:
        """Say what was found.

        Raises:
            DataError: Where anything was: the one problem as it is, or a list of all of them.
        """
        if self.found:
            raise self.found[0] if len(self.found) == 1 else Several(self.found)
