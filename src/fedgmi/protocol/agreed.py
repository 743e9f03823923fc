"""What a client knows of the server's leaves before any comes: its own program says it, and a request is held to it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedgmi.protocol.blocks import BLOCK_BYTES
from fedgmi.protocol.step import Program, covers
from fedgmi.protocol.wire import DTYPES, WireError, dtype_name
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
        grows: Leaves whose first axis may be longer than in the first state: see `Program.grows`.
        made: The shapes of leaves that the first state lacks; see `Program.made`.
        most: How long; and how many times over a leaf that the first state lacks may hold what was said of it.
    """

    first: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
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
        return cls(first, tuple(entries), program.grows, program.made, most)

    def check(self, leaf: Leaf, said: int) -> None:
        """Refuse a leaf that is not what it should be, before memory is taken for it.

        Args:
            leaf: As the request has it.
            said: Bytes by which it says so.

        Raises:
            WireError: It names the leaf, what came, and what was expected.
        """
        came, shape = f"the coordinator sent {leaf.name[:SHOWN]!r}", leaf.shape
        if not any(covers(entry, leaf.name) for entry in self.entries):
            raise WireError(f"{came}, which this request has no use for")
        if leaf.name not in self.first:
            self._check_made(leaf, said, came)
            return
        dtype, expected = self.first[leaf.name]
        grown = leaf.name in self.grows and len(shape) == len(expected) and shape[1:] == expected[1:]
        if leaf.dtype == dtype and (shape == expected or (grown and shape[0] <= max(self.most, expected[0]))):
            return
        raise WireError(f"{came} as {shown(leaf.dtype, shape)}, expected {shown(dtype, expected)}")

    def _check_made(self, leaf: Leaf, said: int, came: str) -> None:
        """The same of a leaf that the first state lacks."""
        of = self.made.get(leaf.name)
        if of is not None and (
            len(of) != len(leaf.shape) or any(n not in (m, None) for m, n in zip(leaf.shape, of, strict=True))
        ):
            sides = ", ".join("any" if n is None else str(n) for n in of)
            raise WireError(f"{came} as {shown(leaf.dtype, leaf.shape)}, expected the shape [{sides}]")
        room = self.most * (said + sum(leaf.sizes().values()))
        if leaf.n_bytes > room:
            raise WireError(f"{came} of {leaf.n_bytes} bytes, by blocks that repeat: expected at most {room}")


def shown(dtype: str, shape: Iterable[int]) -> str:
    """A dtype and a shape for people."""
    return f"{dtype} {list(shape)}"


def leaf_of(about: bytes) -> Leaf:
    """What a block says of a leaf; see `blocks.cut`.

    Raises:
        WireError: For a block that says nothing of a leaf.
    """
    try:
        entry = json.loads(about)
        name, dtype, shape = entry["name"], entry["dtype"], tuple(entry["shape"])
        rows = tuple(tuple(row) for row in entry["blocks"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
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
