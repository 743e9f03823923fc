"""What a file of values may hold, whoever wrote it: nothing too deep to be looked into, or too large to be counted."""

from __future__ import annotations

from typing import Any

DEEPEST = 100
"""So deep lists and tables may stand in one another, as in messages of Protocol Buffers; ours go four deep."""
BEYOND = 2**63
"""The first whole number that has not to be read, by TOML's own rules."""
TOO_DEEP = f"lists or tables stand in one another more than {DEEPEST} deep"
TOO_LARGE = "a whole number in it has more than 64 bits"


class NotPlain(ValueError):
    """What text may say, and no file of ours does."""


def check(found: Any) -> None:
    """Refuse what readers would fail at. It looks in level by level.

    Args:
        found: Tables, lists and what is in them.

    Raises:
        NotPlain: A whole number has more than 64 bits, or lists and tables stand in one another too deep.

    Examples:
        >>> check({"rounds": [1, {"of": 2**63 - 1}]})
    """
    level: list[Any] = [[found]]
    for _ in range(DEEPEST + 1):
        inner = [one for some in level for one in (some.values() if isinstance(some, dict) else some)]
        if any(isinstance(one, int) and not -BEYOND <= one < BEYOND for one in inner):
            raise NotPlain(TOO_LARGE)
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return
    raise NotPlain(TOO_DEEP)


def why(error: Exception) -> str:
    """What a reader's own limits stopped at, in words: 4,300 digits, or the depth of its stack.

    Args:
        error: As a reader of TOML or JSON, or `check`, raised it.
    """
    if isinstance(error, NotPlain):
        return str(error)
    if isinstance(error, RecursionError):
        return TOO_DEEP
    return TOO_LARGE if "digits" in str(error) else str(error)
