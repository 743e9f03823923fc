"""The default on one page: which exchanges there are, in which order, what goes down and up, and when they apply.

Stage one, once. A codebook is learnt from sums. Every client counts its words: a word is a cell of the codebook and a
label. The server finds K topics in the counts, and every client its own proportions. Where clients differ by hardly
more than chance, all topics are alike, and so are proportions to the end.

Stage two, where labels are classes: judges in closed form and proportions take turns (`closed`). A turn asks for sums,
then calibrates: a few numbers say how much each kind of evidence counts. Rounds then train the components, each client
on its rows weighted by responsibilities.

Elsewhere, or with `judges = "density"`, stage two is in rounds (`default`). First the evidence is calibrated: word,
density and expert. Then EM: each client finds responsibilities, and trains.

At the end each client has its proportions from the last models, and a gate is calibrated that predicts without labels.

`default` and `closed` below are the order. A row's arithmetic is in the file that it names, and `presets` builds the
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from fedgmi.data.rows import Schema
from fedgmi.methods.fedgmi.conditions import (
    NEEDED_TURNS,
    InTurn,
    calibrated_anew,
    calibration_has_begun,
    calibration_is_of_use,
    counts_decide,
    densities_stay,
    densities_train,
    gate_may_move,
    judged_anew,
    more_rows,
)
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Components, Gate, Judging, Reference, Sketch
from fedgmi.mixture.target_bins import binned
from fedgmi.protocol.step import Phase, Step
from fedgmi.tree import Tree

Condition = Callable[[FedGMISettings, Tree], bool]

FEATURE_SCALE = Sketch.names("mean", "std")
CODEBOOK = Sketch.names("mean", "std", "centres")
BINS = Sketch.names("edges")
WORDS = (*CODEBOOK, *BINS, *Sketch.names("word_map", "topics"))
LINE, BY_WHICH = Calibration.names("weights", "bias"), Gate.names("unseen")
GATE_LINE = (*Gate.names("weights", "bias"), *BY_WHICH)
MODELS = Components.names("density", "expert", "version")
SHARE = Calibration.names("share")
EVIDENCE = (*WORDS, *Reference.names(), *Calibration.names("scale"))
CALIBRATED = (*EVIDENCE, *LINE, *SHARE)
GATE_EVIDENCE = (*CODEBOOK, *Gate.names("cells"), *Reference.names("density"), *Calibration.names("scale"))
CALIBRATED_GATE = (*GATE_EVIDENCE, *Gate.names("weights", "bias", "share"))
CLOSED_EVIDENCE = (*WORDS, *Judging.names("sums", "turn"))
CLOSED = (*CLOSED_EVIDENCE, *LINE, *SHARE)
CLOSED_GATE_EVIDENCE = (*CODEBOOK, *Gate.names("cells"), *Judging.names("sums"))
CLOSED_GATE = (*CLOSED_GATE_EVIDENCE, *Gate.names("weights", "bias", "share"))


@dataclass(frozen=True)
class Row:
    """One exchange.

    Attributes:
        step: Its name.
        where: The file with its arithmetic.
        down: What clients read of the server's state, as far as they lack it.
        up: What their answer tells of their rows; "" where no message comes of it.
        e_step: Whether clients do an E-step in it. They then read what the preset's evidence needs, too.
        gate: Whether they use the predictor's evidence. They then read what that needs, too.
        single: Whether the server sees each client's answer by itself.
        when: On which condition; None: always.
        binned: Whether it is of use only where labels are no classes.
        labelled: Whether it is of use only where rows have labels.
        spare: Whether it may be left out where a budget does not reach.
        unforeseen: Whether a run on a budget goes without it; see `Step.unforeseen`.
    """

    step: str
    where: str
    down: tuple[str, ...]
    up: str
    e_step: bool = False
    gate: bool = False
    single: bool = False
    when: Condition | None = None
    binned: bool = False
    labelled: bool = False
    spare: bool = False
    unforeseen: bool = False

    def only(self, when: Condition) -> Row:
        """The same exchange under a condition."""
        return replace(self, when=when)


@dataclass(frozen=True)
class Schedule:
    """A preset's exchanges in order.

    Attributes:
        prepare: Once, before the first round.
        round: In every round.
        finish: Once, after the last round.
        evidence: What the evidence of the preset's E-step needs of the server's state.
        gate: What the evidence of its predictor needs.
    """

    prepare: tuple[Row, ...] = ()
    round: tuple[Row, ...] = ()
    finish: tuple[Row, ...] = ()
    evidence: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()

    def rows(self, phase: Phase) -> tuple[Row, ...]:
        """The rows of a phase."""
        return {"prepare": self.prepare, "round": self.round, "finish": self.finish}[phase]

    def down(self, row: Row) -> tuple[str, ...]:
        """All that goes down in a row."""
        more = (*(self.evidence if row.e_step else ()), *(self.gate if row.gate else ()))
        return tuple(dict.fromkeys((*row.down, *more)))


CELL_SUMS = "sums and counts of its rows in each codebook cell; cells with few of its rows are kept back"
UPDATES = "updates of the shared densities and experts, weighted by how much of each it has, and the bound on its rows"
JUDGED = "sums over its rows by which evidence is judged"
SLOPES = "gradient and Fisher information of the weights, summed over its rows"

FEATURES = Row("features", "sketch", (), "sums of its features, Σx and Σx², and how many rows these are of")
SPREAD = Row("spread", "sketch", FEATURE_SCALE, "sums of its projected features and their products")
K_MEANS = Row("k-means", "sketch", CODEBOOK, CELL_SUMS)
TARGET = Row("target", "sketch", (), "how many of its rows have a label in each cell of a grid of 64", binned=True)
HISTOGRAMS = Row(
    "histograms",
    "sketch",
    (*CODEBOOK, *BINS),
    "how many of its rows have each word, which is a code and a label",
    single=True,
)
FOLD_IN = Row("fold in", "sketch", (*WORDS, *SHARE, *Sketch.names("scatter")), "")

SCALE = Row("scale evidence", "calibration", EVIDENCE, "mean squares of the evidence in its rows")
SHARES = Row("shares", "calibration", (*EVIDENCE, *LINE), JUDGED)
CALIBRATE = Row("calibrate", "calibration", CALIBRATED, SLOPES, e_step=True)
JUDGE_SUMS = Row(
    "judges",
    "judges",
    (*CODEBOOK, *BINS, *Judging.names("turn")),
    "how many of its rows of each component have each label and each word, and sums of projected features and products",
    e_step=True,
)
EM = Row("em", "em", MODELS, UPDATES, e_step=True)
EM_OF_EXPERTS = replace(EM, down=Components.names("expert", "version"))

E_STEP = Row("e-step", "em", (), "", e_step=True)
CELLS = Row("cells", "gate", CODEBOOK, "how many of its rows of each component are in each cell", e_step=True)
GATE_SHARES = Row("gate shares", "gate", (*GATE_EVIDENCE, *GATE_LINE), JUDGED)
CALIBRATE_GATE = Row("calibrate gate", "gate", (*CALIBRATED_GATE, *BY_WHICH), SLOPES)
CONTRAST = Row(
    "contrast",
    "newcomers",
    (*SHARE, *BY_WHICH),
    "how well its rows tell components apart: K × K sums",
    e_step=True,
    gate=True,
)
SWITCH = Row(
    "switch",
    "gate",
    Components.names("expert"),
    "how likely labels of its rows for validation are by the gate, by proportions, and by permutations of the gate",
    gate=True,
    labelled=True,
).only(gate_may_move)


def default(own: FedGMISettings, labelled: bool = True) -> Schedule:
    """Sketch first; then every round calibrates the evidence, infers proportions, and trains.

    With judges in closed form all of that but the training is done before the first round.
    """
    if own.judges == "closed":
        return closed(own, labelled)
    turns = (SHARES, *(CALIBRATE, SHARES) * own.calibration_steps)
    last_turns = tuple(row.only(counts_decide) for row in (SCALE, *turns))
    gate_turns = (GATE_SHARES, *(CALIBRATE_GATE, GATE_SHARES) * (2 * own.calibration_steps))
    gate_turns = tuple(row.only(gate_may_move) for row in gate_turns)
    return Schedule(
        prepare=(*codebook(own), HISTOGRAMS, FOLD_IN),
        round=(SCALE.only(calibration_is_of_use), *(row.only(calibration_has_begun) for row in turns), EM),
        finish=(*last_turns, E_STEP, CELLS, *gate_turns, CONTRAST, SWITCH),
        evidence=CALIBRATED,
        gate=CALIBRATED_GATE,
    )


@lru_cache(maxsize=16)  # a site makes its method anew for every message
def closed(own: FedGMISettings, labelled: bool = True) -> Schedule:
    """Sketch first; then judges and E-step take turns until they come to rest; then rounds only train.

    Densities judge nothing. Once they are not trained any more, where there are experts, they do not travel.
    """
    shares, calibrate = replace(SHARES, down=(*CLOSED_EVIDENCE, *LINE)), replace(CALIBRATE, down=CLOSED)
    calibration = (shares, *(calibrate, shares) * own.calibration_steps)
    turns = [
        replace(row, spare=number > NEEDED_TURNS)
        for number in range(1, own.judge_turns + 1)
        for row in (
            JUDGE_SUMS.only(InTurn(number, asks=True)),
            *(each.only(InTurn(number)) for each in calibration),
        )
    ]
    gate_shares = replace(GATE_SHARES, down=(*CLOSED_GATE_EVIDENCE, *GATE_LINE, *Judging.names("turn")))
    calibrate_gate = replace(CALIBRATE_GATE, down=(*CLOSED_GATE, *BY_WHICH, *Judging.names("turn")))
    gate_turns = (gate_shares, *(calibrate_gate, gate_shares) * (2 * own.calibration_steps))
    gate_turns = tuple(row.only(gate_may_move) for row in gate_turns)
    calibrated = tuple(row.only(calibrated_anew) for row in calibration)
    late = (JUDGE_SUMS.only(more_rows), *calibrated, E_STEP.only(judged_anew), CELLS.only(judged_anew))
    late_turn = tuple(replace(row, unforeseen=True) for row in late)
    # Experts alone first: the other, which counts rounds, would have both apply in the last round of densities.
    em = (EM_OF_EXPERTS.only(densities_stay), EM.only(densities_train)) if labelled else (EM,)
    return Schedule(
        prepare=(*codebook(own), HISTOGRAMS, FOLD_IN, *turns),
        round=em,
        finish=(E_STEP, CELLS, *late_turn, *gate_turns, CONTRAST, SWITCH),
        evidence=CLOSED,
        gate=CLOSED_GATE,
    )


def plain() -> Schedule:
    """The abstract's recipe: the densities are all the evidence there is."""
    density = Components.names("density")
    return Schedule(round=(EM,), finish=(E_STEP, CONTRAST, SWITCH), evidence=density, gate=density)


