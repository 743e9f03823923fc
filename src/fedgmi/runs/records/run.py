"""A run's files: its summary, a line for each round, and K where it was estimated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from fedgmi.errors import UserError
from fedgmi.runs.records.base import Part, Written
from fedgmi.runs.records.status import Status
from fedgmi.settings.run import MetricName
from fedgmi.storage import folder

Traffic = dict[Literal["sketch", "density", "expert", "statistics"], tuple[int, int]]
"""Bytes down and up of all clients, by kind. Headers count as statistics, or as the kind of their step."""
Shares = list[list[float]]
Matrix = list[list[float | None]]
Spread = tuple[float, float]
PER_CLIENT = (
    "rows_per_client",
    "client_accuracy_per_client",
    "majority_accuracy_per_client",
    "proportions",
    "true_proportions",
    "proportion_tv_per_client",
    "rounds_absent",
    "answers_refused",
)


class Scale(Part):
    """How rows were brought to one scale.

    Attributes:
        mean: By column.
        std: By column.
        log_det: Nats by which densities of rows in their own units are lower.
    """

    mean: list[float]
    std: list[float]
    log_det: float


class Measured(Part):
    """One metric on held-out rows. It is null where it means nothing: without rows, or the AUC of a single class.

    Attributes:
        mean: Over clients.
        worst_tenth: Mean over the tenth of clients that fare worst, at least one client.
        all_rows: Of all clients' rows together.
        per_client: By client.
    """

    mean: float | None
    worst_tenth: float | None
    all_rows: float | None = None
    per_client: list[float | None]


class OfClass(Part):
    """How well one class is told from the others, over all clients' held-out rows.

    Attributes:
        name: Of the class.
        precision: Share of rows that have it among those that were given it.
        recall: Share of rows that were given it among those that have it.
        f1: Harmonic mean of both.
        support: How many rows have it.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


Metrics = dict[MetricName, Measured]


class Unseen(Part):
    """Clients that took no part in training. `_unlabelled`: as inferred from rows without their labels. `_shared`:
    with nothing trained on their rows, where the method gives them a part of their own; where it has no such predictor,
    null. Without `_shared`: as they would be deployed.

    Attributes:
        clients: Their names.
        proportion_tv: Mean total variation between inferred and true proportions.
        proportions: [client, component], in the order of the seen clients' components.
        identified: Whether such rows can tell proportions at all.
        proportion_tv_unlabelled: See proportion_tv.
        proportions_unlabelled: See proportions.
        identified_unlabelled: See identified.
        client_accuracy: Of held-out rows, mean over clients.
        client_accuracy_per_client: By client.
        metrics: Of held-out rows, by name.
        client_accuracy_shared: See client_accuracy.
        client_accuracy_per_client_shared: By client.
        metrics_shared: See metrics.
    """

    clients: list[str]
    proportion_tv: float | None = None
    proportions: Shares | None = None
    identified: bool | None = None
    proportion_tv_unlabelled: float | None = None
    proportions_unlabelled: Shares | None = None
    identified_unlabelled: bool | None = None
    client_accuracy: float | None
    client_accuracy_per_client: list[float | None] | None
    metrics: Metrics | None = None
    client_accuracy_shared: float | None = None
    client_accuracy_per_client_shared: list[float | None] | None = None
    metrics_shared: Metrics | None = None


class Spending(Part):
    """How a run kept to its budget. Megabytes are of 10^6 bytes, down and up.

    Attributes:
        mb_per_client: That each client may cost in all.
        mb_per_client_round: In each round.
        plan: In words.
        settings: What the plan chose, by the names of settings.
        foreseen_mb: Of the client that is asked most often.
        most_mb: Of the client that it cost most.
        most_mb_round: Of the client and the round that cost most.
        kept: The last three in words.
        sat_out: How often a client was not asked, for it could have cost too much.
    """

    mb_per_client: float | None
    mb_per_client_round: float | None
    plan: str
    settings: dict[str, int | float | str]
    foreseen_mb: float
    most_mb: float
    most_mb_round: float | None = None
    kept: str = ""
    sat_out: int


class Private(Part):
    """What a run with `[privacy]` has cost.

    Attributes:
        unit: Whose presence is hidden.
        epsilon: ε of all that was sent.
        delta: δ.
        noise_multiplier: The noise in a sum, over `clip`; 0 where nothing is sent.
        clip: The length of an update.
        releases: In how many exchanges a client told something with this noise, at most.
        counts: ε of each count that one row changes, of a histogram that has noise of its own.
    """

    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    releases: int
    counts: tuple[float, ...] = ()


