"""Training that runs away is told as such; what is written is always strict JSON."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federations import bare_method
from fedgmi.data.rows import Client
from fedgmi.errors import DivergedError
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import Message
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Step
from fedgmi.runs import evaluation
from fedgmi.storage import files, folder
from tiny import arguments, exit_code, run


@pytest.mark.parametrize(("name", "rate"), [("fedgmi", "1e9"), ("fedavg", "1e38"), ("local", "1e38")])
def test_rate_far_too_high(tmp_path, capsys, name, rate):
    assert exit_code(*arguments(tmp_path / "out", f"training.lr={rate}", f"method.name={name}")) == 2
    shown = capsys.readouterr().err
    told = shown[shown.index("error: ") :]
    assert told.startswith(f"error: {name}, round ")
    assert "is NaN or infinite: training has diverged" in told
    assert f"Likely fix: set training.lr below {float(rate):g} and give another folder with --out." in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out" / folder.SUMMARY).exists()
    for record in folder.read_records(tmp_path / "out"):
        json.dumps(record, allow_nan=False)  # raises for NaN and infinity


def test_rate_that_diverges_is_out_of_the_running(tmp_path):
    got = run(tmp_path / "some", "training.lr=[1e38, 1e-2]", "method.name=fedavg")
    assert got["learning_rate"] == 1e-2
    with pytest.raises(DivergedError):
        run(tmp_path / "all", "training.lr=[1e38, 1e37]", "method.name=fedavg")


@pytest.mark.parametrize("standardise", ["auto", "false"])
def test_scales_are_named_where_they_may_be_the_reason(tmp_path, write_table, standardise):
    rows = {"dose": [1e6 * (i % 7) for i in range(240)], "age": [i % 50 for i in range(240)]}
    path = write_table(rows | {"ward": [f"ward-{i % 6}" for i in range(240)]})
    by_ward = ("scenario.name=by-column", "scenario.client_column=ward", f"data.path={path}", "expert.hidden=200")
    with pytest.raises(DivergedError) as caught:
        run(tmp_path / "out", *by_ward, "training.lr=1e9", f"data.standardise={standardise}")
    hint = ", or data.standardise = true," if standardise == "false" else ""
    assert caught.value.fix == f"set training.lr below 1e+09{hint} and give another folder with --out"


class Wire:
    """A transport that answers every step with the same message."""

    def __init__(self, value: float) -> None:
        self.message = Message(sums={"total": torch.tensor([1.0, value])})
        self.ledger, self.wrappers = Ledger(1), ()

    def settle(self, before, after, round, name):
        return after

    def exchange(self, step, server, ids, round):
        return self.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["message", "server"])
def test_first_number_that_is_not_finite_stops_the_run(value, where):
    seen: list[int] = []
    spoilt = value if where == "server" else 0.0
    step = Step("train", lambda *_: ({}, Message()), lambda *_: {"w": torch.tensor([spoilt])})
    method = bare_method("mine", round=(step,))
    with pytest.raises(
        DivergedError, match=r"^mine, round 1: '(sums/total|w)' is NaN or infinite.*lower the learning rate"
    ):
        run_rounds(
            method.name,
            method.program,
            Wire(value if where == "message" else 0.0),
            Progress({"w": torch.zeros(1)}),
            n_clients=1,
            rounds=3,
            participation=1.0,
            seed=0,
            after=lambda progress: seen.append(progress.round),
        )
    assert seen == [0]


def test_accuracy_of_a_client_without_held_out_rows_is_null():
    rows = (
        Client("none", torch.zeros(0, 2), torch.zeros(0).long()),
        Client("two", torch.zeros(2, 2), torch.ones(2).long()),
    )
    method = bare_method("m", lambda server, states, rows: torch.zeros(len(rows), 2))
    accuracy = evaluation.client_accuracy(method.predictor, {}, {}, rows)
    assert accuracy is not None
    assert json.dumps(files.finite(accuracy.tolist()), allow_nan=False) == "[null, 0.0]"


words = st.text("abc")
numbers = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(numbers, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=10)


@given(values)
def test_finite_values_are_strict_json_and_lose_nothing_else(value):
    text = re.sub("-?Infinity|NaN", "null", json.dumps(value))
    assert json.dumps(files.finite(value), allow_nan=False) == text


def test_writing_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"a": math.nan})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append_record(tmp_path, {"a": math.nan})
    assert [path for path in tmp_path.iterdir() if path.stat().st_size] == []
