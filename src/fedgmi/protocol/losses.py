"""Lost replies of a simulation: which clients are absent in a round, and how those begin who missed the preparation.

A deployment asks a site that failed again in the next round, and not before (`deploy.coordinator.remote`). So does a
simulation: a client is lost for a whole round, from its first exchange on. What it made of its rows there is lost too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedgmi.data.rows import Rows
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.step import Program, Step
from fedgmi.randomness import numpy_generator
from fedgmi.tree import Tree

THERE = "transport/there"
"""The leaf of all clients' states that says who has answered anything yet. [N], bool. Clients' steps do not see it."""


@dataclass(frozen=True)
class Losses:
    """Who is lost, and who begins late.

    Attributes:
        share: The chance of a client in a round.
        seed: Of the draws.
        rounds: R.
        start: (server, rows) → states of clients that missed the preparation [C, …]; None: they begin as all others do.
        reads: What `start` needs of the server's state. It is sent beside what the step reads.
    """

    share: float
    seed: int
    rounds: int
    start: Callable[[Tree, Rows], Tree] | None = None
    reads: tuple[str, ...] = ()

    def lost(self, ids: Sequence[int], round: int) -> frozenset[int]:
        """The clients whose replies do not come in a round, drawn by (seed, round, client).

        At least one replies, as a coordinator asks again until somebody does.

        Args:
            ids: Those that take part.
            round: Which.

        Returns:
            Some of `ids`.

        Examples:
            >>> sorted(Losses(0.5, 0, 3).lost(range(8), 1))
            [1, 2, 3, 4, 5]
            >>> len(Losses(0.999, 0, 3).lost(range(8), 1))
            7
        """
        drawn = {i: float(numpy_generator(self.seed, round, i, "lost").random()) for i in ids}
        luckiest = max(drawn, key=drawn.__getitem__)
        return frozenset(i for i, u in drawn.items() if u < self.share and i != luckiest)

    def spares(self, program: Program, step: Step, round: int) -> bool:
        """Whether a step belongs to the end. A coordinator waits there, so that everybody gets results."""
        of_end = any(step is other for other in program.finish) and all(step is not other for other in program.round)
        return of_end or phase_of(round, self.rounds) == "finish"
