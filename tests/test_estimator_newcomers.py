"""A client that was not there, and the part of its own that the estimator makes for it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fedgmi import Federation, FedGMI
from fedgmi.data.scenarios.aside import fifth_aside
from fedgmi.data.scenarios.truth import Scenario
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


def test_without_rows_for_validation_a_fifth_is_set_aside():
    """As if it had been given so: own parts are chosen by rows that nothing was trained on, and one line says it."""
    new = FedGMI(2, rounds=1, settings=SMALL, verbose=0)
    with pytest.warns(FedgmiWarning, match=r"nobody has rows for validation: a fifth.*with_validation\(0.2\)") as told:
        model = new.fit(FEDERATION)
    [line] = [str(one.message) for one in told if "nobody has rows for validation" in str(one.message)]
    assert f"72 of {sum(map(len, FEDERATION))}" in line
    assert model.own_parts_["weights"].shape == (len(FEDERATION), 6)
    aside = fifth_aside(Scenario(FEDERATION), seed=0).federation
    given = FedGMI(2, rounds=1, settings=SMALL, verbose=0).fit(aside)
    for name, leaf in given.own_parts_.items():
        assert np.array_equal(leaf, model.own_parts_[name])


def test_where_no_client_has_five_rows_all_have_the_shared_mixture():
    few = Federation.from_arrays([of_angle(angle, 4, angle) for angle in range(6)])
    with pytest.warns(FedgmiWarning, match=r"no part of their own. No client has the five rows"):
        model = FedGMI(2, rounds=1, settings=SMALL, verbose=0).fit(few)
    assert not model.own_parts_
    with pytest.warns(FedgmiWarning, match="neither has the newcomer: it gets proportions alone"):
        assert not model.welcome(*NEW).own
    shared = np.array([model.weights_[0]])[0]
    assert np.array_equal(model.predict_proba(NEW[0], client="client-00"), model.predict_proba(NEW[0], client=shared))


@pytest.mark.parametrize("meant", ["turned off", "no labels"])
def test_nothing_is_said_where_it_is_meant_or_is_not_so(meant, recwarn):
    settings = SMALL | ({"method.personal": False} if meant == "turned off" else {})
    federation = FEDERATION
    if meant == "no labels":
        settings = {name: value for name, value in SMALL.items() if not name.startswith("expert.")}
        federation = Federation.from_arrays([client.x.numpy() for client in FEDERATION])
    warnings.simplefilter("always")
    FedGMI(2, rounds=1, settings=settings, verbose=0).fit(federation)
    assert not [one for one in recwarn if "rows for validation" in str(one.message)]


@pytest.mark.parametrize("held", ["no rows", "one row", "one class"])
def test_a_client_may_have_hardly_any_rows_for_validation(held):
    """The others choose then, and it has a part of its own by their weights."""
    clients = [of_angle(angle, 60, angle) for angle in range(6)]
    x, y = NEW
    bad = {"no rows": (x[:0], y[:0]), "one row": (x[:1], y[:1]), "one class": (x[y == 1], y[y == 1])}[held]
    validation = [bad, *(of_angle(angle, 20, 30 + angle) for angle in range(1, 6))]
    federation = Federation.from_arrays(clients, validation=validation)
    model = FedGMI(2, rounds=1, settings=SMALL, verbose=0).fit(federation)
    probabilities = model.predict_proba(x, client="client-00")
    assert np.isfinite(probabilities).all()
    assert np.abs(probabilities - model.predict_proba(x, client=model.weights_[0])).max() > 1e-4


def test_who_has_a_single_row_keeps_it_for_training():
    federation = Federation.from_arrays([*(of_angle(angle, 40, angle) for angle in range(4)), of_angle(1, 1, 9)])
    model = FedGMI(2, rounds=1, settings=SMALL, verbose=0).fit(federation.with_validation(0.3))
    assert np.isfinite(model.predict_proba(NEW[0], client="client-04")).all()
