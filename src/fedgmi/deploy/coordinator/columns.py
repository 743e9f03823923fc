"""Sites whose columns lie far from those of all others: log.txt names them, and beyond doubt they are left out.

Arithmetic says nothing against a column of mean 10⁹ (`methods.plausible`), and its deviation over all sites would make
it constant for everybody else. Sites are compared by their columns' means m_i and deviations s_i:

    scale      max(median of s_j, 1.4826 · median of |m_j − median of m_j|)
    distance   max(|m_i − median of m_j|, s_i) / scale

Where most sites' rows hold one value there is no measure, and nothing is said; nor with fewer than three sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.far import BOUND, FAR, TO_DEVIATION
from fedgmi.methods.standardising import STANDARDISE
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step

EVIDENCE = "scale evidence"  # the step whose sums are squares alone
DESCRIPTOR = "descriptor"  # the single reply by which clients are clustered on one scale, of all that have sent one
OFF = 10.0
"""Deviations from which on a site's column is told. Sites of children and of the old are 4 apart in age, and numbers in
mg/dl are over 50 out among those in mmol/l."""
RESOLUTION = 1e-6  # a deviation below this, beside the mean, is rounding


@dataclass(frozen=True)
class Far:
    """What of a site's sums lies far from all others'.

    Attributes:
        words: Of the furthest column.
        wild: Whether it is beyond doubt: `FAR` deviations, and `BOUND` times as large as the median site's.
    """

    words: str
    wild: bool


def far_sums(step: Step, messages: Sequence[Message], features: Sequence[str]) -> dict[int, Far]:
    """Which messages lie far from the others.

    Args:
        step: That was answered. Of others than those that give a scale nothing is said.
        messages: One of each site.
        features: The columns' names.

    Returns:
        By the message's place.
    """
    if len(messages) < 3:
        return {}
    if step.name == EVIDENCE:
        evidence = [(m.sums["squares"] / m.sums["count"].clamp(min=1.0)).double().sqrt() for m in messages]
        return _larger("evidence", torch.stack(evidence))
    if DESCRIPTOR in messages[0].replies:
        return _larger(DESCRIPTOR, torch.stack([m.replies[DESCRIPTOR].double().abs().max() for m in messages])[:, None])
    found: dict[int, Far] = {}
    for prefix, names in (("", features), ("target ", ("the target",))) if step.name == STANDARDISE else ():
        if f"{prefix}squares" in messages[0].sums:
            count, first, second = (
                torch.stack([message.sums[prefix + leaf].double() for message in messages])
                for leaf in ("count", "sum", "squares")
            )
            far = far_columns(count, first, second, names)
            found |= {i: what for i, what in far.items() if i not in found or what.wild}
    return found


def far_columns(count: Tensor, first: Tensor, second: Tensor, names: Sequence[str]) -> dict[int, Far]:
    """Sites whose columns lie far from the other sites'.

    Args:
        count: n of each site [C], or of each of its columns [C, D].
        first: Σ x. [C, D]
        second: Σ x². [C, D]
        names: Of the columns. [D]

    Returns:
        By the site's place.

    Examples:
        >>> n, mean = torch.full((3,), 40.0).double(), torch.tensor([[50.0], [60.0], [1e9]]).double()
        >>> far_columns(n, n[:, None] * mean, n[:, None] * (mean.square() + 100), ("age",))[2].words
        "'age' has mean 1e+09 and deviation 0, and at the median site 60 and 10"
    """
    count = count.reshape(len(count), -1).expand_as(first)
    mean, square = first / count, second / count  # no rows of a column: NaN, which medians leave out
    deviation = (square - mean.square()).clamp(min=0.0).sqrt()
    deviation = deviation.where(deviation > RESOLUTION * mean.abs(), 0.0 * deviation)
    size, middle, usual = square.sqrt(), _median(mean), _median(deviation)
    scale = torch.maximum(usual, TO_DEVIATION * _median((mean - middle).abs()))
    distance = torch.maximum((mean - middle).abs(), deviation) / scale
    judged = (usual > 0) & ((count > 0).sum(0) >= 3)
    distance = distance.where(judged, 0.0).nan_to_num(0.0)
    wild = (distance > FAR) & (size > BOUND * _median(size))
    found: dict[int, Far] = {}
    for i in (distance > OFF).any(1).nonzero().flatten().tolist():
        at = int((distance[i] * torch.where(wild[i], FAR, 1.0)).argmax())
        words = f"{_shown(names[at])} has mean {float(mean[i, at]):.4g} and deviation {float(deviation[i, at]):.4g}, "
        words += f"and at the median site {float(middle[at]):.4g} and {float(usual[at]):.4g}"
        more = int((distance[i] > OFF).sum()) - 1
        more_words = f"; {more} more column{'s lie' if more > 1 else ' lies'} as far off" if more else ""
        found[i] = Far(words + more_words, bool(wild[i].any()))
    return found


def _larger(what: str, size: Tensor) -> dict[int, Far]:
    """Sites with something [C, D] that is more than `FAR` times the median site's: all would be judged on its scale."""
    usual = _median(size)
    wild = ((size > FAR * usual) & (usual > 0)).any(1)
    words = f"its {what} is over {FAR:g} times as large as the median site's"
    return {i: Far(words, True) for i in wild.nonzero().flatten().tolist()}


def _median(values: Tensor) -> Tensor:
    """Of each column, over the sites that know it."""
    return values.nanmedian(0).values


def _shown(name: str) -> str:
    return name if name == "the target" else repr(name)
