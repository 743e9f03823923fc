"""What all parts of the estimator know: the fitted model behind it, and how rows and clients are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn.exceptions
from torch import Tensor

from fedgmi.data import encode
from fedgmi.data.missing import marked_numbers
from fedgmi.data.names import names_in
from fedgmi.data.rows import Rows
from fedgmi.data.sources.frames import column_names, left_out, values_of
from fedgmi.data.sources.row_order import refuse_other_order
from fedgmi.errors import DataError, FedgmiWarning
from fedgmi.modes import own_modes
from fedgmi.runs import fitted
from fedgmi.runs.whose import Array, Member, by_client
from fedgmi.tree import Tree


class ConvergenceWarning(FedgmiWarning, sklearn.exceptions.ConvergenceWarning):  # type: ignore[misc]
    """The bound still rose when the rounds were over. scikit-learn's warning of that name, and one of ours."""


@dataclass(frozen=True)
class InferredWeights:
    """What is known of a client that was not there. `numpy.asarray` of it is `weights`, its proportions by the E-step.

    Attributes:
        weights: The proportions. [K]
        identified: Whether these rows tell its proportions. Where rows of their kind cannot, the weights are the pooled
            ones; where they are too few, the weights lie between.
        standard_errors: Of the weights, the components taken as known. [K]
        own: The part of its own that `welcome` trained, by which it predicts; empty where there is none.
    """

    weights: Array
    identified: bool
    standard_errors: Array
    own: Tree = field(default_factory=dict, repr=False, compare=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.weights, dtype=dtype)


Whose = str | int | InferredWeights | npt.ArrayLike


class Base:
    """A fitted model, and what it is asked about."""

    _fitted: fitted.Fitted
    classes_: Array
    n_components_: int
    _order_told: bool = False

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted")

    def _model(self) -> fitted.Fitted:
        if not self.__sklearn_is_fitted__():
            raise sklearn.exceptions.NotFittedError(
                f"this {type(self).__name__} is not fitted yet. "
                "Likely fix: call fit(federation), or FedGMI.load(folder)."
            )
        return self._fitted

    @contextmanager
    def _asked(self) -> Iterator[fitted.Fitted]:
        """The model, for as long as it is asked: modes of the process are as it needs them."""
        model = self._model()
        with own_modes():
            yield model

    def _scale(self) -> tuple[Array, Array] | None:
        """Mean and deviation of the features, where rows are standardised. [D] each"""
        scale = self._model().scale
        return None if scale is None else (array(scale.mean), array(scale.std))

    def _rows(self, x: Any, y: Any = None) -> Rows:
        refuse_other_order(x, y, "y", "y")
        model, features = self._model(), self._features(x)
        labels = None if y is None else encode.labels(y, model.schema, len(features))
        return model.rows(features, labels)

    def _features(self, x: Any) -> Tensor:
        """Rows as the model takes them. [n, *shape]"""
        model = self._model()
        features = encode.features(x, model.schema, where="X")
        strange = left_out(x, model.schema, (model.client_column, model.label_column))
        if strange:
            told = f"X has {'columns' if len(strange) > 1 else 'a column'} {', '.join(map(repr, strange[:5]))}"
            told += ", …" if len(strange) > 5 else ""
            warnings.warn(FedgmiWarning(f"{told}, which the federation did not have: left out"), stacklevel=4)
        self._tell_order(x)
        return features

    def _tell_order(self, x: Any) -> None:
        """Warn once where the model knows its columns by name, and rows come without names."""
        if not hasattr(self, "feature_names_in_") or self._order_told or column_names(x):
            return
        self._order_told = True
        features = self._model().schema.features
        plain = [name for name in features if name not in marked_numbers(features)]
        order = ", ".join(plain[:8]) + (", …" if len(plain) > 8 else "")
        told = f"X has no column names; the columns are taken in the order {order}"
        warnings.warn(FedgmiWarning(f"{told}. Likely fix: give a table with these columns"), stacklevel=5)

    @contextmanager
    def _own_order(self) -> Iterator[None]:
        """For as long as rows without names are the estimator's own, in the order of its features."""
        told, self._order_told = self._order_told, True
        try:
            yield
        finally:
            self._order_told = told

    def _clients(self, X: Any, client: Any, n_rows: int) -> Iterator[tuple[Array, Member]]:
        """Rows by client, and whose they are. Without a client, a table's own column says whose they are."""
        named = self._whose(X, client)
        if named is None:
            fix = 'say client="name", a name for each row, or proportions: infer_weights(X), or pooled_weights_'
            raise DataError("nobody says whose rows these are", where="client", fix=fix)
        return by_client(self._model(), named, n_rows)

    def _whose(self, X: Any, client: Any) -> Any:
        """Who is meant: as given, else by the table's column of clients; None where nobody says."""
        refuse_other_order(X, client, "client", "client")
        column = self._model().client_column
        if client is not None or column is None or column not in column_names(X):
            return client
        return names_in(values_of(X, column), where=f"column {column!r}")

    def labels_in(self, X: Any, y: Any = None) -> Any:
        """The labels that `score` and `infer_weights` take for those of rows.

        Args:
            X: Rows, in their own units. [n, *shape]
            y: Their labels, or the table's column of them; None: the column that the federation's table had.

        Returns:
            Labels as they were given [n]; None where there are none.

        Raises:
            DataError: For a column that X does not have.
        """
        return self._known_labels(X, y)

    def _known_labels(self, X: Any, y: Any) -> Any:
        """The labels as given or as the table's column of that name has them, else those of its own column."""
        refuse_other_order(X, y, "y", "y")
        if isinstance(y, str):
            if not column_names(X):
                fix = "give a table with that column, or a label for each row"
                raise DataError(f"rows without named columns have no column {y!r}", where="y", fix=fix)
            return values_of(X, y)
        column = self._model().label_column
        if y is not None or column is None or column not in column_names(X):
            return y
        return values_of(X, column)


def array(tensor: Tensor) -> Array:
    """A tensor as an array of NumPy's."""
    return np.asarray(tensor.detach().cpu().numpy())
