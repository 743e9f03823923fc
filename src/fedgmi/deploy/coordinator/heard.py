"""Who has answered an exchange, who says that training has diverged, and whom it is worth waiting for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedgmi.deploy.coordinator.roster import Roster
from fedgmi.protocol.wire import Parcel

MOST_WAITS = 2  # for one site, in a run


@dataclass
class Heard:
    """What sites have said in the present try of an exchange.

    Attributes:
        roster: Who takes part. A member's `diverged` is its word since the last exchange that came to something.
        answered: Whoever has answered in this try, whatever it was.
        vain: Sites that were waited for, and did not come. They are not waited for again before they have answered, and
            not at all once that has happened `MOST_WAITS` times: who answers every second time would stop every round.
        waits: How often that was, by site.
    """

    roster: Roster
    answered: set[int] = field(default_factory=set)
    vain: set[int] = field(default_factory=set)
    waits: Counter[int] = field(default_factory=Counter)

    def begin(self) -> None:
        """A try begins."""
        self.answered = set()

    def note(self, answers: Mapping[int, Parcel]) -> None:
        """These have answered."""
        self.answered |= answers.keys()
        self.vain -= {i for i in answers if self.waits[i] < MOST_WAITS}
        for i, parcel in answers.items():
            self.roster.members[i].diverged = parcel.header.get("diverged") is True

    def done(self) -> None:
        """The exchange has come to something: training goes on."""
        for member in self.roster.members:
            member.diverged = False

    @property
    def diverged(self) -> str:
        """How many say that training has diverged, in words; "": nobody does."""
        n = sum(member.diverged for member in self.roster.members)
        return f"training has diverged at {n} of {len(self.roster.members)} sites" if n else ""

    @property
    def why(self) -> str:
        """Why nothing has come of the try."""
        if not self.answered:
            return "nobody answered"
        return self.diverged if any(self.roster.members[i].diverged for i in self.answered) else "no answer can be used"

    @property
    def most_diverged(self) -> bool:
        """Whether more than half of the sites say so: of one or two all."""
        members = self.roster.members
        return 2 * sum(member.diverged for member in members) > len(members)

    def silent(self, ids: Sequence[int]) -> set[int]:
        """Those of these that have come at some time, and have not answered in this try."""
        return {i for i in ids if i < len(self.roster.members)} - self.answered

    def in_vain(self, ids: Sequence[int]) -> None:
        """Whoever of these is silent was waited for."""
        silent = self.silent(ids)
        self.waits.update(silent - self.vain)
        self.vain |= silent

    def worth_waiting(self, ids: Sequence[int]) -> bool:
        """Whether one of these may answer yet. Who has answered what cannot be used answers the same again."""
        return bool(self.silent(ids) - self.vain)
