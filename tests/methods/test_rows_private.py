"""fedgmi with components, rows as the unit of `[privacy]`: what one row changes in each message, what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federations import gaussian_scenario, make_task, run, transport_for
from fedgmi import tree
from fedgmi.data.rows import Client, Rows, pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS, Method, Task
from fedgmi.methods.fedgmi.evidence import raw_words
from fedgmi.protocol.message import Message
from fedgmi.protocol.private_sum import check_private, noisy_by_itself, private_rows
from fedgmi.protocol.step import ProgramError, Step, select
from fedgmi.protocol.wrapper import Place
from fedgmi.runs.evaluation import proportion_error
from fedgmi.settings.run import TrainingSettings
from fedgmi.tree import Tree

SCENARIO = gaussian_scenario(6, 40, separation=4.0)
RATE, CLIP = 0.5, 0.7
WHOLE = TrainingSettings(optimizer="sgd", epochs=1, batch_size=100_001)
OWN: dict[str, Any] = {"preset": "sketch", "epsilon": 2.0, "kmeans_rounds": 2, "warm_up_rounds": 1}
EXACT = 1e-3  # float32, in units of a bound


def task_of(**own: Any) -> Task:
    made = make_task(SCENARIO.federation.schema, **(OWN | own))
    return made.replace(training=WHOLE, lr=RATE, clip_rows=CLIP, private=True)


@dataclass(frozen=True)
class Asked:
    """What a client was asked in one exchange, and what it found.

    Attributes:
        step: Which.
        server: The server's state.
        states: Its own, before.
        round: Of the exchange.
    """

    step: Step
    server: Tree
    states: Tree
    round: int


@cache
def asked() -> tuple[Asked, ...]:
    """Every exchange of a run of three rounds, as client 0 finds it."""
    method = METHODS["fedgmi"](task_of())
    transport, server, found = transport_for(method, SCENARIO), method.program.init(), []
    for round, phase in ((0, "prepare"), (1, "round"), (2, "round"), (3, "round"), (3, "finish")):
        for step in method.program.steps(phase):  # type: ignore[arg-type]
            states = tree.take(transport.states, torch.tensor([0])) or method.program.client_init((0,))
            message = transport.exchange(step, server, range(6), round)
            found.append(Asked(step, server, states, round))
            server = step.server(server, message, round)
    return tuple(found)


def rows_of(client: Client) -> Rows:
    return replace(pack([client]), ids=(0,))


def with_another(seed: int, size: float) -> Client:
    """Client 0 with an arbitrary row in a row's place."""
    draws, mine = torch.Generator().manual_seed(seed), SCENARIO.federation.clients[0]
    assert mine.y is not None
    at, x, y = int(torch.randint(len(mine), (), generator=draws)), mine.x.clone(), mine.y.clone()
    x[at] = size * torch.randn(x.shape[1:], generator=draws)
    y[at] = torch.randint(SCENARIO.federation.schema.n_classes, (), generator=draws)
    return Client(mine.name, x, y)


def updates(message: Message, server: Tree, step: Step) -> torch.Tensor:
    """n_i·(θ_i − θ) of all models in a row."""
    assert step.models is not None
    stands = step.models(server)
    moved = [
        part.total.double() - part.mass[:, None] * stands[name][: len(part.mass)].double()
        for name, part in message.models.items()
    ]
    return torch.cat([one.flatten() for one in moved])


def distance(one: Message, other: Message, at: Asked) -> float:
    """How far two messages are from each other: models and sums in L2, a histogram in L1."""
    if one.replies:
        return float((one.replies["histogram"] - other.replies["histogram"]).abs().sum())
    if one.models:
        for name, part in one.models.items():
            assert torch.equal(part.mass, other.models[name].mass), "masses hang on what was released alone"
        return float((updates(one, at.server, at.step) - updates(other, at.server, at.step)).norm())
    return math.sqrt(sum(float((leaf - other.sums[name]).square().sum()) for name, leaf in one.sums.items()))


