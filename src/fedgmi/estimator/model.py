"""`FedGMI` itself: its parameters, `fit`, and how it is saved and read."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import RegressorTags

from fedgmi.data import decode, encode
from fedgmi.data.federation import check_federation
from fedgmi.errors import ConfigError
from fedgmi.estimator import progress
from fedgmi.estimator.base import array
from fedgmi.estimator.inputs import check_missing, federation_of
from fedgmi.estimator.judging import Judging
from fedgmi.estimator.parameters import config_of, seed_of
from fedgmi.estimator.sampling import Sampling
from fedgmi.models.own import Own
from fedgmi.protocol.listener import Listener
from fedgmi.runs import fitted, model_file
from fedgmi.runs.config import Config, with_task
from fedgmi.runs.fit import fit
from fedgmi.settings.run import LR, ROUNDS


class FedGMI(Judging, Sampling, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A federation as a mixture: P_i(x, y) = Σ_k π_ik · p_k(x, y) (FedGMI, arXiv 2605.08760).

    Args:
        n_components: K, or "auto" to estimate it.
        preset: "default", "sketch" or "plain".
        rounds: R.
        epochs: Of local training, in a round.
        batch_size: Of local training, in rows. Up to 1000, a batch is filled by drawing a smaller client's rows again.
            Above, a client with fewer rows takes each of them once a step, so that an epoch is one step.
        learning_rate: Of local training. Of a list the rate is taken that does best on the rows for validation.
        participation: The fraction of clients in a round.
        seed: Of all draws.
        random_state: scikit-learn's name for the seed; None: `seed` counts.
        device: "auto", "cpu" or "cuda".
        expert: The model of p(y | x): a name, an `nn.Module` (training starts from its parameters), or a function that
            makes one: of nothing, of the schema, or of (settings, schema). None: as the settings have it.
        density: The model of p(x), likewise. A module has `log_prob(x)` and `sample(noise)`.
        verbose: 0: `fit` shows nothing. 1: a bar on a terminal or in a notebook, and a few lines elsewhere. None: the
            bar where there is a terminal or a notebook, and nothing elsewhere.
        task: What y is: "classification", "regression" for numbers to predict, or "survival" for times and events
            [n, 2]. A `Federation` says so itself.
        settings: Any other setting of a configuration, as {"section.key": value}.

    Attributes:
        weights_: Every client's proportions. [C, K]
        weights_interval_: How well they are known. [C, K, 2]
        pooled_weights_: The proportions of all rows together. [K]
        n_components_: K.
        client_names_: The clients' names, as texts, in the order of `weights_`.
        classes_: The labels, empty where there are none. [L]
        n_features_in_: Columns of a table as it was given, or numbers of a picture.
        feature_names_in_: Their names, where the rows came with some.
        n_iter_: The round that the model ended with: the last one, or with `training.patience` the best one.
        history_: A record for each round: `round`, `bound`, `validation_accuracy` and `seconds`. Round 0 is the
            preparation, and the last one the end.
        learning_rate_: That of `learning_rate` with which the model was trained.
        bytes_down_: Bytes to all clients.
        bytes_up_: Bytes from all clients.
        budget_: How training kept to its budget (`communication.mb_per_client` among the settings): `plan` and `kept`
            in words, `settings` as the plan chose them, `foreseen_mb` and `most_mb` of the client that cost most,
            `sat_out`, how often a client was not asked. None without a budget.
        rows_decide_: Whether rows show just K clusters, which are then the components; else clients' counts decide.
        bound_: The bound of the last round, nats per row; None where there is none.

    Examples:
        >>> import numpy as np
        >>> from fedgmi import Federation
        >>> rng = np.random.default_rng(0)
        >>> shares = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]
        >>> clients = [rng.normal(4.0 * (rng.random((60, 1)) < share), 1.0, (60, 2)) for share in shares]
        >>> model = FedGMI(n_components=2, rounds=10, seed=0).fit(Federation.from_arrays(clients))
        >>> model.weights_.shape
        (6, 2)
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] = 3,
        *,
        preset: str = "default",
        rounds: int = ROUNDS,
        epochs: int = 5,
        batch_size: int = 50,
        learning_rate: float | list[float] = LR,
        participation: float = 1.0,
        seed: int = 0,
        random_state: Any = None,
        device: str = "auto",
        expert: str | Own = None,
        density: str | Own = None,
        verbose: int | None = None,
        task: str = "classification",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.n_components = n_components
        self.preset = preset
        self.rounds = rounds
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.participation = participation
        self.seed = seed
        self.random_state = random_state
        self.device = device
        self.expert = expert
        self.density = density
        self.verbose = verbose
        self.task = task
        self.settings = settings

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, listener: Listener | None = None) -> FedGMI:
        """Estimate components, proportions and, where there are labels, experts.

        Args:
            X: A `Federation`; a list of (x, y) or x, one a client; a dict of such by client's name; or, with `groups`,
                all rows as a table or an array [n, …].
            y: With `groups`: the labels [n], or the name of the table's column of labels. None: there are none.
            groups: Each row's client [n], or the name of the table's column of clients.
            listener: Who wants to know how it goes; see `fedgmi.protocol.listener.Listener`. It takes the place of
                what `verbose` shows.

        Returns:
            The estimator itself.

        Raises:
            ConfigError: For a parameter out of its range.
            DataError: For rows that cannot be used.
            DivergedError: Where training runs away.

        Warns:
            ConvergenceWarning: Where the bound still rose when the rounds were over.
        """
        config = self._config()
        federation = federation_of(X, y, groups, config.data.missing, config.data.task)
        check_federation(federation)
        check_missing(config, federation)
        config = with_task(config, federation.schema.task)
        own = {"expert": _own(self.expert), "density": _own(self.density)}
        with progress.shown(self.verbose, listener) as told:
            model = fit(config, federation, told, **own)
        self._take(model)
        progress.warn_if_rising(model.history, config.rounds, stacklevel=3)
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the model: `model.json` and safetensors.

        Args:
            folder: Where to; it is made if it is not there.

        Returns:
            The folder.

        Raises:
            UserError: Where it cannot be written.
        """
        model = self._model()
        parameters = self.get_params(deep=False)
        parameters |= {name: None for name in ("expert", "density") if _own(parameters[name]) is not None}
        if self.random_state is not None:  # a generator cannot be written, and what it has drawn can
            parameters |= {"seed": model.config.seed, "random_state": None}
        model_file.save(Path(folder), model, parameters)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, *, expert: Own = None, density: Own = None) -> FedGMI:
        """Read the model that `save` wrote.

        Args:
            folder: Where it lies.
            expert: What was given as `expert` where that was a module or a function: its code is not saved.
            density: Likewise.

        Returns:
            The fitted estimator.

        Raises:
            CheckpointError: Where it is damaged, foreign, or of another version, or needs a model that is not here.
        """
        model, parameters = model_file.load(Path(folder), expert=expert, density=density)
        own = {"expert": expert, "density": density}
        with model_file.as_damaged(Path(folder) / model_file.JSON):
            estimator = cls(**parameters | {name: given for name, given in own.items() if given is not None})
            estimator._take(model)
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.non_deterministic = False
        if self.task != "classification":
            tags.estimator_type, tags.classifier_tags, tags.regressor_tags = None, None, None
        if self.task == "regression":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def _take(self, model: fitted.Fitted) -> None:
        self._fitted, self._drawn, self._interval, self._order_told = model, {}, None, False
        self.weights_ = array(model.proportions)
        self.n_components_ = model.n_components
        self.client_names_ = model.names
        self.classes_ = encode.classes(model.schema)
        self.n_features_in_ = model.schema.n_features
        names = decode.input_columns(model.schema, self._scale())
        if names:
            self.feature_names_in_, self.n_features_in_ = np.array(names, dtype=object), len(names)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.history_ = list(model.history)
        self.n_iter_ = model.best_round
        self.learning_rate_ = model.learning_rate
        self.bytes_down_, self.bytes_up_ = model.bytes_down, model.bytes_up
        self.budget_ = model.budget
        self.bound_, self.rows_decide_ = model.bound, model.rows_decide

    def _config(self) -> Config:
        """The configuration that the parameters stand for."""
        rates = self.learning_rate
        if rates is None or isinstance(rates, str):
            raise ConfigError(f"learning_rate is {rates!r}", where="FedGMI", fix="give a number, or a list of them")
        rate: Any = list(np.asarray(rates)) if np.ndim(rates) else rates
        table: dict[str, Any] = {
            "seed": seed_of(self.seed, self.random_state),
            "rounds": self.rounds,
            "device": self.device,
            "method": {"n_components": self.n_components, "preset": self.preset, "participation": self.participation},
            "training": {"epochs": self.epochs, "batch_size": self.batch_size, "lr": rate},
        }
        if self.task != "classification":
            table["data"] = {"task": self.task}
        for section, name in (("expert", self.expert), ("density", self.density)):
            if isinstance(name, str):
                table[section] = {"name": name}
        self._refuse_contradictions()
        if self.n_components is None:
            fix = 'give a number, or "auto" to estimate it'
            raise ConfigError("there is no number of components", where="FedGMI: n_components", fix=fix)
        return config_of(table, self.settings)

    def _refuse_contradictions(self) -> None:
        """Refuse a parameter that is not at its default beside another value of the same setting."""
        defaults = {name: parameter.default for name, parameter in signature(type(self).__init__).parameters.items()}
        for key, name in SETTING_OF.items():
            if not isinstance(self.settings, Mapping) or key not in self.settings:
                continue
            if key == "seed" and self.random_state is not None:
                name = "random_state"
            own, other = getattr(self, name), self.settings[key]
            if not (own is defaults[name] or own == defaults[name] or own == other):
                what = f"{name} is {own!r}, and settings say {key} = {other!r}"
                raise ConfigError(what, where="FedGMI", fix="say it once")


SETTING_OF = {
    "seed": "seed",
    "rounds": "rounds",
    "device": "device",
    "method.n_components": "n_components",
    "method.preset": "preset",
    "method.participation": "participation",
    "training.epochs": "epochs",
    "training.batch_size": "batch_size",
    "training.lr": "learning_rate",
    "expert.name": "expert",
    "density.name": "density",
    "data.task": "task",
}
"""Settings that are parameters too."""


def _own(given: Any) -> Any:
    """The user's own model; None where settings name one."""
    return None if isinstance(given, str) else given
