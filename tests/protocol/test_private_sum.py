"""Sums in which no client counts for much: the bound, the noise, and what a run with them costs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federations import gaussian_scenario, make_task
from fedgmi.data.rows import Client, pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.privacy.accountant import Spending
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.private_sum import private_rows, private_sum, rounding
from fedgmi.protocol.step import ProgramError, Step
from fedgmi.protocol.wrapper import Place
from fedgmi.runs import config, experiment
from fedgmi.settings.run import TrainingSettings
from fedgmi.tree import Tree

ONE = torch.ones(1, 1, dtype=torch.bool)
STEP = Step("train", lambda server, states, rows, round: (states, Message()), models=lambda server: dict(server))


def message(models: torch.Tensor, mass: list[float]) -> Message:
    """A client's models [K, P], with their masses."""
    weights = torch.tensor(mass, dtype=torch.float64)
    return Message({"expert": Models(models * weights[:, None].float(), weights, (weights > 0)[None])})


def place(server: Tree, client: int, n_clients: int, number: int = 0) -> Place:
    return Place(client, tuple(range(n_clients)), 1, number, 0, server)


def summed(messages: list[Message], server: Tree, clip: float, sigma: float, number: int = 0) -> Models:
    wrapper = private_sum(clip, sigma)
    sent = [wrapper.send(each, place(server, i, len(messages), number)) for i, each in enumerate(messages)]
    assert wrapper.open is not None
    return wrapper.open(sum(sent, Message()), STEP, server).models["expert"]


@given(st.integers(1, 3), st.floats(0.01, 100.0), st.integers(0, 1000), st.floats(0.1, 1000.0))
def test_a_client_moves_the_sum_by_no_more_than_the_bound(k, clip, seed, size):
    """Whatever its update and its rows: with it and without it, that is, with an update of zero in its place."""
    draws = torch.Generator().manual_seed(seed)
    server = {"expert": torch.randn(k, 4, generator=draws)}
    mass = (torch.rand(k, generator=draws) * size).tolist()
    theirs = message(server["expert"] + size * torch.randn(k, 4, generator=draws), mass)
    nothing = message(server["expert"], mass)
    wrapper = private_sum(clip, 0.0)
    with_it, without = (wrapper.send(each, place(server, 0, 1)).models["expert"] for each in (theirs, nothing))
    assert float((with_it.total - without.total).norm()) <= clip * (1 + 1e-5)
    assert float(with_it.mass.norm()) <= 1 + 1e-9


def test_without_noise_and_within_the_bound_it_is_the_mean_of_clients():
    server = {"expert": torch.zeros(1, 3)}
    updates = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    mean = summed([message(updates[:1], [10.0]), message(updates[1:], [500.0])], server, 100.0, 0.0)
    torch.testing.assert_close(mean.mean(server["expert"]), updates.mean(0, keepdim=True))
    cut = summed([message(updates[:1], [10.0]), message(updates[1:], [500.0])], server, 1.5, 0.0)
    torch.testing.assert_close(cut.mean(server["expert"])[0], torch.tensor([0.75, 0.5, 0.5]))


def test_the_sum_has_noise_of_the_bound_times_the_multiplier():
    server = {"expert": torch.zeros(1, 4000)}
    for n_clients in (1, 9):
        total = summed([message(torch.zeros(1, 4000), [1.0])] * n_clients, server, 2.0, 1.5).total
        assert float(total.std()) == pytest.approx(3.0, rel=0.05)
    one, other = (summed([message(torch.zeros(1, 4000), [1.0])], server, 2.0, 1.5, n).total for n in (0, 1))
    assert abs(float(torch.corrcoef(torch.cat([one, other]))[0, 1])) < 0.05  # no exchange has another's noise


def test_shares_of_components_have_noise_too_and_an_empty_one_stays_where_it_was():
    server = {"expert": torch.ones(2, 4000)}
    sent = private_sum(1.0, 1.0).send(message(torch.ones(2, 4000), [1.0, 0.0]), place(server, 0, 1))
    assert float(sent.models["expert"].total.std()) == pytest.approx(math.sqrt(2), rel=0.05)
    assert sent.models["expert"].mass.tolist() != [1.0, 0.0]
    calm = summed([message(torch.full((2, 4000), 2.0), [1.0, 0.0])], server, 1e9, 0.0)
    torch.testing.assert_close(calm.mean(server["expert"])[1], server["expert"][1])


def test_what_has_no_bound_is_refused():
    with pytest.raises(ProgramError, match="beside models"):
        private_sum(1.0, 1.0).send(Message(sums={"rows": torch.tensor(1)}), place({}, 0, 1))
    for own, why in (("fedgmi", "its sums are no models"), ("fedgmm", "")):
        settings = config.load(None, [f"method.name={own}", "privacy.clip=1", "privacy.epsilon=1"])
        with pytest.raises(ConfigError, match=f"privacy: the step .* of {own} cannot be private: .*{why}"):
            experiment.run(settings, Path(own))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


OWN = (
    "method.name=fedavg", "scenario.n_clients=6", "scenario.rows_per_client=60", "rounds=2", "threads=1",
    "expert.hidden=8", "training.epochs=1", "evaluation.oracle=false", "evaluation.local=true", "privacy.clip=1",
)  # fmt: skip


