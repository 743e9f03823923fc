"""What a site has paid for its privacy: every release of its rows, durable, and refused once a limit is reached.

The file is one JSON object, written whole or not at all, under a lock: two processes of a site share one ledger. By
default releases add up as ε and δ do (basic composition, Dwork & Roth 2014, theorem 3.16), whatever version of the
rows they were of, for a row that stays in the file is in all versions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedgmi.errors import LimitError
from fedgmi.privacy.accountant import BOTH, GAUSSIAN
from fedgmi.storage import files
from fedgmi.storage.own_files import Amount, Count, Free, OwnFile, Share

DAMAGED = "restore it from a backup. Without it nobody knows what was released; who removes it begins at ε = 0"
RAISE = "raise the limit in site.toml if the site is to tell more: other rows count towards it, too"
"""What may be done where a limit is reached."""
REFUSALS_KEPT = 1000  # the newest; their number is counted for good
Newest = tuple[Count, Count, str]  # of a run: the round, the exchange within it, and a hash of what was asked
NEEDED = {GAUSSIAN: ("noise_multiplier",), BOTH: ("noise_multiplier", "count_epsilon", "counts")}
"""What an entry says of its mechanism."""


class BudgetSpent(LimitError):
    """A release that would go over a limit of the site. Nothing was released."""


@dataclass(frozen=True)
class Release:
    """One release.

    Attributes:
        key: What it is known by. Who asks for the same again gets the same, and pays once.
        epsilon: ε.
        delta: δ.
        what: In words.
        data: The version of the rows, a digest.
        time: Seconds since 1970.
        about: The mechanism, for an accountant that composes better than by sums.
        newest: Of a whole run: the message of it that left last; None: none has.
    """

    key: str
    epsilon: Amount
    delta: Share
    what: str
    data: str = ""
    time: Amount = 0.0
    about: Mapping[str, float | str] = field(default_factory=dict)
    newest: Newest | None = None


class _File(OwnFile):
    """The ledger's own file."""

    what = "a privacy ledger"
    again = DAMAGED
    releases: list[Release]
    refusals: list[Free]
    refused: Count

    def wrong(self) -> str:
        """Noise has a multiplier, and counts an ε; refusals are counted for good, and have a time."""
        for one in self.releases:
            for name in NEEDED.get(str(one.about.get("mechanism")), ()):
                if not _above_zero(one.about.get(name)):
                    return f"release {one.key}: its {name} is no number above 0"
        return "" if self.refused >= len(self.refusals) else "refused: there are more refusals"


def _above_zero(number: object) -> bool:
    return isinstance(number, float | int) and 0 < number < math.inf


Compose = Callable[[Sequence[Release]], tuple[float, float]]


def added_up(releases: Sequence[Release]) -> tuple[float, float]:
    """ε and δ of all releases together, by basic composition: their sums.

    Examples:
        >>> added_up([Release("a", 1.0, 0.0, "counts"), Release("b", 0.5, 1e-6, "an update")])
        (1.5, 1e-06)
    """
    return math.fsum(one.epsilon for one in releases), math.fsum(one.delta for one in releases)


