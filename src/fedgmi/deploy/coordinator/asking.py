"""How a coordinator asks sites: what a request says, the blocks that a site lacks, and the answers that come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedgmi import __version__
from fedgmi.deploy.coordinator.checks import sound
from fedgmi.deploy.coordinator.roster import Post, Roster
from fedgmi.deploy.settings import FederationSettings
from fedgmi.methods import Method
from fedgmi.methods.contract import joins_as_newcomer
from fedgmi.protocol import wire
from fedgmi.protocol.blocks import Blocks, cut, first_blocks, still_held
from fedgmi.protocol.codecs.broadcast import Broadcast, rounds_held
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.sizes import request_bytes
from fedgmi.protocol.step import Step, select
from fedgmi.protocol.wire import Header, Parcel
from fedgmi.tree import Tree


@dataclass(kw_only=True)
class Asking:
    """A run's requests.

    Attributes:
        post: What carries parcels.
        settings: Of the federation.
        method: What is run.
        roster: Who takes part.
        run: The run's name.
        attempt: The name of this start of the coordinator.
        ledger: The bytes of steps.
        chain: What has been sent as differences; None: models travel whole.
        round: The present one.
        first: The blocks of the first state, which sites know as they know the seed.
        plan: What was chosen to keep to the budget, by the names of settings. Sites are told with the greeting.
    """

    post: Post
    settings: FederationSettings
    method: Method
    roster: Roster
    run: str
    attempt: str
    ledger: Ledger
    chain: Broadcast | None = None
    round: int = -1
    first: dict[str, int] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    _number: int = 0

    def settle(self, before: Tree, after: Tree, round: int, name: str) -> Tree:
        """See `Transport.settle`."""
        if self.chain is None:
            return after
        settled = self.chain.settle(before, after, round, name)
        if not before:
            self.first = dict.fromkeys(first_blocks(settled), 0)
        return settled

    def held(self, i: int) -> dict[str, int]:
        """The blocks that a site has: before it has answered anything, those of the first state."""
        member = self.roster.members[i]
        return member.held or (self.first if member.base is None else {})

    def blocks(self, part: Tree) -> Blocks:
        """Leaves of the server's state as they travel."""
        return replace(cut(part), links=None if self.chain is None else self.chain.links)

    def ask(
        self, parts: Mapping[int, Blocks], header: Header, each: Mapping[int, Header] | None = None
    ) -> dict[int, Parcel]:
        """Ask sites, and ask those once more that lost their blocks, with all of them.

        Args:
            parts: By the site's index, what goes to it, as far as it lacks it.
            header: What is said to all.
            each: What the header says to one site alone.

        Returns:
            Answers by site.
        """
        headers = {i: header | self._own(i) | (each or {}).get(i, {}) for i in parts}
        requests = {i: parts[i].parcel(headers[i], self.held(i)) for i in parts}
        answers: dict[int, Parcel] = {}
        for _ in range(2):
            by_node = {self._node(i): i for i in requests}
            for i, parcel in requests.items():
                self.roster.members[i].bytes_down += parcel.n_bytes
            found = self.post.ask({self._node(i): parcel for i, parcel in requests.items()}, self.settings.deadline_s)
            for node, came in found.items():
                answers[by_node[node]] = parcel = sound(came)
                self.roster.members[by_node[node]].heard(parcel)
            again = {i for i, parcel in answers.items() if parcel.header.get("missing")}
            for i in answers.keys() - again:
                member = self.roster.members[i]
                member.held = still_held(self.held(i), parts[i].blocks, int(header["round"]), rounds_held(self.chain))
            if not again:
                break
            requests = {i: parts[i].parcel(headers[i]) for i in again}
        return answers

    def _ask_step(
        self, step: Step, server: Tree, asked: Sequence[int], more: Mapping[str, Any] | None = None
    ) -> dict[int, Parcel]:
        """The answers to a step; the bytes of the requests are in the ledger. more: what the header says besides."""
        program, (parts, header) = self.method.program, self._parts(step, server, asked)
        header |= more or {}
        held = {i: self.held(i) for i in asked}
        answers = self.ask(parts, header)
        for i, blocks in parts.items():
            own = header | self._own(i)
            for kind, n_bytes in request_bytes(program, step, blocks, own, held[i]).items():
                self.ledger.add(self.round, kind, i, down=n_bytes)
        return answers

    def _parts(self, step: Step, server: Tree, asked: Sequence[int]) -> tuple[dict[int, Blocks], Header]:
        """By site the blocks that a step needs, and what the request says to all."""
        parts = dict.fromkeys(asked, self.blocks(select(server, step.reads)))
        if joins_as_newcomer(self.method, self.round):
            new = [i for i in asked if self.roster.members[i].base is None]
            parts |= dict.fromkeys(new, self.blocks(select(server, (*step.reads, *self.method.predictor.reads))))
        return parts, self.header("step", round=self.round, number=self._number, step=self._index(step))

    def hello(self) -> Parcel:
        """Who are you?"""
        return Parcel(self.header("hello") | ({"plan": dict(self.plan)} if self.plan else {}))

    def header(self, kind: str, **more: int) -> Header:
        """What every request says."""
        federation = self.settings.digest()
        return wire.request(
            kind, version=__version__, federation=federation, run=self.run, attempt=self.attempt, **more
        )

    def _call(self, *, idle: bool = False) -> None:
        self.roster.call(self.post, self.hello(), self.settings.deadline_s, idle=idle)

    def _own(self, i: int) -> Header:
        return {"id": i, "base": self.roster.members[i].base}

    def _index(self, step: Step) -> int:
        """The step's place in its phase. The same step may stand in several places, and does the same there."""
        steps = self.method.program.steps(phase_of(self.round, self.settings.rounds))
        return next(n for n, other in enumerate(steps) if other is step)

    def _node(self, i: int) -> int:
        node = self.roster.members[i].node
        assert node is not None
        return node
