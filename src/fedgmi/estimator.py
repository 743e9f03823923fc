"""`FedGMI`: the method behind scikit-learn's vocabulary, over the same functions as the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from fedgmi.data import encode
from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError, DataError
from fedgmi.models.own import Own
from fedgmi.protocol.listener import Listener
from fedgmi.randomness import generator
from fedgmi.runs import fitted, model_file
from fedgmi.runs.config import Config, from_table
from fedgmi.runs.fit import fit
from fedgmi.runs.whose import Array, weights_of


@dataclass(frozen=True)
class InferredWeights:
    """Proportions of a client that was not there, by the E-step alone. `numpy.asarray` of it is `weights`.

    Attributes:
        weights: The proportions. [K]
        identified: Whether such rows can tell the components apart. Where not, the weights are the pooled ones.
        standard_errors: Of the weights, the components taken as known. [K]
    """

    weights: Array
    identified: bool
    standard_errors: Array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.weights, dtype=dtype)


METHOD = "fedgmi"
Whose = str | int | InferredWeights | npt.ArrayLike


class FedGMI(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A federation as a mixture: P_i(x, y) = Σ_k π_ik · p_k(x, y) (FedGMI, arXiv 2605.08760).

    Args:
        n_components: K, or "auto" to estimate it.
        preset: "default", "sketch" or "plain".
        rounds: R.
        epochs: Of local training, in a round.
        batch_size: Of local training, in rows.
        learning_rate: Of local training.
        participation: The fraction of clients in a round.
        seed: Of all draws.
        device: "auto", "cpu" or "cuda".
        expert: The model of p(y | x): a name, an `nn.Module` (training starts from its parameters), or a function that
            makes one: of nothing, of the schema, or of (settings, schema). None: as the settings have it.
        density: The model of p(x), likewise. A module has `log_prob(x)` and `sample(noise)`.
        settings: Any other setting of a configuration, as {"section.key": value}.

    Attributes:
        weights_: Every client's proportions. [C, K]
        n_components_: K.
        client_names_: The clients' names, in the order of `weights_`.
        classes_: The labels, empty where there are none. [L]
        bytes_down_: Bytes to all clients.
        bytes_up_: Bytes from all clients.
        bound_: The bound of the last round, nats per row; None where there is none.

    Examples:
        >>> import numpy as np
        >>> from fedgmi import Federation
        >>> rng = np.random.default_rng(0)
        >>> shares = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]
        >>> clients = [rng.normal(4.0 * (rng.random((60, 1)) < share), 1.0, (60, 2)) for share in shares]
        >>> model = FedGMI(n_components=2, rounds=3, seed=0).fit(Federation.from_arrays(clients))
        >>> model.weights_.shape
        (6, 2)
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] = 3,
        *,
        preset: str = "default",
        rounds: int = 30,
        epochs: int = 5,
        batch_size: int = 50,
        learning_rate: float = 3e-3,
        participation: float = 1.0,
        seed: int = 0,
        device: str = "auto",
        expert: str | Own = None,
        density: str | Own = None,
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
        self.device = device
        self.expert = expert
        self.density = density
        self.settings = settings

    def fit(self, federation: Federation, y: None = None, *, listener: Listener | None = None) -> FedGMI:
        """Estimate components, proportions and, where there are labels, experts.

        Args:
            federation: The clients' rows.
            y: Ignored; scikit-learn has a place for it.
            listener: Who wants to know how it goes.

        Returns:
            The estimator itself.

        Raises:
            ConfigError: For a parameter out of its range.
            DataError: For rows that cannot be used.
            DivergedError: Where training runs away.
        """
        if not isinstance(federation, Federation):
            raise DataError(
                f"a {type(federation).__name__} is no federation",
                where="FedGMI.fit",
                fix="make one with fedgmi.Federation.from_arrays, .from_frame or .from_dataset",
            )
        check_federation(federation)
        self._take(fit(self._config(), federation, listener, expert=_own(self.expert), density=_own(self.density)))
        return self

    def predict(self, x: npt.ArrayLike, *, client: Whose) -> Array:
        """The likeliest label of each row, by the client's own predictor.

        Args:
            x: Rows, in their own units. [n, *shape]
            client: A name in `client_names_`, a place there, or proportions [K] such as `infer_weights` returns.

        Returns:
            Labels. [n]

        Raises:
            DataError: For rows or a client that the model does not know, or without labels in the federation.
        """
        probabilities = self.predict_proba(x, client=client)
        labels: Array = self.classes_[probabilities.argmax(1)]
        return labels

    def predict_proba(self, x: npt.ArrayLike, *, client: Whose) -> Array:
        """p(y | x) = Σ_k r_k(x)·p_k(y | x), r from x alone and the client's proportions.

        Args:
            x: Rows, in their own units. [n, *shape]
            client: See `predict`.

        Returns:
            Probabilities, in the order of `classes_`. [n, L]

        Raises:
            DataError: See `predict`.
        """
        model = self._model()
        if not model.schema.n_classes:
            fix = "fit a federation with labels; densities and proportions need none"
            raise DataError("there are no experts: the federation had no labels", where="FedGMI.predict", fix=fix)
        state = model.state(torch.from_numpy(weights_of(self._model(), client)))
        logs = model.method.predictor.predict(model.server, state, self._rows(x))
        return _array(logs.exp())

    def predict_components(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None, *, client: Whose) -> Array:
        """Responsibilities r_k = P(component k | row) for the client's rows.

        Args:
            x: Rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]
            client: See `predict`.

        Returns:
            Probabilities. [n, K]

        Raises:
            DataError: For rows, labels or a client that the model does not know.
        """
        weights = torch.from_numpy(weights_of(self._model(), client))
        return _array(self._model().posterior(self._rows(x, y), weights))

    def log_ratios(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Array:
        """log p_k(row)/P(row) as calibrated across clients, P the pooled mixture.

        Args:
            x: Rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]

        Returns:
            Log ratios, in nats. [n, K]

        Raises:
            DataError: For rows or labels that the model does not know.
        """
        return _array(self._model().evidence(self._rows(x, y)))

    def component_log_prob(self, x: npt.ArrayLike, *, n_samples: int = 16) -> Array:
        """log p_k(x), as `score_samples` takes it.

        Args:
            x: Rows, in their own units. [n, *shape]
            n_samples: Draws for a VAE's bound.

        Returns:
            Nats in the rows' own units. [n, K]

        Raises:
            ConfigError: For no draws.
            DataError: For rows that the model does not know.
        """
        model = self._model()
        if n_samples < 1:
            raise ConfigError(f"n_samples is {n_samples}", where="score_samples", fix="ask for at least one")
        return _array(model.log_density(encode.features(x, model.schema), n_samples))

    def score_samples(self, x: npt.ArrayLike, *, client: Whose | None = None, n_samples: int = 16) -> Array:
        """log Σ_k π_k p_k(x), π the client's or the pooled proportions.

        For a VAE p_k(x) is the importance-weighted bound (Burda et al. 2016). For grey pictures under a Bernoulli
        likelihood it is a score rather than a density.

        Args:
            x: Rows, in their own units. [n, *shape]
            client: See `predict`; None: the pooled proportions.
            n_samples: Draws for a VAE's bound.

        Returns:
            Nats in the rows' own units. [n]

        Raises:
            ConfigError: For no draws.
            DataError: For rows or a client that the model does not know.
        """
        pooled = self._model().pooled().cpu().numpy()
        weights = pooled if client is None else weights_of(self._model(), client)
        joint = self.component_log_prob(x, n_samples=n_samples) + np.log(np.maximum(weights, 1e-300))
        scores: Array = np.logaddexp.reduce(joint, axis=1)
        return scores

    def sample(self, n: int = 1, *, component: int) -> Array:
        """Draw rows from the density of a component.

        Args:
            n: How many.
            component: Which, from 0.

        Returns:
            Rows, in their own units. [n, *shape]

        Raises:
            ConfigError: For no rows, or a component that there is not.
        """
        model = self._model()
        if n < 1:
            raise ConfigError(f"{n} rows", where="FedGMI.sample", fix="ask for at least one")
        if not 0 <= component < self.n_components_:
            fix = f"choose one of 0..{self.n_components_ - 1}"
            raise ConfigError(f"there is no component {component}", where="FedGMI.sample", fix=fix)
        return _array(model.sample(n, component, generator(model.config.seed, "sample", component)))

    def infer_weights(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> InferredWeights:
        """The proportions of a client that was not there, from its rows. Nothing is trained.

        Where the p_k(x) coincide, rows without labels say nothing. `identified` is then False, and the weights are the
        pooled proportions.

        Args:
            x: Its rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]

        Returns:
            Proportions, and how well they are known.

        Raises:
            DataError: For rows or labels that the model does not know.
        """
        model = self._model()
        found = model.infer(self._rows(x, y))
        return InferredWeights(_array(found.proportions), found.identified, _array(found.standard_errors))

    def save(self, folder: str | Path) -> Path:
        """Write the model: `model.json` and safetensors.

        Args:
            folder: Where to; it is made if it is not there.

        Returns:
            The folder.

        Raises:
            UserError: Where it cannot be written.
        """
        model_file.save(Path(folder), self._model(), self._parameters())
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
        estimator = cls(**parameters | {name: given for name, given in own.items() if given is not None})
        estimator._take(model)
        return estimator

    def _take(self, model: fitted.Fitted) -> None:
        self._fitted = model
        self.weights_ = _array(model.proportions)
        self.n_components_ = model.n_components
        self.client_names_ = model.names
        self.classes_ = encode.classes(model.schema)
        self.bytes_down_, self.bytes_up_ = model.bytes_down, model.bytes_up
        self.bound_ = model.bound

    def _model(self) -> fitted.Fitted:
        if not hasattr(self, "_fitted"):
            raise NotFittedError(
                "this FedGMI is not fitted yet. Likely fix: call fit(federation), or FedGMI.load(folder)."
            )
        return self._fitted

    def _rows(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Rows:
        model = self._model()
        features = encode.features(x, model.schema)
        labels = None if y is None else encode.labels(y, model.schema, len(features))
        return model.rows(features, labels)

    def _parameters(self) -> dict[str, Any]:
        given = self.get_params(deep=False)
        own = {name: None for name in ("expert", "density") if _own(given[name]) is not None}
        return dict(given) | own

    def _config(self) -> Config:
        """The configuration that the parameters stand for; `settings` come last and may say anything else."""
        table: dict[str, Any] = {
            "seed": self.seed,
            "rounds": self.rounds,
            "device": self.device,
            "method": {"n_components": self.n_components, "preset": self.preset, "participation": self.participation},
            "training": {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.learning_rate},
        }
        for section, name in (("expert", self.expert), ("density", self.density)):
            if isinstance(name, str):
                table[section] = {"name": name}
        if self.n_components is None:
            fix = 'give a number, or "auto" to estimate it'
            raise ConfigError("there is no number of components", where="FedGMI: n_components", fix=fix)
        for key, value in (self.settings or {}).items():
            section, _, name = str(key).rpartition(".")
            place = table.setdefault(section, {}) if section else table
            place[name] = value
        config = from_table(_plain(table), "FedGMI")
        if config.method.name != METHOD:
            raise ConfigError(
                f"FedGMI is the method {METHOD}, not {config.method.name}",
                where="method.name",
                fix="leave it out, or run the other method with: fedgmi run --set method.name=" + config.method.name,
            )
        return config


def _own(given: Any) -> Any:
    """The user's own model; None where settings name one."""
    return None if isinstance(given, str) else given


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: settings are strict about types."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().numpy())
