"""A site's folder whose files of JSON are damaged: the site refuses in its own words, or goes on with what can be."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from damage import cheap, damaged, damaged_bytes, text_of
from hostile import RUN, Hostile
from test_files import checked
from test_privacy_attacks import attacked

from fedgmi.deploy.site import snapshot
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.sums import FILE as SUMS
from fedgmi.deploy.site.sums import Sums
from fedgmi.drift import Monitor
from fedgmi.errors import FedgmiError, LimitError
from fedgmi.protocol.wire import WireError

SEEDS = range(80)  # of each of the files


class Two:
    """Two Gaussians in closed form, as a monitor asks them."""

    weights_ = np.array([[0.5, 0.5]])
    client_names_ = ("ward",)
    n_components_ = 2

    def component_log_prob(self, x: Any) -> np.ndarray:
        return -0.5 * np.square(np.asarray(x)[:, None] - 4.0 * np.eye(2)).sum(2)

    def log_ratios(self, x: Any, y: Any = None) -> np.ndarray:
        return self.component_log_prob(x)

    def infer_weights(self, x: Any, y: Any = None) -> Any:
        return self

    identified = True


def rows(seed: int, n: int = 30) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return 4.0 * np.eye(2)[draws.integers(0, 2, n)] + draws.normal(size=(n, 2))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    """It has answered an exchange, released something under ε, and summed with others."""
    found = attacked(tmp_path_factory.mktemp("site"), max_epsilon=2.0, max_delta=1e-5, max_runs=3)
    assert Hostile(found).step("features", 0, {})
    found._secret()
    found.ledger().charge("first", 0.5, 0.0, "a histogram", {"mechanism": "geometric"})
    about = {"mechanism": "gaussian", "noise_multiplier": 3.0}
    found.ledger().charge("second", 0.25, 1e-7, "an update", about)
    found.ledger().refuse("more", "because")
    Sums(found.where).admit(RUN, (0, 1), ["ab", "cd"], ["0011"])
    return found


def secret(site: Site) -> None:
    assert len(bytes.fromhex(site._secret())) == 32


def ledger(site: Site) -> None:
    before = site.ledger().spent()
    assert all(0 <= spent < math.inf for spent in before)
    try:
        site.ledger().charge("third", 1.0, 0.0, "a histogram")
    except LimitError:
        return
    after = site.ledger().spent()
    assert before[0] <= after[0] <= 2.0 * (1 + 1e-9)


def guard(site: Site) -> None:
    found = site.guard()
    assert all(n >= 0 for n in found.begun().values())
    assert found.used() >= 0
    assert isinstance(found.going_on(), set)
    program = site.method().program
    header = {"kind": "step", "run": RUN, "round": 0, "number": 1, "step": 1, "id": 0}
    turn = found.turn(header, "some", program)
    found.check_leaves(turn, header, program, {"sketch/mean": "00" * 16})
    found.keep(turn, finished=False)


def kept_rows(site: Site) -> None:
    found = snapshot.of_run(site.where, RUN)
    assert found is not None
    assert snapshot.digest_of(site.where / "runs" / RUN) == found.digest
    assert len(found.train) > 0


def sums(site: Site) -> None:
    Sums(site.where).admit(RUN, (0, 2), ["ab", "cd"], ["0011", "0022"])


FILES: dict[str, Callable[[Site], None]] = {
    "secret.json": secret,
    "ledger.json": ledger,
    "guard.json": guard,
    f"runs/{RUN}/rows.json": kept_rows,
    SUMS: sums,
}
ELSEWHERE = {f"runs/{RUN}/000000-0000.json"}
"""What `test_files` damages."""


def test_every_file_of_the_folder_is_damaged_here(site):
    found = {str(path.relative_to(site.where)) for path in site.where.rglob("*.json")}
    assert found == FILES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_site(site, name):
    path = site.where / name
    whole, refused = path.read_bytes(), 0
    FILES[name](site)
    with cheap() as case:
        for seed in SEEDS:
            draws = random.Random(seed)
            value = damaged(json.loads(whole), draws)
            text = checked(value) if isinstance(value, dict) and "tensors" in value else text_of(value)
            data = damaged_bytes(whole, draws) if seed % 5 == 0 else text.encode("utf-8", "surrogatepass")
            path.write_bytes(data)
            case()
            try:
                FILES[name](site)
            except (FedgmiError, WireError):
                refused += 1
    path.write_bytes(whole)
    assert refused > len(SEEDS) / 3


BAD: dict[str, tuple[Any, ...]] = {
    "secret.json": (None, "", [], "x", "00" * 31, "zz" * 32),
    "ledger.json": (-50.0, math.nan, math.inf, "1", True, None),
    "guard.json": (-5, 0.5, math.inf, "1", True, None),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values_that_buy_something_are_refused(site, name, value):
    """ε below zero bought more releases, and a count below zero more runs."""
    path = site.where / name
    whole = path.read_bytes()
    table = json.loads(whole)
    if name == "secret.json":
        table["secret"] = value
    elif name == "ledger.json":
        table["releases"][0]["epsilon"] = value
    else:
        table["begun"] = dict.fromkeys(table["begun"], value)
    path.write_text(json.dumps(table))
    with pytest.raises(FedgmiError, match=r"this is not .*\(.+\)|cannot be read"):
        FILES[name](site)
    path.write_bytes(whole)


def test_a_multiplier_of_noise_is_a_number_above_zero(site):
    path = site.where / "ledger.json"
    whole = path.read_bytes()
    for value in (0.0, -1.0, "much"):
        table = json.loads(whole)
        table["releases"][1]["about"]["noise_multiplier"] = value
        path.write_text(json.dumps(table))
        with pytest.raises(FedgmiError, match="noise_multiplier"):
            site.ledger().spent()
    path.write_bytes(whole)


@pytest.mark.parametrize("moved", [False, True])
def test_states_of_a_drift_monitor(moved):
    watched = Monitor(Two(), "ward", reference=(rows(0, 200), None))
    for seed in range(1, 4):
        watched.update(rows(seed) if not moved else rows(seed) * [0, 1] + [4.0, 0])
    whole = json.loads(json.dumps(watched.to_dict()))
    assert Monitor.from_dict(Two(), whole).to_dict() == whole
    assert (whole["state"] != "in control") == moved
    refused = 0
    with cheap() as case:
        for seed in SEEDS:
            text = text_of(damaged(whole, random.Random(seed)))
            case()
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                continue
            try:
                Monitor.from_dict(Two(), found).update(rows(9))
            except FedgmiError:
                refused += 1
    assert refused > len(SEEDS) / 3


@pytest.mark.parametrize("key", ["weights", "watch", "state", "cause", "batch", "recent", "average_run_length"])
@pytest.mark.parametrize("value", ["x", {}, [[1]], math.inf, -1])
def test_fields_of_a_drift_monitor(key, value):
    whole = Monitor(Two(), "ward", reference=(rows(0, 200), None)).to_dict()
    with pytest.raises(FedgmiError, match=key):
        Monitor.from_dict(Two(), whole | {key: value})


def test_results_that_name_no_run_of_the_site(site):
    """Where `fedgmi predict` looks for rows that were held out."""
    for run in (5, None, {}, [RUN], "../../x", f"{RUN}\n", "f" * 16):
        assert snapshot.of_run(site.where, run) is None
