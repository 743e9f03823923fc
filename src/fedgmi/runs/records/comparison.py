"""`comparison.json`: methods side by side, as `fedgmi compare` writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from fedgmi.errors import UserError
from fedgmi.runs.records.base import Part, Written
from fedgmi.runs.records.run import Matrix, Metrics, Spending, Spread, Unseen
from fedgmi.settings.run import MetricName
from fedgmi.storage import folder


class Tuned(Part):
    """What validation rows chose of a method's own settings.

    Attributes:
        settings: By key.
        candidates: How many combinations were run.
        failed: How many of these did not come to their end.
        seconds: Of all runs, failed ones up to their last record.
        bytes_down: Likewise, to all clients.
        bytes_up: Likewise, from all clients.
    """

    settings: dict[str, Any]
    candidates: int
    failed: int
    seconds: float
    bytes_down: int
    bytes_up: int


class Cell(Part):
    """One method at one seed: what its summary says, or why there is none.

    Attributes:
        method: Its name.
        seed: Of all draws.
        failed: What the run said last, where it failed; then nothing else is there.
        client_accuracy: Mean over clients.
        client_accuracy_per_client: By client.
        metrics: Of held-out rows, by name.
        majority_accuracy: What saying each client's most frequent training class reaches, mean over clients.
        proportion_tv: Mean total variation between estimated and realised proportions.
        expert_accuracy: [true component, expert]
        unseen: Clients that took no part in training.
        rounds: R.
        best_round: After which the predictor is taken, where `training.patience` is set.
        stopped_round: The last one that was trained, where `training.patience` is set.
        learning_rate: As it was chosen.
        bytes_down: To all clients.
        bytes_up: From all clients.
        mb_per_client: Megabytes of 10^6 bytes of a client, down and up, mean over clients.
        most_mb: Megabytes of 10^6 bytes of the client that it cost most, down and up.
        models_travelled: How, in words.
        budget: How it kept to its budget, where there is one.
        seconds: Of the run.
        own_part: Whether clients ended with a part of their own beside a shared model; see `method.personal`.
        tuned: What `--tune` chose, and what it cost; None where there was nothing to choose.
    """

    method: str
    seed: int
    failed: str | None = None
    client_accuracy: float | None = None
    client_accuracy_per_client: list[float | None] | None = None
    metrics: Metrics | None = None
    majority_accuracy: float | None = None
    proportion_tv: float | None = None
    expert_accuracy: Matrix | None = None
    unseen: Unseen | None = None
    rounds: int | None = None
    best_round: int | None = None
    stopped_round: int | None = None
    learning_rate: float | None = None
    own_part: bool | None = None
    bytes_down: int | None = None
    bytes_up: int | None = None
    mb_per_client: float | None = None
    most_mb: float | None = None
    models_travelled: str | None = None
    budget: Spending | None = None
    seconds: float | None = None
    tuned: Tuned | None = None


class OverSeeds(Part):
    """A metric over seeds: mean and standard deviation.

    Attributes:
        mean: Of the mean over clients.
        worst_tenth: Of the mean over the tenth of clients that fare worst.
    """

    mean: Spread | None
    worst_tenth: Spread | None


class OfMethod(Part):
    """A method's numbers over seeds: mean and standard deviation.

    Attributes:
        seeds: Of the runs that came to their end.
        client_accuracy: Mean over clients.
        worst_decile: Mean accuracy of the tenth of clients that fare worst.
        majority_accuracy: What saying each client's most frequent training class reaches.
        metrics: By name.
        proportion_tv: Mean total variation between estimated and realised proportions.
        bytes_down: To all clients.
        bytes_up: From all clients.
        mb_per_client: Megabytes of 10^6 bytes of a client, down and up.
        seconds_per_round: Of the whole run, by rounds.
        expert_accuracy: Mean over seeds. [true component, expert]
    """

    seeds: list[int]
    client_accuracy: Spread | None
    worst_decile: Spread | None
    majority_accuracy: Spread | None = None
    metrics: dict[MetricName, OverSeeds] | None = None
    proportion_tv: Spread | None
    bytes_down: Spread | None
    bytes_up: Spread | None
    mb_per_client: Spread | None = None
    seconds_per_round: Spread | None
    expert_accuracy: Matrix | None


class Gap(Part):
    """How far a method is behind the one with the best mean.

    Attributes:
        difference: Of the metric, mean over pairs; positive where the best one is better.
        pairs: Of seed and client.
        p: Adjusted over the methods.
    """

    difference: float
    pairs: int
    p: float


class Paired(Part):
    """Differences by seed and client.

    Attributes:
        best: The method with the best mean.
        against: The others.
        least_p: The smallest p that so few pairs and so many methods can have.
    """

    best: str
    against: dict[str, Gap]
    least_p: float | None = None


class Comparison(Written):
    """Methods side by side over seeds.

    Attributes:
        scenario: Its name.
        metric: By which methods are compared.
        methods: As they were asked for.
        seeds: As they were asked for.
        cells: One for each method and seed.
        summary: Each method over its seeds, where one came to its end.
        paired: Differences to the best, where two methods have such numbers.
        test: Which test `p` is of.
        significant: Below which `p` counts.
        best: The method that is better than each other one, if there is one.
    """

    file = folder.COMPARISON
    what = "a comparison of fedgmi"
    known_by = frozenset(("scenario", "methods", "seeds", "cells", "summary"))
    again = "write it anew with the command that made it: finished cells are read, not repeated"

    scenario: str
    metric: MetricName = "accuracy"
    methods: list[str]
    seeds: list[int]
    cells: list[Cell]
    summary: dict[str, OfMethod]
    paired: Paired | None
    test: str
    significant: float
    best: str | None

    @classmethod
    def read(cls, out: Path) -> Self:
        """The comparison in a results folder.

        Raises:
            UserError: Where it is not finished, or the file is of another version.
        """
        if folder.holds_comparison(out) and not os.path.exists(out / cls.file):
            fix = f"go on with it by the same fedgmi compare, with --out {out}"
            raise UserError("the comparison there is not finished", where=str(out), fix=fix)
        return super().read(out)