class Outcome(Part):
    """One method's run. A number that means nothing to it is null, or left out.

    Attributes:
        n_components: K.
        components_shown: How many components the clients' counts stand up for.
        rows_in_lost_words: The share of rows in words so rare that neither cell nor label is left of them.
        reliability: The share of what clients' counts differ by along K − 1 directions that is not chance, from 0 to 1.
        contrast: How well rows with labels tell the two likest components apart, from 0 to 1; 0 where all have the
            pooled proportions, and where there are fewer than three clients.
        identified: By client: whether its proportions are known. False for all where the contrast is below .05, and
            where fewer components are shown.
        rows_decide: Whether rows show just K clusters, which are then taken for the components.
        client_accuracy: Share of right labels on a client's own held-out rows, mean over clients.
        client_accuracy_per_client: By client.
        client_accuracy_shared: Mean over clients without what they have of their own; null where they have nothing.
        shared_score: The same by the metric that chooses.
        own_part: Whether clients predict with a part of their own beside the shared model; see `method.personal`.
        metrics: Of held-out rows, by name: shares, the log loss in nats, and errors of regression in its units.
        majority_accuracy: What saying each client's most frequent training class reaches on held-out rows, mean over
            clients.
        majority_accuracy_per_client: By client.
        per_class: Of every class, over all held-out rows.
        proportions: Estimated. [client, component], components in the order of the true ones
        true_proportions: The realised shares of the true components. [client, component]
        component_mass: Share of each component of all rows.
        proportion_tv: Mean total variation between estimated and realised proportions, after the best matching.
        proportion_tv_per_client: By client.
        proportion_tv_drawn: The same to the proportions that the scenario drew.
        best_possible_gate: Mean share of each client's largest component.
        assignment_accuracy: Share of training rows whose likeliest component, labels seen, is the true one.
        expert_accuracy: On pure held-out rows. [true component, expert]
        density: Mean log density of pure held-out rows, nats. [true component, density]
        unseen: Clients that took no part in training.
        rounds: R.
        best_round: After which the predictor is taken, as validation rows chose; where `training.patience` is set.
        stopped_round: The last one that was trained; where `training.patience` is set.
        learning_rate: As it was chosen.
        validation_accuracy: Mean over clients, on validation rows. They chose parts of clients' own (fine-tuning,
            memories, weights), too: it is higher than on rows that chose nothing.
        validation_score: The same of the metric that chooses.
        gain_last_5_rounds: By how much it rose in the last five rounds.
        bytes_down: To all clients.
        bytes_up: From all clients.
        bytes: The same by kind: down, up.
        most_mb: Megabytes of 10^6 bytes of the client that it cost most, down and up.
        models_travelled: How, in words: to be said after "models travelled".
        budget: How it kept to its budget, where there is one.
        privacy: What it has cost, with `[privacy]`.
        seconds: Of the run.
    """

    n_components: int
    components_shown: int | None = None
    rows_in_lost_words: float | None = None
    reliability: float | None = None
    contrast: float | None = None
    identified: list[bool] | None = None
    rows_decide: bool | None = None
    client_accuracy: float | None
    client_accuracy_per_client: list[float | None] | None
    client_accuracy_shared: float | None = None
    shared_score: float | None = None
    own_part: bool | None = None
    metrics: Metrics | None = None
    majority_accuracy: float | None = None
    majority_accuracy_per_client: list[float | None] | None = None
    per_class: list[OfClass] | None = None
    proportions: Shares | None = None
    true_proportions: Shares | None = None
    component_mass: list[float] | None = None
    proportion_tv: float | None = None
    proportion_tv_per_client: list[float] | None = None
    proportion_tv_drawn: float | None = None
    best_possible_gate: float | None = None
    assignment_accuracy: float | None = None
    expert_accuracy: Matrix | None = None
    density: Matrix | None = None
    unseen: Unseen | None = None
    rounds: int
    best_round: int | None = None
    stopped_round: int | None = None
    learning_rate: float | None = None
    validation_accuracy: float | None = None
    validation_score: float | None = None
    gain_last_5_rounds: float | None = None
    bytes_down: int
    bytes_up: int
    bytes: Traffic
    most_mb: float | None = None
    models_travelled: str | None = None
    budget: Spending | None = None
    privacy: Private | None = None
    seconds: float

    @model_validator(mode="after")
    def _one_share_a_component(self) -> Self:
        for key in ("proportions", "true_proportions", "expert_accuracy", "density"):
            widths = {len(row) for row in getattr(self, key) or ()}
            if len(widths) > 1 or 0 in widths:
                raise ValueError(f"{key} has rows of {' and '.join(map(str, sorted(widths)))} entries")
        return self


