"""FedGMM: a literal version of its rule, its Gaussians, and whose share is whose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from federations import gaussian_scenario, make_task, payload, run, transport_for
from fedgmi.data.rows import Client, pack
from fedgmi.methods import METHODS
from fedgmi.models.densities.gaussian import mean_and_covariance
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.robust import robust
from fedgmi.protocol.wrapper import Place, Wrapper
from fedgmi.settings.robust import RobustSettings
from fedgmi.tree import Tree
from literal import exchange, losses, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = gaussian_scenario(6, 40)
CLIENTS = SCENARIO.federation.clients
N, K, D = len(CLIENTS), 3, 8
SOME_AWAY = (tuple(range(N)), (0, 1, 3, 4))


def task(n_components: int = K, **others):
    return make_task(SCENARIO.federation.schema, n_components, method="fedgmm", **others)


def started(method) -> Tree:
    """The server as the first round finds it."""
    server = exchange(transport_for(method, SCENARIO), method.program.init(), method.program.prepare, range(N), 0)
    return server


def codes() -> list[Tensor]:
    """Every client's rows, standardised by what all of them have."""
    pooled = torch.cat([client.x for client in CLIENTS]).double()
    return [(client.x.double() - pooled.mean(0)) / pooled.std(0, correction=0) for client in CLIENTS]


def literal_shares(
    models: list[Tensor], gaussians: list[MultivariateNormal], pairs: Tensor, z: Tensor, client: Client
) -> Tensor:
    """q [n, K, K] ∝ π_jk N_j(z) p_k(y | x)."""
    of_x = torch.stack([gaussian.log_prob(z) for gaussian in gaussians], 1)
    of_y = torch.stack([-losses(task(), model, client).double() for model in models], 1)
    joint = pairs.log() + of_x[:, :, None] + of_y[:, None, :]
    return joint.flatten(1).softmax(1).view(-1, len(gaussians), len(models))


def fit_to_all(z: list[Tensor], weights: list[Tensor]) -> MultivariateNormal:
    """The maximum-likelihood Gaussian of all clients' rows together, as if nobody's were apart."""
    rows, weight = torch.cat(z), torch.cat(weights)
    mean = weight @ rows / weight.sum()
    offset = rows - mean
    return MultivariateNormal(mean, (offset.T * weight) @ offset / weight.sum())


@pytest.mark.parametrize(("weighting", "by"), [("weight", "count"), ("draw", "share")])
def test_equals_a_literal_version_with_some_clients_away(weighting, by):
    method, z = METHODS["fedgmm"](task(weighting=weighting)), codes()
    begun = started(method)
    server, states = run_rounds(method, SCENARIO, SOME_AWAY)
    means, covariances = mean_and_covariance(begun["gaussian"], D)
    gaussians = [MultivariateNormal(mean, cov) for mean, cov in zip(means, covariances, strict=True)]
    models = [start_of(task(), k) for k in range(K)]
    pairs = [torch.full((K, K), 1 / K**2, dtype=torch.float64) for _ in CLIENTS]
    for number, ids in enumerate(SOME_AWAY, 1):
        shares = {i: literal_shares(models, gaussians, pairs[i], z[i], CLIENTS[i]) for i in ids}
        for i in ids:
            pairs[i] = shares[i].mean(0)
        trained = {
            (i, k): train_alone(
                task(), CLIENTS, i, models[k], (0, number, "expert"), component=k, **{by: shares[i].sum(1)[:, k]}
            )
            for i in ids
            for k in range(K)
        }
        models = [
            weighted_mean([trained[i, k] for i in ids], [float(shares[i][:, :, k].sum()) for i in ids])
            for k in range(K)
        ]
        gaussians = [fit_to_all([z[i] for i in ids], [shares[i][:, j].sum(1) for i in ids]) for j in range(K)]
    means, covariances = mean_and_covariance(server["gaussian"], D)
    torch.testing.assert_close(means, torch.stack([g.mean for g in gaussians]), atol=2e-3, rtol=0)
    torch.testing.assert_close(covariances, torch.stack([g.covariance_matrix for g in gaussians]), atol=5e-3, rtol=0)
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(states["pairs"], torch.stack(pairs).flatten(1), atol=1e-3, rtol=0)


