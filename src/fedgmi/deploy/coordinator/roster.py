"""Who takes part: sites by name, the nodes that speak for them, and what each has last answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from fedgmi.protocol.wire import Parcel

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
class Seat:
    """A site's place in the federation.

    base: the exchange after which its state is what requests build on; None: it has none yet · held: the blocks that
    it keeps · absent: rounds in which it was missing.
    """

    name: str
    rows: int
    node: int | None = None
    base: tuple[int, int] | None = None
    held: frozenset[str] = frozenset()
    proportions: list[float] | None = None
    accuracy: float | None = None
    last_round: int = -1
    last_seen: float = 0.0
    absent: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but which node it is and what that node holds."""
        return {key: value for key, value in asdict(self).items() if key not in ("node", "held")}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Seat:
        """What `to_json` wrote."""
        base = found["base"]
        return cls(**found | {"base": None if base is None else (int(base[0]), int(base[1]))})


@dataclass
class Roster:
    """The seats, in the order of the clients' indices; a site that joins late takes the next one."""

    size: int
    tell: Tell
    seats: list[Seat] = field(default_factory=list)
    strangers: dict[int, str] = field(default_factory=dict)  # nodes that are not let in, and why

    @property
    def alive(self) -> list[int]:
        """Indices of the sites whose node is connected."""
        return [i for i, seat in enumerate(self.seats) if seat.node is not None]

    def call(self, post: Post, hello: Parcel, deadline_s: float) -> None:
        """See who is there; those who are new say who they are."""
        nodes = set(post.nodes())
        for seat in self.seats:
            if seat.node is not None and seat.node not in nodes:
                seat.node = None
        self.strangers = {node: why for node, why in self.strangers.items() if node in nodes}
        known = {seat.node for seat in self.seats} | self.strangers.keys()
        new = sorted(nodes - known)
        if new:
            answers = post.ask(dict.fromkeys(new, hello), deadline_s)
            found = sorted(answers.items(), key=lambda item: str(item[1].header.get("site")))
            for node, reply in found:
                self._admit(node, reply)

    def _admit(self, node: int, reply: Parcel) -> None:
        """Give a node its seat, or say why it has none."""
        header = reply.header
        if "error" in header:
            return self._refuse(node, str(header["error"]))
        name, rows = header.get("site"), header.get("rows")
        if not isinstance(name, str) or not name or not isinstance(rows, int) or rows < 1:
            return self._refuse(node, "it does not say who it is and how many rows it has")
        seat = next((seat for seat in self.seats if seat.name == name), None)
        if seat is None and len(self.seats) >= self.size:
            return self._refuse(node, f"{name} is one site more than the {self.size} of federation.toml")
        if seat is not None and seat.node is not None:
            return self._refuse(node, f"{name} is here already: the same site twice, or two sites of one name")
        if seat is None:
            self.seats.append(Seat(name, rows))
            seat = self.seats[-1]
        elif seat.rows != rows:
            self.tell(f"{name} comes back with {rows} rows, where it had {seat.rows}")
        seat.node, seat.rows, seat.held, seat.note = node, rows, frozenset(), ""
        self.tell(f"{name} is here, with {rows} rows")

    def _refuse(self, node: int, why: str) -> None:
        self.strangers[node] = why
        self.tell(f"node {node} is not let in: {why}")
