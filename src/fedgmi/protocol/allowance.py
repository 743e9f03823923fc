"""What each client may still cost: who would go beyond the budget is not asked.

The end is reserved, with all that a client would have to be sent at it if it sat out from the next round on.
What exchanges really cost is compared with what was foreseen; where they cost more, so are all that follow taken to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fedgmi.protocol.ledger import Ledger

MARGIN = 0.02  # of what is foreseen: how many words there are, models that clients hold or not


@dataclass(frozen=True)
class Costs:
    """Bytes of one client, down and up together, as foreseen.

    Attributes:
        prepare: Before the first round.
        rounds: Of each round, for a client that took part in the one before.
        finish: After the last round, likewise.
        down: Of each round's models, as they are sent down in it.
        whole: Of a round's models whole: a client that missed rounds is sent these, or all differences.
        whole_end: The same for the end.

    Examples:
        >>> costs = Costs(10, (5, 5, 5), 7, down=(3, 3, 3), whole=4, whole_end=2)
        >>> costs.of([1, 2, 3]), costs.of([1, 3]), costs.of([1])
        (32, 30, 24)
    """

    prepare: int
    rounds: tuple[int, ...]
    finish: int
    down: tuple[int, ...] = ()
    whole: int = 0
    whole_end: int = 0

    @property
    def total(self) -> int:
        """Of a client that is asked in all rounds."""
        return self.of(range(1, len(self.rounds) + 1))

    def of(self, asked: Sequence[int]) -> int:
        """Of a client that is asked in these rounds; what changes meanwhile it is sent later, or whole.

        Args:
            asked: The rounds' numbers, in ascending order.
        """
        late = sum(self.late(earlier, later) for earlier, later in pairwise([0, *asked, len(self.rounds) + 1]))
        return self.prepare + sum(self.rounds[number - 1] for number in asked) + self.finish + late

    def late(self, earlier: int, later: int) -> int:
        """What comes on top for a client that was asked in one round and then in a later one: what it missed between.

        Args:
            earlier: The one round; 0: the preparation.
            later: The other; R + 1: the end.

        Returns:
            Bytes.
        """
        whole = self.whole if later <= len(self.rounds) else self.whole_end
        return min(sum(self.down[earlier : later - 1]), whole)


@dataclass
class Allowance:
    """The budget of one run.

    Attributes:
        total: Bytes of a client over all; None: any number.
        each_round: Of a client in each round.
        costs: As foreseen.
        sat_out: By round, the clients that were not asked.
        factor: By how much exchanges cost more than foreseen, at most so far.
    """

    total: int | None
    each_round: int | None
    costs: Costs
    sat_out: dict[int, list[int]] = field(default_factory=dict)
    factor: float = 1 + MARGIN

    def able(self, ledger: Ledger, ids: Sequence[int], number: int) -> list[int]:
        """Those of the clients `ids` that can take part in a round without going beyond the budget.

        Args:
            ledger: What has travelled.
            ids: Who is to be asked.
            number: The round's, from 1.

        Returns:
            Clients, in the same order.
        """
        self._compare(ledger, number)
        spent = ledger.by_client().sum(1).tolist()
        asked = {n: ledger.by_client(n).sum(1).tolist() for n in range(1, number)}
        last = [max((n for n in range(1, number) if asked[n][i]), default=0) for i in range(ledger.n_clients)]
        found = [i for i in ids if self._fits(spent[i], last[i], number)]
        left_out = sorted(set(ids) - set(found))
        if left_out:
            self.sat_out[number] = left_out
        return found

    @property
    def times(self) -> int:
        """How often a client was not asked."""
        return sum(len(clients) for clients in self.sat_out.values())

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sat_out": {str(number): ids for number, ids in self.sat_out.items()}, "factor": self.factor}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_json` wrote."""
        self.sat_out = {int(number): list(ids) for number, ids in kept["sat_out"].items()}
        self.factor = float(kept["factor"])

    def _fits(self, spent: int, last: int, number: int) -> bool:
        costs = self.costs
        now = self.factor * (costs.rounds[number - 1] + costs.late(last, number))
        end = self.factor * (costs.finish + costs.late(number, len(costs.rounds) + 1))
        within = self.total is None or spent + now + end <= self.total
        return within and (self.each_round is None or now <= self.each_round)

    def _compare(self, ledger: Ledger, number: int) -> None:
        """What the exchanges before this round cost beside what was foreseen."""
        for done in {0, number - 1}:
            real = ledger.by_client(done).sum(1)
            if done > 1:  # clients that were asked in the round before, too, have nothing to catch up with
                real = real[ledger.by_client(done - 1).sum(1) > 0]
            foreseen = self.costs.rounds[done - 1] if done else self.costs.prepare
            if len(real) and foreseen:
                self.factor = max(self.factor, float(real.max()) / foreseen)
