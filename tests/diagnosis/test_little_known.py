"""Federations that say little, as a user has them: an answer with its width, and no false certainty."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from fedgmi import Federation, FedGMI
from fedgmi.errors import FedgmiWarning

SMALL = {"method.codewords": 6}
TINY = {"density.hidden": 8, "density.latent": 2, "expert.hidden": 8, "method.kmeans_rounds": 3}


def clients(sizes: list[int], *, one_class: bool = False, constant: bool = False, same: bool = False):
    """Rows of two columns and two classes, one kind for all."""
    rng, made = np.random.default_rng(0), []
    for n in sizes:
        rng = np.random.default_rng(0) if same else rng
        x = rng.normal(size=(n, 2)).astype(np.float32)
        x[:, 1] = 3.0 if constant else x[:, 1]
        made.append((x, np.zeros(n, dtype=int) if one_class else (x[:, 0] > 0).astype(int)))
    return Federation.from_arrays(made)


@pytest.mark.parametrize(
    "federation",
    [
        clients([60, 60]),
        clients([50] * 6, same=True),
        clients([1, 40, 40, 40, 40]),
        clients([1, 1, 1]),
        clients([40] * 6, one_class=True),
        clients([40] * 6, constant=True),
    ],
    ids=["two clients", "all alike", "a client of one row", "one row each", "one class", "a constant column"],
)
def test_clients_of_one_kind_are_one_component_whatever_they_lack(federation):
    found = FedGMI("auto", settings=SMALL, verbose=0).diagnose(federation)
    assert (found["n_components"], found["mixture_supported"]) == (1, True)
    assert found["own_scatter_interval"][0] <= found["own_scatter"] <= found["own_scatter_interval"][1]
    assert "One component" in repr(found)


def test_a_second_component_that_two_clients_are_asked_for_is_called_invented():
    found = FedGMI(2, settings=SMALL, verbose=0).diagnose(clients([60, 60]))
    assert any("invented" in warning for warning in found["warnings"])
    assert found["explained"] is None or found["explained_interval"][0] < 0.1
    told = repr(found)
    assert "2 components, as you asked. They leave nothing over, as of any 2 clients: that tells nothing." in told
    assert "Nobody can tell" in told
    assert "Nothing speaks against it" not in told


def two_kinds(sizes: list[int], shares: list[float], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two blobs ten deviations apart, of which clients hold such shares."""
    rng, made = np.random.default_rng(seed), []
    for n, share in zip(sizes, shares, strict=True):
        kind = rng.random(n) < share
        x = rng.normal(size=(n, 2)) + 10.0 * kind[:, None]
        made.append((x.astype(np.float32), (x[:, 0] > 10.0 * kind).astype(int)))
    return made


EIGHT = [0.05, 0.95, 0.1, 0.9, 0.2, 0.8, 0.3, 0.7]


def constant(made):
    return [(np.column_stack([x, np.full(len(x), 3.0)]), y) for x, y in made]


def of_one_class(made):
    return [(x, np.zeros(len(x), dtype=int)) for x, _ in made]


def with_a_word_of_its_own(made):
    """One client alone has a third kind of row."""
    (x, y), *others = made
    return [(np.concatenate([x, x[:30] - [[30.0, -30.0]]]), np.concatenate([y, y[:30]])), *others]


MANY = two_kinds([60] * 8, EIGHT)
CASES = {
    "two clients": (
        two_kinds([60, 60], [0.05, 0.95]),
        2,
        [False] * 2,
        "clients show 1: .* no client's are identified",
    ),
    "two clients alike": (two_kinds([60, 60], [0.5, 0.5]), 2, [False] * 2, "pooled"),
    "all alike": (two_kinds([60] * 8, [0.5] * 8), 2, [False] * 8, "every client has the pooled proportions"),
    "a client of one row": ([*MANY, (MANY[0][0][:1], MANY[0][1][:1])], 2, [True] * 8 + [False], "1 of 9 clients"),
    "one row each": (two_kinds([1] * 8, EIGHT), 2, [False] * 8, "pooled"),
    "a word of one client": (with_a_word_of_its_own(MANY), 2, [True] * 8, None),
    "one class": (of_one_class(MANY), 2, [True] * 8, None),
    "a constant column": (constant(MANY), 2, [True] * 8, None),
    "one": (MANY, 1, [True] * 8, None),  # then nobody looks how many there are
    "as many as clients": (MANY[:4], 4, None, "4 components were asked for, and the clients show"),
    "more than words": (MANY, 7, None, "7 components were asked for, and the clients show 2"),
}


def fit(n_components, clients, **settings):
    """A model of one round, and the lines that it said."""
    own = SMALL | {"method.judge_turns": 2, "method.calibration_steps": 2, "method.personal": False} | settings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = FedGMI(n_components, rounds=1, settings=TINY | own, verbose=0).fit(Federation.from_arrays(clients))
    return model, [str(line.message) for line in said if issubclass(line.category, FedgmiWarning)]


@pytest.mark.parametrize("name", CASES)
def test_a_run_has_an_answer_and_one_clear_line_and_no_false_certainty(name):
    clients, k, identified, line = CASES[name]
    model, said = fit(k, clients)
    np.testing.assert_allclose(model.weights_.sum(1), 1)
    assert np.isfinite(model.predict_proba(clients[0][0], client=0)).all()
    known = sum(
        bool(re.search("not identified|every client has the pooled|no client's are identified", text)) for text in said
    )
    assert known == (identified is not None and not all(identified)) or identified is None
    assert line is None or any(re.search(line, text) for text in said), said


@pytest.mark.parametrize("name", CASES)
def test_so_has_auto(name):
    clients, *_ = CASES[name]
    model, _ = fit("auto", clients)
    np.testing.assert_allclose(model.weights_.sum(1), 1)
    assert model.n_components_ <= max(1, len(clients) - 1)


def test_newcomers_are_identified_by_enough_rows_of_a_federation_that_is():
    x, y = two_kinds([40], [0.7], seed=5)[0]
    many, _ = fit(2, MANY)
    assert many.infer_weights(x, y).identified
    assert not many.infer_weights(x[:1], y[:1]).identified
    for k, clients in ((2, CASES["two clients"][0]), (3, MANY)):
        too_many, _ = fit(k, clients)
        assert not too_many.infer_weights(x, y).identified
