"""What sites agree on before their sums are masked: keys, in two exchanges, and which sites a sum is over."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedgmi.deploy.coordinator.checks import sound
from fedgmi.deploy.coordinator.claims import Claims
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.masks.keys import SEALED, MaskError, Public, named, to_bytes, who_is
from fedgmi.deploy.masks.unmasking import Agreement, Unopened
from fedgmi.deploy.settings import LEAST_MASKED, SLOTS
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import Header, Parcel
from fedgmi.protocol.words import one_line

Found = TypeVar("Found")


@dataclass(kw_only=True)
class Agreeing(Remote):
    """A `Remote` whose sites agree on keys, and are asked what masks need beside the steps.

    Attributes:
        agreement: The sites' present keys; None: they are to be agreed on.
        only: The sites that sites say the present sum has to be over; none: any.
        claims: What sites say of one another where the present sum stays closed.
    """

    agreement: Agreement | None = None
    only: list[int] = field(default_factory=list)
    claims: Claims = field(default_factory=Claims)
    _who: dict[int, bytes] = field(default_factory=dict)  # as sites were known in an agreement of before
    _said: dict[int, str] = field(default_factory=dict)  # what sites have answered of masks but what was asked
    _heard: set[int] = field(default_factory=set)  # which of them in the last try

    def _over(self, asked: Sequence[int]) -> list[int]:
        """The sites among which keys are agreed on: all, or those that a sum has to be over, and more if need be.

        Raises:
            MaskError: Where one of these is away.
        """
        if not self.only:
            return list(asked)
        away = [i for i in self.only if i not in asked]
        if away:
            names = ", ".join(self.roster.members[i].name for i in away)
            raise MaskError(
                f"{names} is away, and the others told shares of the same numbers with it: it has to be back"
            )
        others = [i for i in asked if i not in self.only]
        for i in others:
            self.lose(i, "the others told shares of the same numbers without it; the difference would show its part")
        return sorted([*self.only, *others[: max(0, LEAST_MASKED - len(self.only))]])

    def _agreement(self, step: Step, asked: Sequence[int]) -> tuple[Agreement, list[int]]:
        """The keys for the next sum and the sites that have them, agreed on anew where it needs be."""
        known = self.agreement
        if known is None or known.next_slot >= known.n_slots or not self._serves(known, asked):
            known = self.agreement = self._agree(step, asked)
        return known, [i for i in asked if i in known.sealed]

    def _serves(self, known: Agreement, asked: Sequence[int]) -> bool:
        """Whether an agreement is good for these sites: all have its keys, and they are enough."""
        return known.sealed.keys() >= set(asked) and len(asked) >= known.threshold

    def _agree(self, step: Step, asked: Sequence[int]) -> Agreement:
        """New keys among sites: first all public ones, then a share of each secret for each site.

        Raises:
            MaskError: Where too few have answered.
        """
        epoch = secrets.token_hex(8)
        ask = {"ask": "keys", "epoch": epoch, "slots": SLOTS}
        found = self._converse(step, dict.fromkeys(asked, ask), _public)
        members = self._unlike({i: keys for i, keys in found.items() if keys.n_slots == SLOTS})
        self._lose_others(asked, members)
        if len(members) < LEAST_MASKED:
            raise MaskError(f"{sites_of(members)} sent keys, and masks hide nothing among fewer than {LEAST_MASKED}")
        agreement = Agreement(self.run, epoch, members)
        ask = {"ask": "shares", "epoch": epoch, "members": {str(i): keys.to_json() for i, keys in members.items()}}

        def read(header: Header) -> dict[int, bytes]:
            return {j: _sealed(header["shares"].get(str(j))) for j in members if str(j) in header["shares"]}

        self.claims = Claims()
        shared = self._converse(step, dict.fromkeys(sorted(members), ask), read)
        accused = self.claims.accused()
        if accused is not None:
            raise Unopened(accused, 0, agreement.threshold, blamed=True, why="the others refuse its keys for masks")
        agreement.sealed = {i: shares for i, shares in shared.items() if shares.keys() == members.keys() - {i}}
        self._lose_others(sorted(members), agreement.sealed)
        if len(agreement.sealed) < agreement.threshold:
            count = sites_of(agreement.sealed)
            raise MaskError(f"{count} sent shares, and masks need {agreement.threshold} of {len(members)}")
        self._who |= {i: keys.who for i, keys in members.items()}
        return agreement

    def _unlike(self, members: dict[int, Public]) -> dict[int, Public]:
        """The keys without those that say to be another site's. All sites refuse an agreement with two that are one."""
        times = Counter(keys.who for keys in members.values())
        for i, keys in list(members.items()):
            name = self.roster.members[i].name
            if times[keys.who] > 1 and keys.who not in (self._who.get(i), who_is(name, None)):
                del members[i]
                self.lose(i, "its keys say that it is another site: every site needs a name and a folder of its own")
        return members

    def _converse(self, step: Step, asking: Mapping[int, Header], read: Callable[[Header], Found]) -> dict[int, Found]:
        """Ask sites what masks need, beside the step's own exchange; the bytes are in the ledger.

        Args:
            step: For whose sake it is asked.
            asking: By site, what its request says of masks.
            read: (an answer's header) → what it tells.

        Returns:
            By site; who has not answered, or not so, is not in it.
        """
        requests = {}
        for i, table in asking.items():
            header = self.header("masks", round=self.round, number=self._number) | {"id": i, "masks": table}
            requests[self._node(i)] = Parcel(header)
            self.ledger.add(self.round, step.kind, i, down=requests[self._node(i)].n_bytes)
            self.roster.members[i].bytes_down += requests[self._node(i)].n_bytes
        answers = self.post.ask(requests, self.settings.deadline_s)
        found: dict[int, Found] = {}
        why: dict[int, str] = {}
        for i in asking:
            parcel = answers.get(self._node(i))
            if parcel is None:
                continue
            parcel = sound(parcel)
            self.ledger.add(self.round, step.kind, i, up=parcel.n_bytes)
            self.roster.members[i].heard(parcel)
            if isinstance(parcel.header.get("error"), str):
                why[i] = self._named(one_line(parcel.header["error"]))
                self.claims.note(i, parcel.header, len(self.roster.members))
                continue
            try:
                found[i] = read(parcel.header)
            except (MaskError, KeyError, TypeError, AttributeError, ValueError):  # whatever one site sends
                why[i] = "its answer is none of masks"
        for i, said in why.items():
            self.roster.members[i].note = said
            if self._said.get(i) != said:  # once, and again where it changes
                self.roster.tell(f"round {self.round}: {self.roster.members[i].name}: {said}")
        self._said |= why
        self._heard |= why.keys()
        return found

    def _lose_others(self, asked: Sequence[int], found: Mapping[int, Any]) -> None:
        for i in asked:
            if i not in found:
                self.lose(i, "it has sent no keys and shares for masks")

    def _named(self, text: str) -> str:
        return named(text, [member.name for member in self.roster.members])

    def _say(self) -> dict[int, str]:
        return super()._say() | {i: self._said[i] for i in self._heard}


def _public(header: Header) -> Public:
    """A site's public keys, such as hide something."""
    keys = Public.from_json(header["keys"])
    keys.check()
    return keys


def _sealed(text: Any) -> bytes:
    """A site's shares for another, of all sums."""
    data = to_bytes(text)
    if len(data) != SEALED * SLOTS:
        raise MaskError("shares are not of their length")
    return data


def sites_of(some: Collection[int]) -> str:
    """How many sites these are, in words."""
    return f"{len(some)} site{'s' * (len(some) != 1)}"
