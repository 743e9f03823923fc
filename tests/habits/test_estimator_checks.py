"""scikit-learn's own checks of estimators, and those that are meant to fail; docs/estimator.md says the same."""

from __future__ import annotations

import unittest
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from fedgmi import FedGMI

DOCUMENT = Path(__file__).parents[2] / "docs" / "estimator.md"
SMALL = {"density.name": "gaussian", "expert.hidden": 4, "method.codewords": 4, "method.kmeans_rounds": 2}
EXPECTED = {
    "check_n_features_in_after_fitting": "the message has words of its own",
    "check_complex_data": "the message has words of its own",
    "check_estimators_empty_data_messages": "the message has words of its own",
    "check_fit2d_predict1d": "the message has words of its own",
    "check_classifiers_regression_target": "the message has words of its own",
    "check_estimator_sparse_array": "the message has words of its own",
    "check_estimator_sparse_matrix": "the message has words of its own",
    "check_dtype_object": "objects are no numbers, even where each of them is one",
    "check_classifier_data_not_an_array": "rows are an array or a table",
    "check_supervised_y_2d": "a column of labels is taken without a warning",
    "check_classifiers_train": "one round is no training",
    "check_array_api_input": "it is skipped without SCIPY_ARRAY_API",
}
"""Checks that do not apply, and why. One that passes after all is to be taken off the list."""


class AsOneTable(FedGMI):
    """The checks know no clients: rows go to three in turn, and are asked about under the pooled mixture."""

    def fit(self, X, y=None):
        return super().fit(X, y, groups=np.arange(getattr(X, "shape", [len(X)])[0]) % 3)

    def _whose(self, X, client):
        found = super()._whose(X, client)
        return self.pooled_weights_ if found is None else found


CHECKS = list(estimator_checks_generator(AsOneTable(1, rounds=1, epochs=1, verbose=0, settings=SMALL), legacy=True))


def name_of(check):
    return getattr(check, "func", check).__name__


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(len(CHECKS)), ids=[name_of(check) for _, check in CHECKS])
def test_scikit_learns_checks(place):
    estimator, check = CHECKS[place]
    if name_of(check) in EXPECTED:
        with pytest.raises((Exception, unittest.SkipTest)):
            check(estimator)
        return
    with warnings.catch_warnings():
        check(estimator)


def test_the_page_names_all_that_do_not_apply():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert not [name for name in EXPECTED if f"`{name}`" not in text]
    assert len(CHECKS) > 3 * len(EXPECTED)


def test_the_session_of_the_page_runs(capsys):
    block = DOCUMENT.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    assert names["model"].score(names["frame"]) > 0.6
    assert "How many components?" in capsys.readouterr().out
