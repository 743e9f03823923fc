"""The same answer whatever the order of rows and clients, and however often it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from fedgmi import Federation, FedGMI

ROWS = 60
SMALL = {"density.hidden": 8, "density.latent": 2, "expert.hidden": 8, "method.codewords": 6, "method.kmeans_rounds": 3}


def clients(n=6, rows=ROWS):
    rng = np.random.default_rng(0)
    made = []
    for share in np.linspace(0.1, 0.9, n):
        kind, x = rng.random(rows) < share, rng.normal(size=(rows, 2))
        made.append((x + 4 * kind[:, None], ((x[:, 0] > 0) ^ kind).astype(int)))
    return made


CLIENTS = clients()
X = np.concatenate([x for x, _ in CLIENTS])
Y = np.concatenate([y for _, y in CLIENTS])
WHOSE = np.repeat([f"client-{i:02d}" for i in range(6)], ROWS)
ORDER = np.random.default_rng(1).permutation(len(X))


@pytest.fixture(scope="module", params=["default", "plain"])
def model(request):
    settings = SMALL if request.param == "default" else {"density.hidden": 8, "density.latent": 2, "expert.hidden": 8}
    return FedGMI(2, rounds=2, epochs=1, verbose=0, preset=request.param, settings=settings).fit(CLIENTS)


BY_ROW = {
    "predict": lambda m, x, y, who: m.predict(x, client=who),
    "predict_proba": lambda m, x, y, who: m.predict_proba(x, client=who),
    "predict_components": lambda m, x, y, who: m.predict_components(x, client=who),
    "predict_components with labels": lambda m, x, y, who: m.predict_components(x, y, client=who),
    "log_ratios": lambda m, x, y, who: m.log_ratios(x),
    "log_ratios with labels": lambda m, x, y, who: m.log_ratios(x, y),
    "component_log_prob": lambda m, x, y, who: m.component_log_prob(x),
    "score_samples": lambda m, x, y, who: m.score_samples(x),
    "score_samples of clients": lambda m, x, y, who: m.score_samples(x, client=who),
}
OF_ALL = {
    "infer_weights": lambda m, x, y, who: m.infer_weights(x).weights,
    "infer_weights with labels": lambda m, x, y, who: m.infer_weights(x, y).weights,
    "score": lambda m, x, y, who: m.score(x, y, client=who),
}


@pytest.mark.parametrize("ask", BY_ROW)
def test_what_is_said_of_a_row_depends_on_no_other_row(model, ask):
    found = BY_ROW[ask](model, X, Y, WHOSE)
    shuffled = BY_ROW[ask](model, X[ORDER], Y[ORDER], WHOSE[ORDER])
    some = BY_ROW[ask](model, X[5:9], Y[5:9], WHOSE[5:9])
    tolerance = {"rtol": 0, "atol": 1e-4} if found.dtype.kind == "f" else {"atol": 0}
    np.testing.assert_allclose(shuffled, found[ORDER], **tolerance)
    np.testing.assert_allclose(some, found[5:9], **tolerance)


@pytest.mark.parametrize("ask", OF_ALL)
def test_what_is_said_of_all_rows_does_not_depend_on_their_order(model, ask):
    shuffled = OF_ALL[ask](model, X[ORDER], Y[ORDER], WHOSE[ORDER])
    np.testing.assert_allclose(shuffled, OF_ALL[ask](model, X, Y, WHOSE), atol=1e-5)


@pytest.mark.parametrize("ask", {**BY_ROW, **OF_ALL})
def test_asked_twice_the_answer_is_the_same_bits(model, ask):
    once, twice = ({**BY_ROW, **OF_ALL}[ask](model, X, Y, WHOSE) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_a_federation_does_not_depend_on_the_order_of_rows_of_a_table():
    import pandas as pd

    frame = pd.DataFrame({"ward": WHOSE, "u": X[:, 0], "v": X[:, 1], "y": Y})
    one = Federation.from_frame(frame, "ward", "y")
    other = Federation.from_frame(frame.iloc[ORDER], "ward", "y")
    assert one.names == other.names
    for a, b in zip(one, other, strict=True):
        assert sorted(a.x.tolist()) == sorted(b.x.tolist())
    scales = one.standardisation(), other.standardisation()
    np.testing.assert_allclose(scales[0].mean, scales[1].mean)
    np.testing.assert_allclose(scales[0].std, scales[1].std)


def test_an_evaluation_does_not_depend_on_the_order_of_clients(model):
    federation = Federation.from_arrays(CLIENTS)
    found, turned = (
        {line["name"]: line for line in model.evaluate(f)["clients"]}
        for f in (federation, federation.subset(federation.names[::-1]))
    )
    assert found == turned


def test_a_diagnosis_knows_the_same_proportions_in_any_order_of_clients():
    """Its starts are drawn anew, so it is the same to within what these say; twice it is the same bits."""
    federation = Federation.from_arrays(clients(6, 150))
    model = FedGMI(2, verbose=0)
    found, again = model.diagnose(federation), model.diagnose(federation)
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    turned = model.diagnose(federation.subset(federation.names[::-1]))
    one, other = np.array(found["proportions"]), np.array(turned["proportions"])[::-1]
    assert min(np.abs(one - other).mean(), np.abs(one - other[:, ::-1]).mean()) < 0.03