def sketch(own: FedGMISettings) -> Schedule:
    """Stage one decides; densities and experts are trained on what it found."""
    prepare = (*codebook(own), HISTOGRAMS, FOLD_IN)
    return Schedule(prepare, round=(EM,), finish=(CELLS, CONTRAST, SWITCH), evidence=WORDS, gate=CALIBRATED_GATE)


def survey(own: FedGMISettings) -> Schedule:
    """The sketch up to the histograms: all that a diagnosis asks of clients."""
    return Schedule(prepare=(*codebook(own), HISTOGRAMS))


def codebook(own: FedGMISettings) -> tuple[Row, ...]:
    """How cells are learnt."""
    return FEATURES, TARGET, SPREAD, *(K_MEANS,) * own.kmeans_rounds


def lay_out(
    schedule: Schedule, phase: Phase, steps: Mapping[str, Step], own: FedGMISettings, schema: Schema
) -> tuple[Step, ...]:
    """The steps of a phase, in order, with what a row says of them: what they read and tell, and when they apply.

    Args:
        schedule: A preset's.
        phase: Which.
        steps: By name.
        own: The settings with which conditions are asked.
        schema: What rows look like. Without labels experts are never sent, and classes need no bins.

    Returns:
        The steps. One that stands several times under the same condition is one object.
    """
    made: dict[Row, Step] = {}
    rows = [row for row in schedule.rows(phase) if applies(row, schema)]
    for row in rows:
        if row not in made:
            when = None if row.when is None else partial(row.when, own)
            reads = of_use(schedule.down(row), schema)
            made[row] = replace(
                steps[row.step], reads=reads, tells=row.up, when=when, spare=row.spare, unforeseen=row.unforeseen
            )
    return tuple(made[row] for row in rows)


def applies(row: Row, schema: Schema) -> bool:
    """Whether an exchange is of use for such rows."""
    return (binned(schema) or not row.binned) and (schema.labelled or not row.labelled)


def of_use(reads: tuple[str, ...], schema: Schema) -> tuple[str, ...]:
    """The leaves that are of use for such rows, each once. Without labels: no experts, and not the version by which
    they are one. Where labels are classes: no edges of bins."""
    return _of_use(reads, schema.labelled, binned(schema))


@lru_cache(maxsize=256)
def _of_use(reads: tuple[str, ...], labelled: bool, in_bins: bool) -> tuple[str, ...]:
    experts = (*Components.names("expert", "version"), *Reference.names("expert"))
    useless = (*(() if labelled else experts), *(() if in_bins else BINS))
    return tuple(name for name in dict.fromkeys(reads) if name not in useless)
