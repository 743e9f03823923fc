"""How good a fitted estimator is, and what is known about its proportions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import r2_score

from fedgmi.data import encode
from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.names import names_in
from fedgmi.data.scenarios.scenarios import wants_scale
from fedgmi.data.sources.arrays import by_row
from fedgmi.data.sources.frames import column_names
from fedgmi.diagnosis.fitting import fit
from fedgmi.diagnosis.intervals import proportion_intervals
from fedgmi.diagnosis.survey import merged_counts
from fedgmi.errors import ConfigError, DataError
from fedgmi.estimator.base import InferredWeights, Whose
from fedgmi.estimator.diagnosed import Diagnosed, diagnosed
from fedgmi.estimator.foreign import Asked, Labelled, rows_in
from fedgmi.estimator.inputs import federation_of, weights_of
from fedgmi.estimator.newcomers import Newcomers
from fedgmi.mixture.matching import match_components
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.modes import own_modes
from fedgmi.runs import metrics
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup
from fedgmi.runs.whose import Array

SCORED = {"classification": "accuracy", "regression": "r2", "survival": "c_index"}
"""What `score` gives, by task."""


class Judging(Newcomers):
    """Scores, evaluations and diagnoses."""

    weights_: Array
    _interval: Array | None
    client_names_: tuple[str, ...]

    def _config(self) -> Config:
        raise NotImplementedError

    def score(
        self,
        X: Any,
        y: npt.ArrayLike | None = None,
        *,
        client: Whose | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """How good the model is on rows: the accuracy, or without labels the mean log density.

        For regression it is R², and for survival the C-index.

        Args:
            X: Rows, in their own units [n, *shape], or a federation: then it is the mean over its clients,
                and not over all rows together.
            y: Their labels, or the table's column of them; None: the column that the federation's table had. [n]
            client: See `predict`.
            sample_weight: How much each row counts; None: all the same. [n]

        Returns:
            A share of 1, or nats per row. More is better, and 1 is the most that an accuracy and R² can be. NaN where
            it means nothing: R² of one target, the C-index of times without an order that is known.

        Raises:
            DataError: For rows, labels or a client that the model does not know, missing labels, and weights below 0.
        """
        if isinstance(X, Federation):
            if sample_weight is not None:
                fix = "leave it out, or give rows"
                raise DataError("a federation's clients all count the same", where="score, sample_weight", fix=fix)
            task = self._model().schema.task
            scored = SCORED[task] if task != "classification" or len(self.classes_) else "log_density"
            means = self.evaluate(X)["mean"]
            if scored not in means:
                raise DataError("there are no labels to score against", where="score", fix="give a federation with y")
            return float("nan") if means[scored] is None else float(means[scored])
        schema = self._model().schema
        if not schema.labelled:
            logs = self.score_samples(X, client=client)
            return float(np.average(logs, weights=weights_of(sample_weight, len(logs))))
        y = self._known_labels(X, y)
        if y is None:
            raise DataError("there are no labels to score against", where="score", fix="give y")
        if schema.task == "regression":
            target = np.asarray(encode.labels(y, schema, len(by_row(y, "y"))).numpy(), dtype=float)
            weights = weights_of(sample_weight, len(target))
            return float(r2_score(target, self.predict(X, client=client), sample_weight=weights))
        if schema.task == "survival":
            if sample_weight is not None:
                raise DataError("the C-index has no weights", where="score", fix="leave sample_weight out")
            both = encode.labels(y, schema, len(by_row(y, "y")))
            score = metrics.measure(self._predictions(X, client), both, task="survival")["c_index"]
            return float("nan") if score is None else score
        found = self.predict_log_proba(X, client=client).argmax(1)
        numbers = encode.labels(y, schema, len(found)).numpy()
        return float(np.average(found == numbers, weights=weights_of(sample_weight, len(found))))

    def evaluate(self, X: Any, y: Any = None, *, groups: Any = None) -> dict[str, Any]:
        """How good each client's predictor is, on rows that training did not see.

        Args:
            X: A federation, or what else `fit` takes; a table may come alone where it has the columns of clients and
                labels that the model was fitted to. Held-out rows count. Where there are none, all rows count: give the
                second part of `Federation.split`, and not what the model was fitted to. A client that the model does
                not know is a newcomer. Where there are held-out rows, it is welcomed with its other ones, and has a
                part of its own if they have labels (see `welcome`). Elsewhere its proportions come from the rows that
                count, labels not seen.
            y: See `fit`.
            groups: See `fit`.

        Returns:
            `clients`: for each its `name`, `rows`, whether it is a `newcomer`, its `log_density` (nats per row), and
            where there are labels the metrics of `fedgmi.runs.metrics`: accuracy, balanced_accuracy, macro_f1, auc,
            log_loss, calibration_error; for regression rmse, mae, r2, nll, coverage; for survival c_index. `mean` and
            `worst_tenth` of these over clients. `per_class`, over all rows.
            What means nothing is None.

        Raises:
            DataError: For a federation with other columns or labels, or of another task.

        Examples:
            >>> import numpy as np
            >>> from fedgmi import FedGMI
            >>> rng = np.random.default_rng(0)
            >>> clients = [(x := rng.normal(size=(60, 2)), (x[:, 0] > 0).astype(int)) for _ in range(4)]
            >>> train, test = Federation.from_arrays(clients).split(0.25)
            >>> found = FedGMI(1, rounds=2, verbose=0).fit(train).evaluate(test)
            >>> [client["rows"] for client in found["clients"]], sorted(found["mean"])[:3]
            ([15, 15, 15, 15], ['accuracy', 'auc', 'balanced_accuracy'])
        """
        schema, clients, logs, labels = self._model().schema, [], [], []
        for name, (x, numbers), other in self._rows_of_clients(X, y, groups):
            known = name in self.client_names_
            line: dict[str, Any] = {"name": name, "rows": len(x), "newcomer": not known}
            with self._own_order():
                whose: Any = name if known else self._newcomer(x, other)
                line["log_density"] = float(self.score_samples(x, client=whose).mean())
                if numbers is not None and schema.labelled:
                    logs.append(self._predictions(x, whose))
                    labels.append(numbers)
                    line |= metrics.measure(logs[-1], numbers, task=schema.task)
            clients.append(line)
        names = [name for name in clients[0] if name not in ("name", "rows", "newcomer")]
        values = {name: [line[name] for line in clients] for name in names}
        found = {"clients": clients, "mean": {name: metrics.mean(values[name]) for name in names}}
        found["worst_tenth"] = {
            name: metrics.METRICS[name].worst_tenth(values[name]) for name in names if name in metrics.METRICS
        }
        classes = [str(label) for label in self.classes_.tolist()]
        found["per_class"] = []
        if logs and schema.n_classes:
            found["per_class"] = metrics.per_class(np.concatenate(logs), np.concatenate(labels), classes)
        return found

    def diagnose(self, X: Any, y: Any = None, *, groups: Any = None) -> Diagnosed:
        """What `fedgmi diagnose` says of a federation: nothing is trained, and clients are asked for counts alone.

        Args:
            X: A federation, or what else `fit` takes; see `evaluate`. Its clients' training rows count.
            y: See `fit`.
            groups: See `fit`.

        Returns:
            The diagnosis for the model's number of components, by the names that `diagnosis.json` has; printed, it is
            in words. Where the clients are those of the model, components are numbered as the model's. A model that is
            not fitted yet asks for its `n_components`, and "auto" for as many as the counts show.

        Raises:
            ConfigError: For more components than clients, and for counts with noise (`method.epsilon`).
            DataError: For rows that cannot be used.
        """
        federation = self._federation(X, y, groups)
        check_federation(federation)
        config = self._fitted.config if self.__sklearn_is_fitted__() else self._config()
        if getattr(config.method, "epsilon", None) is not None:
            raise ConfigError(
                "the test and intervals are made for exact counts", where="method.epsilon", fix="unset it"
            )
        asked = config.method.n_components
        k = self.n_components_ if self.__sklearn_is_fitted__() else asked if isinstance(asked, int) else None
        like = self.weights_ if self.__sklearn_is_fitted__() and federation.names == self.client_names_ else None
        standardise = wants_scale(config.data, config.scenario, federation.schema)
        with own_modes(config.threads):
            setup = Setup(config, federation.schema, 1, standardise)
            return diagnosed(setup, federation, k, like, estimated=not isinstance(asked, int))

    def _newcomer(self, x: Array, other: Labelled | None) -> InferredWeights:
        """Who a client is that was not there: by other rows than those that count, if it has some."""
        if other is None:
            return self.infer_weights(x)
        with self._asked() as model:
            y = None if other.y is None or not model.schema.labelled else torch.from_numpy(other.y)
            return self._welcomed(model.rows(self._features(other.x), y))

    def _rows_of_clients(self, X: Any, y: Any, groups: Any) -> Iterator[Asked]:
        """Each client's rows and class numbers. A table is read as `predict` reads it, by the model's rule."""
        model = self._model()
        names = None if isinstance(X, Federation) or isinstance(groups, str) else self._whose(X, groups)
        if names is None or isinstance(y, str) or not column_names(X):
            yield from rows_in(self._federation(X, y, groups), model.schema, self._scale())
            return
        rows, y = self._features(X).numpy(), self._known_labels(X, y)
        found = names_in(by_row(names, "groups"), where="groups")
        numbers = None
        if y is not None and model.schema.labelled:
            numbers = encode.labels(y, model.schema, len(rows)).numpy()
        there = set(found.tolist())
        for name in (*(name for name in model.names if name in there), *sorted(there - {*model.names})):
            mine = np.flatnonzero(found == name)
            yield Asked(name, Labelled(rows[mine], None if numbers is None else numbers[mine]))

    def _federation(self, X: Any, y: Any, groups: Any) -> Federation:
        """What is meant; a table's own columns of clients and labels are those that the model was fitted to."""
        if isinstance(X, Federation):
            return federation_of(X, y, groups)
        known = self.__sklearn_is_fitted__()
        data = self._fitted.schema if known else self._config().data
        if known and groups is None:
            columns = column_names(X)
            column, label = self._fitted.client_column, self._fitted.label_column
            groups = column if column in columns else None
            y = label if y is None and groups is not None and label in columns else y
        return federation_of(X, y, groups, data.missing, data.task)

    @property
    def weights_interval_(self) -> Array:
        """Intervals that hold 90% of the true proportions, as an average over clients, from the clients' counts alone.

        They are made when first asked for, in a second or so, by simulation; see `fedgmi.diagnosis.intervals`. Where
        all clients have the pooled proportions, all intervals are one: what simulated clients' shares may be. The
        counts are not saved, so a model that was loaded has none: `diagnose(federation)` has them at any time.
        """
        model = self._model()
        if model.counts is None or getattr(model.config.method, "epsilon", None) is not None:
            fix = "ask diagnose(federation), which has them as intervals"
            raise AttributeError(
                f"weights_interval_: this model has no exact counts of its clients. Likely fix: {fix}."
            )
        if self._interval is None:
            counts = merged_counts(model.counts, model.schema).double()
            shown = estimate_components(counts, model.config.seed).n_components
            fitted, of_rows = fit(counts, model.n_components, model.config.seed, shown=shown, cells=model.cells)
            order = match_components(fitted.proportions, torch.from_numpy(self.weights_))
            pooled = bool((self.weights_ == self.weights_[:1]).all())
            seed = model.config.seed
            intervals = proportion_intervals(counts, fitted, seed, pooled=pooled, rows_decide=of_rows)
            self._interval = intervals[:, torch.as_tensor(order)].numpy()
        return self._interval
