"""The sections of a run's settings. Each method's own are in the method's file; `runs.config` puts them together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.settings.base import (
    BelowOne,
    Components,
    Count,
    Limits,
    Name,
    Passes,
    PositiveFloat,
    PositiveFloats,
    PositiveInt,
    Section,
)

MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "calibration_error",
    "rmse", "mae", "r2", "nll", "coverage", "c_index",
]  # fmt: skip
TaskName = Literal["classification", "regression", "survival"]
"""What y is: a class, a number, or a time until an event, or until nobody looked any more."""
TASKS: dict[TaskName, str] = {
    "classification": "labels are classes",
    "regression": "labels are numbers to predict",
    "survival": "labels are times, and events in which they ended or not",
}
"""What `fedgmi list` says of each."""
LearningRate = PositiveFloat | PositiveFloats


LR = 3e-3
"""Of Adam. It was the best, or as good, on most of the data that docs/results.md is about."""
ROUNDS = 30
"""After so many, models gain little more there."""


class DataSettings(Section):
    """Where rows come from. `path`: "digits" (scikit-learn's), a local folder, or a hub id.

    task: what `label_column` holds: classes, or for "regression" a number to predict, or for "survival" a time, with
    1 in `event_column` where it ended in an event and 0 where nobody looked any more; see docs/tasks.md. It is never
    guessed from the values.
    standardise: numbers to mean 0 and deviation 1 by federated sums; "auto" does so for tables that come from a data
    set, not for pictures, and not for rows that a scenario draws itself.
    missing: what becomes of missing values: an error ("refuse"), the column's mean over all clients ("mean"), or the
    mean and a column of 0 and 1 that says where ("indicator").
    missing_values: the texts of a CSV file that stand for a missing value, in place of the usual ones (empty cells, NA,
    None, null, NaN, …); [""] keeps all but empty cells.
    ranges: [least, greatest] of each column, from what is generally known. With `[privacy]` a table is brought to one
    scale by these, in place of sums over rows.
    """

    path: str = "digits"
    task: TaskName = "classification"
    train_split: str = "train"
    test_split: str | None = "test"
    image_column: str | None = None
    label_column: str | None = None
    event_column: str | None = None
    feature_columns: list[str] | None = None
    invert: bool = False
    crop: Count = 0
    size: PositiveInt | None = None
    max_rows: PositiveInt | None = None
    standardise: bool | Literal["auto"] = "auto"
    missing: Literal["refuse", "mean", "indicator"] = "refuse"
    missing_values: list[str] | None = None
    ranges: dict[Name, Limits] = Field(default_factory=dict)


CLIENTS, ROWS = 20, 70
"""Where a scenario draws who holds which rows, and nobody says how many clients and rows there are to be."""


class ScenarioSettings(Section):
    """Who holds which rows. A setting that the scenario has no use for is refused.

    n_clients: unset, a scenario that draws clients has 20, and by-column has all that the data give.
    rows_per_client: for training, on average. Unset, a scenario that draws rows gives 70, and by-column keeps all.
    min_rows: by-column takes a value for a client where its train split has so many rows or more. Unset: 20.
    validation_share: of each client's rows of the train split, which by-column keeps for validation; 0: none.
    """

    name: str = "rotation"
    n_clients: PositiveInt | None = None
    rows_per_client: PositiveInt | None = None
    alpha: PositiveFloat = 0.5
    n_components: Components = 3
    labels_per_component: PositiveInt | None = None
    size_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    held_out_rows: PositiveInt | None = None
    client_column: str | None = None
    min_rows: PositiveInt | None = None
    validation_share: BelowOne = 0.1
    n_features: PositiveInt = 8
    separation: PositiveFloat = 3.0

    @property
    def clients(self) -> int:
        """How many clients are drawn."""
        return self.n_clients or CLIENTS

    @property
    def rows(self) -> int:
        """How many training rows are drawn for a client, on average."""
        return self.rows_per_client or ROWS


class DensitySettings(Section):
    """The model of one component's p(x). likelihood "auto": Bernoulli for images, Gaussian for tables.

    architecture: of a VAE; "auto": convolutions for colour pictures, an MLP for all other rows.
    shared: whether a VAE's components are one network, each with a small part of its own ("trunk"), or networks apart
    ("none"); "auto": one network where it is an MLP.
    """

    name: str = "vae"
    shared: Literal["auto", "trunk", "none"] = "auto"
    architecture: Literal["auto", "mlp", "conv"] = "auto"
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    hidden: PositiveInt = 256
    latent: PositiveInt = 16


class ExpertSettings(Section):
    """The model of one component's p(y | x).

    name: of the table of experts; "auto": a CNN for colour pictures, an MLP for all other rows.
    shared: whether fedgmi's experts have all layers but the last in common ("trunk") or are models apart ("none").
    """

    name: str = "auto"
    hidden: PositiveInt = 200
    shared: Literal["trunk", "none"] = "trunk"


class TrainingSettings(Section):
    """Local training, the same for all methods.

    lr: one rate, or a list to choose from on validation rows, or a table of either by method's name with
    "default" for the others.

    batch_size: rows of a step. Up to 1000, a batch is filled by drawing the rows of a smaller client again. Above, a
    client with fewer rows takes each of them once a step, so that an epoch is one step.

    optimizer: of the local steps, "adam" (fresh in every round) or "sgd" (plain: no momentum, no decay).

    stragglers: the share of clients of a round that finish only a part of their local steps, in simulation alone. Who,
    and which part of (0, 1], is drawn by (seed, round, client). Parts of clients' own are trained to the end.

    patience: a run stops after so many rounds without a better `evaluation.metric` on validation rows, and ends with
    the best of its rounds. Unset: all rounds are run, and it ends with the last.
    """

    epochs: Passes = 5
    batch_size: PositiveInt = 50
    lr: LearningRate | dict[str, LearningRate] = LR
    max_steps: PositiveInt | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    stragglers: BelowOne = 0.0
    patience: PositiveInt | None = None

    def lr_candidates(self, method: str) -> list[float]:
        """The learning rates to try for a method."""
        chosen = self.lr.get(method, self.lr.get("default", LR)) if isinstance(self.lr, dict) else self.lr
        return list(chosen) if isinstance(chosen, list) else [chosen]


class EvaluationSettings(Section):
    """Which bounds and baselines are run beside the method, and by what is chosen.

    metric: by which validation rows choose learning rates and rounds, and by which `fedgmi compare` ranks methods. For
    regression it is "rmse" where nothing is said, and one of rmse, mae, r2, nll, coverage; for survival "c_index".
    """

    fedavg: bool = True
    local: bool = True
    oracle: bool = True
    unseen_clients: BelowOne = 0.0  # the fraction that takes no part in training
    metric: MetricName = "accuracy"