@dataclass(frozen=True)
class PrivacyLedger:
    """A site's ledger.

    Attributes:
        path: The file. There is none before the first charge.
        max_epsilon: What all releases together may cost; None: no limit.
        max_releases: How many there may be; None: no limit.
        max_delta: The δ that all together may have; None: no limit.
        data: The version of the rows of which releases are now.
        compose: (releases) → ε and δ of all of them together.
    """

    path: Path
    max_epsilon: float | None = None
    max_releases: int | None = None
    max_delta: float | None = None
    data: str = ""
    compose: Compose = added_up

    def charge(
        self, key: str, epsilon: float, delta: float, what: str, about: Mapping[str, float | str] | None = None
    ) -> None:
        """Enter a release before it is made. The same key again is free: the same answer is given.

        Args:
            key: What the release is known by, such as a hash of all that its noise is drawn from.
            epsilon: ε, from 0 on.
            delta: δ, from 0 to 1.
            what: In words.
            about: The mechanism, for `compose`.

        Raises:
            BudgetSpent: Where it would go over a limit. A line of the ledger says so.
            ValueError: For an ε or δ that is none.
            UserError: For a damaged ledger, or a disk that is full. Then there must be no release.
        """
        if not (math.isfinite(epsilon) and epsilon >= 0 and 0 <= delta <= 1):
            raise ValueError(f"ε = {epsilon}, δ = {delta}: ε is a number from 0 on, δ one from 0 to 1")
        with self._alone():
            found = self._read()
            releases = found.releases
            new = Release(key, float(epsilon), float(delta), what, self.data, time.time(), dict(about or {}))
            if any((one.key, one.epsilon, one.delta) == (key, new.epsilon, new.delta) for one in releases):
                return
            why = self._over([*releases, new])
            if why:
                self._write_refusal(found, what, why)
                raise BudgetSpent(f"{what} would be {why}", where="privacy ledger", fix=RAISE)
            found.releases.append(new)
            files.write_json(self.path, found.to_json())

    def newest(self, key: str) -> Newest | None:
        """The message that left last of what was charged under a key; None: none has, or nothing was charged."""
        return max((one.newest for one in self.releases() if one.key == key and one.newest), default=None)

    def left(self, key: str, newest: Newest) -> None:
        """Enter which message of a release leaves now.

        Args:
            key: Of the release.
            newest: The message.

        Raises:
            UserError: For a damaged ledger, or a disk that is full. Then it must not leave.
        """
        with self._alone():
            found = self._read()
            found.releases = [replace(one, newest=newest) if one.key == key else one for one in found.releases]
            files.write_json(self.path, found.to_json())

    def hinders(self, epsilon: float, delta: float, about: Mapping[str, float | str]) -> str:
        """Which limit one release more would pass, in words; "" for none. Nothing is entered."""
        return self._over([*self.releases(), Release("", epsilon, delta, "", about=dict(about))])

    def refuse(self, what: str, why: str) -> None:
        """Enter that something was refused.

        Args:
            what: Was asked for.
            why: It was refused.
        """
        with self._alone():
            self._write_refusal(self._read(), what, why)

    def spent(self, data: str | None = None) -> tuple[float, float]:
        """ε and δ of what was released.

        Args:
            data: Of this version of the rows alone; None: of all.
        """
        return self.compose(self.releases(data))

    def releases(self, data: str | None = None) -> list[Release]:
        """What was released, oldest first; of one version of the rows, or of all."""
        return [one for one in self._read().releases if data is None or one.data == data]

    def refusals(self) -> list[dict[str, Any]]:
        """The newest refusals: `time`, `what`, `why` and the version of the rows, `data`."""
        return self._read().refusals

    def n_refused(self) -> int:
        """How often something was refused."""
        return self._read().refused

    def _over(self, releases: Sequence[Release]) -> str:
        """Which limit is passed, in words; "" for none."""
        if self.max_releases is not None and len(releases) > self.max_releases:
            return f"release {len(releases)}, and max_releases is {self.max_releases}"
        epsilon, delta = self.compose(releases)
        if self.max_delta is not None and delta > self.max_delta * (1 + 1e-9):
            return f"δ = {delta:g} in all, and max_delta is {self.max_delta:g}"
        if self.max_epsilon is not None and epsilon > self.max_epsilon * (1 + 1e-9):
            return f"ε = {epsilon:g} in all, and max_epsilon is {self.max_epsilon:g}"
        return ""

    def _write_refusal(self, found: _File, what: str, why: str) -> None:
        line = {"time": time.time(), "what": what, "why": why, "data": self.data}
        found.refusals = [*found.refusals, line][-REFUSALS_KEPT:]
        found.refused += 1
        files.write_json(self.path, found.to_json())

    def _read(self) -> _File:
        return _File.read(self.path) if self.path.exists() else _File(releases=[], refusals=[], refused=0)

    def _alone(self) -> AbstractContextManager[None]:
        """One writer at a time, whichever process it is."""
        return files.locked(self.path.with_name(f".{self.path.name}.lock"))
