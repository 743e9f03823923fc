"""A client that was not there, and the part of its own that the estimator makes for it."""

from __future__ import annotations

import numpy as np
import pytest

from fedgmi import Federation, FedGMI
from fedgmi.errors import FedgmiWarning

SMALL = {"expert.hidden": 8, "density.hidden": 4, "density.latent": 2, "method.codewords": 4}


def of_angle(angle, rows, seed):
    """Rows of a client whose labels have a direction of its own, as nobody else's."""
    x = np.random.default_rng(seed).normal(0, 1, (rows, 2))
    return x, (x @ [np.cos(angle), np.sin(angle)] > 0).astype(int)


NAMES = [f"at {angle}" for angle in range(6)]
FEDERATION = Federation.from_arrays([of_angle(angle, 60, angle) for angle in range(6)], names=NAMES)
NEW, LATER = of_angle(3.6, 120, 20), of_angle(3.6, 200, 21)


@pytest.fixture(scope="module")
def model():
    new = FedGMI(2, rounds=2, learning_rate=3e-2, settings=SMALL, verbose=0)
    return new.fit(FEDERATION.with_validation(0.3))


def test_a_newcomer_with_labels_predicts_by_a_part_of_its_own(model, tmp_path):
    known, welcomed = model.infer_weights(*NEW), model.welcome(*NEW)
    np.testing.assert_array_equal(welcomed.weights, known.weights)
    x, y = LATER
    assert model.score(x, y, client=welcomed) > model.score(x, y, client=known) + 0.05
    again = FedGMI.load(model.save(tmp_path))
    found = again.predict_proba(x, client=again.welcome(*NEW))
    assert np.array_equal(found, model.predict_proba(x, client=welcomed))


def test_evaluate_welcomes_newcomers_with_the_rows_that_are_not_held_out(model):
    """Without held-out rows the labels are what is asked for, and nobody may learn from them."""
    known = Federation.from_arrays({"new": NEW}, held_out=[LATER])
    [line] = model.evaluate(known)["clients"]
    assert line["newcomer"]
    assert line["accuracy"] == pytest.approx(model.score(*LATER, client=model.welcome(*NEW)))
    [line] = model.evaluate({"new": LATER})["clients"]
    assert line["accuracy"] == pytest.approx(model.score(*LATER, client=model.infer_weights(LATER[0])))


def test_a_newcomer_without_labels_has_the_shared_mixture_and_is_told(model):
    with pytest.warns(FedgmiWarning, match="no labels: it has no part of its own"):
        blind = model.welcome(NEW[0])
    assert not blind.own
    known = model.infer_weights(NEW[0])
    assert np.array_equal(model.predict_proba(LATER[0], client=blind), model.predict_proba(LATER[0], client=known))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_newcomer_of_hardly_any_rows_stays_near_the_shared_mixture(model, rows):
    welcomed = model.welcome(NEW[0][:rows], NEW[1][:rows])
    assert float(welcomed.own["weights"][0, -1]) <= rows / (rows + 5)
    assert np.isfinite(model.predict_proba(LATER[0], client=welcomed)).all()
