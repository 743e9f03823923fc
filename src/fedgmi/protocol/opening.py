"""A request's blocks as a receiver reads them: each checked, and nothing taken in that no leaf needs.

What is said of leaves is read first. It bounds everything else: which blocks there are and how large each is. A block
that comes as a link, from one that no leaf needs, is let go once the last link from it is read. So memory goes by the
leaves' own size, whatever a parcel says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedgmi.protocol.agreed import Agreed, leaf_of
from fedgmi.protocol.blocks import BLOCK_BYTES, HASH_BYTES, Decode
from fedgmi.protocol.wire import Header, Parcel, WireError, from_bytes, hash_of
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Part:
    """One thing in a parcel's payload: the block's hash, its form, and what came."""

    name: str
    form: str
    data: bytes

    @property
    def base(self) -> str | None:
        """The block that a link builds on."""
        return self.data[:HASH_BYTES].hex() if self.form == "l" else None


def join(parcel: Parcel, held: Mapping[str, bytes], decode: Decode | None = None) -> Tree:
    """The tree that a parcel of `Blocks` stands for.

    Args:
        parcel: As it came.
        held: The blocks that the receiver has, by hash; see `received` for all of the parcel's.
        decode: Makes blocks of links; None: there are none.

    Returns:
        The tree.

    Raises:
        WireError: Where bytes and layout disagree, or with `missing` where blocks are neither sent nor held.
    """
    return tree_of(parcel.header, received(parcel, held, decode))


def tree_of(header: Header, blocks: Mapping[str, bytes]) -> Tree:
    """The tree that a parcel's header speaks of.

    Args:
        header: The parcel's.
        blocks: All blocks of it, as `received` has them.

    Returns:
        The tree.

    Raises:
        WireError: Where blocks and layout disagree.
    """
    tree = {}
    for about in header["layout"]:
        leaf = leaf_of(blocks[about])
        try:
            data = b"".join(blocks[name] for row in leaf.rows for name in row)
            tree[leaf.name] = from_bytes(data, leaf.dtype).reshape(leaf.shape)
        except (KeyError, ValueError, RuntimeError) as error:
            raise WireError(f"{leaf.name!r} is not what it is said to be ({error})") from error
    return tree


def received(
    parcel: Parcel, held: Mapping[str, bytes], decode: Decode | None = None, agreed: Agreed | None = None
) -> dict[str, bytes]:
    """All blocks of a parcel's tree by their hash: those that came with it, checked, and those that are held.

    Args:
        parcel: As it came.
        held: The blocks that the receiver has, by hash.
        decode: Makes blocks of links; None: there are none.
        agreed: What leaves may come; None: any.

    Returns:
        The blocks.

    Raises:
        WireError: As `join`, and for a leaf that is not agreed on.
    """
    parts = _parts(parcel)
    abouts = _abouts(parcel.header, {part.name: part for part in parts}, held)
    leaves = [leaf_of(about) for about in abouts.values()]
    if len({leaf.name for leaf in leaves}) < len(leaves):
        raise WireError("a leaf came twice")
    if agreed is not None:
        lengths = map(len, abouts.values())
        agreed.check({leaf.name: (leaf, said) for leaf, said in zip(leaves, lengths, strict=True)})
    owners: dict[str, tuple[str, int]] = {}
    for leaf in leaves:
        for name, size in leaf.sizes().items():
            if owners.setdefault(name, (leaf.name, size))[1] != size:
                raise WireError(f"{leaf.name!r} has a block of two sizes")
    rest = [part for part in parts if part.name not in abouts]
    came = _numbers(rest, owners, held, decode)
    _need(owners, came, held)
    return abouts | {name: came[name] if name in came else held[name] for name in owners}


def _parts(parcel: Parcel) -> list[Part]:
    """What a payload holds, one after the other."""
    header, data = parcel.header, parcel.payload.cpu().numpy().tobytes()
    try:
        sent, sizes = header["sent"], header["sizes"]
        forms = str(header.get("forms", "w" * len(sent)))
        found, at = [], 0
        for name, size, form in zip(sent, sizes, forms, strict=True):
            if not isinstance(name, str) or type(size) is not int or size < 0:
                raise ValueError("a block without a name or a size")
            found.append(Part(name, form, data[at : at + size]))
            at += size
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the header is not one of a message ({error})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the header speaks of {at}")
    if len({part.name for part in found}) < len(found):
        raise WireError("a block came twice")
    return found


def _abouts(header: Header, parts: Mapping[str, Part], held: Mapping[str, bytes]) -> dict[str, bytes]:
    """What is said of the leaves, by hash."""
    layout = header.get("layout")
    if not isinstance(layout, list) or not all(isinstance(name, str) for name in layout):
        raise WireError("the header is not one of a message: it has no layout")
    if len(set(layout)) < len(layout):
        raise WireError("a leaf came twice")
    _need(layout, parts, held)
    found = {}
    for name in layout:
        found[name] = parts[name].data if name in parts else held[name]
        if name in parts and hash_of(found[name]) != name:
            raise WireError("what is said of a leaf is not what its hash says")
    return found


def _numbers(
    parts: Iterable[Part], owners: Mapping[str, tuple[str, int]], held: Mapping[str, bytes], decode: Decode | None
) -> dict[str, bytes]:
    """The blocks of numbers that came."""
    every = list(parts)
    uses = Counter(part.base for part in every if part.base is not None)
    came: dict[str, bytes] = {}
    for part in every:
        if part.name not in owners and not uses[part.name]:
            raise WireError("a block came that no leaf needs")
        if len(part.data) > BLOCK_BYTES:
            raise WireError(f"a block of {len(part.data)} bytes came, and none has more than {BLOCK_BYTES}")
        owner, size = owners.get(part.name, ("a model", None))
        block = _opened(part, owner, came, held, decode)
        if size is not None and len(block) != size:
            raise WireError(f"a block of {owner!r} has {len(block)} bytes, expected {size}")
        if hash_of(block) != part.name:
            raise WireError(f"a block of {owner!r} is not what its hash says", [part.name] if part.base else [])
        came[part.name] = block
        if part.base is not None:
            uses[part.base] -= 1
            if not uses[part.base] and part.base not in owners:
                came.pop(part.base, None)
    return came


def _opened(
    part: Part, owner: str, came: Mapping[str, bytes], held: Mapping[str, bytes], decode: Decode | None
) -> bytes:
    """A block from what was sent of it."""
    if part.form == "w":
        return part.data
    try:
        if part.form == "h":
            whole = np.zeros((len(part.data) // 2, 2), dtype="<u2")
            whole[:, 1] = np.frombuffer(part.data, dtype="<u2")
            return whole.tobytes()
        if part.base is None or decode is None:
            raise WireError(f"a block of {owner!r} came in the form {part.form[:1]!r}, which there is not")
        [known] = _need([part.base], came, held)
        return decode(came[known] if known in came else held[known], part.data[HASH_BYTES:])
    except (ValueError, RuntimeError) as error:
        raise WireError(f"a block of {owner!r} cannot be decoded ({error})") from error


def _need(names: Iterable[str], *there: Mapping[str, object]) -> list[str]:
    """The names, sorted; a WireError where any is neither sent nor held."""
    ordered = sorted(names)
    missing = [name for name in ordered if not any(name in known for known in there)]
    if missing:
        raise WireError("blocks are missing", missing)
    return ordered
