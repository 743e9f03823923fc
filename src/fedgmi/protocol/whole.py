"""Numbers as whole numbers modulo 2^64, which add up exactly and in any order: what masks are added to.

    float64 sums    x = 2^8·h + 2^−32·l        two whole numbers h and l, |l| ≤ 2^39
    other decimals  x = 2^−32·w                one
    whole numbers   x = w                      one

A sum of n clients is right where each of their numbers is at most `largest` of n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedgmi.errors import DivergedError
from fedgmi.protocol.message import MODELS, Message, Models, flatten, unflatten
from fedgmi.protocol.wrapper import Layout

FRACTION_BITS = 32
"""Numbers are rounded to 2e-10: a model of which all clients together have a thousandth of a row is known to 2e-7. For
ten sites that leaves 10^8 for rows times the largest parameter."""
HIGH = 2.0**8
ROOM = 62  # bits of a sum, so that its sign shows
CUT = 2.0**-10  # how far below the largest number one that does not fit is put: beyond what float32 rounds


def largest(dtype: str, n_clients: int, *, two: bool) -> float:
    """What one client's number may be at most, so that n of them fit.

    Examples:
        >>> largest("float32", 4, two=False) == 2.0**28
        True
    """
    bits = ROOM + 8 if two else ROOM if not dtype.startswith(("float", "bfloat")) else ROOM - FRACTION_BITS
    return math.ldexp(1.0, bits) / n_clients


def fitted(message: Message, n_clients: int, start: Mapping[str, Tensor] | None = None) -> tuple[Message, list[str]]:
    """A message of one client whose numbers all fit into a sum of n.

    A model that has run away counts as one that did not move. Of all else what is too large is cut to the largest, and
    so is what is no number: the sum shows it (`at_the_limit`).

    Args:
        message: The client's.
        n_clients: How many add up.
        start: Where its models stood, by name. [K, P]

    Returns:
        The message, and the leaves in which something was changed.

    Examples:
        >>> message, cut = fitted(Message(sums={"x": torch.tensor([1.0, float("nan")])}), 2)
        >>> cut, message.sums["x"].tolist() == [1.0, 2.0**29 * (1 - CUT)]
        (['sums/x'], True)
    """
    leaves, cut = flatten(message), []
    for name, leaf in leaves.items():
        if _fits(name, leaf, n_clients):
            continue
        cut.append(name)
        most = (1 - CUT) * _largest(name, leaf.dtype, n_clients)
        end = most if leaf.is_floating_point() else int(most)
        kind, _, model = name.partition("/")
        known = (start or {}).get(model.removesuffix("/total")) if kind == MODELS else None
        leaf = leaf if known is None else _unmoved(leaf, message.models[model.removesuffix("/total")].mass, known, most)
        leaves[name] = leaf.nan_to_num(end, end, -end).clamp(-end, end)
    return unflatten(leaves), cut


def _unmoved(total: Tensor, mass: Tensor, start: Tensor, most: float) -> Tensor:
    """The sums of models of one client; those that do not fit as if the models had stayed at the start. [K, P]"""
    fits = (total.double().abs() < most).all(1, keepdim=True)
    return total.where(fits, (mass[:, None].double() * start[: len(mass)].double().to(total.device)).to(total.dtype))


def at_the_limit(message: Message, n_clients: int) -> str | None:
    """A leaf of a sum with a number so large that one client's was cut to fit (`fitted`); None where there is none.

    Args:
        message: The sum.
        n_clients: For how many there was room.

    Examples:
        >>> at_the_limit(Message(sums={"x": torch.tensor([1.0, 2.0**29])}), 2)
        'sums/x'
    """
    leaves = flatten(message).items()
    return next((name for name, leaf in leaves if not _fits(name, leaf, 2 * n_clients)), None)


def _largest(name: str, dtype: torch.dtype, n_clients: int) -> float:
    known = str(dtype).removeprefix("torch.")
    return largest(known, n_clients, two=in_two(name, known))


def _fits(name: str, leaf: Tensor, n_clients: int) -> bool:
    return not leaf.numel() or bool(leaf.detach().double().abs().max() < _largest(name, leaf.dtype, n_clients))


def in_two(name: str, dtype: str) -> bool:
    """Whether a leaf of a flat message takes two whole numbers for each of its numbers: statistics in float64."""
    return dtype == "float64" and not name.startswith(f"{MODELS}/")


def to_whole(name: str, leaf: Tensor, n_clients: int) -> Tensor:
    """A leaf of a flat message in whole numbers.

    Args:
        name: The leaf's.
        leaf: Its numbers. […]
        n_clients: How many add up.

    Returns:
        […] or, in two, [2, …], int64

    Raises:
        DivergedError: Where a number is too large for a sum of so many.

    Examples:
        >>> to_whole("sums/n", torch.tensor([3, 4]), 2).tolist()
        [3, 4]
        >>> to_whole("models/expert/mass", torch.tensor([0.5]).double(), 2).tolist() == [2**31]
        True
    """
    numbers = leaf.detach().cpu()
    two = in_two(name, str(leaf.dtype).removeprefix("torch."))
    if not _fits(name, numbers, n_clients):
        raise DivergedError(
            f"a number does not fit into a masked sum, which takes {_largest(name, leaf.dtype, n_clients):g}",
            where=name,
            fix="lower training.lr, or give the features in larger units",
        )
    if two:
        high = (numbers / HIGH).round()
        return torch.stack([high, ((numbers - high * HIGH) * 2.0**FRACTION_BITS).round()]).long()
    if leaf.is_floating_point():
        return (numbers.double() * 2.0**FRACTION_BITS).round().long()
    return numbers.long()


def from_whole(name: str, total: Tensor, dtype: torch.dtype) -> Tensor:
    """A sum of what `to_whole` made, in the leaf's own dtype."""
    if in_two(name, str(dtype).removeprefix("torch.")):
        return total[0].double() * HIGH + total[1].double() * 2.0**-FRACTION_BITS
    return (total.double() * 2.0**-FRACTION_BITS).to(dtype) if dtype.is_floating_point else total.to(dtype)


def layout(leaves: Layout) -> Layout:
    """What a message looks like in whole numbers, by what it looks like plainly."""
    return {
        name: ("int64", [2, *shape] if in_two(name, dtype) else list(shape)) for name, (dtype, shape) in leaves.items()
    }


def all_held(leaves: dict[str, Tensor]) -> Message:
    """The message of one client that these leaves make. All its models travel: which it holds tells of its rows."""
    message = unflatten(leaves)
    models = {
        name: Models(part.total, part.mass, torch.ones_like(part.holders)) for name, part in message.models.items()
    }
    return Message(models, message.sums, message.replies)


def encoded(message: Message, n_clients: int) -> dict[str, Tensor]:
    """A client's message as leaves of whole numbers."""
    return {name: to_whole(name, leaf, n_clients) for name, leaf in flatten(message).items()}


def decoded(total: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> Message:
    """The sum of some clients' leaves as the message that their plain messages add up to."""
    return all_held({name: from_whole(name, leaf, dtypes[name]) for name, leaf in total.items()})
