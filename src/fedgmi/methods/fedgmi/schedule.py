"""The default on one page: which exchanges there are, in which order, what goes down and up, and when they apply.

Stage one, once: a codebook is learnt from sums; every client counts its words (a word is a cell of the codebook, with a
label); the server finds K topics in the counts, and every client its own proportions. Stage two, in rounds: calibrate
the evidence (E-step with few numbers to learn), then EM: each client weights its rows by responsibilities and trains
the components it holds. At the end: proportions from the last models, and a gate that predicts without labels.

A step's arithmetic is in the file that its row names; `presets` builds the steps and lays them out by these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Components, Reference
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Phase, Step
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Row:
    """One exchange, or a few that are repeated together.

    Attributes:
        steps: Their names.
        where: The file with the arithmetic.
        down: What clients are sent, as far as they lack it.
        up: What they answer: what it tells of their rows; "" where no message comes of it.
        times: How often, by the settings.
        phase: When in a run.
        when: Under which condition of the server's state, by its name in CONDITIONS; "" always.
    """

    steps: tuple[str, ...]
    where: str
    down: str
    up: str
    times: Callable[[FedGMISettings], int] = lambda settings: 1
    phase: Phase = "prepare"
    when: str = ""


MOVES = "sums and counts of its rows in each codebook cell; cells with few of its rows are kept back"
UPDATES = "updates of the shared densities and experts, weighted by how much of each it has, and the bound on its rows"

FEATURES = Row(("features",), "sketch", "", "sums of its features, Σx and Σx², and how many rows these are of")
SPREAD = Row(
    ("spread",), "sketch", "mean and deviation of the features", "sums of its projected features and their products"
)
K_MEANS = Row(("k-means",), "sketch", "cell centres", MOVES, lambda own: own.kmeans_rounds)
HISTOGRAMS = Row(("histograms",), "sketch", "cell centres", "how many of its rows have each word")
FOLD_IN = Row(("fold in",), "sketch", "topics", "")

SCALE = Row(("scale evidence",), "calibration", "reference models", "mean squares of the evidence in its rows")
SHARES = Row(("shares",), "calibration", "weights λ and bias b", "sums over its rows by which evidence is judged")
FISHER = Row(
    ("calibrate", "shares"),
    "calibration",
    "shares q",
    "gradient and Fisher information of the weights, summed over its rows",
    lambda own: own.calibration_steps,
)
EM = Row(("em",), "em", "components", UPDATES, phase="round")

E_STEP = Row(("e-step",), "em", "calibrated evidence", "", phase="finish")
CELLS = Row(
    ("cells",), "gate", "calibrated evidence", "how many of its rows of each component are in each cell", phase="finish"
)
GATE_SHARES = Row(
    ("gate shares",),
    "gate",
    "weights and bias of the gate",
    "sums over its rows by which evidence is judged",
    phase="finish",
)
GATE_FISHER = Row(
    ("calibrate gate", "gate shares"),
    "gate",
    "shares of the gate",
    "gradient and Fisher information of the weights, summed over its rows",
    lambda own: 2 * own.calibration_steps,
    "finish",
)
CONTRASTS = Row(
    ("contrast",),
    "newcomers",
    "evidence, calibrated",
    "how well its rows tell components apart: K × K sums",
    phase="finish",
)

CODEBOOK_ROWS = (FEATURES, SPREAD, K_MEANS)
CALIBRATE_AT_END = tuple(replace(row, phase="finish") for row in (SCALE, SHARES, FISHER))
CALIBRATE_IN_ROUND = (
    replace(SCALE, phase="round", when="calibration is of use"),
    replace(SHARES, phase="round", when="calibration has begun"),
    replace(FISHER, phase="round", when="calibration has begun"),
)
DEFAULT = (
    *CODEBOOK_ROWS,
    HISTOGRAMS,
    FOLD_IN,
    *CALIBRATE_IN_ROUND,
    EM,
    *CALIBRATE_AT_END,
    E_STEP,
    CELLS,
    GATE_SHARES,
    GATE_FISHER,
    CONTRASTS,
)
PLAIN = (EM, E_STEP, CONTRASTS)
SKETCH = (*CODEBOOK_ROWS, HISTOGRAMS, FOLD_IN, EM, CELLS, CONTRASTS)

MIN_CLIENTS = 5  # with fewer participants the last calibration stands
SETTLED = 0.01  # of a weight, or of 1 where that is more: where less changes, the next round goes without
LARGEST = (1.0, 1.0, 2.0)  # nats a nat, by KINDS

Condition = Callable[[FedGMISettings, Tree], bool]


def warming_up(settings: FedGMISettings, server: Tree) -> bool:
    """The experts are one model yet, and densities and experts no evidence: they differ by noise alone."""
    return int(Components(server).version) < settings.warm_up_rounds


def reference_stays(reference_rounds: int | None, server: Tree) -> bool:
    """`reference_rounds` are over, after which nothing that judges rows changes any more (None: it always follows).

    Models remember the rows that they were trained on, the more the longer, and a client judged by what it has taught
    them finds its own proportions confirmed. So the reference models stay, and the components train on.
    """
    return reference_rounds is not None and int(Components(server).version) >= reference_rounds


def reference_is_new(server: Tree) -> bool:
    """The reference models are the components as they stand, hence new since the last round."""
    return int(Reference(server).version) == int(Components(server).version)


def calibration_is_of_use(settings: FedGMISettings, server: Tree) -> bool:
    """Not when the reference models have stayed and the last calibration left the weights as they were: the next would
    too."""
    now = Calibration(server)
    settled = bool(((now.weights - now.weights_before).abs() <= SETTLED * now.weights.clamp(min=1.0)).all())
    return int(Components(server).version) <= settings.reference_rounds or not settled


def calibration_has_begun(settings: FedGMISettings, server: Tree) -> bool:
    """The first exchange decides for all: where too few clients answer it, the others would change nothing."""
    return int(Calibration(server).begun) == int(Components(server).version)


CONDITIONS: dict[str, Condition] = {
    "calibration is of use": calibration_is_of_use,
    "calibration has begun": calibration_has_begun,
}


def too_few(message: Message) -> bool:
    """So few clients answered that the last calibration stands."""
    return float(message.sums["clients"]) < MIN_CLIENTS


def largest_weights(settings: FedGMISettings, server: Tree) -> Tensor:
    """The largest weight of each kind of evidence [F]; 0 for densities and experts in warm-up.

    Words and densities count one nat a nat at most: they are more sure of themselves than they should be. Experts count
    two: heads that grew from one another differ by less than their components do, and evidence that is too weak drives
    proportions into the corners.
    """
    scale = Calibration(server).scale
    value = scale * torch.tensor(LARGEST, dtype=scale.dtype, device=scale.device)
    if not warming_up(settings, server):
        return value
    return value * torch.tensor([1.0, 0.0, 0.0], dtype=value.dtype, device=value.device)


def lay_out(
    rows: tuple[Row, ...], phase: Phase, steps: Mapping[str, Step], settings: FedGMISettings
) -> tuple[Step, ...]:
    """The steps of a phase in order.

    Args:
        rows: A preset's.
        phase: Which.
        steps: By name.
        settings: How often rows are repeated.

    Returns:
        The steps. One that stands several times under the same condition is one object.
    """
    told = {row.steps[0]: row.up for row in rows}
    made: dict[tuple[str, str], Step] = {}
    laid: list[Step] = []
    for row in (row for row in rows if row.phase == phase):
        for name in row.steps * row.times(settings):
            key = name, row.when
            if key not in made:
                when = _bind(CONDITIONS[row.when], settings) if row.when else None
                made[key] = replace(steps[name], when=when, tells=told[name])
            laid.append(made[key])
    return tuple(laid)


def _bind(condition: Condition, settings: FedGMISettings) -> Callable[[Tree], bool]:
    return lambda server: condition(settings, server)
