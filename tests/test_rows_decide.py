"""A federation of two blobs in which nobody is pure, from the estimator to the summary and the diagnosis."""

from __future__ import annotations

import numpy as np
import pytest

from fedgmi import FedGMI

SHARES = np.linspace(0.41, 0.96, 12)


@pytest.fixture(scope="module")
def clients():
    rng = np.random.default_rng(0)
    which = rng.random((12, 200)) < SHARES[:, None]
    return [(rng.normal(size=(200, 4)) + 8.0 * own[:, None] * np.eye(4)[0]).astype(np.float32) for own in which]


def fitted(clients, preset: str, **settings) -> FedGMI:
    own = {"method.personal": False} | {f"method.{key}": value for key, value in settings.items()}
    return FedGMI(n_components=2, rounds=2, epochs=1, random_state=0, preset=preset, settings=own).fit(clients)


def off(shares: np.ndarray) -> float:
    """How far they are from the shares that were drawn, whichever blob is the first."""
    return min(float(np.abs(first - SHARES).mean()) for first in shares.T)


@pytest.mark.parametrize(("preset", "own"), [("sketch", {}), ("default", {}), ("default", {"judges": "closed"})])
@pytest.mark.filterwarnings("ignore")
def test_no_stage_undoes_what_rows_decide(clients, preset, own):
    model = fitted(clients, preset, **own)
    assert model.rows_decide_
    assert off(model.weights_) < 0.04  # rows drawn at random are as far


@pytest.mark.filterwarnings("ignore")
def test_a_diagnosis_agrees_with_the_fit_and_says_so(clients):
    model = fitted(clients, "sketch")
    found = model.diagnose(clients)
    assert found["rows_decide"]
    np.testing.assert_allclose(found["proportions"], model.weights_, atol=1e-6)
    assert "Rows show just 2 clusters" in " ".join(repr(found).split())
    low, high = np.moveaxis(np.array(found["proportion_intervals"]), 2, 0)
    assert np.mean((low <= model.weights_) & (model.weights_ <= high)) == 1
    np.testing.assert_allclose(model.weights_interval_[..., 0], low, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_counts_with_noise_leave_rows_no_say(clients):
    assert not fitted(clients, "sketch", epsilon=5.0).rows_decide_


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_knows_it(clients, tmp_path):
    fitted(clients, "sketch").save(tmp_path / "model")
    assert FedGMI.load(tmp_path / "model").rows_decide_
