"""Stragglers: clients that finish a part of their local steps, and send what they have.

A simulation draws who and how much. A deployed site says its part itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgmi.randomness import numpy_generator


def parts_done(share: float, ids: Sequence[int], key: tuple[int | str, ...], part: float = 1.0) -> Tensor:
    """The part of its local steps that each client finishes in a round: u ~ U(0, 1] for a straggler, else `part`.

    Args:
        share: The chance of being a straggler.
        ids: The clients'. [C]
        key: It begins with the seed and the round, by which and by the client is drawn. So the part is the same for all
            that a client trains in a round. Training outside of rounds (round 0 or less) has no stragglers.
        part: That of all clients here, where nothing is drawn: a site's own.

    Returns:
        In (0, 1]. [C], float64

    Examples:
        >>> parts_done(0.5, range(4), (0, 1, "expert"))
        tensor([0.2334, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
        >>> parts_done(0.5, range(4), (0, 0, "expert"))
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    return torch.tensor([_part(share, client, key, part) for client in ids], dtype=torch.float64)


def _part(share: float, client: int, key: tuple[int | str, ...], part: float) -> float:
    if int(key[1]) < 1:
        return 1.0
    if not share:
        return part
    late, u = numpy_generator(*key[:2], client, "straggler").random(2)
    return 1.0 - float(u) if late < share else part
