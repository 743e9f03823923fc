"""Clients that were not there: their proportions, and a part of their own."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy.typing as npt

from fedgmi.data.rows import Rows
from fedgmi.errors import FedgmiWarning
from fedgmi.estimator.asking import Asking
from fedgmi.estimator.base import InferredWeights, array

UNLABELLED = (
    "the newcomer's rows have no labels: it has no part of its own, and predicts by the shared mixture. "
    "Likely fix: give y, or ask infer_weights, which needs none"
)
NO_PARTS = (
    "clients of this model have no part of their own, and neither has the newcomer: it gets proportions alone, as by "
    "infer_weights. Likely fix: fit with rows for validation (federation.with_validation(0.2)) and method.personal"
)


class Newcomers(Asking):
    """What is made of the rows of a client that was not there. Nobody else changes by it."""

    def infer_weights(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> InferredWeights:
        """The proportions of a client that was not there, from its rows. Nothing is trained.

        Where the p_k(x) coincide, rows without labels say nothing. `identified` is then False, and the weights are the
        pooled proportions. So it is where the model comes of two clients, or where clients differ by chance alone.
        `identified` is False, too, where the rows are too few: fewer than three to five, more where they overlap.

        Args:
            X: Its rows, in their own units. [n, *shape]
            y: Their labels, or the name of the table's column of labels. None: those in the column of labels that the
                federation's table had, and where X has none, they are not known. [n]

        Returns:
            Proportions, and how well they are known.

        Raises:
            DataError: For rows or labels that the model does not know.
        """
        y = self._known_labels(X, y)
        with self._asked():
            return self._inferred(self._rows(X, y))

    def welcome(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> InferredWeights:
        """A client that was not there, with what those that were there have: proportions, and a part of its own.

        Its net is fine-tuned to its rows as theirs were, which takes seconds. The net joins the shared mixture with
        the weight ω̄ that all clients' rows for validation gave nets, times n/(n + 5): so few rows change little.
        Where the model has no own parts (nobody had rows for validation, or in survival they proved nothing), it is
        `infer_weights`.

        Args:
            X: Its rows, in their own units. [n, *shape]
            y: Their labels; None: those in the table's column of labels. [n]

        Returns:
            What `client=` takes: `predict(x, client=model.welcome(X, y))`.

        Raises:
            DataError: For rows or labels that the model does not know.

        Warns:
            FedgmiWarning: Where it gets no part of its own: there are no labels, or nobody has one.
        """
        y = self._known_labels(X, y)
        with self._asked() as model:
            found = self._welcomed(self._rows(X, y))
            if y is None and model.schema.labelled:
                warnings.warn(FedgmiWarning(UNLABELLED), stacklevel=2)
            elif not found.own:
                warnings.warn(FedgmiWarning(NO_PARTS), stacklevel=2)
            return found

    def _inferred(self, rows: Rows) -> InferredWeights:
        found = self._model().infer(rows)
        return InferredWeights(array(found.proportions), found.identified, array(found.standard_errors))

    def _welcomed(self, rows: Rows) -> InferredWeights:
        return replace(self._inferred(rows), own=self._model().welcome(rows))