def bound_of(step: Step) -> float:
    if noisy_by_itself(step):
        return 2.0  # two counts by one
    return 2 * RATE * CLIP if step.row_change is None else step.row_change


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1e3))
def test_a_row_in_anothers_place_moves_no_message_by_more_than_its_bound(seed, size):
    """All steps of the program, each for the same server and the same released numbers."""
    mine, changed = rows_of(SCENARIO.federation.clients[0]), rows_of(with_another(seed, size))
    told = 0
    for at in asked():
        part = select(at.server, at.step.reads)
        found = [at.step.client(part, at.states, rows, at.round) for rows in (mine, changed)]
        one, other = (message for _, message in found)
        if at.step.tells:
            assert distance(one, other, at) <= bound_of(at.step) * (1 + EXACT), at.step.name
            told += 1
        else:
            assert one == Message()
        if at.step.name not in ("histograms", "own part", "own weights"):
            for name, leaf in found[0][0].items():  # what a client knows afterwards it has from what was released
                assert torch.equal(leaf, found[1][0][name]), f"{at.step.name}: {name}"
    assert told == 1 + 2 + 1 + 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-30, -1.0, 0.0, 1e4, 1e30]))
def test_no_state_that_a_coordinator_sends_lets_a_row_move_a_message_by_more(seed, size):
    """In a deployment it chooses what steps read: one leaf is another, or all of them. Models of any length are for
    `tests/protocol`, which has what rounding adds."""
    draws = torch.Generator().manual_seed(seed)
    mine, changed = rows_of(SCENARIO.federation.clients[0]), rows_of(with_another(seed, 10.0))
    for at in asked():
        part = select(at.server, at.step.reads)
        names = [name for name, leaf in part.items() if leaf.is_floating_point() and name != "expert"]
        spoilt = names if seed % 3 == 0 else [name for name in names if torch.rand((), generator=draws) < 0.4]
        part = part | {name: part[name] * size + torch.rand(part[name].shape, generator=draws) for name in spoilt}
        one, other = (at.step.client(part, at.states, fresh(rows), at.round)[1] for rows in (mine, changed))
        if at.step.tells:
            assert distance(one, other, replace(at, server=at.server | part)) <= bound_of(at.step) * (1 + EXACT)


def fresh(rows: Rows) -> Rows:
    """The rows, of which nothing was worked out yet."""
    return replace(rows, cache={})


def test_bounds_of_training_are_met_nearly():
    """A bound that is far too wide would cost noise for nothing."""
    rows, found = rows_of(SCENARIO.federation.clients[0]), {1: 0.0, 2: 0.0}
    for seed in range(40):
        changed = rows_of(with_another(seed, 100.0))
        for at in asked():
            if at.step.name == "em" and at.round in found:
                part = select(at.server, at.step.reads)
                one, other = (at.step.client(part, at.states, some, at.round)[1] for some in (rows, changed))
                found[at.round] = max(found[at.round], distance(one, other, at))
    assert all(far > 0.7 * 2 * RATE * CLIP for far in found.values()), found


def test_an_update_is_that_of_all_rows_gradients_together():
    """Weighted by responsibilities, each cut to a length: by autograd."""
    task = task_of()
    [at] = [one for one in asked() if one.step.name == "em" and one.round == 2]
    rows = rows_of(SCENARIO.federation.clients[0])
    assert rows.y is not None
    server, k, trunk = at.server, task.n_components, task.expert.trunk
    method = METHODS["fedgmi"](task)
    assert method.predictor.responsibilities is not None
    resp = method.predictor.responsibilities(server, at.states, rows).float()
    start = torch.cat([server["expert"][0, :trunk], server["expert"][:, trunk:].flatten()])
    total = torch.zeros_like(start)
    for x, y, r in zip(rows.x, rows.y, resp, strict=True):
        params = start[None].clone().requires_grad_()
        logits = task.expert.heads(params, x[None, None])[0, 0]
        loss = (r * torch.nn.functional.cross_entropy(logits, y.expand(k), reduction="none")).sum()
        [g] = torch.autograd.grad(loss, params)
        total += g[0] * min(1.0, CLIP / float(g.norm()))
    message = at.step.client(select(server, at.step.reads), at.states, rows, 2)[1]
    torch.testing.assert_close(updates(message, server, at.step).float(), -RATE * total, atol=1e-4, rtol=1e-3)
    assert message.models["head"].mass.sum().item() == pytest.approx(len(rows))
    torch.testing.assert_close(message.models["head"].mass, len(rows) * at.states["proportions"][0])


