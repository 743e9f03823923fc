"""The transport of a deployment: an exchange as requests to sites, their answers checked before they are added up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedgmi.deploy.coordinator.asking import Asking
from fedgmi.deploy.coordinator.blame import cannot_go_on, in_words, without_culprits
from fedgmi.deploy.coordinator.bounds import check_of, within_length
from fedgmi.deploy.coordinator.checks import Expected, Probe, read
from fedgmi.deploy.coordinator.columns import far_sums
from fedgmi.deploy.coordinator.heard import Heard
from fedgmi.errors import DataError, DivergedError, UserError
from fedgmi.protocol.blocks import still_held
from fedgmi.protocol.codecs.broadcast import rounds_held
from fedgmi.protocol.message import Message
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.robust import robust_sum, wild
from fedgmi.protocol.sizes import largest_reply, reply_bytes, request_bytes
from fedgmi.protocol.step import Step, select
from fedgmi.protocol.wire import Parcel
from fedgmi.protocol.words import one_line
from fedgmi.protocol.wrapper import Place, Wrapper, opened
from fedgmi.runs.private import Cost
from fedgmi.tree import Tree

RETRY_S, LONGEST_S = 2.0, 120.0  # between two tries: the first, and the longest where each takes sites their whole step
SILENT, UNCONNECTED = AWAY = ("no answer", "its SuperNode is not connected")  # why sites are absent that may not run
MOST_NAMED = 5  # sites in one line
Said = dict[int, list[str]]  # by site
Take = Callable[[Message], Tree]  # the server part of a step


@dataclass(kw_only=True)
class Remote(Asking):
    """One run's transport.

    Its ledger holds the requests and answers of steps, as `InProcess` would enter them. What goes beside these
    (greetings, blocks sent again, results at the end) is in the members' own counts.

    Attributes:
        probe: From which the layout of messages is learnt.
        after: Called once an exchange is over.
        ledger: What has travelled.
        wrappers: How models travel; robust means are the coordinator's own.
        refused: Sites whose answers could not be used in this round, and why.
        cost: What `[privacy]` bounds and costs; None: there is none.
        failed: Why the last try of an exchange came to nothing; "": nobody answered.
        counted: The sites whose histograms the components are made of; None: none were asked for.
        heard: Who has answered the present exchange.
    """

    probe: Probe
    after: Callable[[], None] = lambda: None
    wrappers: Sequence[Wrapper] = ()
    refused: dict[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    failed: str = ""
    counted: list[str] | None = None
    heard: Heard = field(init=False)
    _lost: set[int] = field(default_factory=set)
    _told: dict[int, str] = field(default_factory=dict)  # why sites are absent, as log.txt has it of this round
    _patience: float | None = None  # until when sites that are away are waited for

    def __post_init__(self) -> None:
        """Nobody has answered yet."""
        self.heard = Heard(self.roster)

    @property
    def n_components(self) -> int:
        """K, as federation.toml has it; 1 for methods without components."""
        asked = self.settings.method.n_components
        return asked if isinstance(asked, int) else 1

    @property
    def absent(self) -> list[str]:
        """Sites that are absent in this round."""
        return sorted(self.roster.members[i].name for i in self._lost)

    def taken(self, step: Step, server: Tree, ids: Sequence[int], round: int, take: Take) -> Tree | None:
        """See `Judging.taken`. Who does not answer as it should is absent until the next round.

        Raises:
            UserError: Where no site answered for `wait_s` seconds, or the server part fails whoever is left out.
            DivergedError: Where training diverged at most of them.
        """
        if round != self.round:
            self._begin_round(round)
        expected = self._expected(step, server)
        failed: float | None = None  # when the first try came to nothing
        said, wait, tries = "", f"{self.settings.wait_s:g} s", 0
        while True:
            self.heard.begin()
            after = self._once(step, server, ids, expected, take)
            if after is not None:
                self._number += 1
                self.heard.done()
                self.after()
                return after
            over = failed is not None and time.monotonic() - failed > self.settings.wait_s
            if self._leaves_out(ids, over=over):
                self.after()
                return None
            failed, why = time.monotonic() if failed is None else failed, self._why
            if why != said:
                self.roster.tell(f"round {round}: {why}; sites are waited for, {wait}{' in all' * bool(said)}")
            said = why
            if over:
                raise self._given_up(f"{why} in round {round}, for {wait}")
            time.sleep(self._pause(tries := tries + 1))
            self.after()  # the status of those who are absent, before they are asked again
            self._forgive()
            self._call(idle=True)

    @property
    def _why(self) -> str:
        """Why the last try came to nothing."""
        return self.failed or self.heard.why

    def _pause(self, tries: int) -> float:
        """Seconds until an exchange is tried again. tries: How many there were."""
        return min(RETRY_S, self.settings.wait_s / 10)

    def _leaves_out(self, ids: Sequence[int], *, over: bool) -> bool:
        """Whether a round goes no further: those that were asked have failed, and others are there for the next one.

        Args:
            ids: Who was asked.
            over: Whether they have been waited for.
        """
        others = [i for i in self.roster.alive if i not in ids]
        if phase_of(self.round, self.settings.rounds) != "round" or not others or not (over or not self._waits(ids)):
            return False
        self.heard.in_vain(ids)
        asked = ", ".join(self.roster.members[i].name for i in ids if i < len(self.roster.members)) or "nobody"
        here = f"{len(others)} other site{'s are' if len(others) > 1 else ' is'} there"
        self.roster.tell(f"round {self.round} goes no further: {self._why}, of {asked}; {here} for the next")
        return True

    def _waits(self, ids: Sequence[int]) -> bool:
        """Whether it is worth waiting for one of these."""
        return self.heard.worth_waiting(ids)

    def _given_up(self, what: str) -> UserError:
        """That an exchange has come to nothing for good, with what sites say of it."""
        members = self.roster.members
        said = self._say()
        why = [f"{members[i].name}: {said[i]}" for i in sorted(said)]
        more = f"; {len(why) - MOST_NAMED} more" if len(why) > MOST_NAMED else ""
        away = all(words in AWAY for words in said.values())
        fix = "see that sites run (fedgmi deploy status)" if away else "mend what is told there of the sites"
        what += f" ({'; '.join(why[:MOST_NAMED])}{more})" if why else ""
        return UserError(what, where=self.settings.name, fix=f"{fix}, and start again: it goes on from its checkpoint")

    def _say(self) -> dict[int, str]:
        """By site why it is absent in this round."""
        return {i: self._told[i] for i in self._lost if i in self._told}

    def price(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> dict[int, int]:
        """See `Transport.price`. Sites that are away cost nothing. Requests that nobody answered are not foreseen."""
        if round != self.round:
            self._begin_round(round)
        asked = [i for i in ids if i in self.roster.alive and i not in self._lost]
        parts, header = self._parts(step, server, asked)
        expected = self._expected(step, server)
        found = dict.fromkeys(ids, 0)
        for i in asked:
            request = request_bytes(self.method.program, step, parts[i], header | self._own(i), self.held(i))
            found[i] = sum(request.values()) + largest_reply(expected.travelling(i), self.roster.members[i].rows)
        return found

    def _expected(self, step: Step, server: Tree) -> Expected:
        """What answers have to look like, and how they are read."""
        part, at, seed = select(server, step.reads), (self.round, self._number), self.settings.seed
        cost = self.cost
        also = check_of(step, self.settings.rows) if cost is None else within_length(cost, self.settings, step)
        found = self.probe.expect(step, server, self.round, also)
        return replace(
            found,
            shares=cost is not None and cost.unit == "clients",
            noisy=cost is not None,
            wrappers=self.wrappers,
            place=lambda i: Place.of(step, part, i, (), at, seed, {}),
        )

    def _forgive(self) -> None:
        """All are asked once more, and nobody is absent yet."""
        for i in self._lost:
            self.roster.members[i].absent -= 1
        self._lost.clear()

    def _begin_round(self, round: int) -> None:
        self.round, self._number, self._lost, self.refused, self._told = round, 0, set(), {}, {}
        if phase_of(round, self.settings.rounds) == "finish":
            self.recall()
        else:
            self._call()

    def _once(self, step: Step, server: Tree, ids: Sequence[int], expected: Expected, take: Take) -> Tree | None:
        """One try; None where nobody answered as it should, or too few sent their histograms."""
        self.failed = ""
        asked = [i for i in ids if i in self.roster.alive and i not in self._lost]
        answers = self._ask_step(step, server, asked)
        messages = {i: message for i, parcel in answers.items() if (message := self._take(step, i, parcel, expected))}
        for i in ids:
            if i not in answers and i not in self._lost and i < len(self.roster.members):
                self.lose(i, SILENT if i in asked else UNCONNECTED)
        places = sorted(messages)
        told = [messages[i] for i in places]
        for place, why in ({} if self.cost else wild(step, server, told, self.settings.robust)).items():
            del messages[places[place]]
            self._refuse(places[place], why)
        far = self._far(step, messages)
        self.heard.note(answers)
        if not messages:
            self._stop_if_diverged()
        if not messages or not self._enough(step, messages):
            return None
        after = self._made(step, server, messages, take)
        if after is None or not self._enough(step, messages):
            return None
        self._count(step, messages)
        for i, words in far.items():
            self.roster.tell(
                f"round {self.round}: {self.roster.members[i].name}: {words}: another unit, or a wrong code?"
            )
        for i in messages:  # the state of whoever was refused is not built on: what it sent has not been used
            member = self.roster.members[i]
            member.base, member.last_round = (self.round, self._number), self.round
        return after

    def _far(self, step: Step, messages: dict[int, Message]) -> dict[int, str]:
        """Whose sums lie far from the others', in words. Those beyond doubt are taken out: their sites are absent."""
        places = sorted(messages)
        found = far_sums(step, [messages[i] for i in places], self.settings.rows.features)
        for place, far in found.items():
            if far.wild:
                del messages[places[place]]
                self._refuse(places[place], far.words)
        return {places[place]: far.words for place, far in found.items() if not far.wild}

    def _made(self, step: Step, server: Tree, messages: dict[int, Message], take: Take) -> Tree | None:
        """The server's state with these messages, but for those that the server part fails on: their sites are absent.

        None where it fails whoever is left out, and most sites have sent none: then all that have are absent.

        Raises:
            UserError: Where it fails whoever is left out, and most sites have sent one.
        """
        said: Said = {}

        def make(some: Mapping[int, Message]) -> Tree:
            nonlocal said
            message, said = self._reduce(step, server, some)
            return take(opened(self.wrappers, message, step, server))

        after: Tree | None = None
        try:
            after = make(messages)
        except MemoryError:
            raise
        except Exception as error:  # whatever one site has brought about
            found, why = without_culprits(messages, make), f"{step.name!r} fails on what it sent ({in_words(error)})"
            if found is None and 2 * len(messages) > len(self.roster.members):
                if isinstance(error, DataError):
                    raise  # all sites together: it says what to do
                what = f"round {self.round}: {step.name!r} fails on {len(messages)} sites' answers, whoever is left out"
                fix = "see the sites' log.txt, and report it: the checkpoint before it is kept"
                raise cannot_go_on(error, what, where=self.settings.name, fix=fix) from error
            after, culprits = found or (None, list(messages))
            self.failed = "" if found else f"{step.name!r} fails ({in_words(error)})"
            for i in culprits:
                del messages[i]
                self._refuse(i, why)
        for i, bounded in said.items() if after is not None else ():
            for words in bounded:
                self.roster.tell(f"round {self.round}: {self.roster.members[i].name} is bounded: {words}")
        return after

    def _enough(self, step: Step, messages: Mapping[int, Message]) -> bool:
        """Whether components can be made of these sites' histograms. Of fewer than there are components they cannot:
        proportions would come out even, and say nothing."""
        if not self._makes_components(step):
            return True
        k = int(self.plan.get("method.n_components", self.n_components))
        if len(messages) < min(k, self.settings.sites):
            came = f"histograms came from {len(messages)} of {self.settings.sites} sites"
            self.failed = f"{came}, and {k} components cannot be told apart by fewer than {min(k, self.settings.sites)}"
            return False
        return True

    def _count(self, step: Step, messages: Mapping[int, Message]) -> None:
        """Remember, and tell, of whose histograms the components are made."""
        if not self._makes_components(step):
            return
        self.counted = sorted(self.roster.members[i].name for i in messages)
        if self.few_counted:
            self.roster.tell(self.few_counted)

    def _makes_components(self, step: Step) -> bool:
        return bool(step.counts) and phase_of(self.round, self.settings.rounds) == "prepare"

    @property
    def few_counted(self) -> str:
        """That components are made without some sites, in words; "" where all have sent their histograms."""
        if self.counted is None or len(self.counted) >= self.settings.sites:
            return ""
        without = sorted(member.name for member in self.roster.members if member.name not in self.counted)
        named = f", without {', '.join(without)}" if without else ""
        return f"components come from the histograms of {len(self.counted)} of {self.settings.sites} sites{named}"

    def _stop_if_diverged(self) -> None:
        """Nobody's answer can be used: where most sites say that training has diverged, the run is over."""
        if self.heard.most_diverged:
            fix = 'lower training.lr; where a site lied, set robust.max_norm = "median"; '
            fix += "start in another folder, with --out"
            raise DivergedError(f"round {self.round}: {self.heard.diverged}", where=self.settings.name, fix=fix)

    def _take(self, step: Step, i: int, parcel: Parcel, expected: Expected) -> Message | None:
        """A site's message, its bytes in the ledger; None where it cannot be used, and the site is lost for this round.

        What cannot be used counts as a whole, for nothing is to be believed of it.
        """
        member = self.roster.members[i]
        message, why = read(parcel, expected, i, member.rows)
        cost = {step.kind: parcel.n_bytes} if message is None else reply_bytes(self.method.program, step, parcel)
        for kind, n_bytes in cost.items():
            self.ledger.add(self.round, kind, i, up=n_bytes)
        if message is None and isinstance(parcel.header.get("error"), str):
            self.lose(i, why, lost=parcel.header.get("lost") is True)
        elif message is None:
            self._refuse(i, why)
        return message

    def _reduce(self, step: Step, server: Tree, messages: Mapping[int, Message]) -> tuple[Message, Said]:
        """All sites' messages as one; and by site in words what bounds have done."""
        places = sorted(messages)
        total, bounded = robust_sum(step, server, [messages[i] for i in places], self.settings.robust)
        return total, {places[place]: said for place, said in bounded.items()}

    def _refuse(self, i: int, why: str) -> None:
        """The site answered with what cannot be used: it is absent, and the refusal is counted."""
        member = self.roster.members[i]
        member.refused, self.refused[member.name] = member.refused + 1, why
        self.lose(i, why)

    def lose(self, i: int, why: str, *, lost: bool = False) -> None:
        """The site is absent for the rest of this round. lost: its state is, so that it joins the next one anew.

        Whether the request came nobody knows. What the site held before it holds still, but for what a request that
        came let go.
        """
        member = self.roster.members[i]
        why = one_line(why)
        self._lost.add(i)
        self.ledger.lose(self.round, i)
        member.absent, member.note = member.absent + 1, why
        member.held = still_held(member.held, (), self.round, rounds_held(self.chain))
        if lost:
            member.base, member.held = None, {}
        if self._told.get(i) != why:
            self.roster.tell(f"round {self.round}: {member.name} is absent: {why}")
        self._told[i] = why

    def recall(self) -> None:
        """At the end, wait for sites that are away, so that everybody gets what is theirs: at most `wait_s` in all."""
        said: list[str] = []
        while True:
            self._call(idle=True)
            if self._patience is None:
                self._patience = time.monotonic() + self.settings.wait_s
            away = [member.name for member in self.roster.members if member.node is None]
            if not away or time.monotonic() > self._patience:
                return
            if away != said:
                self.roster.tell(f"waits for {', '.join(away)}: everybody is to have results")
            said = away
            time.sleep(min(RETRY_S, self.settings.wait_s / 10))
