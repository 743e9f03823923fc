"""Rivals whose K models share all layers but the last: literal versions of a round, and what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federations import make_task, payload, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.bcfl import squares
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models import training
from fedgmi.protocol.message import Message
from fedgmi.runs import config
from literal import EVERYONE, SIZES, exchange, losses, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
K, SOME = 3, (0, 2, 4)
NAMES = ("ifca", "fedsoft", "fedem", "fedgmm")
ALL = (*NAMES, "cfl", "flhc", "bcfl", "flux")


def task(name: str, **own):
    return make_task(SCENARIO.federation.schema, K, method=name, **({"shared_trunk": True} | own))


def cut_of(name: str) -> int:
    """T."""
    return task(name).expert.trunk


def started(name: str) -> list[Tensor]:
    """K models with the trunk of the first."""
    made, cut = task(name), cut_of(name)
    drawn = [start_of(made, k) for k in range(K)]
    return [torch.cat([drawn[0][:cut], model[cut:]]) for model in drawn]


def assert_models(found: Tensor, trunk: Tensor, heads: list[Tensor]) -> None:
    expected = torch.stack([torch.cat([trunk, head]) for head in heads])
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-3)


def best(name: str, models: list[Tensor], i: int) -> int:
    return int(torch.stack([losses(task(name), model, CLIENTS[i]).mean() for model in models]).argmin())


def test_ifca_averages_the_trunk_over_all_and_heads_over_clusters():
    server, _ = run_rounds(METHODS["ifca"](task("ifca")), SCENARIO, [SOME])
    models, cut = started("ifca"), cut_of("ifca")
    chosen = {i: best("ifca", models, i) for i in SOME}
    trained = {i: train_alone(task("ifca"), CLIENTS, i, models[k], (0, 1, "expert")) for i, k in chosen.items()}
    trunk = weighted_mean([trained[i][:cut] for i in SOME], [SIZES[i] for i in SOME])
    heads = []
    for k, model in enumerate(models):
        group = [i for i in SOME if chosen[i] == k]
        own = weighted_mean([trained[i][cut:] for i in group], [SIZES[i] for i in group]) if group else model[cut:]
        heads.append(own)
    assert_models(server["expert"], trunk, heads)


def test_a_warm_start_parts_heads_alone():
    server, _ = run_rounds(METHODS["ifca"](task("ifca", warm_rounds=1)), SCENARIO, [EVERYONE])
    cut = cut_of("ifca")
    assert torch.equal(server["expert"][:, :cut], server["joint"][:, :cut].expand(K, -1))
    assert float((server["expert"][:, cut:] - server["joint"][:, cut:]).abs().amax(1).min()) > 0.001


def test_fedsofts_centres_share_a_trunk_and_clients_keep_their_own():
    made, cut = task("fedsoft"), cut_of("fedsoft")
    server, states = run_rounds(METHODS["fedsoft"](made), SCENARIO, [SOME])
    own, importance = states["expert"], states["importance"].float()
    trunk = weighted_mean([own[i, :cut] for i in SOME], [SIZES[i] for i in SOME])
    shares = [[float(importance[i, k]) * SIZES[i] for i in SOME] for k in range(K)]
    heads = [weighted_mean([own[i, cut:] for i in SOME], share) for share in shares]
    assert_models(server["expert"], trunk, heads)
    assert float((own[0, :cut] - own[2, :cut]).abs().max()) > 0.001


def trunk_and_heads(name: str, models: list[Tensor], weights: Tensor, i: int) -> tuple[Tensor, list[Tensor]]:
    """Client i's, by Σ_k w_k CE_k of each row, head after head."""
    made, cut, rows = task(name), cut_of(name), pack(CLIENTS, [i])

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        total = 0.0
        for k, head in enumerate(params[:, cut:].chunk(K, 1)):
            model = torch.cat([params[:, :cut], head], 1)
            total = total + weights[batch.row, k].float() * made.expert.loss(model, batch.x, batch.y)
        return total

    start = torch.cat([models[0][:cut], *(model[cut:] for model in models)])
    jobs = plan(made, rows, all_rows(rows))
    objective, key = training.Objective(loss), (0, 1, "expert")
    found = training.fit(objective, start[None], jobs, rows, settings=made.training, lr=made.lr, key=key)[0]
    return found[:cut], list(found[cut:].chunk(K))


@pytest.mark.parametrize("name", ["fedem", "fedgmm"])
def test_each_client_trains_trunk_and_heads_at_once(name):
    """FedEM's heads are averaged by rows, FedGMM's by what clients have of them."""
    method = METHODS[name](task(name))
    transport = transport_for(method, SCENARIO)
    server = exchange(transport, method.program.init(), method.program.prepare, EVERYONE, 0)
    models = started(name)
    assert torch.equal(server["expert"], torch.stack(models))
    weights = method.predictor.responsibilities(server, transport.states, pack(CLIENTS)).split(list(SIZES))
    updated = exchange(transport, server, method.program.round, SOME, 1)
    found = [trunk_and_heads(name, models, weights[i], i) for i in SOME]
    by_rows = [SIZES[i] for i in SOME]
    masses = [by_rows if name == "fedem" else [float(weights[i][:, k].sum()) for i in SOME] for k in range(K)]
    trunk = weighted_mean([own for own, _ in found], by_rows)
    heads = [weighted_mean([own[k] for _, own in found], masses[k]) for k in range(K)]
    assert_models(updated["expert"], trunk, heads)


