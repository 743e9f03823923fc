"""What a round's number means, and numbers that have run away: all that a site needs to know of the round loop."""

from __future__ import annotations

from fedgmi.errors import DivergedError
from fedgmi.protocol.step import Phase
from fedgmi.tree import Tree, not_finite


def phase_of(round: int, rounds: int) -> Phase:
    """What a round's number means: 0 is the preparation, 1..R the rounds, R + 1 the end.

    Examples:
        >>> [phase_of(round, 2) for round in range(4)]
        ['prepare', 'round', 'round', 'finish']
    """
    return "prepare" if round == 0 else "round" if round <= rounds else "finish"


def require_finite(tree: Tree, name: str, round: int) -> None:
    """Stop a run of that name whose numbers have run away, before they reach a record or a checkpoint.

    Raises:
        DivergedError: It names the leaf.
    """
    leaf = not_finite(tree)
    if leaf is not None:
        raise DivergedError(
            f"{leaf!r} is NaN or infinite: training has diverged",
            where=f"{name}, round {round}",
            fix="lower the learning rate (training.lr), or bring the rows to one scale (data.standardise)",
        )
