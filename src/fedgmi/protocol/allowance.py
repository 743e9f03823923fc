"""What each client may still cost: who would go beyond the budget is not asked.

There are two looks. Before each round a client is left out whose round, as foreseen, would eat what the end needs. And
before each exchange the transport says what it will cost at most. By this second look nobody ever exceeds the budget,
however wrong the foresight is.

What a round costs is compared with what was foreseen, over the clients that had nothing to catch up with, and whose
replies were used. The latest round counts, so that one dear round is forgotten again. What one client missed is counted
for that client alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedgmi.errors import ConfigError
from fedgmi.protocol.ledger import Ledger

MB = 10**6
MARGIN = 0.02  # of what is foreseen: how many words there are, models that clients hold or not


@dataclass(frozen=True)
class Costs:
    """Bytes of one client, down and up together, as foreseen.

    Attributes:
        prepare: Before the first round, without what may be left out.
        rounds: Of each round, for a client that took part in the one before.
        finish: After the last round, likewise.
        down: Of each round's models, as they are sent down in it.
        whole: Of a round's models whole: a client that missed rounds is sent these, or all differences.
        whole_end: The same for the end.
        up: Of each round, what a client sends; one whose reply is lost sends none.
        anew: Of all that a round reads, whole: a client that has never replied is sent this.
        anew_end: The same for the end.

    Examples:
        >>> costs = Costs(10, (5, 5, 5), 7, down=(3, 3, 3), whole=4, whole_end=2, up=(1, 1, 1), anew=6, anew_end=8)
        >>> costs.of([1, 2, 3]), costs.of([1, 3]), costs.of([1]), costs.of([1, 2, 3], lost={2})
        (32, 30, 24, 34)
    """

    prepare: int
    rounds: tuple[int, ...]
    finish: int
    down: tuple[int, ...] = ()
    whole: int = 0
    whole_end: int = 0
    up: tuple[int, ...] = ()
    anew: int = 0
    anew_end: int = 0

    @property
    def total(self) -> int:
        """Of a client that is asked in all rounds."""
        return self.of(range(1, len(self.rounds) + 1))

    def of(self, asked: Sequence[int], lost: Collection[int] = ()) -> int:
        """Of a client that is asked in these rounds; what changes meanwhile it is sent later, or whole.

        Args:
            asked: The rounds' numbers, in ascending order.
            lost: Those of them in which its reply is lost; 0 for the preparation.
        """
        late = sum(self._late_by_round([*asked, len(self.rounds) + 1], lost).values())
        saved = sum(self.up[number - 1] for number in asked if number in lost and self.up)
        return self.prepare + sum(self.rounds[number - 1] for number in asked) + self.finish + late - saved

    def dearest(self, asked: Sequence[int], lost: Collection[int] = ()) -> int:
        """The dearest round of a client that is asked in these rounds, with what it catches up with. See `of`."""
        late = self._late_by_round(asked, lost)
        return max((self.rounds[number - 1] + late[number] for number in asked), default=0)

    def _late_by_round(self, asked: Sequence[int], lost: Collection[int]) -> dict[int, int]:
        """What comes on top in each of these rounds."""
        found, replied = dict[int, int](), None if self.prepare and 0 in lost else 0
        for number in asked:
            found[number] = self.late(replied, number)
            replied = replied if number in lost else number
        return found

    def late(self, replied: int | None, later: int) -> int:
        """What comes on top for a client that replied in one round and is then asked in a later one: what it missed.

        That is all since, for whether requests reached it that it did not reply to nobody knows.

        Args:
            replied: The one round; 0: the preparation; None: it has never replied.
            later: The other; R + 1: the end.

        Returns:
            Bytes.
        """
        in_round = later <= len(self.rounds)
        if replied is None:
            return self.anew if in_round else self.anew_end
        return min(sum(self.down[replied : later - 1]), self.whole if in_round else self.whole_end)


@dataclass
class Allowance:
    """The budget of one run.

    Attributes:
        total: Bytes of a client over all; None: any number.
        each_round: Of a client in each round.
        costs: As foreseen.
        rest: Of the dearest client after the preparation, as foreseen; 0: of a client that is asked in all rounds.
        spent: Bytes of a client before the run, which `total` does not have any more.
        sat_out: By round, the clients that were not asked. R + 1 stands for the end.
        factor: By how much rounds cost more than foreseen.
        silent: Rounds that were begun or finished by nobody, and how many bytes would have let everyone on.
    """

    total: int | None
    each_round: int | None
    costs: Costs
    rest: int = 0
    spent: int = 0
    sat_out: dict[int, list[int]] = field(default_factory=dict)
    factor: float = 1 + MARGIN
    silent: dict[int, int] = field(default_factory=dict)
    _spares: bool = field(default=True, repr=False)

    def able(self, ledger: Ledger, ids: Sequence[int], number: int) -> list[int]:
        """Those of the clients `ids` that can take part in a round so that the end can be paid for, too.

        Args:
            ledger: What has travelled.
            ids: Who is to be asked.
            number: The round's, from 1.

        Returns:
            Clients, in the same order.

        Raises:
            ConfigError: Before the first round, where the preparation cost so much that the plan cannot be kept. And
                where nobody can take part, and nobody could in any round before.
        """
        if number == 1:
            self._check_prepared(ledger)
        self._compare(ledger, number)
        spent = ledger.by_client().sum(1).tolist()
        late = self._behind(ledger, ids, number)
        found = [i for i in ids if self._fits(spent[i], late[i], number)]
        self._leave_out(set(ids) - set(found), number)
        if not found:
            now = [int(self.factor * self.costs.rounds[number - 1]) + late[i] for i in ids]
            kept = self._kept(number, spare=False)
            self._silence(number, [spent[i] + cost + kept for i, cost in zip(ids, now, strict=True)], now)
        return found

    def admit(self, ledger: Ledger, prices: Mapping[int, int], number: int, spare: bool = False) -> list[int]:
        """Those clients that can pay one exchange.

        Args:
            ledger: What has travelled.
            prices: What the exchange costs each client at most.
            number: The round's; 0: the preparation.
            spare: Whether the exchange may be left out.

        Returns:
            Clients. All of them or none for an exchange that may be left out: it is, where rounds and end need the
            bytes, and so are all such that follow.

        Raises:
            ConfigError: Where an exchange of the preparation cannot be paid, or one of a round by nobody and no round
                before was finished by anybody. It says what would be enough.
        """
        spent, now = ledger.by_client().sum(1).tolist(), ledger.by_client(number).sum(1).tolist()
        limit = self.each_round if 1 <= number <= len(self.costs.rounds) else None
        keep = self._kept(number, spare)
        able = [
            i
            for i, price in prices.items()
            if (self.total is None or spent[i] + price + keep <= self.total)
            and (limit is None or now[i] + price <= limit)
        ]
        if len(able) == len(prices):
            return able if self._spares or not spare else []
        if spare:
            self._spares = False
            return []
        if number == 0:
            most = max(spent[i] + price for i, price in prices.items())
            self._refuse(max(most, int((1 + MARGIN) * self.costs.prepare)))
        self._leave_out(prices.keys() - set(able), number)
        if prices and not able and number <= len(self.costs.rounds):
            totals = [spent[i] + price + keep for i, price in prices.items()]
            self._silence(number, totals, [now[i] + price for i, price in prices.items()])
        return able

    @property
    def times(self) -> int:
        """How often a client was not asked."""
        return sum(len(clients) for clients in self.sat_out.values())

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        by_round: dict[str, dict[int, Any]] = {"sat_out": self.sat_out, "silent": self.silent}
        kept = {key: {str(number): what for number, what in found.items()} for key, found in by_round.items()}
        return kept | {"factor": self.factor, "spares": self._spares}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_json` wrote."""
        self.sat_out = {int(number): list(ids) for number, ids in kept["sat_out"].items()}
        self.silent = {int(number): int(needed) for number, needed in kept["silent"].items()}
        self.factor, self._spares = float(kept["factor"]), bool(kept["spares"])

    def _leave_out(self, ids: Collection[int], number: int) -> None:
        if ids:
            self.sat_out[number] = sorted({*self.sat_out.get(number, ()), *ids})

    @property
    def silent_words(self) -> str:
        """In how many rounds nobody could be asked, and what would have been enough; "" where in none."""
        if not self.silent:
            return ""
        times, enough = len(self.silent), _enough(max(self.silent.values()))
        of = f"{times} of {len(self.costs.rounds)} rounds nobody could take part to the end"
        return f"In {of}: {self._key} = {enough:g} or more would have let everyone on."

    @property
    def _key(self) -> str:
        return "mb_per_client" if self.each_round is None else "mb_per_client_round"

    def _silence(self, number: int, totals: Sequence[int], rounds: Sequence[int]) -> None:
        """Nobody can go on in a round. A run in which nobody ever could is stopped."""
        needed = max(totals) + self.spent if self.each_round is None else max(rounds)
        self.silent[number] = int((1 + MARGIN) * needed) + 1
        if len(self.silent) < number:
            return
        enough, foreseen = _enough(self.silent[number]), self.costs.rounds[number - 1] / MB
        raise ConfigError(
            f"nobody can take part in round {number}, for it could cost a client {max(rounds) / MB:.3g} MB, and was "
            f"foreseen to cost {foreseen:.3g}: nothing was trained. Expected at least {enough:g}",
            where=f"communication.{self._key}",
            fix=f"set it to {enough:g} or more, or communication.precision to fewer bits, and give another folder with "
            "--out",
        )

    def _kept(self, number: int, spare: bool) -> int:
        """What an exchange has to leave for what follows."""
        rounds = len(self.costs.rounds)
        if spare:
            return int((1 + MARGIN) * self._rest)
        if 1 <= number <= rounds:
            return int((1 + MARGIN) * (self.costs.finish + self.costs.late(number, rounds + 1)))
        return 0

    def _fits(self, spent: int, late: int, number: int) -> bool:
        now = int(self.factor * self.costs.rounds[number - 1]) + late
        within = self.total is None or spent + now + self._kept(number, spare=False) <= self.total
        return within and (self.each_round is None or now <= self.each_round)

    def _behind(self, ledger: Ledger, ids: Sequence[int], number: int) -> dict[int, int]:
        """What clients have to catch up with, by what travelled to and from them in each of the rounds before."""
        replied = [_replied(ledger, n).tolist() for n in range(number)]
        asked = any(ledger.totals(0))
        last = {i: max((n for n, there in enumerate(replied) if there[i]), default=None if asked else 0) for i in ids}
        return {i: self.costs.late(last[i], number) for i in ids}

    def _compare(self, ledger: Ledger, number: int) -> None:
        """What the round before cost beside what was foreseen, of clients that had nothing to catch up with.

        Where there were none, half of the difference is forgotten: else one dear round could silence everybody.
        """
        done = number - 1
        if done < 1 or not self.costs.rounds[done - 1]:
            return
        real = ledger.by_client(done)
        usual = _replied(ledger, done)
        if done > 1 or ledger.totals(0)[1]:
            usual &= _replied(ledger, done - 1)
        if usual.any():
            self.factor = max(1 + MARGIN, int(real.sum(1)[usual].max()) / self.costs.rounds[done - 1])
        else:
            self.factor = (1 + MARGIN + self.factor) / 2

    @property
    def _rest(self) -> int:
        return self.rest or self.costs.total - self.costs.prepare

    def _check_prepared(self, ledger: Ledger) -> None:
        """Refuse to train where the plan cannot be kept any more."""
        most = int(ledger.by_client().sum(1).max())
        if self.total is not None and most + self._rest > self.total:
            self._refuse(most)

    def _refuse(self, prepare: int) -> None:
        assert self.total is not None
        needed = self.spent + prepare + int((1 + MARGIN) * self._rest) + 1
        enough = -(-needed // 1000) / 1000
        raise ConfigError(
            f"the preparation takes {prepare / MB:.3g} MB of a client's {(self.total + self.spent) / MB:g}, and was "
            f"foreseen to take {self.costs.prepare / MB:.3g}: what is left does not pay for the rounds and the end, "
            f"and nothing was trained. Expected at least {enough:g}",
            where="communication.mb_per_client",
            fix=f"set it to {enough:g} or more, or lower rounds, and give another folder with --out",
        )


def _enough(n_bytes: int) -> float:
    """Megabytes, to a thousandth of one, upwards."""
    return -(-n_bytes // 1000) / 1000


def _replied(ledger: Ledger, number: int) -> torch.Tensor:
    """Whose replies of a round were used. [N]"""
    found = ledger.by_client(number)[:, 1] > 0
    found[list(ledger.lost(number))] = False
    return found
