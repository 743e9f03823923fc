"""A site's part in `[privacy]`: noise from its own secret, and ε in its ledger before anything leaves.

Noise is SHAKE-256 of the secret and of all by which a message comes about: rows, models, the site's own state,
settings, exchange. So the same question has the same answer, whoever asks, and another question noise of its own. Under
masks the keys of the sum are part of the question: the same message in another sum is another release.

A whole run is charged once, before its first message, and the ledger knows the last that left. Going back to an
exchange that is answered, with another question, is a run anew and charged as one. An exchange that is answered once
more under other keys of masks is one release more. Counts of words, whose noise is of the same secret
(`methods.fedgmi.sketch`), are part of the run, and not charged by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.protocol.private_sum import Noise, NoiseOf
from fedgmi.randomness import keyed_normal
from fedgmi.runs.private import Cost

Key = tuple[int | str, ...]


@dataclass(frozen=True)
class Account:
    """What a site pays for a run.

    Attributes:
        cost: Of the whole run.
        ledger: The site's.
        secret: The site's. Keys of the ledger are hashes with it, which tell nothing of it.
        run: The run's name.
    """

    cost: Cost
    ledger: PrivacyLedger
    secret: str
    run: str

    def begun(self, times: int, at: tuple[int, int], request: str) -> int:
        """How often the run was begun, by what the ledger says left in it.

        `guard.json` may be lost, or an old one put back. Then what was answered would be asked anew, about other
        models, and nobody would pay.

        Args:
            times: By `guard.json`.
            at: The exchange of a request that was not answered, by `guard.json`.
            request: A hash of what it asks.
        """
        while (newest := self.ledger.newest(self._of_run(times))) and at <= newest[:2] and newest != (*at, request):
            times += 1
        return times

    def left(self, times: int, at: tuple[int, int], request: str) -> None:
        """Enter which message of the run leaves now; see `begun`."""
        self.ledger.left(self._of_run(times), (*at, request))

    def pay(self, times: int) -> None:
        """Enter a whole run; once is enough.

        Args:
            times: How often the run was begun: it is charged for each.

        Raises:
            BudgetSpent: Where the site's limits do not allow it. Then nothing must leave.
        """
        key = self._of_run(times)
        what = f"a whole run of {self.cost.releases} private messages{', and of counts' * bool(self.cost.counts)}"
        self.ledger.charge(key, self.cost.epsilon, self.cost.delta, what, self.cost.about())

    def pay_again(self, at: tuple[int, int], times: int, masks: Mapping[str, Any]) -> None:
        """Enter one release more: an exchange is summed again under other keys.

        Args:
            at: Which exchange: its round, and its number within it.
            times: How often the run was begun: what the exchange asks is another question each time.
            masks: Which sum. Its keys have their name from the coordinator, which may use one again.

        Raises:
            BudgetSpent: Where the site's limits do not allow it.
        """
        cost = self.cost
        key, what = (
            self._key("again", self.run, repr((at, times, masks))),
            "a private message once more, in another masked sum",
        )
        self.ledger.charge(key, cost.epsilon_of_one, cost.delta, what, cost.about(1))

    def _of_run(self, times: int) -> str:
        return self._key("run", self.run, self.ledger.data, times, repr(self.cost))

    def _key(self, *about: int | str) -> str:
        return hashlib.sha256(repr((self.secret, *about)).encode()).hexdigest()


def beyond(cost: Cost, ledger: PrivacyLedger) -> str:
    """Which of the site's limits one whole run more would pass, in words; "" for none. Nothing is entered."""
    return ledger.hinders(cost.epsilon, cost.delta, cost.about()) if cost.releases else ""


def question(
    settings: str, at: tuple[int, int], step: str, server: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: Rows
) -> str:
    """A hash of all by which a message comes about.

    Args:
        settings: A hash of what all have agreed on, and of what the site makes otherwise.
        at: The exchange: its round, and its number within it.
        step: Its name.
        server: What it reads of the server's state.
        state: The site's own, as the step finds it.
        rows: The site's, under its index.

    Returns:
        32 bytes in hex.
    """
    found = hashlib.sha256(repr((settings, at, step, rows.ids)).encode())
    for name, leaf in _leaves(server, state, rows):
        found.update(repr((name, tuple(leaf.shape), str(leaf.dtype))).encode())
        found.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def own_noise(secret: str, about: str, parts: int, more: Key = ()) -> NoiseOf:
    """Where a site's noise comes from.

    Args:
        secret: The site's.
        about: What is asked; see `question`.
        parts: Of how many sites the parts add up to the whole; 1: the site adds all of it.
        more: What else makes it another release: the keys of a masked sum.

    Returns:
        (where the message belongs) → the noise.
    """
    key = (secret, "private message", about, parts, *more)
    return lambda place: Noise(parts, lambda shape, name: keyed_normal(shape, *key, name))


def _leaves(server: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: Rows) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a question, by name."""
    yield from ((f"server/{name}", server[name]) for name in sorted(server))
    yield from ((f"state/{name}", state[name]) for name in sorted(state))
    for part, some in (("rows", rows), ("validation", rows.validation)):
        if some is not None:
            yield f"{part}/x", some.x
            if some.y is not None:
                yield f"{part}/y", some.y