@pytest.mark.parametrize("name", NAMES)
def test_the_trunk_goes_up_once(name):
    apart, shared = (payload(METHODS[name](task(name, shared_trunk=way)), SCENARIO)["expert"] for way in (False, True))
    trunk, head = 4 * cut_of(name), 4 * (task(name).expert.size - cut_of(name))
    n_heads = 1 if name == "ifca" else K
    assert shared[1] == 3 * len(SIZES) * (trunk + 8 + n_heads * head + 8 * K)
    assert shared[1] < apart[1] or name == "ifca"


def test_bcfls_trunk_is_one_gaussian_of_all_clients():
    server, _ = run_rounds(METHODS["bcfl"](task("bcfl")), SCENARIO, [SOME])
    models, made = started("bcfl"), task("bcfl")
    chosen, owns, sharps = {}, {}, {}
    for i in SOME:
        k = chosen[i] = best("bcfl", models, i)

        def pull(model: Tensor, mean: Tensor = models[k]) -> Tensor:
            return 0.5 * made.settings.strength * (model - mean).square().sum()

        owns[i] = train_alone(made, CLIENTS, i, models[k], (0, 1, "expert"), pull=pull)
        sharps[i] = 1.0 + made.training.epochs * squares(made, owns[i][None], pack(CLIENTS, [i]))[0]

    def fused(group: list[int], part: slice) -> Tensor:
        return sum(sharps[i][part] * owns[i][part] for i in group) / sum(sharps[i][part] for i in group)

    cut = cut_of("bcfl")
    groups = [[i for i in SOME if chosen[i] == k] for k in range(K)]
    heads = [fused(group, slice(cut, None)) if group else models[k][cut:] for k, group in enumerate(groups)]
    assert_models(server["expert"], fused(list(SOME), slice(cut)), heads)
    sharpest = torch.stack([sharps[i][:cut] for i in SOME]).mean(0)
    torch.testing.assert_close(server["precision"][:, :cut], sharpest.expand(K, -1), atol=5e-5, rtol=1e-3)


LATER = {"flux": {"joint_rounds": 1, "reach": 1e-6}, "flhc": {"joint_rounds": 1}, "cfl": {"mean_below": 0.99}}
"""With which each has several clusters in the third round."""


@pytest.mark.parametrize("name", LATER)
def test_found_clusters_average_the_trunk_over_all_and_heads_by_cluster(name):
    method = METHODS[name](task(name, **({"largest_above": 1e-6} if name == "cfl" else {}), **LATER[name]))
    transport, before = transport_for(method, SCENARIO), method.program.init()
    for number in (1, 2):
        before = exchange(transport, before, method.program.round, EVERYONE, number)
    after = exchange(transport, before, method.program.round, EVERYONE, 3)
    cut, cluster, models = cut_of(name), before["cluster"].tolist(), before["expert"]
    assert len(set(cluster)) > 1
    assert torch.equal(models[:, :cut], models[:1, :cut].expand(len(models), -1))
    assert not torch.equal(models[0, cut:], models[1, cut:])
    owns = [train_alone(task(name), CLIENTS, i, models[cluster[i]], (0, 3, "expert")) for i in EVERYONE]
    trunk = weighted_mean([own[:cut] for own in owns], SIZES)
    members = [[i for i in EVERYONE if after["cluster"][i] == c] for c in range(len(after["expert"]))]
    sizes = [[SIZES[i] for i in group] for group in members]
    heads = [weighted_mean([owns[i][cut:] for i in group], size) for group, size in zip(members, sizes, strict=True)]
    assert_models(after["expert"], trunk, heads)


def test_cfl_splits_by_last_layers_where_the_others_are_shared():
    """Trunks that pull apart split nobody; last layers that do so split, whatever the trunks."""
    made = METHODS["cfl"](task("cfl", mean_below=0.5, largest_above=0.5))
    cut, apart = cut_of("cfl"), torch.tensor([1.0, 1.0, -1.0, -1.0])
    for part, n_clusters in ((slice(0, cut), 1), (slice(cut, None), 2)):
        update = torch.zeros(4, task("cfl").expert.size)
        update[:, cut:] = 0.01  # heads agree
        update[:, part] += apart[:, None]
        numbers = torch.arange(4)
        replies = {"client": numbers, "cluster": torch.zeros_like(numbers), "rows": numbers + 5, "update": update}
        server = made.program.round[0].server(made.program.init(), Message(replies=replies), 1)
        assert len(server["expert"]) == n_clusters


@pytest.mark.parametrize("name", ALL)
def test_an_expert_without_a_trunk_is_refused(name):
    made = task(name)
    bare = replace(made, expert=replace(made.expert, trunk=0))
    with pytest.raises(ConfigError, match=rf"method\.shared_trunk.*{name} is to share all layers but the last"):
        METHODS[name](bare)


@pytest.mark.parametrize(
    ("name", "other"), [("fedem", "weighting=draw"), ("fedgmm", "weighting=draw"), ("ifca", "init=farthest")]
)
def test_what_a_shared_trunk_rules_out_is_refused(name, other):
    with pytest.raises(ConfigError, match=rf"method\.{other.partition('=')[0]}.*no effect.*shared_trunk"):
        config.load(None, [f"method.name={name}", "method.shared_trunk=true", f"method.{other}"])


def test_models_of_their_own_are_the_default():
    server, _, _ = run(METHODS["fedem"](task("fedem", shared_trunk=False)), SCENARIO)
    cut = cut_of("fedem")
    assert not torch.equal(server["expert"][0, :cut], server["expert"][1, :cut])
