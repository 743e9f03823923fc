"""The examples of docs/extending.md are whole: they run as they stand, and keep what the page promises."""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from federations import gaussian_scenario, make_task, transport_for
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.protocol.codecs.choices import CHOICES
from fedgmi.protocol.codecs.codec import Codec
from fedgmi.protocol.codecs.coding import Coding, check_communication
from fedgmi.protocol.codecs.numbers import NUMBERS
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message, Models, flatten
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import check_program
from fedgmi.protocol.wrapper import Place
from fedgmi.settings.communication import CommunicationSettings

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SMALL = gaussian_scenario(6, 20, separation=4.0)


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, Any]]:
    """Each example's module, by the name of its file."""
    found = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S):
        name = Path(block.splitlines()[0].removeprefix("# ")).stem
        module = found[name] = types.ModuleType(name)
        sys.modules[name] = module  # pydantic looks for annotations there
        exec(compile(ast.parse(block), str(PAGE), "exec"), module.__dict__)
    yield found
    for name in found:
        del sys.modules[name]


def test_the_method_runs_and_declares_what_it_does(examples):
    entry = examples["plain_mean"].PLAIN_MEAN
    method = entry(replace(make_task(SMALL.federation.schema, 1, method="fedavg"), settings=entry.settings(step=0.5)))
    transport, server = transport_for(method, SMALL), method.program.init()
    check_program(method.name, method.program, server)
    for step in method.program.all_steps:
        message = transport.exchange(step, server, range(6), 1)
        assert bool(step.tells) == bool(flatten(message))
        assert message.models["expert"].mass.tolist() == [6.0]  # every client counts once
    progress = Progress(method.program.init())
    end = run_rounds(method.name, method.program, transport_for(method, SMALL), progress, n_clients=6, rounds=2, seed=0)
    assert not torch.equal(end.server["expert"], method.program.init()["expert"])


def test_the_wrapper_halves_models_of_any_size(examples):
    wrapper, place = examples["short"].short(torch.float16), Place(0, (0,), 1, 0, 0)
    models = Models(
        torch.tensor([[80_000.0], [0.0]]), torch.tensor([20_000.0, 0.0]).double(), torch.tensor([[True, False]])
    )
    sent = wrapper.send(Message({"expert": models}, {"rows": torch.tensor(70_001.0)}), place)
    assert sent.models["expert"].total.dtype == torch.float16
    there = wrapper.receive(sent, place)
    assert there.models["expert"].total.flatten().tolist() == [80_000.0, 0.0]
    assert there.sums["rows"] == 70_001


@pytest.mark.parametrize("name", ["fedavg", "fedgmi", "fedem"])
def test_the_wrapper_leaves_models_to_within_rounding(examples, name):
    method = METHODS[name](make_task(SMALL.federation.schema, method=name))
    ends = []
    for wrappers in ((), (examples["short"].short(torch.float16),)):
        transport = InProcess(SMALL.federation.clients, method.program, wrappers=wrappers)
        start = Progress(method.program.init())
        ends.append(run_rounds(name, method.program, transport, start, n_clients=6, rounds=1, seed=0).server)
    for leaf in {"expert", "density"} & ends[0].keys():
        value = ends[0][leaf]
        torch.testing.assert_close(ends[1][leaf], value, atol=5e-3, rtol=5e-3, msg=lambda m, n=leaf: f"{n}: {m}")


class Strides(CommunicationSettings):
    """With the key of the page's rule."""

    stride: int = 1


def test_the_rule_for_entries_is_unbiased_and_runs(examples, monkeypatch):
    monkeypatch.setitem(CHOICES, "stride", examples["stride"].stride)
    check_communication(Strides(stride=4))
    with pytest.raises(ConfigError, match="top and stride both say which entries travel"):
        check_communication(Strides(stride=4, top=0.5))
    sent, coding = torch.arange(1.0, 11.0)[None], Coding(Strides(stride=4, precision="8"), 0)
    codec = Codec(NUMBERS["float32"](), examples["stride"].stride(Strides(stride=4), {}))
    read = torch.cat([codec.decode(codec.encode(sent, (0, draw)), 10, (0, draw)) for draw in range(400)])
    assert float((read.mean(0) - sent).abs().max()) < 5 * 10 * 3**0.5 / 20  # of deviations x·√(s − 1)/√400
    method = METHODS["fedavg"](make_task(SMALL.federation.schema, method="fedavg"))
    transport, start = InProcess(SMALL.federation.clients, method.program, coding=coding), method.program.init()
    end = run_rounds("fedavg", method.program, transport, Progress(start), n_clients=6, rounds=2, seed=0)
    whole = InProcess(SMALL.federation.clients, method.program, coding=Coding(Strides(), 0))
    run_rounds("fedavg", method.program, whole, Progress(start), n_clients=6, rounds=2, seed=0)
    assert not torch.equal(end.server["expert"], start["expert"])
    assert transport.ledger.by_kind()["expert"][1] < whole.ledger.by_kind()["expert"][1] / 8


def test_the_codec_is_unbiased_and_runs(examples, monkeypatch):
    sign, sent = examples["signs"].sign(), torch.tensor([[3.0, -1.0, 0.0, 0.5, 2.0, 0.1, -3.0, 1.0, 1.0]])
    draws = torch.Generator().manual_seed(0)
    read = [sign.read(sign.write(sent, draws), 9) for _ in range(400)]
    assert sign.write(sent, draws).shape == (1, sign.size(9))
    assert float((torch.stack(read).mean(0) - sent).abs().max()) < 5 * 3 / 20
    monkeypatch.setitem(NUMBERS, "sign", examples["signs"].sign)
    method = METHODS["fedavg"](make_task(SMALL.federation.schema, method="fedavg"))
    coding = Coding(CommunicationSettings(precision="sign"), 0)
    transport, start = InProcess(SMALL.federation.clients, method.program, coding=coding), method.program.init()
    end = run_rounds("fedavg", method.program, transport, Progress(start), n_clients=6, rounds=2, seed=0)
    assert not torch.equal(end.server["expert"], start["expert"])
    assert transport.ledger.by_kind()["expert"][1] < 12 * (4 + 12 + 8) + 1
