"""Whose message the server part of a step fails on: the run of the others goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import TypeVar

import torch

from fedgmi.errors import DivergedError, UserError
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.words import one_line

PAIRS_OF = 6  # messages with the largest numbers, of which two together are tried
Made = TypeVar("Made")


def without_culprits(
    messages: Mapping[int, Message], make: Callable[[Mapping[int, Message]], Made]
) -> tuple[Made, list[int]] | None:
    """What comes of all messages but one, or but two; the one with the largest numbers is left out first.

    Args:
        messages: By client. Something fails on all of them together.
        make: What comes of some of them. It raises where it fails.

    Returns:
        What came, and who was left out. None where it fails all the same: then it is not one client's doing.

    Examples:
        >>> messages = {i: Message(sums={"n": torch.tensor(float(n))}) for i, n in enumerate([2, 900, 3])}
        >>> without_culprits(messages, lambda some: {2: "singular"}[len(some)])
        ('singular', [1])
    """
    for out in _tries(messages):
        try:
            return make({i: message for i, message in messages.items() if i not in out}), list(out)
        except MemoryError:
            raise
        except Exception:  # whatever one site has brought about: the next may be it
            continue
    return None


def by_size(messages: Mapping[int, Message]) -> list[int]:
    """Clients, those first that hold the largest number, in medians of what all hold in its leaf.

    Examples:
        >>> by_size({i: Message(sums={"n": torch.tensor(float(n))}) for i, n in enumerate([2, 900, 3])})
        [1, 2, 0]
    """
    size = dict.fromkeys(messages, 0.0)
    leaves = {i: flatten(message) for i, message in messages.items()}
    for name, first in next(iter(leaves.values()), {}).items():
        if not first.numel():
            continue
        most = torch.stack([leaves[i][name].double().abs().amax().cpu() for i in leaves])
        in_medians = (most / most.median().clamp(min=1e-30)).nan_to_num(nan=torch.inf)
        for i, n in zip(leaves, in_medians.tolist(), strict=True):
            size[i] = max(size[i], n)
    return sorted(messages, key=lambda i: (-size[i], i))


def in_words(error: Exception) -> str:
    """What went wrong, in one line; an error that nobody expected has its kind before it.

    Examples:
        >>> in_words(ZeroDivisionError("no" + chr(27) + "way"))
        'ZeroDivisionError: no\\\\x1bway'
    """
    said = error.what if isinstance(error, UserError) else f"{type(error).__name__.lstrip('_')}: {error}"
    return one_line(said, 200)


def cannot_go_on(error: Exception, what: str, *, where: str, fix: str) -> UserError:
    """The error of an exchange that fails whoever is left out; training that has diverged stays such."""
    kind = DivergedError if isinstance(error, DivergedError) else UserError
    return kind(f"{what} ({in_words(error)})", where=where, fix=fix)


def _tries(messages: Mapping[int, Message]) -> Iterator[tuple[int, ...]]:
    """Whom to leave out; somebody stays."""
    suspects = by_size(messages)
    if len(suspects) > 1:
        yield from ((i,) for i in suspects)
    if len(suspects) > 3:
        yield from combinations(suspects[:PAIRS_OF], 2)
