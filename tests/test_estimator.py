"""`FedGMI`, as those meet it who know scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fedgmi import Federation, FedGMI
from fedgmi.errors import CheckpointError, ConfigError, DataError, FedgmiWarning

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.5, 0.1)
SMALL = {
    "density.hidden": 16,
    "density.latent": 2,
    "expert.hidden": 16,
    "method.codewords": 8,
    "method.personal": False,  # all rows train the shared mixture
}


def two_blobs(shares=SHARES, rows=80, seed=0):
    """Clients between two blobs in the plane; which blob a row is of decides what its label means."""
    rng = np.random.default_rng(seed)
    clients, truth = [], []
    for share in shares:
        blob = rng.random(rows) < share
        side = rng.random(rows) < 0.5
        x = rng.normal(0.0, 1.0, (rows, 2)) + np.stack([6.0 * blob, 4.0 * side], 1)
        clients.append((x, np.where(side ^ blob, "yes", "no")))
        truth.append(blob.mean())
    return clients, np.array(truth)


CLIENTS, TRUTH = two_blobs()


def new(**parameters):
    return FedGMI(**{"n_components": 2, "rounds": 8, "learning_rate": 1e-2, "settings": SMALL} | parameters)


@pytest.fixture(scope="module")
def model():
    return new().fit(Federation.from_arrays(CLIENTS))


@pytest.fixture(scope="module")
def blob(model):
    """The component that stands for the right-hand blob."""
    return int(np.corrcoef(model.weights_[:, 0], TRUTH)[0, 1] < 0)


def test_without_densities_nothing_is_drawn_or_scored():
    """Where judges need none they may be left out; where rows are judged by them they may not."""
    bare = new(rounds=2, settings=SMALL | {"method.reference_rounds": 0}).fit(Federation.from_arrays(CLIENTS))
    assert bare.bound_ is None
    assert bare.weights_.shape == (8, 2)
    for ask in (lambda: bare.sample(component=0), lambda: bare.score_samples(CLIENTS[0][0])):
        with pytest.raises(ConfigError, match=r"method.reference_rounds: densities were trained in no round"):
            ask()
    judged = SMALL | {"method.reference_rounds": 0, "method.judges": "density"}
    with pytest.raises(ConfigError, match=r"method.reference_rounds: it is 0, so densities would never be trained"):
        new(rounds=2, settings=judged).fit(Federation.from_arrays(CLIENTS))


def test_proportions_are_recovered(model, blob):
    assert model.weights_.shape == (8, 2)
    assert model.n_components_ == 2
    np.testing.assert_allclose(model.weights_.sum(1), 1.0)
    assert np.abs(model.weights_[:, blob] - TRUTH).mean() < 0.06


def test_responsibilities_tell_the_blobs_apart(model, blob):
    x = np.array([[0.0, 0.0], [6.0, 4.0]])
    resp = model.predict_components(x, client=6)
    np.testing.assert_allclose(resp.sum(1), 1.0)
    assert resp[0, blob] < 0.2
    assert resp[1, blob] > 0.8


def test_each_client_has_its_own_predictor(model):
    right = []
    for i, (x, y) in enumerate(two_blobs(seed=1)[0]):
        assert set(model.predict(x, client=i)) <= {"no", "yes"}
        right.append((model.predict(x, client=i) == y).mean())
        np.testing.assert_allclose(model.predict_proba(x, client=i).sum(1), 1.0, atol=1e-5)
    assert np.mean(right) > 0.9


def test_a_client_may_be_named_or_numbered_or_given_by_its_proportions(model):
    x = CLIENTS[2][0]
    by_name = model.predict_proba(x, client=model.client_names_[2])
    np.testing.assert_array_equal(by_name, model.predict_proba(x, client=2))
    np.testing.assert_array_equal(by_name, model.predict_proba(x, client=model.weights_[2]))


def test_densities_are_of_the_rows_own_units(model):
    """Twice the unit, half the density: rows measured in other units differ by log 2 per column, and nothing else."""
    x = CLIENTS[3][0]
    scaled = [(np.asarray(features) * 2.0, y) for features, y in CLIENTS]
    other = new().fit(Federation.from_arrays(scaled))
    ours, theirs = model.score_samples(x).mean(), other.score_samples(x * 2.0).mean()
    assert ours - theirs == pytest.approx(2 * np.log(2.0), abs=0.15)
    assert model.score_samples(x + 40.0).max() < model.score_samples(x).min()


def test_more_samples_tighten_the_bound(model):
    x = np.concatenate([x for x, _ in CLIENTS + two_blobs(seed=5)[0]])
    one, many = (model.score_samples(x, n_samples=n).mean() for n in (1, 64))
    assert many > one


def test_a_client_is_scored_under_its_own_mixture(model):
    logs = model.component_log_prob(CLIENTS[0][0])
    expected = np.log((np.exp(logs) * model.weights_[0]).sum(1))
    np.testing.assert_allclose(model.score_samples(CLIENTS[0][0], client=0), expected, rtol=1e-6)


def test_samples_come_from_their_component(model, blob):
    right, left = model.sample(400, component=blob), model.sample(400, component=1 - blob)
    assert right.shape == (400, 2)
    assert right[:, 0].mean() == pytest.approx(6.0, abs=1.0)
    assert left[:, 0].mean() == pytest.approx(0.0, abs=1.0)


def test_a_newcomer_is_weighed_by_its_rows_alone(model, blob):
    clients, truth = two_blobs((0.3, 0.9), rows=400, seed=2)
    for (x, y), share in zip(clients, truth, strict=True):
        for found in (model.infer_weights(x), model.infer_weights(x, y)):
            assert found.identified
            assert found.weights[blob] == pytest.approx(share, abs=0.08)
            assert 0.01 < found.standard_errors[blob] < 0.06
        np.testing.assert_array_equal(np.asarray(found), found.weights)
        assert (model.predict(x, client=found) == y).mean() > 0.9


def test_rows_without_labels_cannot_tell_what_differs_in_labels_alone():
    """The same x everywhere, and two ways to name it: π̄ and `identified=False`, instead of an invention."""
    rng = np.random.default_rng(3)
    clients = []
    for share in SHARES:
        x = rng.normal(0, 1, (120, 2))
        clients.append((x, (x[:, 0] > 0) ^ (rng.random(120) < share)))
    model = new().fit(Federation.from_arrays([(x, y.astype(int)) for x, y in clients]))
    x, y = clients[-1]
    blind, seeing = model.infer_weights(x), model.infer_weights(x, y.astype(int))
    assert not blind.identified
    assert seeing.identified
    assert abs(seeing.weights[0] - 0.5) > abs(blind.weights[0] - 0.5) + 0.2


def test_without_labels_there_are_densities_and_proportions():
    settings = {key: value for key, value in SMALL.items() if not key.startswith("expert.")}
    model = new(settings=settings).fit(Federation.from_arrays([x for x, _ in CLIENTS]))
    assert np.abs(np.corrcoef(model.weights_[:, 0], TRUTH)[0, 1]) > 0.95
    assert model.score_samples(CLIENTS[0][0]).shape == (80,)
    assert len(model.classes_) == 0
    with pytest.raises(DataError, match="no experts"):
        model.predict(CLIENTS[0][0], client=0)
    with pytest.raises(DataError, match="had no labels"):
        model.infer_weights(*CLIENTS[0])


def test_how_many_components_can_be_left_to_the_data():
    federation = Federation.from_arrays(two_blobs(rows=200)[0])
    model, asked = (new(n_components=k, rounds=1).fit(federation) for k in ("auto", 2))
    assert model.n_components_ == 2
    np.testing.assert_array_equal(model.weights_, asked.weights_)
    assert (model.bytes_down_, model.bytes_up_) == (asked.bytes_down_, asked.bytes_up_)


def test_a_budget_is_told_by_the_model_and_its_copy(tmp_path):
    """Of clients that all cost the same, and have no labels: no experts travel."""
    clients = [np.random.default_rng(i).normal(4.0 * (i % 2), 1.0, (40, 2)) for i in range(4)]
    few = {"n_components": 2, "rounds": 3, "epochs": 1, "verbose": 0}
    model = FedGMI(**few, settings={"communication.mb_per_client": 0.5}).fit(clients)
    found = model.budget_
    assert (model.bytes_down_ + model.bytes_up_) / 4e6 == pytest.approx(found["most_mb"])
    assert found["most_mb"] <= 0.5
    assert found["plan"].startswith("Budget of fedgmi: 0.5 MB a client.")
    assert found["kept"].endswith("Nobody sat out.")
    assert FedGMI.load(model.save(tmp_path / "model")).budget_ == found
    assert FedGMI(**few, preset="sketch").fit(clients).budget_ is None


def test_the_seed_decides(model):
    again = new().fit(Federation.from_arrays(CLIENTS))
    np.testing.assert_array_equal(again.weights_, model.weights_)
    assert np.abs(new(seed=1).fit(Federation.from_arrays(CLIENTS)).weights_ - model.weights_).max() > 1e-6


def test_parameters_are_scikit_learns(model):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "weights_")
    assert copy.set_params(n_components=4).n_components == 4
    with pytest.raises(NotFittedError, match="fit"):
        copy.predict(CLIENTS[0][0], client=0)


def test_a_saved_model_answers_as_before(model, tmp_path):
    found = FedGMI.load(model.save(tmp_path / "model"))
    x, y = CLIENTS[1]
    np.testing.assert_array_equal(found.weights_, model.weights_)
    np.testing.assert_array_equal(found.predict_proba(x, client=1), model.predict_proba(x, client=1))
    np.testing.assert_array_equal(found.score_samples(x), model.score_samples(x))
    np.testing.assert_array_equal(found.infer_weights(x, y).weights, model.infer_weights(x, y).weights)
    np.testing.assert_array_equal(found.sample(3, component=0), model.sample(3, component=0, seed=0))
    assert found.get_params() == model.get_params()
    assert sorted(path.suffix for path in (tmp_path / "model").iterdir()) == [".json", ".safetensors"]


def test_a_saved_model_holds_nothing_of_single_clients_but_their_proportions(model, tmp_path):
    import safetensors.torch

    tensors = safetensors.torch.load_file(model.save(tmp_path) / "model.safetensors")
    per_client = [name for name, leaf in tensors.items() if leaf.ndim and leaf.shape[0] == len(CLIENTS)]
    assert [name for name in per_client if not name.startswith("server/")] == ["proportions"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0, "fedgmi": "0.0.1"}, r"format 0 \(fedgmi 0\.0\.1\).*fit it anew"),
        ({"format": 2}, "format 2 .*reads format 3.*fit it anew"),
        ({"names": None}, "lacks names"),
        ({"sha256": "0"}, "damaged or was changed"),
        ({"tensors": None}, "no model of fedgmi"),
    ],
)
def test_models_of_another_version_or_damaged_are_refused(model, tmp_path, change, message):
    path = model.save(tmp_path) / "model.json"
    meta = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    with pytest.raises(CheckpointError, match=message):
        FedGMI.load(tmp_path)


def test_where_no_model_lies(tmp_path):
    with pytest.raises(CheckpointError, match="no model lies there"):
        FedGMI.load(tmp_path)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.predict(np.zeros((3, 5)), client=0), "3×5.*n×2"),
        (lambda m: m.predict(np.zeros(2), client=0), "n×2"),
        (lambda m: m.predict(np.zeros((0, 2)), client=0), "no rows"),
        (lambda m: m.predict(np.array([[np.nan, 0.0]]), client=0), "1 of 1 values are missing"),
        (lambda m: m.predict(np.array([["a", "b"]]), client=0), "not numbers"),
        (lambda m: m.predict(np.zeros((1, 2)), client="client-O1"), "did you mean 'client-01'"),
        (lambda m: m.predict(np.zeros((1, 2)), client=8), "no client 8"),
        (lambda m: m.predict(np.zeros((1, 2)), client=[0.9, 0.9]), "no proportions"),
        (lambda m: m.predict(np.zeros((1, 2)), client=[0.2, 0.3, 0.5]), "no proportions"),
        (
            lambda m: m.infer_weights(np.zeros((1, 2)), ["maybe"]),
            "'maybe' at row 0 is not among the federation's: no, yes",
        ),
        (lambda m: m.infer_weights(np.zeros((2, 2)), ["no"]), "one label per row"),
    ],
)
def test_rows_and_clients_it_was_not_fitted_on(model, ask, message):
    with pytest.raises(DataError, match=message):
        ask(model)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.sample(1, component=2), "no component 2"),
        (lambda m: m.sample(0, component=0), "at least 1"),
        (lambda m: m.score_samples(np.zeros((1, 2)), n_samples=0), "at least 1"),
        (lambda m: new(n_components=9).fit(Federation.from_arrays(CLIENTS)), "9 components"),
        (lambda m: new(n_components="many").fit(Federation.from_arrays(CLIENTS)), "'auto'"),
        (lambda m: new(rounds=0).fit(Federation.from_arrays(CLIENTS)), "rounds is 0"),
        (lambda m: new(settings={"method": {"name": "fedavg"}}).fit(Federation.from_arrays(CLIENTS)), "not fedavg"),
        (lambda m: new(settings={"method.name": "ifca"}).fit(Federation.from_arrays(CLIENTS)), "not ifca"),
        (lambda m: new(settings={"compare": {"ditto": {"mu": 1.0}}}).fit(Federation.from_arrays(CLIENTS)), "compare"),
        (lambda m: new(settings={"method.codeword": 8}).fit(Federation.from_arrays(CLIENTS)), "method.codewords"),
    ],
)
def test_parameters_out_of_range(model, ask, message):
    with pytest.raises(ConfigError, match=message):
        ask(model)


def test_torch_tensors_and_numpys_numbers_are_as_good(model):
    x = CLIENTS[0][0]
    np.testing.assert_allclose(
        model.predict_proba(torch.from_numpy(x), client=np.int64(0)), model.predict_proba(x, client=0), atol=1e-6
    )
    assert new(n_components=np.int64(2), rounds=1).fit(Federation.from_arrays(CLIENTS)).n_components_ == 2


@pytest.mark.parametrize("judges", ["closed", "density"])
def test_clients_that_differ_by_chance_alone_have_the_pooled_proportions_and_are_told_so(judges):
    alike = Federation.from_arrays(two_blobs((0.5,) * 8, rows=200)[0])
    with pytest.warns(FedgmiWarning, match=r"more than chance .* 1 component is shown\): every client has the pooled"):
        model = new(rounds=2, settings=SMALL | {"method.judges": judges}).fit(alike)
    np.testing.assert_allclose(model.weights_, 0.5)
    found = model.infer_weights(*two_blobs((0.9,), rows=50)[0][0])
    assert not found.identified
    np.testing.assert_allclose(found.weights, 0.5)


def test_one_component_is_estimated_where_the_data_show_no_more():
    alike = Federation.from_arrays(two_blobs((0.5,) * 8, rows=200)[0])
    with pytest.warns(FedgmiWarning, match="one component was estimated"):
        model = new(rounds=1, n_components="auto").fit(alike)
    assert model.n_components_ == 1
    np.testing.assert_array_equal(model.weights_, 1.0)


@pytest.mark.parametrize("way", [{"communication": {"precision": 4, "top": 0.5}}, {"communication.precision": 4}])
def test_models_travel_as_the_settings_say(way):
    federation = Federation.from_arrays(CLIENTS)
    plain, coded = (new(rounds=2, settings=SMALL | own).fit(federation) for own in ({}, way))
    assert coded.bytes_up_ < plain.bytes_up_
    assert coded.bytes_down_ < plain.bytes_down_
    np.testing.assert_allclose(coded.weights_, plain.weights_, atol=1e-6)  # they come from sums, before models
    with pytest.raises(ConfigError, match=r"communication\.mb_per_client"):
        new(rounds=2, settings=SMALL | {"communication.mb_per_client": 1e-4}).fit(federation)


def test_with_rows_for_validation_a_named_client_predicts_by_its_own_part(tmp_path):
    federation = Federation.from_arrays(CLIENTS).with_validation(0.2)
    small = {"expert.hidden": 4, "density.hidden": 4, "density.latent": 2, "method.codewords": 4}
    model = FedGMI(2, rounds=2, settings=small, verbose=0).fit(federation)
    x, name = CLIENTS[0][0], model.client_names_[0]
    own, shared = model.predict_proba(x, client=name), model.predict_proba(x, client=model.weights_[0])
    assert np.abs(own - shared).max() > 1e-3
    assert np.array_equal(FedGMI.load(model.save(tmp_path)).predict_proba(x, client=name), own)
    parts = model.own_parts_
    assert parts["personal"].shape[0] == len(parts["weights"]) == len(CLIENTS)
    np.testing.assert_allclose(parts["weights"].sum(1), 1.0)
    assert not new(rounds=1).fit(Federation.from_arrays(CLIENTS)).own_parts_
    with pytest.raises(DataError, match="the federation has rows for validation"):
        federation.with_validation()