def test_every_step_has_a_bound_and_says_what_it_tells():
    program = METHODS["fedgmi"](task_of()).program
    check_private("fedgmi", program, "row")
    told = [step.name for step in program.all_steps if step.tells]
    assert told == ["spread", "k-means", "k-means", "histograms", "em"]
    with pytest.raises(ConfigError, match="the step 'spread' of fedgmi cannot be private"):
        check_private("fedgmi", program)  # of a whole client nothing is bounded


def test_sums_have_noise_by_their_change_and_the_histogram_none_more():
    wrapper = private_rows(RATE, CLIP, 3.0, 100)
    zeros = Message(sums={"sum": torch.zeros(4000, dtype=torch.float64)})
    sent = wrapper.send(zeros, Place(0, (0, 1), 0, 0, 0, row_change=2.0)).sums["sum"]
    assert float(sent.std()) == pytest.approx(2.0 * 3.0 / math.sqrt(2), rel=0.05)
    with pytest.raises(ProgramError, match="nothing bounds"):
        wrapper.send(zeros, Place(0, (0, 1), 0, 0, 0))
    assert [step.name for step in METHODS["fedgmi"](task_of()).program.all_steps if wrapper.skips(step)] == [
        "histograms"
    ]


def words_of(method: Method, server: Tree, task: Task) -> torch.Tensor:
    return raw_words(task, server, pack(SCENARIO.federation.clients))


def test_with_hardly_any_noise_components_are_found():
    task = task_of(epsilon=1000.0, personal=False, kmeans_rounds=8)
    method = METHODS["fedgmi"](task)
    server, states, _ = run(method, SCENARIO, rounds=3)
    assert proportion_error(method.predictor, states, SCENARIO) < 0.1
    assert len(words_of(method, server, task).unique()) > 4
    assert "density" not in method.predictor.reads
    logs = method.predictor.predict(server, states, replace(pack(SCENARIO.federation.held_out), y=None))
    assert float(logs.logsumexp(1).abs().max()) < 1e-5
    torch.testing.assert_close(server["gate/cells"].sum(), torch.tensor(240.0, dtype=torch.float64))


def test_a_client_that_missed_the_counts_has_the_pooled_proportions():
    [at] = [one for one in asked() if one.step.name == "fold in"]
    rows, part = rows_of(SCENARIO.federation.clients[0]), select(at.server, at.step.reads)
    for states in (
        {"proportions": at.states["proportions"]},
        at.states | {"released": torch.zeros_like(at.states["released"])},
    ):
        found = at.step.client(part, states, rows, 0)[0]["proportions"]
        torch.testing.assert_close(found[0], at.server["calibration/share"])
    assert METHODS["fedgmi"](task_of()).program.late_are_new is False  # its rows may not tell what it begins with


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"preset": "default"}, r"method\.preset: a single row has no bound in judges"),
        ({"epsilon": None}, r"method\.epsilon: a single row has no bound in counts"),
        ({"shared": "none"}, r"expert\.shared"),
    ],
)
def test_what_has_no_bound_is_refused(own, why):
    with pytest.raises(ConfigError, match=why):
        METHODS["fedgmi"](task_of(**own))
