"""What a client knows of the server's leaves before any comes: its own program says it, and a request is held to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedgmi.protocol.blocks import BLOCK_BYTES
from fedgmi.protocol.step import Program, covers
from fedgmi.protocol.wire import DTYPES, WireError, dtype_name, header_of
from fedgmi.tree import Tree

SHOWN = 60  # letters of a name that somebody else chose


@dataclass(frozen=True)
class Leaf:
    """What a request says of a leaf.

    Attributes:
        name: The leaf's.
        dtype: As `DTYPES` has it.
        shape: The leaf's.
        rows: The hashes of its blocks, row by row.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def n_bytes(self) -> int:
        """Of all its numbers."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def sizes(self) -> dict[str, int]:
        """The bytes of each of its blocks, by hash.

        Raises:
            WireError: Where they are not as many as its shape asks for, or one of them would have two sizes.
        """
        n_rows = self.shape[0] if len(self.shape) > 1 else 1
        row = self.n_bytes // n_rows if n_rows else 0
        n_blocks = -(-row // BLOCK_BYTES)
        if len(self.rows) != n_rows or any(len(names) != n_blocks for names in self.rows):
            raise WireError(f"{self.name!r} is {shown(self.dtype, self.shape)}, and its blocks are not of that shape")
        found: dict[str, int] = {}
        for names in self.rows:
            for place, name in enumerate(names):
                size = min(BLOCK_BYTES, row - place * BLOCK_BYTES)
                if found.setdefault(name, size) != size:
                    raise WireError(f"{self.name!r} has a block of two sizes")
        return found


@dataclass(frozen=True)
class Agreed:
    """What leaves may come, and of which form.

    Attributes:
        first: The dtype and shape of every leaf of the program's first state, by name.
        entries: What may come, named as in `Step.reads`.
        names: Leaves that the program's steps make, each by its own name: see `Step.writes`.
        grows: Leaves whose first axis may be longer than in the first state: see `Program.grows`.
        made: The shapes of leaves that the first state lacks; see `Program.made`.
        most: How long; and how many times over a leaf that the first state lacks may hold what was said of it.
    """

    first: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    grows: frozenset[str] = frozenset()
    made: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    most: int = 1

    @classmethod
    def of(cls, program: Program, entries: Iterable[str], most: int) -> Agreed:
        """What a program agrees on.

        Args:
            program: The client's own.
            entries: What a request may bring, named as in `Step.reads`.
            most: How many clients or components there are, whichever is more.
        """
        first = {name: (dtype_name(leaf), tuple(leaf.shape)) for name, leaf in program.init().items()}
        names = frozenset(name for step in program.all_steps for name in step.writes)
        return cls(first, tuple(entries), names, program.grows, program.made, most)

    def check(self, leaves: Mapping[str, tuple[Leaf, int]]) -> None:
        """Refuse a tree that is not what it should be, before memory is taken for it.

        A leaf of the first state has the form that it has there. Of others the form is not always known: all of these
        together may hold `most` times what was said of them and their blocks, for a block may stand for several
        clients or components.

        Args:
            leaves: By name, each leaf as the request has it, and the bytes by which it says so.

        Raises:
            WireError: It names the leaf, what came, and what was expected.
        """
        for leaf, _ in leaves.values():
            self._check_leaf(leaf)
        others = [(leaf, said) for leaf, said in leaves.values() if leaf.name not in self.first]
        blocks = {name: size for leaf, _ in others for name, size in leaf.sizes().items()}
        room = self.most * (sum(said for _, said in others) + sum(blocks.values()))
        found = sum(leaf.n_bytes for leaf, _ in others)
        if found > room:
            large = max((leaf for leaf, _ in others), key=lambda leaf: leaf.n_bytes)
            raise WireError(
                f"the coordinator sent {len(others)} leaves that steps make, of {found} bytes "
                f"({large.name[:SHOWN]!r} of {large.n_bytes}), by blocks that repeat: expected at most {room}"
            )

    def _check_leaf(self, leaf: Leaf) -> None:
        """The same of one leaf's name and form."""
        came, shape = f"the coordinator sent {leaf.name[:SHOWN]!r}", leaf.shape
        if not any(covers(entry, leaf.name) for entry in self.entries):
            raise WireError(f"{came}, which this request has no use for")
        if leaf.name not in self.first:
            self._check_made(leaf, came)
            return
        dtype, expected = self.first[leaf.name]
        grown = leaf.name in self.grows and len(shape) == len(expected) and shape[1:] == expected[1:]
        if leaf.dtype == dtype and (shape == expected or (grown and shape[0] <= max(self.most, expected[0]))):
            return
        raise WireError(f"{came} as {shown(leaf.dtype, shape)}, expected {shown(dtype, expected)}")

    def _check_made(self, leaf: Leaf, came: str) -> None:
        """The same of one that the first state lacks."""
        if leaf.name not in self.names and leaf.name not in self.made:
            raise WireError(f"{came}, which no step makes: its author names each leaf in the `writes` of a step")
        of = self.made.get(leaf.name)
        if of is not None and (
            len(of) != len(leaf.shape) or any(n not in (m, None) for m, n in zip(leaf.shape, of, strict=True))
        ):
            sides = ", ".join("any" if n is None else str(n) for n in of)
            raise WireError(f"{came} as {shown(leaf.dtype, leaf.shape)}, expected the shape [{sides}]")


def shown(dtype: str, shape: Iterable[int]) -> str:
    """A dtype and a shape for people."""
    return f"{dtype} {list(shape)}"


def leaf_of(about: bytes) -> Leaf:
    """What a block says of a leaf; see `blocks.cut`.

    Raises:
        WireError: For a block that says nothing of a leaf.
    """
    try:
        entry = header_of(about)
        name, dtype, shape = entry["name"], entry["dtype"], tuple(entry["shape"])
        rows = tuple(tuple(row) for row in entry["blocks"])
    except (KeyError, TypeError, WireError) as error:
        raise WireError(f"what is said of a leaf cannot be read ({type(error).__name__})") from error
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"{str(name)[:SHOWN]!r} is of {str(dtype)[:SHOWN]!r}, which does not travel")
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise WireError(f"{name[:SHOWN]!r} has a shape that cannot be")
    if not all(isinstance(block, str) for row in rows for block in row):
        raise WireError(f"{name[:SHOWN]!r} has blocks without a name")
    return Leaf(name, dtype, shape, rows)


def not_finite_words(server: Tree, name: str) -> str:
    """What is said of a leaf that came with numbers that are none."""
    count = int((~server[name].isfinite()).sum())
    return f"the coordinator sent {name[:SHOWN]!r}, and {count} of its numbers are NaN or infinite"
