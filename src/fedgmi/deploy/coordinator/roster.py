"""Who takes part: sites by name, the nodes that speak for them, and what each has answered last."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedgmi.deploy.coordinator.checks import sound
from fedgmi.letters import is_name, reads_like
from fedgmi.protocol.wire import TOKEN, TOKEN_LETTERS, Parcel, hash_of
from fedgmi.protocol.words import one_line
from fedgmi.storage import files

MOST_ROWS = 2**53  # counts are added up in float64
LONGEST_NAME, LONGEST_REASON = 200, 400
ANOTHER = "two sites of one name, or one that has lost its folder (docs/operations.md says how it comes back)"
SILENT_PART = 10  # deadlines until a node that did not answer its greeting is asked again in mid-run: a look costs one
AGAIN_S = 10.0  # after which whoever was not let in is asked once more, where there is nothing else to do
Tell = Callable[[str], None]  # one line of the log


class Post(Protocol):
    """What carries parcels to sites and back: Flower's grid, or calls in this process."""

    def nodes(self) -> Iterable[int]:
        """Those that are connected."""
        ...

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        """Send each node its request and wait, at most so long. Who fails or is silent is absent from the answer, or
        answers with `error` in its header."""
        ...


@dataclass
class Member:
    """A site's place in the federation.

    Attributes:
        name: The site's.
        rows: How many it trains on.
        node: That speaks for it; None: it is not connected.
        known_by: The hash of the token that it said when it came first; "": a checkpoint of a version without tokens.
        node_before: The node that spoke for it last; None: none did.
        base: The exchange after which its state is what requests build on; None: it has none yet.
        held: In which round each block that it keeps was needed last, by hash.
        quality: What it told at the end of its predictor on held-out rows: metrics by name, and `majority_accuracy`.
        last_round: In which it answered; -1: none.
        last_seen: When, in unix seconds; 0: never.
        absent: Rounds in which it was missing.
        refused: Answers of it that could not be used.
        bytes_down: All that it was sent. The ledger holds the requests of steps alone; here are the greeting, repeated
            and unanswered requests, and results too.
        bytes_up: All that came from it, likewise.
        note: Why it was missing last.
        diverged: Whether it says that training has diverged there.
        contested: That another node said its name since; "": none did.
    """

    name: str
    rows: int
    node: int | None = None
    known_by: str = ""
    node_before: int | None = None
    base: tuple[int, int] | None = None
    held: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    last_round: int = -1
    last_seen: float = 0.0
    absent: int = 0
    refused: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    note: str = ""
    diverged: bool = False
    contested: str = ""

    def heard(self, reply: Parcel) -> None:
        """Note that it has answered, and the bytes of the answer."""
        self.last_seen = time.time()
        self.bytes_up += reply.n_bytes

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but which node it is."""
        return {key: value for key, value in asdict(self).items() if key != "node"}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Member:
        """What `to_json` wrote."""
        base = found["base"]
        return cls(**found | {"base": None if base is None else (int(base[0]), int(base[1]))})


@dataclass
class Roster:
    """The members in the order of the clients' indices; a site that joins late takes the next place.

    Attributes:
        size: How many there may be.
        tell: Writes a line of the log.
        most_rows: That a site may say it has.
        members: Those that have come so far.
        strangers: Nodes that are not let in, and why.
        readmit: A file with the names of sites that are let in with another token, a line each; see docs/operations.md.
        restored: Names of members of a checkpoint that have not come since. They hold what they held then; a site that
            lacks some of it asks for it.
    """

    size: int
    tell: Tell
    most_rows: int = MOST_ROWS
    readmit: Path | None = None
    members: list[Member] = field(default_factory=list)
    strangers: dict[int, str] = field(default_factory=dict)
    restored: set[str] = field(default_factory=set)
    _asked: float = -AGAIN_S  # when strangers were asked last
    _not_before: dict[int, float] = field(default_factory=dict)  # nodes that did not answer their greeting
    _untold: set[int] = field(default_factory=set)  # strangers that do not know yet why they are not let in
    _told: set[int] = field(default_factory=set)  # nodes that were told so once: in mid-run a look costs a deadline

    @property
    def alive(self) -> list[int]:
        """Indices of the sites whose node is connected."""
        return [i for i, member in enumerate(self.members) if member.node is not None]

    @property
    def turned_away(self) -> tuple[str, ...]:
        """Nodes that are connected and not let in, each with why."""
        return tuple(f"node {node}: {why}" for node, why in sorted(self.strangers.items()))

    def call(self, post: Post, hello: Parcel, deadline_s: float, *, idle: bool = False) -> None:
        """See who is there; those who are new say who they are.

        Args:
            post: Over which nodes are reached.
            hello: What they are asked.
            deadline_s: For how long.
            idle: Whether all wait: then those that were not let in are asked again, for they may have been mended.
        """
        nodes = set(post.nodes())
        for member in self.members:
            if member.node is not None and member.node not in nodes:
                member.node = None
        self.strangers = {node: why for node, why in self.strangers.items() if node in nodes}
        self._untold &= self.strangers.keys()
        known: set[int | None] = {member.node for member in self.members}
        again = (idle or bool(self._readmitted())) and time.monotonic() - self._asked >= AGAIN_S
        if again:
            self._asked = time.monotonic()
        new = sorted(node for node in nodes - known if not self._rests(node, idle=idle, again=again))
        if new:
            asked = {node: self._greeting(node, hello) for node in new}
            answers = {node: sound(reply) for node, reply in post.ask(asked, deadline_s).items()}
            found = sorted(answers.items(), key=lambda item: one_line(item[1].header.get("site")))
            for node, reply in found:
                self._admit(node, reply, asked[node])
            for node in new:
                self._not_before.pop(node, None)
                if node not in answers:
                    self._not_before[node] = time.monotonic() + SILENT_PART * deadline_s
                    self._refuse(node, "it does not answer the question who it is: does fedgmi run there?", knows=True)

    def _greeting(self, node: int, hello: Parcel) -> Parcel:
        """What a node is asked; one that answered before and was not let in is told why, for its own log."""
        if node not in self._untold:
            return hello
        self._told.add(node)
        return Parcel(hello.header | {"turned_away": one_line(self.strangers[node], LONGEST_REASON)})

    def _rests(self, node: int, *, idle: bool, again: bool) -> bool:
        """Whether a node that has no place is not asked now. again: those that were not let in are."""
        if node in self._not_before:
            return not idle and time.monotonic() < self._not_before[node]
        return node in self.strangers and not again and (node in self._told or node not in self._untold)

    def _admit(self, node: int, reply: Parcel, hello: Parcel) -> None:
        """Give a node its place, or say why it has none."""
        header = reply.header
        if "error" in header:
            who = f"{one_line(header['site'], LONGEST_NAME)}: " if isinstance(header.get("site"), str) else ""
            return self._refuse(node, who + one_line(header["error"]), knows=True)
        name, rows = header.get("site"), header.get("rows")
        if not isinstance(name, str) or not name or type(rows) is not int or not 1 <= rows <= MOST_ROWS:
            return self._refuse(node, "it does not say who it is and how many rows it has")
        if len(name) > LONGEST_NAME or not is_name(name):
            return self._refuse(
                node, f"its name is no line of at most {LONGEST_NAME} letters, with single spaces alone"
            )
        if rows > self.most_rows:
            return self._refuse(node, f"{name} says that it has {rows} rows, and max_rows is {self.most_rows}")
        member = next((member for member in self.members if member.name == name), None)
        alike = next((other.name for other in self.members if reads_like(other.name, name)), None)
        if member is None and alike is not None:
            return self._refuse(node, f"{name} reads like {alike}, which is another site: give it a name of its own")
        if member is None and len(self.members) >= self.size:
            return self._refuse(node, f"{name} is one site more than the {self.size} of federation.toml")
        if member is not None and member.node is not None:
            return self._refuse(node, f"{name} is here already: the same site twice, or two sites of one name")
        if member is not None and member.rows != rows and member.last_round >= 0:
            why = f"{name} comes back with {rows} rows, where it had {member.rows}: a run is over the same rows"
            return self._refuse(node, why)
        other = next((member for member in self.members if member.node_before == node and member.name != name), None)
        if other is not None:
            return self._refuse(node, f"it says that it is {name}, and came as {other.name}: a SuperNode is one site's")
        token = header.get(TOKEN)
        if not isinstance(token, str) or not re.fullmatch(f"[0-9a-f]{{{TOKEN_LETTERS}}}", token):
            return self._refuse(node, f"{name} sends no token by which it is known again: update fedgmi there")
        said = hash_of(token.encode())
        back = member is not None
        if member is None:
            self.members.append(Member(name, rows, known_by=said))
            member = self.members[-1]
        if member.known_by != said and not self._renew(member, node, said):
            member.contested = f"another node said its name with another token: {ANOTHER}"
            return self._refuse(node, f"it says that it is {name}, and its token is another than {name} had: {ANOTHER}")
        self.strangers.pop(node, None)
        self._untold.discard(node)
        if back:
            self._strike(name)
        member.held = member.held if name in self.restored else {}
        self.restored.discard(name)
        member.node, member.node_before, member.rows, member.note, member.contested = node, node, rows, "", ""
        member.bytes_down += hello.n_bytes
        member.heard(reply)
        self.tell(f"{name} is here, with {rows} rows")

    def _renew(self, member: Member, node: int, said: str) -> bool:
        """Whether a site is let in under another token than it had: it comes over the same node, which the SuperLink
        knows by its key, or whoever runs the coordinator vouches for it. It joins anew, for it has lost its folder."""
        if not member.known_by:
            self.tell(
                f"{member.name} is known by its token from now on: the checkpoint, of an earlier version, has none"
            )
            member.known_by = said
            return True
        if node == member.node_before:
            why = "over the same SuperNode"
        elif self.readmit is not None and member.name in self._readmitted():
            why = f"as {self.readmit.name} says"
        else:
            return False
        self.tell(f"{member.name} comes with another token, {why}: it has lost its folder, and joins anew")
        member.known_by, member.base, member.held = said, None, {}
        return True

    def _strike(self, name: str) -> None:
        """Who is here needs no line in `readmit` any more: it would let another one in, at some later time."""
        named = self._readmitted()
        if self.readmit is not None and name in named:
            files.write_text(self.readmit, "".join(f"{other}\n" for other in named if other != name))

    def _readmitted(self) -> list[str]:
        """The names in the file `readmit`; none where there is no such file."""
        if self.readmit is None or not self.readmit.is_file():
            return []
        lines = self.readmit.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def tell_weight(self) -> None:
        """A site that weighs more than all others is named: its number of rows is its own word."""
        rows = sorted((member.rows, member.name) for member in self.members)
        if len(rows) > 2 and 2 * rows[-1][0] > sum(n for n, _ in rows):
            n, name = rows[-1]
            bound = " (max_rows in federation.toml bounds it)" if self.most_rows == MOST_ROWS else ""
            self.tell(f"{name} says that it has {n} rows, more than all others together{bound}")

    def _refuse(self, node: int, why: str, *, knows: bool = False) -> None:
        """Let a node not in. knows: it has said so itself, or cannot be told."""
        if self.strangers.get(node) != why:
            self.tell(f"node {node} is not let in: {why}")
        self.strangers[node] = why
        if knows:
            self._untold.discard(node)
        else:
            self._untold.add(node)
