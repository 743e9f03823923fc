"""What a fitted estimator answers row by row."""

from __future__ import annotations

from numbers import Real

import numpy as np
import numpy.typing as npt
import torch

from fedgmi.errors import ConfigError, DataError
from fedgmi.estimator.base import Base, Whose, array
from fedgmi.estimator.parameters import whole
from fedgmi.methods.target_scale import cumulative
from fedgmi.runs import survival_metrics, target_metrics
from fedgmi.runs.whose import Array


class Asking(Base):
    """Predictions, responsibilities and densities. What is said of a row depends on no other row."""

    def predict(self, X: npt.ArrayLike, *, client: Whose | None = None) -> Array:
        """The likeliest label of each row, by the client's own predictor; for regression the mean of the target, for
        survival the log of the risk: the greater, the sooner an event is to be expected.

        Args:
            X: Rows, in their own units: a table with the federation's columns, or an array. [n, *shape]
            client: A name in `client_names_`, a name for each row [n], proportions [K], or what `infer_weights` and
                `welcome` return. A whole number is a name, too; where no client's name is one, it is a place in
                `client_names_`.
                None: the column of clients that the table has, as the federation's table had it.

        Returns:
            Labels, or means in the target's units, or log risks. [n]

        Raises:
            DataError: For rows or a client that the model does not know, or without labels in the federation.
        """
        if self._model().schema.task == "regression":
            return target_metrics.mean_of(self._predictions(X, client))
        if self._model().schema.task == "survival":
            return survival_metrics.risk_of(self._predictions(X, client))
        probabilities = self.predict_proba(X, client=client)
        labels: Array = self.classes_[probabilities.argmax(1)]
        return labels

    def predict_interval(self, X: npt.ArrayLike, *, level: float = 0.9, client: Whose | None = None) -> Array:
        """Between which values the target lies, with regression: the central interval of the predicted distribution.

        The distribution is Σ_k r_k(x)·N(y; m_k(x), s_k(x)²). Its width is what the model says of single rows' spread;
        that the parameters are themselves estimates is not in it. `evaluate` has the coverage of 90% intervals.

        Args:
            X: Rows, in their own units. [n, *shape]
            level: The share of the distribution inside, between 0 and 1.
            client: See `predict`.

        Returns:
            Lower and upper end, in the target's units. [n, 2]

        Raises:
            ConfigError: For a level outside (0, 1).
            DataError: See `predict`; and where the task is not regression.
        """
        if not (isinstance(level, Real) and 0 < level < 1):
            raise ConfigError(f"level is {level!r}", where="predict_interval", fix="give a share such as 0.9")
        if self._model().schema.task != "regression":
            what, fix = "classes have no interval", "ask predict_proba"
            if self._model().schema.task == "survival":
                what, fix = "survival predicts risks, which have no interval", "ask predict_survival"
            fix += "; predict_interval is for task regression"
            raise DataError(what, where="FedGMI.predict_interval", fix=fix)
        return target_metrics.interval_of(self._predictions(X, client), level)

    def predict_survival(self, X: npt.ArrayLike, times: npt.ArrayLike, *, client: Whose | None = None) -> Array:
        """The probability that no event has come by some times: Σ_k r_k(x)·exp(−H(t)·exp η_k(x)), with survival.

        H is what the federation's rows have together: a piecewise-exponential form of Breslow's baseline.

        Args:
            X: Rows, in their own units. [n, *shape]
            times: In the unit of the training times, 0 or more: one, or several. [T]
            client: See `predict`.

        Returns:
            Probabilities. [n, T]

        Raises:
            DataError: See `predict`; for times that are no numbers, or below 0; and where the task is not survival.
        """
        if self._model().schema.task != "survival":
            what, fix = "only survival has times", "ask predict"
            raise DataError(what, where="FedGMI.predict_survival", fix=fix)
        try:
            asked = torch.from_numpy(np.atleast_1d(np.asarray(times, dtype=float)).copy())
        except (TypeError, ValueError) as error:
            fix = "give numbers, such as [100, 1000]"
            raise DataError("they are no numbers", where="predict_survival, times", fix=fix) from error
        if asked.ndim > 1:
            what, fix = f"their shape is {tuple(asked.shape)}", "give one list of times, which counts for all rows"
            raise DataError(what, where="predict_survival, times", fix=fix)
        if not bool((asked >= 0).all()):
            fix = "give times of 0 or more"
            raise DataError("a time is below 0 or missing", where="predict_survival, times", fix=fix)
        expected = array(cumulative(self._model().server, asked))
        return survival_metrics.survival_of(self._predictions(X, client), expected)

    def predict_proba(self, X: npt.ArrayLike, *, client: Whose | None = None) -> Array:
        """p(y | x) = Σ_k r_k(x)·p_k(y | x), r from x alone and the client's proportions.

        Args:
            X: Rows, in their own units. [n, *shape]
            client: See `predict`.

        Returns:
            Probabilities, in the order of `classes_`. [n, L]

        Raises:
            DataError: See `predict`.
        """
        logs: Array = np.exp(self.predict_log_proba(X, client=client))
        return logs

    def predict_log_proba(self, X: npt.ArrayLike, *, client: Whose | None = None) -> Array:
        """log p(y | x); see `predict_proba`.

        Args:
            X: Rows, in their own units. [n, *shape]
            client: See `predict`.

        Returns:
            Nats, in the order of `classes_`. [n, L]

        Raises:
            DataError: See `predict`.
        """
        if self._model().schema.task != "classification":
            what = "the target is a number, and has no classes"
            if self._model().schema.task == "survival":
                what = "the target is a time, and has no classes"
            fix = "ask predict or predict_" + ("interval" if self._model().schema.task == "regression" else "survival")
            raise DataError(what, where="FedGMI.predict_proba", fix=fix)
        return self._predictions(X, client).astype(np.float32)

    def _predictions(self, X: npt.ArrayLike, client: Whose | None) -> Array:
        """What the client's predictor says of each row, as the task's head has it. [n, Q]"""
        with self._asked() as model:
            if not model.schema.labelled:
                fix = "fit a federation with labels; densities and proportions need none"
                raise DataError("there are no experts: the federation had no labels", where="FedGMI.predict", fix=fix)
            features = self._features(X)
            found: Array | None = None
            for rows, who in self._clients(X, client, len(features)):
                state = model.state(torch.from_numpy(who.weights), who.place, who.own)
                some = model.rows(features[torch.from_numpy(rows)])
                part = array(model.method.predictor.predict(model.server, state, some))
                found = np.empty((len(features), part.shape[1])) if found is None else found
                found[rows] = part
        assert found is not None
        return found

    def predict_components(
        self, X: npt.ArrayLike, y: npt.ArrayLike | None = None, *, client: Whose | None = None
    ) -> Array:
        """Responsibilities r_k = P(component k | row) for the client's rows.

        Args:
            X: Rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]
            client: See `predict`.

        Returns:
            Probabilities. [n, K]

        Raises:
            DataError: For rows, labels or a client that the model does not know.
        """
        with self._asked() as model:
            asked = self._rows(X, y)
            found = np.empty((len(asked), model.n_components))
            for rows, who in self._clients(X, client, len(asked)):
                some = torch.from_numpy(rows)
                own = model.rows(asked.x[some], None if asked.y is None else asked.y[some])
                found[rows] = array(model.posterior(own, torch.from_numpy(who.weights)))
        return found

    def log_ratios(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Array:
        """log p_k(row)/P(row) as calibrated across clients, P the pooled mixture.

        Args:
            X: Rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]

        Returns:
            Log ratios, in nats. [n, K]

        Raises:
            DataError: For rows or labels that the model does not know.
        """
        with self._asked() as model:
            return array(model.evidence(self._rows(X, y)))

    def component_log_prob(self, X: npt.ArrayLike, *, n_samples: int = 16) -> Array:
        """log p_k(x), as `score_samples` takes it.

        Args:
            X: Rows, in their own units. [n, *shape]
            n_samples: Draws for a VAE's bound. They come from the row itself, so that equal rows score equally.

        Returns:
            Nats in the rows' own units. [n, K]

        Raises:
            ConfigError: For no draws.
            DataError: For rows that the model does not know, or that are too far away for float32.
        """
        with self._asked() as model:
            whole(n_samples, "n_samples", 1, "score_samples")
            logs = array(model.log_density(self._features(X), n_samples))
        far = np.flatnonzero(np.isnan(logs).any(1))
        if len(far):
            what = f"row {far[0]} is so far from all components that its density cannot be computed"
            raise DataError(what, where="X", fix="check its units")
        return logs

    def score_samples(self, X: npt.ArrayLike, *, client: Whose | None = None, n_samples: int = 16) -> Array:
        """log Σ_k π_k p_k(x), π the client's or the pooled proportions.

        For a VAE p_k(x) is the importance-weighted bound (Burda et al. 2016). For grey pictures under a Bernoulli
        likelihood it is a score rather than a density.

        Args:
            X: Rows, in their own units. [n, *shape]
            client: See `predict`. Where nobody says whose the rows are, the pooled proportions.
            n_samples: Draws for a VAE's bound.

        Returns:
            Nats in the rows' own units. [n]

        Raises:
            ConfigError: For no draws.
            DataError: For rows or a client that the model does not know.
        """
        logs = self.component_log_prob(X, n_samples=n_samples)
        named = self._whose(X, client)
        scores: Array = np.empty(len(logs))
        for rows, who in self._clients(X, self.pooled_weights_ if named is None else named, len(logs)):
            scores[rows] = np.logaddexp.reduce(logs[rows] + np.log(np.maximum(who.weights, 1e-300)), axis=1)
        return scores

    @property
    def pooled_weights_(self) -> Array:
        """The proportions of all training rows together: those of a client of whom nothing is known. [K]"""
        return array(self._model().pooled())

    @property
    def own_parts_(self) -> dict[str, Array]:
        """What clients have of their own besides proportions, by name; rows as `client_names_`. [clients, …] each

        With `method.personal` these are `personal`, the parameters of each client's net, and `weights`, how much the
        shared predictors count and, last, the net. Empty where clients have nothing of their own.
        """
        return {name: array(leaf) for name, leaf in self._model().own.items()}
