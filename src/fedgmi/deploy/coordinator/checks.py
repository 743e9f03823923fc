"""What a reply must look like before it touches a model: layout, finite numbers, no more mass than the site has rows.

The layout is learnt from a probe, a client of one made-up row that goes through every step beside the sites and whose
answers are thrown away. So no method has to say anywhere what its messages look like. A step may check more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fedgmi import tree
from fedgmi.data.rows import Rows, Schema, blank_targets
from fedgmi.methods import Method
from fedgmi.methods.contract import first_states
from fedgmi.protocol import whole
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.step import Step, select
from fedgmi.protocol.wire import Parcel, WireError, dtype_name, unpack
from fedgmi.protocol.wrapper import Layout, Place, Wrapper, receive
from fedgmi.tree import Tree

SLACK = 1e-3  # of sums in float32


@dataclass(frozen=True)
class Expected:
    """What one client's message to a step has to look like.

    Attributes:
        leaves: By the leaf's name in the flat message, its dtype and shape.
        check: (one client's message, its index, its number of rows) → what is wrong with it, by the step's own check;
            None where it has none.
        wrappers: What was done to it on its way.
        place: (the client's index) → where its message belongs, for these.
        masked: Whether its numbers mean nothing by themselves, so that nothing can be said of them.
    """

    leaves: Layout
    check: Callable[[Message, int, int], str | None] | None = None
    wrappers: Sequence[Wrapper] = ()
    place: Callable[[int], Place] | None = None
    masked: bool = False

    def hidden(self) -> Expected:
        """What one client's message looks like under masks."""
        return Expected(whole.layout(self.leaves), masked=True)

    def in_all(self) -> Expected:
        """What the sum of all looks like: the step's own check is of one client."""
        return Expected(self.leaves)

    def travelling(self, client: int) -> Layout:
        """What a client's message looks like on its way."""
        leaves = self.leaves
        for wrapper in self.wrappers:
            leaves = wrapper.layout(leaves, self._place(client))
        return leaves

    def opened(self, message: Message, client: int) -> Message:
        """What arrived of a client, as it was sent."""
        return receive(self.wrappers, message, self._place(client)) if self.wrappers else message

    def _place(self, client: int) -> Place:
        assert self.place is not None
        return self.place(client)

    def reason_against(self, message: Message, client: int, rows: int) -> str | None:
        """Why a site's message cannot be used; None where nothing is wrong.

        Args:
            message: The site's.
            client: The site's index.
            rows: How many rows it has.
        """
        if self.masked:
            return None
        broken = tree.not_finite(flatten(message))
        if broken is not None:
            return f"{broken!r} is NaN or infinite"
        for name, models in message.models.items():
            least, most = float(models.mass.min()), float(models.mass.max())
            if least < -SLACK or most > rows * (1 + SLACK) + SLACK:
                return f"the mass of {name!r} is between {least:g} and {most:g}, and the site has {rows} rows"
        return None if self.check is None else self.check(message, client, rows)


@dataclass
class Probe:
    """A client of one made-up row; its states follow the method's.

    Attributes:
        method: Whose steps it answers.
        schema: What its row looks like.
        states: Its own; None before the first step.
    """

    method: Method
    schema: Schema
    states: Tree | None = field(default=None)

    def expect(self, step: Step, server: Tree, round: int) -> Expected:
        """What a client's message to this step looks like."""
        rows = self._row()
        part = select(server, step.reads)
        if self.states is None:
            self.states = first_states(self.method, server, rows, round)
        with torch.no_grad():
            self.states, message = step.client(part, self.states, rows, round)
        leaves = {name: (dtype_name(leaf), list(leaf.shape)) for name, leaf in flatten(message).items()}
        return Expected(leaves, step.check and partial(step.check, server))

    def _row(self) -> Rows:
        y = blank_targets(self.schema, 1)
        x = torch.full((1, *self.schema.shape), 0.5)
        return Rows(x, y, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long), (0,))


def read(parcel: Parcel, expected: Expected, client: int, rows: int) -> tuple[Message | None, str]:
    """A site's message, or why it cannot be used.

    Args:
        parcel: The reply.
        expected: What it should look like.
        client: The site's index.
        rows: How many rows the site said it has.

    Returns:
        The message and "", or None and the reason.
    """
    try:
        why = reason_against(parcel, expected.travelling(client), rows)
        if why is not None:
            return None, why
        message = expected.opened(unpack(parcel), client)
        why = expected.reason_against(message, client, rows)
        return (message, "") if why is None else (None, why)
    except WireError as error:
        return None, str(error)
    except Exception as error:  # whatever one site sends, the run of the others goes on
        return None, f"its answer cannot be read ({type(error).__name__})"


def reason_against(parcel: Parcel, expected: Layout, rows: int) -> str | None:
    """Why a reply cannot be used, by its header alone: before any memory is taken for it.

    Args:
        parcel: The reply.
        expected: The layout that it should have.
        rows: How many rows the site said it has.

    Returns:
        The reason; None where nothing is wrong.
    """
    header = parcel.header
    if "error" in header:
        said = header["error"]
        return said[:500] if isinstance(said, str) else f"its error is a {type(said).__name__}, and no text"
    if header.get("rows") != rows:
        return f"it says that it has {header.get('rows')!r} rows, and said {rows} before"
    layout = header.get("layout")
    if not isinstance(layout, list) or not all(isinstance(entry, dict) for entry in layout):
        return "there is no layout"
    found = {str(entry.get("name")): (entry.get("dtype"), entry.get("shape")) for entry in layout}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = wrong[0]
        return f"{name[:40]!r} is {_shown(found.get(name))}, expected {_shown(expected.get(name))}"
    if len(layout) > len(found):
        return "it names a leaf twice"
    if any(not _rows_of(entry.get("rows"), entry["shape"]) for entry in layout):
        return "it names rows that a leaf does not have"
    return None


def _rows_of(rows: Any, shape: list[int]) -> bool:
    """Whether these are places on the leaf's first axis, each once."""
    if rows is None:
        return True
    if not shape:
        return False
    known = isinstance(rows, list) and all(isinstance(row, int) and 0 <= row < shape[0] for row in rows)
    return known and len(set(rows)) == len(rows)


def _shown(leaf: Any) -> str:
    return "missing" if leaf is None else f"{leaf[0]} {leaf[1]}"