class Summary(Outcome, Written):
    """`summary.json` of a run: the method's own numbers, and under their names those of bounds and baselines beside it.

    Attributes:
        metric: The one that chooses on validation rows.
        method: Its name.
        preset: Of fedgmi.
        epsilon: Of the noise in histograms.
        scenario: Its name; a deployment's own name.
        seed: Of all draws.
        clients: Their names.
        rows_per_client: Of training.
        standardisation: How rows were brought to one scale.
        n_components_estimated: Whether K was.
        rounds_absent: In how many rounds each site was missing, of a deployment.
        answers_refused: How many answers of each site could not be used, of a deployment.
        counted: The sites of a deployment whose histograms the components are made of; null: none were asked for.
        sites: How many sites a deployment was to have.
        oracle: The bound that knows the true components.
        fedavg: One model for all.
        local: Each client alone.
    """

    file = folder.SUMMARY
    what = "the summary of a run"
    known_by = frozenset(("method", "clients", "rows_per_client"))
    again = "write it anew with: fedgmi run --resume --out {out}"

    metric: MetricName = "accuracy"
    method: str
    preset: str | None
    epsilon: float | None = None
    scenario: str
    seed: int
    clients: list[str]
    rows_per_client: list[int]
    standardisation: Scale | None = None
    n_components_estimated: bool = False
    rounds_absent: list[int] | None = None
    answers_refused: list[int] | None = None
    counted: list[str] | None = None
    sites: int | None = None
    oracle: Outcome | None
    fedavg: Outcome | None
    local: Outcome | None

    @model_validator(mode="after")
    def _one_entry_a_client(self) -> Self:
        n_clients = len(self.clients)
        if not n_clients:
            raise ValueError("clients is empty")
        for key in PER_CLIENT:
            found = getattr(self, key)
            if found is not None and len(found) != n_clients:
                raise ValueError(f"{key} has {len(found)} entries for {n_clients} clients")
        return self

    @classmethod
    def read(cls, out: Path) -> Self:
        """The summary of a finished run.

        Raises:
            UserError: Where there is none, or the run is not finished, or the file is of another version.
        """
        if not os.path.exists(out / cls.file):  # which says False where we may not look
            if folder.holds_run(out):
                fix = f"finish it with: fedgmi run --resume --out {out}"
                if os.path.exists(out / Status.file):
                    fix = f"see where it stands: fedgmi deploy status {out}"
                raise UserError("the run there is not finished", where=str(out), fix=fix)
            fix = "give the folder of `fedgmi run`, `diagnose` or `compare --out`"
            raise UserError("no run lies there", where=str(out), fix=fix)
        return super().read(out)


class Record(Written):
    """A line of `records.jsonl`: where a run stands after a round.

    Attributes:
        run: The method's name, with its learning rate where there are several.
        round: 0 is the preparation, R + 1 the end.
        bound: Nats per row.
        proportion_tv: Mean total variation between estimated and realised proportions.
        validation_accuracy: Mean over clients, on validation rows.
        validation_score: The same of the metric that chooses.
        best_round: The best one so far by that; where `training.patience` is set.
        bytes_down: To all clients so far.
        bytes_up: From all clients so far.
        bytes: The same by kind: down, up.
        seconds: Of the run so far.
        absent: The sites of a deployment that were missing, and the clients of a simulation whose replies were lost.
        refused: Of a deployment's, whose answers could not be used, and why.
        sat_out: How many clients were not asked in this round, where there is a budget: they could have cost too much.
    """

    file = folder.RECORDS
    what = "a record of a run"
    known_by = frozenset(("run", "round"))
    again = "resume the run: fedgmi run --resume --out {out}"

    run: str
    round: int
    bound: float | None
    proportion_tv: float | None
    validation_accuracy: float | None = None
    validation_score: float | None = None
    best_round: int | None = None
    bytes_down: int
    bytes_up: int
    bytes: Traffic
    seconds: float
    absent: list[str] | None = None
    refused: dict[str, str] | None = None
    sat_out: int | None = None


class Estimate(Written):
    """`n_components.json`: K as it was estimated before the run, and what that cost.

    Attributes:
        n_components: K.
        estimated: True.
        bytes: Of all clients, by kind: down, up.
        seconds: Spent.
        steps: The exchanges that it was estimated by. A run that begins with them goes on from there.
    """

    file = folder.ESTIMATE
    what = "an estimate of fedgmi"
    known_by = frozenset(("n_components", "estimated", "seconds"))
    again = "remove it and resume: it is then written anew"

    n_components: int
    estimated: bool
    bytes: Traffic
    seconds: float
    steps: list[str]
