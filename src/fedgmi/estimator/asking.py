"""What a fitted estimator answers row by row, and about newcomers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fedgmi.errors import DataError
from fedgmi.estimator.base import Base, InferredWeights, Whose, array
from fedgmi.estimator.parameters import whole
from fedgmi.runs.whose import Array


class Asking(Base):
    """Predictions, responsibilities, densities and newcomers. What is said of a row depends on no other row."""

    def predict(self, X: npt.ArrayLike, *, client: Whose | None = None) -> Array:
        """The likeliest label of each row, by the client's own predictor.

        Args:
            X: Rows, in their own units: a table with the federation's columns, or an array. [n, *shape]
            client: A name in `client_names_`, a name for each row [n], or proportions [K] such as `infer_weights`
                returns. A whole number is a name, too; where no client's name is one, it is a place in `client_names_`.
                None: the column of clients that the table has, as the federation's table had it.

        Returns:
            Labels. [n]

        Raises:
            DataError: For rows or a client that the model does not know, or without labels in the federation.
        """
        probabilities = self.predict_proba(X, client=client)
        labels: Array = self.classes_[probabilities.argmax(1)]
        return labels

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
        with self._asked() as model:
            if not model.schema.n_classes:
                fix = "fit a federation with labels; densities and proportions need none"
                raise DataError("there are no experts: the federation had no labels", where="FedGMI.predict", fix=fix)
            features = self._features(X)
            logs = np.empty((len(features), model.schema.n_classes), dtype=np.float32)
            for rows, who in self._clients(X, client, len(features)):
                state = model.state(torch.from_numpy(who.weights), who.place)
                some = model.rows(features[torch.from_numpy(rows)])
                logs[rows] = array(model.method.predictor.predict(model.server, state, some))
        return logs

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

    def infer_weights(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> InferredWeights:
        """The proportions of a client that was not there, from its rows. Nothing is trained.

        Where the p_k(x) coincide, rows without labels say nothing. `identified` is then False, and the weights are the
        pooled proportions.

        Args:
            X: Its rows, in their own units. [n, *shape]
            y: Their labels; None: they are not known. [n]

        Returns:
            Proportions, and how well they are known.

        Raises:
            DataError: For rows or labels that the model does not know.
        """
        with self._asked() as model:
            found = model.infer(self._rows(X, y))
        return InferredWeights(array(found.proportions), found.identified, array(found.standard_errors))
