"""From clients to the server: each model travels as its difference from the model that the client was sent.

    client   d_ik = θ_ik − θ_k + e_ik     → bytes of d_ik;     e_ik ← what of d_ik did not travel, where it is kept
    server   N_ik·(θ_k + d̂_ik)            masses N_ik and other sums travel as they are

Replies that a step names in `updates` are differences already. Models that a program names in `relative` are factors
of others: they travel as numbers of relative precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.protocol.codecs.choices import Key
from fedgmi.protocol.codecs.codec import Codec
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Program, without_start
from fedgmi.protocol.wire import WireError
from fedgmi.protocol.wrapper import Layout, Place, Wrapper
from fedgmi.tree import Tree

ABOUT_NONE = 1e-6  # rows; `mean_by_mass` does not count less either
EVERY = torch.tensor([True])  # an update is one row


def upward(codec: Codec, relative: Codec, program: Program) -> Wrapper:
    """The wrapper.

    Args:
        codec: Of differences.
        relative: Of models that are factors of others.
        program: It says which these are.
    """
    coder = _Upward(codec, relative, program)
    return Wrapper(
        "codec",
        "models travel as coded differences",
        coder.send,
        coder.receive,
        keep=coder.keep,
        layout=coder.layout,
        skips=lambda step: step.models is None and step.updates is None,
        sends="bytes",
    )


@dataclass(frozen=True)
class _Part:
    """One model of a message, or one reply that is an update: K rows of n entries.

    Attributes:
        name: The model's, or the reply's.
        codec: Of its differences.
        start: Where it stands at the server. [K, n]
        left: What did not travel of the client's last one. [K, n], float32, on the CPU
        key: Of the draws.
    """

    name: str
    codec: Codec
    start: Tensor
    left: Tensor
    key: Key

    def difference(self, models: Models) -> Tensor:
        """d_ik. [K, n]"""
        mass = models.mass.cpu().clamp(min=ABOUT_NONE)[:, None]
        return (models.total.cpu().double() / mass - self.start.double()).float() + self.left

    def update(self, reply: Tensor) -> Tensor:
        """The same of a reply that is a difference already."""
        return reply.float().cpu() + self.left

    def write(self, rows: Tensor, held: Tensor) -> Tensor:
        """Differences as bytes, zeros for those of models that are not held. [K, size]"""
        n_bytes = self.codec.size(rows.shape[1], self.key)
        data = torch.zeros(len(rows), n_bytes, dtype=torch.uint8)
        if bool(held.any()):
            data[held] = self.codec.encode(rows[held], self.key)
        return data

    def read(self, data: Tensor, held: Tensor) -> Tensor:
        """The differences that bytes stand for. [K, n]"""
        found = torch.zeros(self.start.shape)
        if not bool(held.any()):
            return found
        try:
            found[held] = self.codec.decode(data.cpu()[held], self.start.shape[1], self.key)
        except ValueError as error:
            raise WireError(f"{self.name!r} cannot be decoded: {error}") from error
        return found

    def rest(self, rows: Tensor, data: Tensor, held: Tensor) -> Tensor:
        """What did not travel; what was left before of models that are not held. [1, K, n]"""
        found = self.left.clone()
        if bool(held.any()):
            found[held] = self.codec.left(rows[held], data[held], self.key)
        return found[None]


def held(models: Models) -> Tensor:
    """Which models a client holds: those that have mass. [K], bool, on the CPU"""
    return models.mass.cpu() > ABOUT_NONE


@dataclass(frozen=True)
class _Upward:
    codec: Codec
    relative: Codec
    program: Program

    def send(self, message: Message, place: Place) -> Message:
        """The client's message with models, and replies that are updates, as bytes."""
        models, replies = dict(message.models), dict(message.replies)
        for part in self._models(message, place):
            found = models[part.name]
            models[part.name] = replace(found, total=part.write(part.difference(found), held(found)))
        for part in self._updates(message, place):
            replies[part.name] = part.write(part.update(replies[part.name]), EVERY)
        return replace(message, models=models, replies=replies)

    def receive(self, message: Message, place: Place) -> Message:
        """The message that the bytes stand for."""
        models, replies = dict(message.models), dict(message.replies)
        for part in self._models(message, place):
            found, there = models[part.name], held(models[part.name])
            moved = part.start.double() + part.read(found.total, there).double()
            total = (found.mass.cpu()[:, None] * moved).where(there[:, None], 0.0)
            models[part.name] = replace(found, total=total.to(found.mass.device, part.start.dtype))
        for part in self._updates(message, place):
            replies[part.name] = part.read(replies[part.name], EVERY).to(part.start.dtype)
        return replace(message, models=models, replies=replies)

    def keep(self, message: Message, sent: Message, place: Place) -> Tree:
        """What the client keeps for its next message: what did not travel, by model. [1, K, n]"""
        kept: Tree = {}
        for part in self._models(message, place):
            if part.codec.keeps:
                found = message.models[part.name]
                data = sent.models[part.name].total
                kept[part.name] = part.rest(part.difference(found), data, held(found))
        for part in self._updates(message, place):
            if part.codec.keeps:
                rows = part.update(message.replies[part.name])
                kept[part.name] = part.rest(rows, sent.replies[part.name], EVERY)
        return kept

    def layout(self, leaves: Layout, place: Place) -> Layout:
        """What the leaves of a flat message become, by their dtypes and shapes."""
        found = dict(leaves)
        coded = {f"models/{name}/total": name for name in place.start} | {
            f"replies/{name}": name for name in place.updates
        }
        for leaf, name in coded.items():
            if leaf in found:
                rows, n = found[leaf][1]
                found[leaf] = "uint8", [rows, self._codec(name).size(n, self._key(name, place))]
        return found

    def _models(self, message: Message, place: Place) -> Iterator[_Part]:
        for name, models in message.models.items():
            if name not in place.start:
                raise without_start(name)
            start = place.start[name][: len(models.total)].cpu()  # the first stands for all while experts are one
            yield self._part(name, torch.zeros_like(start) if name in self.program.relative else start, place)

    def _updates(self, message: Message, place: Place) -> Iterator[_Part]:
        for name in sorted(message.replies.keys() & place.updates.keys()):
            yield self._part(name, place.updates[name].cpu(), place)

    def _part(self, name: str, start: Tensor, place: Place) -> _Part:
        kept = place.memory.get(name)
        fits = kept is not None and kept.shape[1:] == start.shape
        left = kept[0].cpu() if kept is not None and fits else torch.zeros(start.shape)
        return _Part(name, self._codec(name), start, left, self._key(name, place))

    def _codec(self, name: str) -> Codec:
        return self.relative if name in self.program.relative else self.codec

    def _key(self, name: str, place: Place) -> Key:
        return place.seed, place.round, place.client, place.number, name, "codec"
