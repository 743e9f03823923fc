"""When fedgmi's exchanges apply: what the server's state says of whether one is of use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Components, Gate, Judging, Sketch, counted_clients
from fedgmi.mixture.topics import all_alike, clearness
from fedgmi.protocol.message import Message
from fedgmi.tree import Tree

MIN_CLIENTS = 5  # of a larger federation: with fewer participants the last calibration stands
CLEAR = 0.95  # of rows whose word says which component they are from: with more, words are all the evidence needed
SETTLED = 0.01  # of a weight, or of 1 where that is more: where less changes, the next round goes without
AT_REST = 0.1  # of their sampling error: judges whose shares move by less end their turns
NEEDED_TURNS = 2  # of judges: the first is for judges alone, words have a say from the second on
FIRST_TO_REST = 3  # the turn: the first is without words, and the second the first with them
ROUNDING = 1e-4  # of rows: sums of judges are in float32
LARGEST = (1.0, 1.0, 2.0)  # nats a nat, by KINDS; a guard that judges in closed form do not come to


def warming_up(rounds: int, server: Tree) -> bool:
    """The first rounds: experts are one model, and neither they nor densities are evidence.

    Models that have hardly begun to differ differ by noise alone.
    """
    return int(Components(server).version) < rounds


def reference_stays(rounds: int | None, server: Tree) -> bool:
    """So many rounds are over, after which nothing that judges rows changes any more (None: it always follows).

    Models remember the rows that they were trained on, the more the longer, and a client judged by what it has taught
    them finds its own proportions confirmed. So the reference models stay, and the components train on.
    """
    return rounds is not None and int(Components(server).version) >= rounds


def densities_stay(own: FedGMISettings, server: Tree) -> bool:
    """Densities are not trained any more."""
    return reference_stays(own.reference_rounds, server)


def densities_train(own: FedGMISettings, server: Tree) -> bool:
    """Densities are trained in this round."""
    return not densities_stay(own, server)


def topics_differ(own: FedGMISettings, server: Tree) -> bool:
    """The sketch tells two components or more apart. Else judges would learn from rounding errors."""
    return not all_alike(Sketch(server).topics)


def counts_decide(own: FedGMISettings, server: Tree) -> bool:
    """Co-occurrence has something to say of components. It has not where topics are alike, nor where words are sure.

    Where rows decide what components are, and words are sure of them, calibration has nothing to gain. It may go to
    where clients are as pure as can be, since co-occurrence leaves a family of components open. Where words are unsure,
    other evidence knows more of single rows.
    """
    sketch = Sketch(server)
    unsure = not bool(sketch.rows_decide) or clearness(sketch.topics) < CLEAR
    return unsure and topics_differ(own, server)


def judges_are_of_use(own: FedGMISettings, server: Tree) -> bool:
    """They calibrate, or it is their first turn: the predictor's gate knows components by them."""
    return counts_decide(own, server) or (topics_differ(own, server) and int(Judging(server).turn) == 0)


def at_rest(server: Tree) -> bool:
    """The shares of components and labels moved by far less than other rows would move them: what follows is noise."""
    now = Judging(server)
    return int(now.turn) >= FIRST_TO_REST and float(now.moved) < AT_REST


@dataclass(frozen=True)
class InTurn:
    """When an exchange of a turn of judges applies: its sums after the turn before, unless judges have come to rest;
    calibration after its sums.

    Attributes:
        number: The turn's, from 1.
        asks: Whether it is the exchange that asks for sums.
    """

    number: int
    asks: bool = False

    def __call__(self, own: FedGMISettings, server: Tree) -> bool:
        turn = int(Judging(server).turn)
        if not self.asks:
            return turn == self.number and counts_decide(own, server)
        return turn == self.number - 1 and judges_are_of_use(own, server) and not at_rest(server)


def more_rows(own: FedGMISettings, server: Tree) -> bool:
    """At the end more rows answer than in the judges' last turn: clients that came late, or missed it."""
    if not topics_differ(own, server):
        return False
    judged, there = float(Judging(server).sums[..., 0].double().sum()), float(Gate(server).cells.sum())
    return there - judged > max(0.5, ROUNDING * there)


def gate_may_move(own: FedGMISettings, server: Tree) -> bool:
    """There are two components or more, and another client whose rows judge them: else the gate stays as it is."""
    return counted_clients(server) != 1 and len(Calibration(server).share) > 1


def judged_anew(own: FedGMISettings, server: Tree) -> bool:
    """There was a turn of judges at the end."""
    return bool(Judging(server).late)


def calibrated_anew(own: FedGMISettings, server: Tree) -> bool:
    """Calibration follows it."""
    return judged_anew(own, server) and counts_decide(own, server)


def calibration_is_of_use(own: FedGMISettings, server: Tree) -> bool:
    """The reference models change, or the last calibration moved the weights. Else the next would leave them, too."""
    if not counts_decide(own, server):
        return False
    now = Calibration(server)
    settled = bool(((now.weights - now.weights_before).abs() <= SETTLED * now.weights.clamp(min=1.0)).all())
    return int(Components(server).version) <= own.reference_rounds or not settled


def calibration_has_begun(own: FedGMISettings, server: Tree) -> bool:
    """The first exchange decides for all: where too few clients answer it, the others would change nothing."""
    return int(Calibration(server).begun) == int(Components(server).version)


def too_few(server: Tree, message: Message) -> bool:
    """So few clients answered that the last calibration stands: fewer than five, and not all that there are. A single
    one is always too few, for its rows are judged by the others'."""
    everyone = counted_clients(server)
    enough = MIN_CLIENTS if everyone is None else max(2, min(MIN_CLIENTS, everyone))
    return float(message.sums["clients"]) < enough


def largest_weights(own: FedGMISettings, server: Tree) -> Tensor:
    """The largest weight of each kind of evidence [F]; 0 for densities and experts in the warm-up.

    Words and densities count one nat a nat at most: they are more sure of themselves than they should be. Experts and
    labels count two: heads that grew from one another differ by less than their components do, judges of labels are
    made of soft responsibilities, and evidence that is too weak lets proportions sink towards the mean.

    Judges in closed form have the first turn for themselves: proportions that words have made confirm these words, and
    judges that say otherwise would get no weight beside them.
    """
    scale = Calibration(server).scale
    value = scale * torch.tensor(LARGEST, dtype=scale.dtype, device=scale.device)
    if own.judges == "closed":
        alone = int(Judging(server).turn) == 1 < own.judge_turns
        return value * torch.tensor([0.0 if alone else 1.0, 1.0, 1.0], dtype=value.dtype, device=value.device)
    if not warming_up(own.warm_up, server):
        return value
    return value * torch.tensor([1.0, 0.0, 0.0], dtype=value.dtype, device=value.device)
