"""The transport of a deployment whose sums are masked: an exchange shows the coordinator what sites send together.

A sum takes two exchanges: one for the masked messages, one for the shares that take masks off. Every so many sums, and
after a site has failed, keys are agreed on anew, in two more.

Sites that have told shares for a sum tell none for the same numbers over other sites (`deploy.site.sums`). So a sum
whose shares were lost on the way is opened by asking for them again, and one that has to be begun anew is begun over
the sites that are in it already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgmi.deploy.coordinator.agreeing import Agreeing, sites_of
from fedgmi.deploy.coordinator.blame import cannot_go_on
from fedgmi.deploy.coordinator.bounds import within_length
from fedgmi.deploy.coordinator.checks import Expected
from fedgmi.deploy.coordinator.claims import Claims, Sites
from fedgmi.deploy.coordinator.remote import LONGEST_S, RETRY_S, SILENT, UNCONNECTED, Take
from fedgmi.deploy.masks.keys import MaskError, to_bytes, to_text
from fedgmi.deploy.masks.stream import Where
from fedgmi.deploy.masks.unmasking import Agreement, Unopened, unmasked
from fedgmi.errors import DataError, DivergedError, UserError
from fedgmi.protocol import whole
from fedgmi.protocol.message import Message, Models, flatten
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import DTYPES, Header
from fedgmi.protocol.wrapper import opened
from fedgmi.tree import Tree, add

UNMASKED = "see the sites' log.txt; without communication.secure the site would be named"


@dataclass
class Closed:
    """A sum whose messages are there, and whose masks are not off yet.

    Attributes:
        agreement: Whose keys it has.
        where: Which of them.
        among: The sites that were asked.
        answered: Those whose messages came.
        total: What these add up to.
        told: By the site that told them, shares by site.
        start: Where the models stood that its messages hold, by name.
    """

    agreement: Agreement
    where: Where
    among: list[int]
    answered: list[int]
    total: Tree
    told: dict[int, dict[int, bytes]] = field(default_factory=dict)
    start: Tree = field(default_factory=dict)


@dataclass(kw_only=True)
class MaskedRemote(Agreeing):
    """A `Remote` whose sums are masked.

    Attributes:
        barred: Sites that have spoilt a sum of this round. They are not asked again in it.
        closed: A sum that could not be opened yet.
        opening: The sets of sites whose sums were to be opened in this round, by exchange.
    """

    barred: set[int] = field(default_factory=set)
    closed: Closed | None = None
    opening: set[tuple[int, Sites]] = field(default_factory=set)

    def _begin_round(self, round: int) -> None:
        if self._lost:
            self.agreement = None  # who failed may have lost its keys
        self.barred, self.closed, self.only, self.opening, self._said = set(), None, [], set(), {}
        super()._begin_round(round)

    def _once(self, step: Step, server: Tree, ids: Sequence[int], expected: Expected, take: Take) -> Tree | None:
        """One try; None where too few answered. A step whose replies are told apart goes as ever."""
        self._lost |= self.barred
        self.failed, self._heard = "", set()
        if seen_singly(step) or not expected.leaves:
            return super()._once(step, server, ids, expected, take)
        asked = sorted(i for i in ids if i in self.roster.alive and i not in self._lost)
        for i in ids:
            if i not in asked and i not in self._lost and i < len(self.roster.members):
                self.lose(i, UNCONNECTED)
        try:
            message = (
                self._masked(step, server, asked, expected)
                if self.closed is None
                else self._open(step, asked, expected)
            )
        except MaskError as error:
            self.failed = f"no sum of {step.name!r}: {self._named(error.what)}"
            if isinstance(error, Unopened) and error.blamed:
                self.closed = None
                self._bar(error.site, error.why)
            self.agreement = None
            return None
        self.closed, self.only = None, []
        return self._made_of_sum(step, server, message, take)

    def _made_of_sum(self, step: Step, server: Tree, message: Message, take: Take) -> Tree:
        """The server's state with the sum. Whose message it fails on, masks do not show.

        Raises:
            UserError: Where it fails.
        """
        try:
            return take(opened(self.wrappers, message, step, server))
        except (MemoryError, DataError):  # data of all sites together: it says what to do
            raise
        except Exception as error:  # whatever one site has brought about
            what = (
                f"round {self.round}: {step.name!r} fails on the sum. One of the sites may have sent what is not its "
                "message, and masks hide which"
            )
            raise cannot_go_on(error, what, where=self.settings.name, fix=UNMASKED) from error

    def _masked(self, step: Step, server: Tree, asked: Sequence[int], expected: Expected) -> Message:
        """The sum over the sites that answer.

        Raises:
            MaskError: Where too few answer, or masks cannot be taken off.
        """
        agreement, among = self._agreement(step, self._over(asked))
        among = [i for i in among if not self.only or i in self.only]
        at = self.round, self._number
        where = agreement.take(at)
        more = {"masks": {"epoch": agreement.epoch, "slot": where.slot, "among": among}}
        answers = self._ask_step(step, server, among, more)
        hidden = expected.hidden()
        messages = {i: message for i, parcel in answers.items() if (message := self._take(step, i, parcel, hidden))}
        for i in among:
            if i not in answers:
                self.lose(i, SILENT)
        self.heard.note(answers)
        # its limits forbid it, however often it is asked: each try more is one that the others pay
        self.barred |= {i for i, parcel in answers.items() if parcel.header.get("limit") is True and i not in messages}
        answered = sorted(messages)
        if len(answered) < agreement.threshold:
            self._stop_if_diverged()
            raise MaskError(f"{sites_of(answered)} answered, and masks need {agreement.threshold} of {len(among)}")
        total: Tree = {}
        for i in answered:
            total = add(total, flatten(messages[i]))
        start = {} if step.models is None else step.models(server)
        self.closed = Closed(agreement, where, among, answered, total, start=dict(start))
        return self._open(step, asked, expected)

    def _open(self, step: Step, asked: Sequence[int], expected: Expected) -> Message:
        """Take the masks off a sum whose messages are there.

        Raises:
            MaskError: Where too few tell their shares.
        """
        closed, at = self.closed, (self.round, self._number)
        assert closed is not None
        found = self._unmask(step, closed)
        for i in closed.answered:
            member = self.roster.members[i]
            member.base, member.last_round = at, self.round
        for i in {*closed.among, *asked}:  # forgiven, or come meanwhile
            if i not in closed.answered and i not in self._lost:
                self.lose(i, SILENT)
        dtypes = {name: DTYPES[dtype] for name, (dtype, _) in expected.leaves.items()}
        message = whole.decoded(found, dtypes)
        self._check(step, message, expected, closed.answered)
        self._stop_at_the_limit(step, message, len(closed.among))
        self._tell_if_unmoved(message, closed)
        return message

    def _stop_at_the_limit(self, step: Step, message: Message, n: int) -> None:
        """Sites cut what does not fit, and say nothing of it; the sum shows it."""
        leaf = whole.at_the_limit(message, n)
        if leaf is not None:
            what = f"round {self.round}, the sum of {step.name!r}: {leaf!r} is as large as masked sums take"
            fix = "lower training.lr, or give the features in larger units; whose numbers these are says its own "
            fix += "log.txt, and masks hide which site it is; start in another folder, with --out"
            raise DivergedError(f"{what}: training has diverged, or a site lied", where=self.settings.name, fix=fix)

    def _tell_if_unmoved(self, message: Message, closed: Closed) -> None:
        """Models that run away go out as unmoved. Where no site's has moved, something is wrong everywhere."""
        if self.cost is not None:
            return  # noise moves them
        stood = {name: closed.start.get(name) for name in message.models}
        moved = [start is None or _moved(message.models[name], start) for name, start in stood.items()]
        if stood and not any(moved):
            self.roster.tell(
                f"round {self.round}: no site's {', '.join(stood)} has moved: training ran away at all of them, or the "
                "learning rate is next to 0. Lower training.lr; their log.txt says more"
            )

    def _unmask(self, step: Step, closed: Closed) -> Tree:
        """Ask those that answered for their shares, as far as they have not told them, and take the masks off."""
        agreement, where, among = closed.agreement, closed.where, closed.among
        table = {"ask": "unmask", "epoch": agreement.epoch, "slot": where.slot, "answered": closed.answered}

        def asking(i: int) -> Header:
            sealed = agreement.sealed_for(i, where.slot, among)
            return table | {"sealed": {str(j): to_text(data) for j, data in sealed.items()}}

        def read(header: Header) -> dict[int, bytes]:
            return {j: to_bytes(header["told"][str(j)]) for j in among if str(j) in header["told"]}

        asked = [i for i in closed.answered if i not in closed.told and i in self.roster.alive]
        self.claims = Claims()
        self.opening.add((self._number, tuple(closed.answered)))
        before = {i: self.roster.members[i].last_seen for i in asked}
        closed.told |= self._converse(step, {i: asking(i) for i in asked}, read)
        try:
            return unmasked(closed.total, agreement, where, among, closed.told, closed.answered)
        except Unopened as error:
            heard = all(self.roster.members[i].last_seen > before[i] for i in asked)
            if heard and len(asked) + len(closed.told) >= len(closed.answered):
                self.closed = None  # all have spoken: it stays closed
            raise self._why_closed(error, closed) from None

    def _why_closed(self, error: Unopened, closed: Closed) -> MaskError:
        """Whose fault it is that a sum stays closed, as far as more than one site says so; what there is to be done."""
        accused = self.claims.accused()
        if accused is not None:
            return Unopened(accused, 0, closed.agreement.threshold, blamed=True)
        said = self.claims.summed({sites for number, sites in self.opening if number == self._number})
        if said:
            self.closed, self.only = None, [] if -1 in said else list(said)  # once all are there it is known who
            return MaskError(self._othersites_of(said))
        if error.blamed:
            return error
        silent = [i for i in closed.answered if not closed.told.get(i)]
        names = ", ".join(self.roster.members[i].name for i in silent)
        doubts = self.claims.in_words() or (f"{names} told none" if names else "somebody told wrong ones")
        return MaskError(f"{error.what}; {doubts}")

    def _othersites_of(self, said: Sequence[int]) -> str:
        """What a refusal means, and who has to be there; -1 stands for a site that is not."""
        names = [self.roster.members[i].name for i in sorted(said) if i >= 0]
        names += ["one that is not there"] if -1 in said else []
        return (
            f"{sites_of(self.claims.before)} told shares of the same numbers before, and tell none for other sites: "
            f"the difference would show single ones (docs/privacy.md). The sum is over {', '.join(names)}"
        )

    def _pause(self, tries: int) -> float:
        """See `Remote._pause`. Sites do their whole step for each try, and do so often a day alone (`masks.tries`)."""
        return float(min(RETRY_S * 2 ** min(tries - 1, 10), LONGEST_S, self.settings.wait_s / 10))

    def _waits(self, ids: Sequence[int]) -> bool:
        """See `Remote._waits`. Keys are agreed on anew, and what failed for want of them may do."""
        said = [self.roster.members[i].diverged for i in self.heard.answered]
        return not all(said) or not said or super()._waits(ids)

    def _forgive(self) -> None:
        """See `Remote._forgive`. Who is barred stays absent."""
        super()._forgive()
        for i in self.barred:
            self.roster.members[i].absent += 1
            self._lost.add(i)

    def _bar(self, i: int, why: str) -> None:
        self.barred.add(i)
        self._refuse(i, why)

    def _check(self, step: Step, message: Message, expected: Expected, answered: Sequence[int]) -> None:
        """Hold a sum to what a sum can be. Which site spoilt it, masks do not show.

        Raises:
            UserError: Where it cannot be.
        """
        rows = sum(self.roster.members[i].rows for i in answered)
        why = expected.in_all().reason_against(message, -1, rows)
        if why is None and self.cost is not None:
            why = within_length(self.cost, self.settings, step, len(answered))({}, message, -1, rows)
        if why is not None:
            raise UserError(
                f"round {self.round}, the sum of {step.name!r} over {sites_of(answered)} cannot be: {why} in all. One "
                "of them sent what is not its message, and masks hide which",
                where=self.settings.name,
                fix=UNMASKED,
            )


def _moved(models: Models, start: Tensor) -> bool:
    """Whether a sum of models is another than that of the models that the sites began with, but for rounding."""
    stood = models.mass[:, None].double() * start[: len(models.mass)].double().to(models.total.device)
    return not torch.allclose(models.total.double(), stood, rtol=1e-6, atol=1e-6)
