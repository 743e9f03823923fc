"""What a client tells: models with their masses, sums, and single replies. Merging is addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.tree import Tree

MODELS, SUMS, REPLIES = "models", "sums", "replies"


@dataclass(frozen=True)
class Models:
    """K models of some clients, summed by mass.

    Attributes:
        total: Σ_i N_ik θ_ik over the clients i. [K, P]
        mass: Σ_i N_ik, in rows. [K], float64
        holders: Which of the C clients sent which of the K models. A model that a client does not hold has no
            mass there, and does not travel. [C, K], bool
    """

    total: Tensor
    mass: Tensor
    holders: Tensor

    def __add__(self, other: Models) -> Models:
        return Models(self.total + other.total, self.mass + other.mass, torch.cat([self.holders, other.holders]))

    def mean(self, old: Tensor) -> Tensor:
        """θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik; a model with (almost) no mass stays as `old` [K, P]."""
        return mean_by_mass(old, self.total, self.mass)


@dataclass(frozen=True)
class Message:
    """What C clients answered to a step, together. `Message()` is the identity of addition.

    Models and sums add up over clients. Replies are joined along the clients' axis, so that the server sees each.
    A step whose messages hold replies says so (`Step.single`), for secure sums have to refuse it.

    Attributes:
        models: Sums of models, by name.
        sums: Other leaves that add up.
        replies: Leaves with one entry a client. [C, …]

    Examples:
        >>> one = Message(sums={"rows": torch.tensor(2)}, replies={"id": torch.tensor([0])})
        >>> two = one + Message() + Message(sums={"rows": torch.tensor(3)}, replies={"id": torch.tensor([4])})
        >>> two.sums["rows"], two.replies["id"]
        (tensor(5), tensor([0, 4]))
    """

    models: Mapping[str, Models] = field(default_factory=dict)
    sums: Tree = field(default_factory=dict)
    replies: Tree = field(default_factory=dict)

    def __add__(self, other: Message) -> Message:
        models = dict(self.models)
        for name, more in other.models.items():
            models[name] = models[name] + more if name in models else more
        return Message(models, tree.add(self.sums, other.sums), _join(self.replies, other.replies))


def told_apart(message: Message, n_clients: int) -> list[Message]:
    """Each client's own message, of one whose leaves all have the clients' axis in front; see `Step.apart`.

    Args:
        message: With models [C, K, P], their masses [C, K], sums [C, …] and replies [C, …].
        n_clients: C.

    Returns:
        C messages, as the clients would have made them one by one.

    Examples:
        >>> one, two = told_apart(Message(sums={"rows": torch.tensor([2, 3])}), 2)
        >>> (one + two).sums["rows"]
        tensor(5)
    """
    return [
        Message(
            {name: Models(all.total[i], all.mass[i], all.holders[i : i + 1]) for name, all in message.models.items()},
            {name: leaf[i] for name, leaf in message.sums.items()},
            {name: leaf[i : i + 1] for name, leaf in message.replies.items()},
        )
        for i in range(n_clients)
    ]


def mean_by_mass(old: Tensor, total: Tensor, mass: Tensor) -> Tensor:
    """θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik; a model with (almost) no mass stays as it was.

    Args:
        old: The models as they stand. [K, P]
        total: Their sums weighted by mass. [K, P]
        mass: In rows. [K]

    Returns:
        The new models, in the numbers of the old ones. [K, P]

    Examples:
        >>> mean_by_mass(torch.ones(2, 1), torch.tensor([[8.0], [0.0]]), torch.tensor([2.0, 0.0])).flatten().tolist()
        [4.0, 1.0]
    """
    alive = mass > 1e-6
    mean = total / mass.clamp(min=1e-6).to(total.dtype)[:, None]
    return mean.to(old.dtype).where(alive[:, None], old)


def flatten(message: Message) -> Tree:
    """The message as one tree, for what looks at every leaf: `models/NAME/total`, `sums/NAME`, `replies/NAME`.

    Args:
        message: Of any number of clients. Who holds which model is left out: it shows in the masses.

    Returns:
        Leaves by name; `unflatten` takes them back.
    """
    leaves: Tree = {}
    for name, models in message.models.items():
        leaves |= {f"{MODELS}/{name}/total": models.total, f"{MODELS}/{name}/mass": models.mass}
    leaves |= {f"{SUMS}/{name}": leaf for name, leaf in message.sums.items()}
    return leaves | {f"{REPLIES}/{name}": leaf for name, leaf in message.replies.items()}


def unflatten(leaves: Mapping[str, Tensor]) -> Message:
    """The message of one client that `flatten` laid out.

    Args:
        leaves: As `flatten` names them.

    Returns:
        The message. A model is held where its mass is not zero.

    Raises:
        KeyError: Where a leaf is missing or has another name.
    """
    models, parts = {}, {SUMS: dict[str, Tensor](), REPLIES: dict[str, Tensor]()}
    for name, leaf in leaves.items():
        part, _, inner = name.partition("/")
        if part != MODELS:
            parts[part][inner] = leaf
        elif inner.endswith("/total"):
            key = inner.removesuffix("/total")
            mass = leaves[f"{MODELS}/{key}/mass"]
            models[key] = Models(leaf, mass, (mass != 0)[None])
        elif f"{MODELS}/{inner.removesuffix('/mass')}/total" not in leaves:
            raise KeyError(name)
    return Message(models, parts[SUMS], parts[REPLIES])


def _join(left: Tree, right: Tree) -> Tree:
    return tree.concatenate([left, right]) if left and right else dict(left or right)