def test_one_pair_is_fedavg():
    alone, _, _ = run(METHODS["fedgmm"](task(1)), SCENARIO, rounds=3, participation=0.5)
    average, _, _ = run(METHODS["fedavg"](task(1)), SCENARIO, rounds=3, participation=0.5)
    assert torch.equal(alone["expert"], average["expert"])


def test_gaussians_start_apart_with_the_pooled_covariance():
    z = torch.cat(codes())
    means, covariances = mean_and_covariance(started(METHODS["fedgmm"](task()))["gaussian"], D)
    pooled = z.T @ z / len(z)
    torch.testing.assert_close(covariances, pooled.expand(K, -1, -1), atol=1e-5, rtol=0)
    assert float(torch.cdist(means, means).fill_diagonal_(9.0).min()) > 0.5
    other, _ = mean_and_covariance(started(METHODS["fedgmm"](task(seed=1)))["gaussian"], D)
    assert not torch.allclose(means, other)


def test_covariances_hold_the_spread_between_clients():
    """With one Gaussian, that of all rows together: the law of total variance (clients' own means differ here)."""
    server, _, _ = run(METHODS["fedgmm"](task(1)), SCENARIO, rounds=1)
    z = torch.cat(codes())
    _, covariance = mean_and_covariance(server["gaussian"], D)
    torch.testing.assert_close(covariance[0], z.T @ z / len(z), atol=1e-5, rtol=0)
    within = torch.stack([part.T.cov(correction=0) for part in codes()]).mean(0)
    assert float((z.T @ z / len(z) - within).trace()) > 0.5


@pytest.mark.parametrize("k", range(K))
def test_who_holds_one_pair_alone_predicts_with_its_classifier(k):
    """Whatever the Gaussians say: π enters by its logarithm, and log 1 − log 0 outweighs any row here."""
    method = METHODS["fedgmm"](task())
    server, _, _ = run(method, SCENARIO)
    server = server | {"gaussian": server["gaussian"][:1].expand(K, -1)}
    pairs = torch.zeros(N, K, K, dtype=torch.float64)
    pairs[:, 0, k] = 1.0
    rows = replace(pack(CLIENTS), y=None, cache={})
    found = method.predictor.predict(server, {"pairs": pairs.flatten(1)}, rows)
    torch.testing.assert_close(
        found, task().expert.log_prob(server["expert"], rows.x)[:, k].double(), atol=1e-5, rtol=0
    )


def test_predictions_weigh_classifiers_by_what_x_says():
    method = METHODS["fedgmm"](task())
    server, states, _ = run(method, SCENARIO)
    means, covariances = mean_and_covariance(server["gaussian"], D)
    rows = replace(pack(CLIENTS), y=None, cache={})
    gaussians = [MultivariateNormal(mean, cov) for mean, cov in zip(means, covariances, strict=True)]
    of_x = torch.stack([gaussian.log_prob(torch.cat(codes())) for gaussian in gaussians], 1)
    joint = of_x.exp()[:, :, None] * states["pairs"].view(N, K, K)[rows.client_index]
    gate = joint.sum(1) / joint.sum((1, 2))[:, None]
    probs = task().expert.log_prob(server["expert"], rows.x).double().exp()
    expected = torch.einsum("rk,rkl->rl", gate, probs)
    torch.testing.assert_close(method.predictor.predict(server, states, rows).exp(), expected, atol=1e-4, rtol=0)