def test_a_run_says_what_it_has_cost():
    summary = experiment.run(config.load(None, [*OWN, "privacy.epsilon=3", "privacy.delta=1e-3"]), Path("out"))
    found = json.loads((Path("out") / "summary.json").read_text())["privacy"]
    assert found == summary["privacy"]
    assert (found["unit"], found["releases"], found["delta"], found["clip"]) == ("clients", 2, 1e-3, 1.0)
    assert found["epsilon"] == pytest.approx(3.0, rel=1e-4)
    assert found["epsilon"] == Spending().gaussian(found["noise_multiplier"], 2).epsilon(1e-3)
    assert summary["local"]["privacy"]["epsilon"] == 0.0  # it sends nothing
    assert experiment.run(config.load(Path("out") / "config.toml"), Path("out"), resume=True) == summary


def test_one_component_with_own_parts_is_private_and_the_oracle_is_not():
    own = [word for word in OWN if "fedavg" not in word and "evaluation" not in word]
    own += ["method.n_components=1", "method.reference_rounds=0", "privacy.epsilon=3", "evaluation.local=false"]
    with pytest.raises(ConfigError, match=r"evaluation\.oracle: the bound oracle tells more than models"):
        experiment.run(config.load(None, own), Path("out"))
    assert not list(Path("out").glob("checkpoints/*"))
    summary = experiment.run(config.load(None, [*own, "evaluation.oracle=false"]), Path("out"))
    assert summary["privacy"]["releases"] == 2


def test_masks_and_noise_go_together():
    plain = [*OWN, "privacy.noise_multiplier=0.1"]
    found = [
        experiment.run(config.load(None, [*plain, *own]), Path(f"masks-{len(own)}"))
        for own in ([], ["communication.secure=masks"])
    ]
    assert found[1]["privacy"] == found[0]["privacy"]
    assert found[1]["client_accuracy"] == pytest.approx(found[0]["client_accuracy"], abs=0.01)


def test_noise_that_is_nothing_changes_only_whose_voice_counts():
    plain = [word for word in OWN if not word.startswith("privacy")]
    wide = [*plain, "privacy.clip=1e6", "privacy.noise_multiplier=1e-12"]
    found = [experiment.run(config.load(None, own), Path(name)) for name, own in (("a", plain), ("b", wide))]
    assert found[1]["client_accuracy"] == pytest.approx(found[0]["client_accuracy"], abs=0.1)
    assert found[0].get("privacy") is None
    assert experiment.run(config.load(Path("a") / "config.toml"), Path("a"), resume=True) == found[0]


def by_rows(n: int, clip: float, theta: float | None = None) -> tuple[Tree, Models]:
    """FedAvg's one step on the first n rows of a client: where the model stood, and the client's message.

    With `theta` each parameter but hidden weights is that: outputs are alike, and rounding is as coarse as it can be.
    """
    federation = gaussian_scenario(1, 12).federation
    settings = TrainingSettings(optimizer="sgd", epochs=1, batch_size=2000)
    task = make_task(federation.schema, method="fedavg").replace(training=settings, lr=0.5, clip_rows=clip)
    program, [client] = METHODS["fedavg"](task).program, federation.clients
    server, [step] = program.init(), program.round
    if theta is not None:
        server["expert"] = torch.full_like(server["expert"], theta).where(server["expert"] == 0, server["expert"])
        server["expert"][:, -2 * 65 :] = theta
    rows = pack([Client("a", 20 * client.x[:n], client.y[:n])])
    return server, step.client(server, {}, rows, 1)[1].models["expert"]


@pytest.mark.parametrize("clip", [0.01, 1.0])
def test_a_row_moves_a_step_by_no_more_than_its_bound(clip):
    """With it and without it; and rows that are not cut make the step that they make unclipped."""
    moved = []
    for n in range(6, 12):
        server, sent = by_rows(n, clip)
        assert float(sent.mass) == n
        moved.append(sent.total.double() - n * server["expert"].double())
    steps = [float((one - other).norm()) for one, other in pairwise(moved)]
    assert max(steps) <= 0.5 * clip * (1 + 1e-6)
    assert max(steps) > 0.4 * clip * (clip < 1)  # the bound is met
    server, free = by_rows(8, 1e6)
    far = float((free.total - 8 * server["expert"]).norm())
    assert far > float(moved[2].norm())


@pytest.mark.parametrize("theta", [1e3, 1e5, 1e7])
def test_a_model_made_for_rounding_does_not_move_it_further(theta):
    """In float32 a step moved each large parameter by a whole multiple of its rounding, or not at all: n times that
    was told, 91 times the bound at 600 rows, and which of both it was told how many rows had a label."""
    moved = []
    for n in range(6, 12):
        server, sent = by_rows(n, 0.01, theta)
        moved.append(sent.total - n * server["expert"].double())
    steps = [float((one - other).norm()) for one, other in pairwise(moved)]
    assert max(steps) <= 0.5 * 0.01 + rounding(server, 12, 0.5 * 0.01)
    assert rounding(server, 12, 0.5 * 0.01) < 1e-3 * 0.5 * 0.01 * (theta / 1e3)


