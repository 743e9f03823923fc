"""How a fit is shown while it goes on, and whether it was over when it ended."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fedgmi.errors import ConfigError
from fedgmi.estimator.base import ConvergenceWarning
from fedgmi.protocol.listener import Listener

STILL_RISING = 0.02
"""Of the whole rise since the first round: what the last fifth of the rounds may add before we say so."""
LEAST_RISE = 0.01
"""Nats per row that are worth a word."""


@contextmanager
def shown(verbose: int | bool | None, own: Listener | None = None) -> Iterator[Listener | None]:
    """A listener that shows how a fit goes, for as long as the block runs.

    Args:
        own: The user's own, which takes its place.
        verbose: 0: nothing. 1 or more: a bar on a terminal or in a notebook, and a few lines elsewhere. None: the bar
            where there is a terminal or a notebook, and nothing elsewhere.

    Raises:
        ConfigError: For another value.
    """
    if verbose is not None and (not isinstance(verbose, int) or verbose < 0):
        raise ConfigError(f"verbose is {verbose!r}", where="FedGMI", fix="give 0, 1 or None")
    if verbose == 0 or own is not None:
        yield own
        return
    from fedgmi.report.console import OwnConsole
    from fedgmi.report.progress import listening

    console = OwnConsole(stderr=True)
    if verbose is None and not (console.is_terminal or console.is_jupyter):
        yield None
        return
    with listening(console) as listener:
        yield listener


def warn_if_rising(history: Sequence[dict[str, Any]], rounds: int, stacklevel: int = 4) -> None:
    """Warn where the bound still rose when the rounds were over.

    Args:
        history: A record for each round; those before the first round and after the last do not count.
        rounds: R.
        stacklevel: Whom the warning points at.
    """
    bounds = [line["bound"] for line in history if 1 <= line["round"] <= rounds and line["bound"] is not None]
    if len(bounds) < 2:
        return
    last = max(1, len(bounds) // 5)
    risen, whole = bounds[-1] - bounds[-1 - last], max(bounds) - bounds[0]
    if risen > max(STILL_RISING * whole, LEAST_RISE):
        warnings.warn(
            f"the bound still rose by {risen:.2g} nats per row in the last {last} of {rounds} rounds. "
            "Likely fix: more rounds",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
