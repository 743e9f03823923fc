"""The transport of a deployment: an exchange as requests to sites, their answers checked before they are added up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedgmi import __version__, tree
from fedgmi.deploy.coordinator.checks import Expected, Ghost, reason_against
from fedgmi.deploy.coordinator.roster import Post, Roster, Seat
from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import DivergedError, UserError
from fedgmi.methods.contract import Message, Method, Step
from fedgmi.protocol.robust import reduce, wild
from fedgmi.protocol.wire import Blocks, Header, Parcel, WireError, cut, join
from fedgmi.tree import Tree

RETRY_S = 2.0


@dataclass
class Remote:
    """One run's transport.

    run, attempt: names of the run, and of this start of the coordinator · extra: leaves that go with every request, the
    rows' standardisation · after: called once an exchange is over · stacked: single replies of steps that stack.
    """

    post: Post
    settings: FederationSettings
    method: Method
    n_components: int
    roster: Roster
    ghost: Ghost
    run: str
    attempt: str
    extra: Tree = field(default_factory=dict)
    after: Callable[[], None] = lambda: None
    stacked: Tree = field(default_factory=dict)
    round: int = -1
    _number: int = 0
    _lost: set[int] = field(default_factory=set)
    _down: int = 0
    _up: int = 0
    _patience: float | None = None  # until when sites that are away are waited for

    @property
    def absent(self) -> list[str]:
        """Sites that are absent in this round."""
        return sorted(self.roster.seats[i].name for i in self._lost)

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """Ask the sites `ids`; who does not answer as it should is absent until the next round."""
        if round != self.round:
            self.round, self._number, self._lost = round, 0, set()
            if round > self.settings.rounds:
                self.recall()
            else:
                self.roster.call(self.post, self.hello(), self.settings.deadline_s)
        expected = self.ghost.expect(step, server, round)
        began = time.monotonic()
        while True:
            message = self._once(step, server, ids, round, expected)
            if message is not None:
                self._number += 1
                self.after()
                return message
            if time.monotonic() - began > self.settings.wait_s:
                raise UserError(
                    f"no site answered in round {round}, for {self.settings.wait_s:g} s",
                    where=self.settings.name,
                    fix="see that sites run (fedgmi deploy status), and start again: it goes on from its checkpoint",
                )
            time.sleep(min(RETRY_S, self.settings.wait_s / 10))
            self._lost.clear()
            self.roster.call(self.post, self.hello(), self.settings.deadline_s)

    def _once(self, step: Step, server: Tree, ids: Sequence[int], round: int, expected: Expected) -> Message | None:
        """One try; None where nobody answered."""
        asked = [i for i in ids if i in self.roster.alive and i not in self._lost]
        header = self.header("step", round=round, number=self._number) | self._place(step, round)
        answers, down, up = self.ask(asked, cut(server | self.extra), header)
        replies: dict[int, Tree] = {}
        for i, parcel in answers.items():
            why = reason_against(parcel, expected, self.roster.seats[i].rows, self.n_components)
            if why is None:
                try:
                    replies[i] = join(parcel, {})
                    why = expected.reason_against(replies[i], self.roster.seats[i].rows)
                except WireError as error:
                    why = str(error)
            if why is not None:
                replies.pop(i, None)
                self.lose(i, round, why, lost=parcel.header.get("lost") is True)
                continue
            seat = self.roster.seats[i]
            seat.base, seat.last_round = (round, self._number), round
            seat.proportions = parcel.header.get("proportions") or seat.proportions
        for i in ids:
            if i not in answers and i not in self._lost and i < len(self.roster.seats):
                self.lose(i, round, "no answer" if i in asked else "its SuperNode is not connected")
        places = sorted(replies)
        for place, why in wild(step, server, [replies[i] for i in places], self.settings.robust).items():
            del replies[places[place]]
            self.lose(places[place], round, why)
        if not replies:
            if answers and all(parcel.header.get("diverged") is True for parcel in answers.values()):
                fix = 'lower training.lr; where a site lied, set robust.max_norm = "median"; start in another folder'
                raise DivergedError(
                    f"all sites in round {round}: training has diverged", where=self.settings.name, fix=fix
                )
            return None
        places = sorted(replies)
        ordered = [replies[i] for i in places]
        if step.reduce == "stack":
            values = tree.concatenate(ordered)
            self.stacked |= {name: leaf for name, leaf in values.items() if name == "histogram"}
            return Message(values, down, up)
        values, bounded = reduce(step, server, ordered, self.settings.robust)
        for place, (model, times) in bounded.items():
            name = self.roster.seats[places[place]].name
            self.roster.tell(
                f"round {round}: {name}'s {model} moved {times:.3g} times the norm bound: scaled down to it"
            )
        return Message(values, down, up)

    def ask(
        self, ids: Sequence[int], blocks: Blocks, header: Header, each: Mapping[int, Header] | None = None
    ) -> tuple[dict[int, Parcel], int, int]:
        """Answers by site, bytes down, bytes up. A site that lost its blocks is sent them again, once.

        each: what the header says to one site alone.
        """
        headers = {i: header | self._own(i) | (each or {}).get(i, {}) for i in ids}
        requests = {i: blocks.parcel(headers[i], self.roster.seats[i].held) for i in ids}
        answers: dict[int, Parcel] = {}
        for _ in range(2):
            by_node = {self._node(i): i for i in requests}
            found = self.post.ask({self._node(i): parcel for i, parcel in requests.items()}, self.settings.deadline_s)
            for node, parcel in found.items():
                self._count(self.roster.seats[by_node[node]], requests[by_node[node]], parcel)
                answers[by_node[node]] = parcel
            again = {i for i, parcel in answers.items() if parcel.header.get("missing")}
            for i in answers.keys() - again:
                self.roster.seats[i].held = frozenset(blocks.blocks)
            if not again:
                break
            requests = {i: blocks.parcel(headers[i]) for i in again}
        return answers, *self._spent()

    def lose(self, i: int, round: int, why: str, *, lost: bool = False) -> None:
        """The site is absent for the rest of this round. lost: its state is, so that it joins the next one anew."""
        seat = self.roster.seats[i]
        self._lost.add(i)
        seat.absent, seat.note, seat.held = seat.absent + 1, why, frozenset()
        if lost:
            seat.base = None
        self.roster.tell(f"round {round}: {seat.name} is absent: {why}")

    def recall(self) -> None:
        """At the end, wait for sites that are away, so that everybody gets what is theirs: at most `wait_s` in all."""
        if self._patience is None:
            self._patience = time.monotonic() + self.settings.wait_s
        said: list[str] = []
        while True:
            self.roster.call(self.post, self.hello(), self.settings.deadline_s)
            away = [seat.name for seat in self.roster.seats if seat.node is None]
            if not away or time.monotonic() > self._patience:
                return
            if away != said:
                self.roster.tell(f"waits for {', '.join(away)}: everybody is to have results")
            said = away
            time.sleep(min(RETRY_S, self.settings.wait_s / 10))

    def hello(self) -> Parcel:
        """Who are you?"""
        return Parcel(self.header("hello"))

    def header(self, kind: str, **more: int) -> Header:
        """What every request says."""
        about = {"kind": kind, "version": __version__, "federation": self.settings.digest()}
        return about | {"run": self.run, "attempt": self.attempt, "n_components": self.n_components} | more

    def _own(self, i: int) -> Header:
        return {"id": i, "base": self.roster.seats[i].base}

    def _place(self, step: Step, round: int) -> Header:
        """Where the step stands in the method. The same step may stand in several places, and does the same there."""
        phase = "prepare" if round == 0 else "round" if round <= self.settings.rounds else "finish"
        steps: tuple[Step, ...] = getattr(self.method, phase)
        return {"phase": phase, "step": next(n for n, other in enumerate(steps) if other is step)}

    def _node(self, i: int) -> int:
        node = self.roster.seats[i].node
        assert node is not None
        return node

    def _count(self, seat: Seat, request: Parcel, reply: Parcel) -> None:
        seat.last_seen = time.time()
        seat.bytes_down, seat.bytes_up = seat.bytes_down + request.n_bytes, seat.bytes_up + reply.n_bytes
        self._down, self._up = self._down + request.n_bytes, self._up + reply.n_bytes

    def _spent(self) -> tuple[int, int]:
        down, up, self._down, self._up = self._down, self._up, 0, 0
        return down, up
