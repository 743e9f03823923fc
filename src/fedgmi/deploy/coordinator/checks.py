"""What a reply must look like before it touches a model: layout, finite numbers, no more mass than the site has rows.

The layout is learnt from a probe, a client of one made-up row that goes through every step beside the sites and whose
answers are thrown away. So no method has to say anywhere what its messages look like. A step may check more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Rows, Schema, blank_targets
from fedgmi.methods import Method
from fedgmi.methods.contract import first_states
from fedgmi.methods.plausible import either
from fedgmi.protocol import whole
from fedgmi.protocol.message import Message, Models, flatten
from fedgmi.protocol.step import Check, Step, select
from fedgmi.protocol.wire import DTYPES, Parcel, WireError, dtype_name, unpack
from fedgmi.protocol.words import one_line
from fedgmi.protocol.wrapper import Layout, Place, Wrapper, receive
from fedgmi.tree import Tree

SLACK = 1e-3  # of sums in float32
MOST_ADDED = 1e6  # sites that a sum may be over
DEEPEST = 16  # tables in one another; fedgmi's own headers have 4


@dataclass(frozen=True)
class Expected:
    """What one client's message to a step has to look like.

    Attributes:
        leaves: By the leaf's name in the flat message, its dtype and shape.
        check: (one client's message, its index, its number of rows) → what is wrong with it, by the step's own check;
            None where it has none.
        wrappers: What was done to it on its way.
        place: (the client's index) → where its message belongs, for these.
        mass: What the masses of all models of a name add up to for one row.
        shares: Whether masses are shares with noise, which the check holds to what they can be.
        masked: Whether its numbers mean nothing by themselves, so that nothing can be said of them.
        summed: Whether it is of several clients, and its numbers were rounded before they were added up.
        noisy: Whether its numbers have noise, so that a sum is not 0 where no row has a part in it.
    """

    leaves: Layout
    check: Callable[[Message, int, int], str | None] | None = None
    wrappers: Sequence[Wrapper] = ()
    place: Callable[[int], Place] | None = None
    mass: Mapping[str, float] = field(default_factory=dict)
    shares: bool = False
    masked: bool = False
    summed: bool = False
    noisy: bool = False

    def hidden(self) -> Expected:
        """What one client's message looks like under masks."""
        return Expected(whole.layout(self.leaves), masked=True)

    def in_all(self) -> Expected:
        """What the sum of all looks like: the step's own check is of one client."""
        return Expected(self.leaves, mass=self.mass, shares=self.shares, summed=True, noisy=self.noisy)

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
        leaves = flatten(message)
        broken = tree.not_finite(leaves)
        if broken is not None:
            return f"{broken!r} is NaN or infinite"
        huge = next((name for name, leaf in leaves.items() if _overflows(name, leaf)), None)
        if huge is not None:
            return f"{huge!r} holds {float(leaves[huge].abs().max()):.3g}: sums of such are no numbers any more"
        for name, models in () if self.shares else message.models.items():
            why = wrong_mass(name, models, rows, self.mass.get(name, 1.0), summed=self.summed or self.noisy)
            if why is not None:
                return why
        return None if self.check is None else self.check(message, client, rows)


def wrong_mass(name: str, models: Models, rows: int, of_a_row: float = 1.0, *, summed: bool = False) -> str | None:
    """What is wrong with the masses of models; None where nothing is.

    A mass is a sum of shares of rows: no rounding takes it below 0, and a sum of models by shares of 0 is 0.

    Args:
        name: The models'.
        models: Of one site, or of several where it is `summed`.
        rows: How many rows there are.
        of_a_row: What a row adds to all masses together.
        summed: Whether numbers were rounded on their way, so that a small mass may have come to 0, or have noise.

    Examples:
        >>> models = Models(torch.ones(2, 3), torch.tensor([4.0, 0.0]).double(), torch.ones(1, 2).bool())
        >>> wrong_mass("expert", models, 4)
        "'expert' has no mass in place 1, and a sum that is not 0"
    """
    least, most = float(models.mass.min()), float(models.mass.max())
    if least < (-SLACK if summed else 0.0) or most > rows * (1 + SLACK) + SLACK:
        return f"the mass of {name!r} is between {least:g} and {most:g}, and the site has {rows} rows"
    total = float(models.mass.double().sum())
    if total > rows * of_a_row * (1 + SLACK) + SLACK:
        return f"the mass of {name!r} is {total:g} in all, and the site has {rows} rows"
    of_none = ((models.mass <= 0) & (models.total != 0).flatten(1).any(1)).nonzero().flatten().tolist()
    if of_none and not summed:
        return f"{name!r} has no mass in place {of_none[0]}, and a sum that is not 0"
    return None


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

    def expect(self, step: Step, server: Tree, round: int, also: Check | None = None) -> Expected:
        """What a client's message to this step looks like. also: what it is held to besides the step's own check."""
        rows = self._row()
        part = select(server, step.reads)
        if self.states is None:
            self.states = first_states(self.method, server, rows, round)
        with torch.no_grad():
            self.states, message = step.client(part, self.states, rows, round)
        leaves = {name: (dtype_name(leaf), list(leaf.shape)) for name, leaf in flatten(message).items()}
        mass = {name: max(1.0, float(models.mass.double().sum())) for name, models in message.models.items()}
        check = step.check if also is None else either(step.check, also)
        return Expected(leaves, check and partial(check, server), mass=mass)

    def _row(self) -> Rows:
        y = blank_targets(self.schema, 1)
        x = torch.full((1, *self.schema.shape), 0.5)
        return Rows(x, y, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long), (0,))


def sound(parcel: Parcel) -> Parcel:
    """A reply whose header can be looked at without harm; one with an `error` in its place where it cannot.

    Args:
        parcel: As it came.

    Returns:
        The parcel, or its error.
    """
    try:
        header, depth = [parcel.header], 0
        while header:
            depth += 1
            if depth > DEEPEST:
                return Parcel({"error": f"its header has more than {DEEPEST} tables in one another"})
            header = [part for value in header for part in _parts(value)]
        if not isinstance(parcel.header, dict):
            return Parcel({"error": "its header is no table"})
        _ = parcel.n_bytes
    except Exception as error:  # whatever one site sends, the run of the others goes on
        return Parcel({"error": f"its header cannot be read ({type(error).__name__})"})
    return parcel


def _parts(value: Any) -> list[Any]:
    """The tables and lists in a table or list."""
    inner = value.values() if isinstance(value, dict) else value
    return [part for part in inner if isinstance(part, dict | list)]


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
        travelling = expected.travelling(client)
        why = reason_against(parcel, travelling, rows)
        if why is not None:
            return None, why
        message = expected.opened(unpack(parcel, whole_bytes(travelling)), client)
        why = expected.reason_against(message, client, rows)
        return (message, "") if why is None else (None, why)
    except WireError as error:
        return None, one_line(str(error))
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
    header, most = parcel.header, whole_bytes(expected)
    if "error" in header:
        said = header["error"]
        return one_line(said) if isinstance(said, str) else f"its error is {one_line(said)}"
    if type(header.get("rows")) is not int or header["rows"] != rows:
        return f"it says that it has {one_line(repr(header.get('rows')), 40)} rows, and said {rows} before"
    if len(parcel.payload) > most:
        return f"{len(parcel.payload)} bytes came, expected at most {most}"
    layout = header.get("layout")
    if not isinstance(layout, list) or not all(isinstance(entry, dict) for entry in layout):
        return "there is no layout"
    found = {str(entry.get("name")): (entry.get("dtype"), entry.get("shape")) for entry in layout}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = wrong[0]
        came, wanted = (one_line(_shown(layout.get(name)), 200) for layout in (found, expected))
        return f"{name[:40]!r} is {came}, expected {wanted}"
    if len(layout) > len(found):
        return "it names a leaf twice"
    if any(not _rows_of(entry.get("rows"), entry["shape"]) for entry in layout):
        return "it names rows that a leaf does not have"
    return None


def whole_bytes(leaves: Layout) -> int:
    """Of all leaves of a layout."""
    return sum(math.prod(shape) * DTYPES[dtype].itemsize for dtype, shape in leaves.values())


def _rows_of(rows: Any, shape: list[int]) -> bool:
    """Whether these are places on the leaf's first axis, each once."""
    if rows is None:
        return True
    if not shape:
        return False
    known = isinstance(rows, list) and all(isinstance(row, int) and 0 <= row < shape[0] for row in rows)
    return known and len(set(rows)) == len(rows)


def _overflows(name: str, leaf: Tensor) -> bool:
    """Whether its numbers are so large that servers would come to infinity: models are added up, sums squared too."""
    if not leaf.is_floating_point() or not leaf.numel():
        return False
    most = torch.finfo(leaf.dtype).max
    return float(leaf.abs().max()) > (most / MOST_ADDED if name.startswith("models/") else most**0.5)


def _shown(leaf: Any) -> str:
    return "missing" if leaf is None else f"{leaf[0]} {leaf[1]}"