def test_noise_of_rows_follows_a_model_of_any_size():
    """Beyond what float64 holds apart, noise is as large as what rounding may tell."""
    server = {"expert": torch.full((1, 4000), 1e18)}
    own = Message({"expert": Models(7e18 * torch.ones(1, 4000).double(), torch.tensor([7.0]).double(), ONE)})
    sent = private_rows(0.5, 2.0, 3.0, 100).send(own, place(server, 0, 1)).models["expert"]
    assert sent.total.dtype == torch.float32
    assert float(sent.total.std()) == pytest.approx(2 * 3 * rounding(server, 7, 1.0), rel=0.1)
    with pytest.raises(ProgramError, match="'expert' is rounded"):
        private_rows(0.5, 2.0, 3.0, 100).send(message(torch.zeros(1, 4000), [7.0]), place(server, 0, 1))


def test_steps_of_rows_have_noise_by_the_learning_rate():
    server = {"expert": torch.zeros(1, 4000)}
    wrapper = private_rows(0.5, 2.0, 3.0, 100)
    zeros = Message({"expert": Models(torch.zeros(1, 4000).double(), torch.tensor([7.0]).double(), ONE)})
    sent = [wrapper.send(zeros, place(server, i, 4)) for i in range(4)]
    total = wrapper.open(sum(sent, Message()), STEP, server).models["expert"]
    assert float(total.total.std()) == pytest.approx(3 * 2 * 0.5 * 2, rel=0.05)  # a row in another's place: 2·lr·clip
    assert float(total.mass) == 28.0  # how many there are is told anyway
    with pytest.raises(ConfigError, match="a client has 100 rows"):
        wrapper.send(
            Message({"expert": replace(zeros.models["expert"], mass=torch.tensor([100.0]).double())}),
            place(server, 0, 1),
        )


def test_a_run_with_rows_as_the_unit():
    own = ["training.optimizer=sgd", "training.batch_size=100001", "privacy.unit=rows", "privacy.epsilon=2"]
    summary = experiment.run(config.load(None, [*OWN, *own]), Path("out"))
    assert summary["privacy"]["unit"] == "rows"
    assert summary["privacy"]["epsilon"] == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (["privacy.epsilon=1"], "clip is unset"),
        (["privacy.clip=1", "privacy.epsilon=1", "privacy.unit=rows"], "one plain step on all of its rows"),
        (["privacy.clip=1", "privacy.epsilon=1", "privacy.unit=rows", "method.name=fedprox"], "fedprox has no bound"),
        (["privacy.clip=1"], "neither epsilon nor noise_multiplier"),
        (["privacy.clip=1", "privacy.epsilon=1", "privacy.noise_multiplier=1"], "give one of"),
        (["privacy.clip=1", "privacy.epsilon=1", "training.patience=2"], "is not accounted for"),
        (["privacy.clip=1", "privacy.epsilon=1", "training.lr=[0.1, 0.2]"], "is not accounted for"),
    ],
)
def test_settings_that_contradict_each_other(own, why):
    with pytest.raises(ConfigError, match=why):
        experiment.run(config.load(None, ["method.name=fedavg", *own]), Path("out"))


BY_ROWS = (
    *OWN[1:], "method.name=fedgmi", "method.preset=sketch", "method.epsilon=0.5", "method.kmeans_rounds=2",
    "evaluation.local=false", "training.optimizer=sgd", "training.batch_size=100001", "privacy.unit=rows",
    "privacy.epsilon=4", "privacy.delta=1e-3",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::fedgmi.errors.FedgmiWarning")  # so few rows show few components
def test_a_run_of_components_with_rows_as_the_unit():
    """Its counts and its Gaussian releases cost together what the run may cost."""
    summary = experiment.run(config.load(None, [*BY_ROWS]), Path("out"))
    found = summary["privacy"]
    assert (found["unit"], found["releases"], found["counts"]) == ("rows", 1 + 2 + 2, [0.5, 0.5])
    spent = Spending(pure=(0.5, 0.5)).gaussian(found["noise_multiplier"], 5).epsilon(1e-3)
    assert found["epsilon"] == spent == pytest.approx(4.0, rel=1e-4)
    assert spent > Spending().gaussian(found["noise_multiplier"], 5).epsilon(1e-3) + 0.1
    assert summary == json.loads((Path("out") / "summary.json").read_text())


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (["method.epsilon=5"], r"method\.epsilon: .* costs .*, .* not less than privacy\.epsilon = 4.* 0\.8"),
        (["method.preset=default"], r"method\.preset: a single row has no bound in judges"),
        (["method.n_components=auto"], r"method\.n_components: the survey"),
        (["training.epochs=2"], "one plain step on all of its rows"),
    ],
)
def test_settings_of_components_with_rows_as_the_unit(own, why):
    with pytest.raises(ConfigError, match=why):
        experiment.run(config.load(None, [*BY_ROWS, *own]), Path("out"))
    assert not list(Path("out").glob("checkpoints/*"))
