"""From the server to clients: a model that has changed travels as its coded difference from what clients hold.

    δ = θ_new − θ_held + e      → bytes of δ;      θ ← θ_held + δ̂;      e ← what of δ did not travel, where it is kept

The server itself steps to the decoded θ, so that everybody holds the same bits, and the next difference is taken to
them: errors of rounding do not add up. A block is named by the hash of its decoded numbers, as any block. A link says
how it is made of another one. So whoever holds an older block can be sent all links since, or the block whole.

A model that is new, or that a difference would tell no shorter (‖θ_new − θ_held‖ ≥ ‖θ_new‖), is rounded to bfloat16 and
travels whole; so do factors of other models, see `Program.relative`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedgmi.protocol.blocks import BLOCK_BYTES, LINK_HEADER, ROUNDS_HELD, Link
from fedgmi.protocol.codecs.choices import Key
from fedgmi.protocol.codecs.codec import Codec
from fedgmi.protocol.codecs.numbers import bounded
from fedgmi.protocol.step import Program
from fedgmi.protocol.wire import from_bytes, hash_of, to_bytes
from fedgmi.tree import Tree

LEFT = "left/"  # before the names of leaves: what of a model's difference has not travelled
KINDS = ("density", "expert")
NUMBERS_IN_BLOCK = BLOCK_BYTES // 4
MOST_ROUNDS = 16  # a site keeps a model of each of so many rounds at most, whatever links would pay


def same_block(base: bytes, data: bytes, codec: Codec) -> bytes:
    """A block's bytes from those of the block that it builds on.

    Args:
        base: Numbers in float32.
        data: The coded difference.
        codec: That coded it.

    Returns:
        As many bytes as the base has.

    Raises:
        ValueError: For bytes that stand for nothing.
    """
    held = from_bytes(base, "float32")[None]
    coded = torch.frombuffer(bytearray(data), dtype=torch.uint8)[None]
    return to_bytes(held + codec.decode(coded, held.shape[1], ()))


def rounds_held(chain: Broadcast | None) -> int:
    """For how many rounds a client keeps a block, on both sides; without a chain all blocks travel whole."""
    return ROUNDS_HELD if chain is None else chain.rounds_held


class Broadcast:
    """The chain of what has been sent, one for all clients.

    Args:
        codec: Of differences.
        short: Whether models that travel whole are rounded to bfloat16.
        program: It says which leaves are models.
        seed: The run's.
        exact_bytes: Whether every difference travels as such, however large: bytes then follow from shapes alone, as
            a budget needs it.
    """

    def __init__(self, codec: Codec, program: Program, seed: int, *, short: bool, exact_bytes: bool = False) -> None:
        self.codec, self._program, self._seed, self._short = codec, program, seed, short
        self._exact_bytes = exact_bytes
        self.links: dict[str, Link] = {}
        shortest = codec.size(NUMBERS_IN_BLOCK, ()) + LINK_HEADER
        self.rounds_held = min(MOST_ROUNDS, max(1, BLOCK_BYTES // shortest))

    def decode(self, base: bytes, data: bytes) -> bytes:
        """See `same_block`."""
        return same_block(base, data, self.codec)

    def settle(self, before: Mapping[str, Tensor], after: Tree, round: int, name: str) -> Tree:
        """The server's state after a step, its models as clients will hold them.

        Args:
            before: The state before the step.
            after: As the step made it.
            round: The step's.
            name: The step's.

        Returns:
            The state; what of differences has not travelled is in leaves beside the models.
        """
        self.links = {block: link for block, link in self.links.items() if round - link.round <= self.rounds_held}
        known = [leaf for leaf in before.values() if _is_model(leaf)]
        settled = dict(after) | {leaf: value for leaf, value in before.items() if leaf.startswith(LEFT)}
        found: dict[int, Tensor] = {}
        for leaf, value in after.items():
            kind = self._program.kind_of(leaf, "statistics")
            if value is before.get(leaf) or kind not in KINDS or not _is_model(value) or leaf.startswith(LEFT):
                continue
            same = next((other for other in known if other.shape == value.shape and torch.equal(other, value)), None)
            if same is None and id(value) in found:
                same = found[id(value)]
            if same is not None:
                settled[leaf] = same
                continue
            key = (self._seed, round, name, leaf, "broadcast")
            settled[leaf], left = self._sent(leaf, before, value, key, round)
            found[id(value)] = settled[leaf]
            if self.codec.keeps:
                settled[LEFT + leaf] = left
        return settled

    def _sent(
        self, leaf: str, before: Mapping[str, Tensor], new: Tensor, key: Key, round: int
    ) -> tuple[Tensor, Tensor]:
        """The leaf as clients will hold it, and what has not travelled. Both [K, P]"""
        exact = new.detach().cpu()
        held, left = (before[name].cpu() if name in before else exact[:0] for name in (leaf, LEFT + leaf))
        decoded, rest = self._whole(exact, leaf), torch.zeros_like(exact)
        if held.shape[1:] == exact.shape[1:] and leaf not in self._program.relative:
            n = min(len(held), len(exact))
            moved = exact[:n] - held[:n]
            if left.shape == held.shape:
                moved = moved + left[:n]
            near = torch.arange(n)
            if not self._exact_bytes:
                near = (moved.norm(dim=1) < exact[:n].norm(dim=1)).nonzero().flatten()
            if len(near):
                decoded[near], rest[near] = self._linked(held[near], moved[near], exact[near], key, round)
        return decoded.to(new.device), rest.to(new.device)

    def _whole(self, exact: Tensor, leaf: str) -> Tensor:
        return bounded(exact).to(torch.bfloat16).float() if self._short else exact.clone()

    def _linked(self, held: Tensor, moved: Tensor, exact: Tensor, key: Key, round: int) -> tuple[Tensor, Tensor]:
        """Rows [M, P] block by block: what is held after the difference, and what of it is left.

        Blocks that are to be alike are: what all components have in common is coded once, and travels once.
        """
        decoded, left = [], []
        whole = moved.shape[1] // NUMBERS_IN_BLOCK * NUMBERS_IN_BLOCK
        for begin, end in ((0, whole), (whole, moved.shape[1])):
            if begin == end:
                continue
            length = min(NUMBERS_IN_BLOCK, end - begin)
            blocks, base, meant = (rows[:, begin:end].reshape(-1, length) for rows in (moved, held, exact))
            first, place = _alike([hash_of(to_bytes(block)) for block in meant])
            blocks, base = blocks[first], base[first]
            data = self.codec.encode(blocks, (*key, begin))
            now = base + self.codec.decode(data, length, ())
            for old, new, coded in zip(base, now, data, strict=True):
                name, of = hash_of(to_bytes(new)), hash_of(to_bytes(old))
                if name != of:
                    self.links[name] = Link(of, coded.numpy().tobytes(), len(coded), round)
            decoded.append(now[place].view(len(held), -1))
            if self.codec.keeps:
                left.append(self.codec.left(blocks, data, ())[place].view(len(held), -1))
        now = torch.cat(decoded, 1)
        return now, torch.cat(left, 1) if left else torch.zeros_like(now)

    def to_json(self) -> dict[str, Any]:
        """What the links cost. With it in a checkpoint, a resumed run counts as if uninterrupted."""
        return {name: [link.base, link.size, link.round] for name, link in self.links.items()}

    def to_tree(self) -> Tree:
        """The differences themselves, by block: what a coordinator sends on after a restart. [bytes] each"""
        return {name: torch.frombuffer(bytearray(link.data), dtype=torch.uint8) for name, link in self.links.items()}

    def restore(self, kept: Mapping[str, Any], data: Mapping[str, Tensor] | None = None) -> None:
        """Go on from what `to_json` wrote.

        Args:
            kept: What it wrote.
            data: What `to_tree` wrote; None: of links the sizes alone are known.
        """
        sent = {name: part.cpu().numpy().tobytes() for name, part in (data or {}).items()}
        self.links = {name: Link(base, sent.get(name, b""), size, at) for name, (base, size, at) in kept.items()}


def _alike(keys: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where each key stands first, and for every key which of the different ones it is.

    Examples:
        >>> _alike(["a", "b", "a"])
        ([0, 1], [0, 1, 0])
    """
    numbers: dict[str, int] = {}
    place = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [keys.index(key) for key in numbers], place


def _is_model(leaf: Tensor) -> bool:
    return leaf.dtype == torch.float32 and leaf.ndim == 2