def test_proportions_are_the_classifiers_shares():
    method = METHODS["fedgmm"](task())
    pairs = torch.tensor([[[0.1, 0.2, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.4]]]).double()
    assert method.predictor.proportions({"pairs": pairs.flatten(1)})[0].tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_a_pair_that_nobody_holds_stays_as_it_was():
    method = METHODS["fedgmm"](task())
    transport, server = transport_for(method, SCENARIO), started(METHODS["fedgmm"](task()))
    pairs = torch.zeros(N, K, K, dtype=torch.float64)
    pairs[:, :2, :2] = 0.25
    transport.states = {"pairs": pairs.flatten(1)}
    alike = server | {"gaussian": server["gaussian"][:1].repeat(K, 1)}
    updated = exchange(transport, alike, method.program.round, range(N), 1)
    assert torch.equal(updated["expert"][2], server["expert"][2])
    assert float((updated["expert"] - server["expert"])[:2].abs().amax(1).min()) > 0.005
    torch.testing.assert_close(updated["gaussian"][2], alike["gaussian"][2], atol=1e-6, rtol=0)


def test_many_features_are_projected():
    server = started(METHODS["fedgmm"](task(projection=4)))
    assert server["gaussian"].shape == (K, 4 + 4 * 5 // 2)


def test_a_newcomer_infers_its_proportions_to_the_end():
    method = METHODS["fedgmm"](task())
    server, _, _ = run(method, SCENARIO, rounds=4)
    means, covariances = mean_and_covariance(server["gaussian"], D)
    gaussians = [MultivariateNormal(mean, cov) for mean, cov in zip(means, covariances, strict=True)]
    inferred = method.predictor.infer_client(server, pack(CLIENTS))
    for i, (client, z) in enumerate(zip(CLIENTS, codes(), strict=True)):
        pairs = inferred["pairs"][i].view(K, K)
        again = literal_shares(list(server["expert"]), gaussians, pairs.clamp(min=1e-12), z, client).mean(0)
        torch.testing.assert_close(pairs, again, atol=1e-3, rtol=0)
    assert bool(inferred["identified"].all())


def test_without_labels_a_gaussians_share_is_split_as_all_clients_split_it():
    method = METHODS["fedgmm"](task())
    server, _, _ = run(method, SCENARIO, rounds=4)
    blind = method.predictor.infer_client(server, replace(pack(CLIENTS), y=None, cache={}))
    pairs, pooled = blind["pairs"].view(N, K, K), server["pairs"].view(K, K)
    split = pairs / pairs.sum(2, keepdim=True).clamp(min=1e-30)
    held = pairs.sum(2) > 1e-3
    torch.testing.assert_close(split[held], (pooled / pooled.sum(1, keepdim=True)).expand(N, -1, -1)[held])
    assert not bool(blind["identified"].any())


def test_a_client_that_lies_about_its_pairs_moves_no_model():
    """Models are averaged by the masses that travel with them, whatever else a client says."""
    method = METHODS["fedgmm"](task())
    median = robust(RobustSettings(aggregation="median"))

    def lie(message: Message, place: Place) -> Message:
        lying = place.round == 1 and place.client == 0
        return replace(message, sums={"pairs": 1e6 * message.sums["pairs"]}) if lying else message

    ends = []
    for wrappers in ((median,), (median, Wrapper("liar", "", send=lie))):
        transport = InProcess(CLIENTS, method.program, wrappers=wrappers)
        ends.append(run(method, SCENARIO, rounds=1, transport=transport)[0])
    honest, lied_to = ends
    assert not torch.equal(honest["pairs"], lied_to["pairs"])
    assert torch.equal(honest["gaussian"], lied_to["gaussian"])
    assert torch.equal(honest["expert"], lied_to["expert"])


def test_bytes_are_those_that_a_hand_counts():
    """Models and Gaussians, with a mass each on the way up."""
    expert, gaussian, mass = K * 4 * task().expert.size, K * 4 * (D + D * (D + 1) // 2), 8 * K
    found = payload(METHODS["fedgmm"](task()), SCENARIO, participation=0.5)
    assert found["expert"] == (3 * 3 * expert, 3 * 3 * (expert + mass))
    assert found["density"] == (3 * 3 * gaussian, 3 * 3 * (gaussian + mass))
