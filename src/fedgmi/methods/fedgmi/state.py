"""The server's state, in parts with names and types; for storage and wire it is one flat tree.

    density, expert, version, bound     the components as they stand
    reference/…                         the densities and experts that rows are judged by
    sketch/…                            codebook, histograms, topics
    judges/…                            sums that judges in closed form are made of; see `judges`
    calibration/…                       how much evidence counts, labels seen
    gate/…                              the same for prediction, which sees no labels
    contrast                            whether components can be told apart: labels seen, and not

`Sketch(server).centres` reads a leaf, `Sketch.leaves(centres=…)` makes one, `Sketch.names("centres")` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedgmi.methods.contract import Task
from fedgmi.mixture.posterior import uniform
from fedgmi.protocol.step import Kind
from fedgmi.randomness import generator
from fedgmi.tree import Tree

KINDS = ("word", "density", "expert")
"""The kinds of evidence, in the order of their weights. Judges in closed form take the place of the latter two: by the
features of a label, and by the label."""


class Leaf:
    """One leaf of a part; reading it from a state that lacks it is a KeyError with its name."""

    def __set_name__(self, part: type[Part], name: str) -> None:
        self._name = part.prefix + name

    def __get__(self, part: Part, kind: type[Part]) -> Tensor:
        return part.server[self._name]


class Part:
    """A view of those leaves of the server's state that belong together.

    Args:
        server: The state, or what a step reads of it.
    """

    prefix: ClassVar[str] = ""
    _named: ClassVar[dict[tuple[str, ...], tuple[str, ...]]] = {}  # a method that is made asks for hundreds of names

    def __init_subclass__(cls) -> None:
        cls._named = {}

    def __init__(self, server: Mapping[str, Tensor]) -> None:
        self.server = server

    @classmethod
    def names(cls, *fields: str) -> tuple[str, ...]:
        """The leaves' names in the flat state; all of the part's without arguments.

        Examples:
            >>> Gate.names("weights", "bias")
            ('gate/weights', 'gate/bias')
        """
        if fields not in cls._named:
            known = [name for name, value in vars(cls).items() if isinstance(value, Leaf)]
            unknown = set(fields) - set(known)
            assert not unknown, f"{cls.__name__} has no {unknown}"
            cls._named[fields] = tuple(cls.prefix + name for name in fields or known)
        return cls._named[fields]

    @classmethod
    def leaves(cls, **values: Tensor) -> Tree:
        """New values of some leaves, under their names in the flat state."""
        return dict(zip(cls.names(*values), values.values(), strict=True)) if values else {}


class Components(Part):
    """The models as they stand.

    Attributes:
        density: θ_k. [K, P]
        expert: φ_k. [K, P]
        version: Rounds of training.
        bound: Mean bound on log P_i of the last round that trained densities, in nats per row.
    """

    density = Leaf()
    expert = Leaf()
    version = Leaf()
    bound = Leaf()


class Reference(Part):
    """The models that rows are judged by.

    Attributes:
        density: [K, P]
        expert: [K, P]
        version: That of the components they were.
    """

    prefix = "reference/"
    density = Leaf()
    expert = Leaf()
    version = Leaf()


class Sketch(Part):
    """What stage one leaves.

    Attributes:
        mean: Of the features. [D]
        std: Of the features. [D]
        covariance: Of all rows, in Z projected dimensions; the server's alone. [Z, Z]
        centres: Of the codebook's cells. [J, Z]
        edges: Of the bins of targets that are no classes; only there. [Q − 1]
        histograms: Counts of words as clients sent them; they never go down. [C, W], int32
        word_map: Where each word goes when rare ones back off. [W]
        topics: Rows of each component in each merged word. [W', K]
        components_shown: K̂, as the counts show it.
        lost: The share of rows in words so rare that neither cell nor label is left of them.
        scatter: ρ̂, how much clients scatter on their own beside K components. 0 where counts have noise.
        reliability: The share of what clients differ by that is not the chance of drawing rows.
        rows_decide: Whether topics are those of clusters that rows form (`mixture.identity`).
    """

    prefix = "sketch/"
    mean = Leaf()
    std = Leaf()
    covariance = Leaf()
    centres = Leaf()
    edges = Leaf()
    histograms = Leaf()
    word_map = Leaf()
    topics = Leaf()
    components_shown = Leaf()
    lost = Leaf()
    scatter = Leaf()
    reliability = Leaf()
    rows_decide = Leaf()


class Judging(Part):
    """What judges in closed form are made of; see `fedgmi.mixture.judges`.

    Attributes:
        sums: Of all clients that answered in the last turn. [K, L, S]
        turn: How often they were asked.
        moved: How far the shares of components and labels went in the last turn, in units of their sampling error.
        late: Whether the last turn was at the end, for clients that came late.
    """

    prefix = "judges/"
    sums = Leaf()
    turn = Leaf()
    moved = Leaf()
    late = Leaf()


class Calibration(Part):
    """How much evidence counts, labels seen; see `fedgmi.mixture.calibration`.

    Attributes:
        weights: λ, by KINDS. [F]
        bias: b, of which the first is 0. [K]
        share: q, the mean of g over all rows. [K]
        scale: The units of the evidence. [F]
        begun: The components' version at which calibration began last; -1 before.
        weights_before: The weights as they were then. [F]
    """

    prefix = "calibration/"
    weights = Leaf()
    bias = Leaf()
    share = Leaf()
    scale = Leaf()
    begun = Leaf()
    weights_before = Leaf()


class Gate(Part):
    """The same for prediction, which sees no labels.

    Attributes:
        cells: Rows of each component in each cell, whatever their label. [J, K]
        weights: Of cell and density. [2]
        bias: [K]
        share: [K]
        unseen: Whether it is judged by rows for validation, which no model has seen; else by rows trained on.
        contrast: How well x alone tells the two components apart that differ most, from 0 to 1; 0 where it predicts
            labels of unseen rows no better than proportions do.
    """

    prefix = "gate/"
    cells = Leaf()
    weights = Leaf()
    bias = Leaf()
    share = Leaf()
    unseen = Leaf()
    contrast = Leaf()


BYTES: dict[str, Kind] = {
    "density": "density",
    "reference/density": "density",
    "expert": "expert",
    "reference/expert": "expert",
    "trunk": "expert",
    "head": "expert",
    "sketch": "sketch",
}
"""What leaves and models are, for the ledger; all others are statistics."""

CONTRAST = "contrast"
"""The leaf that says how well the two likest components can be told apart: labels seen, and not. [2], from 0 to 1"""


def initial_server(task: Task) -> Tree:
    """Random densities and experts; evidence is the word's alone until calibration says otherwise."""
    k = task.n_components
    density = torch.stack([task.density.init(generator(task.seed, "density", j)) for j in range(k)])  # [K, P]
    density[:, : task.density.trunk] = density[0, : task.density.trunk].clone()
    expert = torch.stack([task.expert.init(generator(task.seed, "expert", j)) for j in range(k)])  # [K, P]
    components = Components.leaves(density=density, expert=expert, version=torch.tensor(0))
    calibration = Calibration.leaves(
        share=uniform(1, k)[0],
        weights=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        begun=torch.tensor(-1),
        weights_before=torch.zeros(len(KINDS), dtype=torch.float64),
        scale=torch.ones(len(KINDS), dtype=torch.float64),
        bias=torch.zeros(k, dtype=torch.float64),
    )
    contrasts = {CONTRAST: torch.zeros(2, dtype=torch.float64)}
    contrasts |= Gate.leaves(contrast=torch.ones((), dtype=torch.float64), unseen=torch.tensor(False))
    return components | calibration | contrasts | reference_of(components)


def shapes_made(n_components: int, n_cells: int, n_words: int) -> dict[str, tuple[int | None, ...]]:
    """The shapes of what steps make and clients read, for a site that holds a request to them; see `Program.made`.

    Args:
        n_components: K.
        n_cells: J.
        n_words: W.
    """
    k, j = n_components, n_cells
    sketch = Sketch.names("centres", "word_map", "topics", "scatter")
    shapes = dict(zip(sketch, ((j, None), (n_words,), (None, k), ()), strict=True))
    return shapes | dict(zip(Gate.names("cells", "share", "bias"), ((j, k), (k,), (k,)), strict=True))


def initial_clients(task: Task, ids: tuple[int, ...]) -> Tree:
    """Uniform proportions [C, K]."""
    return {"proportions": uniform(len(ids), task.n_components)}


def reference_of(server: Tree) -> Tree:
    """Reference models that are the components as they stand."""
    now = Components(server)
    return Reference.leaves(density=now.density, expert=now.expert, version=now.version)


def counted_clients(server: Tree) -> int | None:
    """How many clients have rows in the histograms; None where nobody counted."""
    [histograms] = Sketch.names("histograms")
    return int(server[histograms].any(1).sum()) if histograms in server else None


def uncalibrated(part: type[Calibration] | type[Gate], share: Tensor) -> Tree:
    """q and the bias log q under which word evidence of weight 1 is the plain log p(w | k).

    Args:
        part: Which calibration.
        share: q. [K]

    Returns:
        Its leaves `share` and `bias`.
    """
    bias = share.clamp(min=1e-6).log()
    return part.leaves(share=share, bias=bias - bias[0])
