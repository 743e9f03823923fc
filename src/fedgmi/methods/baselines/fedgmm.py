"""FedGMM: K Gaussians for x times K classifiers, each client's own mix of the pairs (Wu et al. 2023, arXiv 2305.01068).

    P_i(x, y) = Σ_jk π_ijk · N(z(x); μ_j, Σ_j) · p_k(y | x)                   j, k = 1..K
    E-step    q_ijk(x, y) ∝ exp(log π_ijk + log N(z; μ_j, Σ_j) + log p_k(y | x)),  π_ijk ← mean of q over i's rows
    M-step    μ_ij, Σ_ij on client i's rows weighted by Σ_k q_ijk; θ_ik from θ_k on its rows weighted by Σ_j q_ijk
    server    θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik, N_ik = n_i Σ_j π_ijk; so also the Gaussians' moments, by n_i Σ_k π_ijk
    predict   p(y | x) = Σ_jk r_ijk(x) p_k(y | x),  r_ijk(x) ∝ π_ijk · N(z; μ_j, Σ_j), from x alone

What travels of a Gaussian are E[z] and E[z zᵀ]: their mean by mass is that of all rows together, and Σ_j holds the
spread between clients' means (law of total variance). Its eigenvalues are at least 1e-4. A Gaussian or a classifier
that nobody holds stays as it was. The proportions reported are the classifiers', Σ_j π_ijk [C, K], as are the
experts. Per round and client: K classifiers and K Gaussians down; the same up, and n_i π_i.

A new client iterates the E-step from the pooled π until its own converges, all else fixed. Without labels, rows tell
how much there is of each Gaussian, and its pairs share that as they do in the pooled π.

`method.shared_trunk` gives the classifiers all layers but the last in common, as those of fedgmi have. Each client then
trains the trunk and K heads at once; the trunk's mean is by rows.

Deviations from the paper:
- z is the features, not a frozen network's code. Federated sums standardise them. A seeded random matrix projects them
  where they are more than `method.projection`; a table of few columns keeps them.
- The Gaussians start with the pooled covariance, at means drawn from the pooled Gaussian by the seed. That takes two
  exchanges of sums.
- Adam, fresh in each round. It undoes a weight that all rows of a client have in common. `method.weighting = "draw"`
  lets classifiers learn on rows drawn ∝ Σ_j q_ijk instead: see `weighting`.
- A new client's Gaussians and classifiers stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows, Schema
from fedgmi.methods.baselines.weighting import WEIGHTINGS, WeightingSettings, check_weighting, mean_parts
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    feature_scale_step,
    identified,
    identified_of,
    need_labels,
    row_losses,
)
from fedgmi.methods.plausible import projected_range, range_of, wrong_spread
from fedgmi.methods.shared_trunk import parts_of, starts, train_heads, whole
from fedgmi.methods.summing import over_clients
from fedgmi.mixture import codebook
from fedgmi.mixture.posterior import e_step, responsibilities, uniform
from fedgmi.models.densities.gaussian import gaussian, to_moments
from fedgmi.models.expert import mixture_log_prob
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Program, Step
from fedgmi.settings.base import Cells
from fedgmi.settings.run import DensitySettings
from fedgmi.tree import Tree


class FedGMMSettings(WeightingSettings):
    """FedGMM's own settings, beside `weighting`.

    Attributes:
        projection: The dimension of z, where there are more features than that.
    """

    name: Literal["fedgmm"] = "fedgmm"
    projection: Cells = 32


def fedgmm(task: Task[FedGMMSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the K classifiers, which have a random start each.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "fedgmm")
    shared = task.settings.shared_trunk
    k, size = task.n_components, min(task.settings.projection, task.schema.n_features)
    density = gaussian(DensitySettings(), Schema((size,), 0, "tabular"))
    assert density.fit is not None
    fit = density.fit

    def codes(server: Tree, rows: Rows) -> Tensor:
        """z of each row [R, D]."""
        scale = server["mean"], server["std"]
        return rows.once("codes", scale, lambda: codebook.projector(*scale, size, task.seed)(rows.x))

    def pair_logs(server: Tree, rows: Rows) -> Tensor:
        """log N(z; μ_j, Σ_j) + log p_k(y | x), the latter where there are labels. [R, K·K], nats"""
        z = codes(server, rows)
        logs = density.log_prob(server["gaussian"], z, z.new_zeros(0)).double()[:, :, None].expand(-1, -1, k)
        return (logs if rows.y is None else logs - row_losses(task, server["expert"], rows)[:, None, :]).flatten(1)

    def pair_shares(server: Tree, states: Tree, rows: Rows) -> Tensor:
        """q_ijk of each row, or r_ijk where there are no labels. [R, K, K]"""
        return responsibilities(pair_logs(server, rows), states["pairs"], rows.client_index)[0].reshape(-1, k, k)

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        shares = pair_shares(server, states, rows)
        mass = rows.sum_by_client(shares)  # n_i π_ijk [C, K, K]
        local = fit(codes(server, rows), shares.sum(2), rows.client_index, rows.n_clients)
        key = (task.seed, round, "expert")
        experts, weights = server["expert"], shares.sum(1)
        if shared:
            trained = train_heads(task, experts, rows, weights, key, mass=rows.sum_by_client(weights))
        else:
            trained = {"expert": mean_parts(task, rows, weights, experts, key)}
        total = over_clients(rows, mass.sum(2)[:, :, None] * local.double()).to(local.dtype)
        of_pairs = over_clients(rows, mass)  # [K, K]
        gaussians = Models(total, of_pairs.sum(-1), (mass.sum(2) != 0).cpu())
        pairs = (mass / rows.counts[:, None, None]).flatten(1)
        return {"pairs": pairs}, Message(trained | {"gaussian": gaussians}, {"pairs": of_pairs.flatten(-2)})

    def average(server: Tree, message: Message, round: int) -> Tree:
        pairs = message.sums["pairs"]
        return server | {
            "expert": whole(task, server["expert"], message)
            if shared
            else message.models["expert"].mean(server["expert"]),
            "gaussian": message.models["gaussian"].mean(server["gaussian"]),
            "pairs": pairs / pairs.sum(),
        }

    def spread(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums=codebook.spread_sums(codes(server, rows)))

    def check_spread(server: Tree, message: Message, client: int, rows: int) -> str | None:
        projector = codebook.projector(server["mean"], server["std"], size, task.seed)
        limits = projected_range(projector.matrix, projector.mean, projector.std, range_of(task.schema))
        return wrong_spread("its projected features", message.sums, rows, limits)

    def start(server: Tree, message: Message, round: int) -> Tree:
        sums = message.sums
        mean, second = sums["sum"] / sums["count"], sums["outer"] / sums["count"]
        centres = codebook.first_centres(sums, k, task.seed).double()
        around = second - mean.outer(mean) + centres[:, :, None] * centres[:, None, :]
        return server | {"gaussian": to_moments(centres, around).float()}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        gate = pair_shares(server, states, replace(rows, y=None)).sum(1).clamp(min=1e-30).log()  # [R, K]
        return mixture_log_prob(task.expert, server["expert"], rows.x, gate)

    def infer_client(server: Tree, rows: Rows) -> Tree:
        pooled = server["pairs"].expand(rows.n_clients, -1)
        pairs = e_step(pair_logs(server, rows), rows, pooled).proportions
        return {"pairs": pairs} | identified(rows, rows.y is not None)

    def models(server: Tree) -> Tree:
        experts = parts_of(task, server["expert"]) if shared else {"expert": server["expert"]}
        return experts | {"gaussian": server["gaussian"]}

    features, first = feature_scale_step(task), starts(task, k, shared, "fedgmm")
    return Method(
        name="fedgmm",
        program=Program(
            init=lambda: {"expert": first, "pairs": uniform(1, k * k)[0]},
            client_init=lambda ids: {"pairs": uniform(len(ids), k * k)},
            prepare=(
                features,
                Step(
                    "spread",
                    spread,
                    start,
                    reads=features.writes,
                    writes=("gaussian",),
                    kind="sketch",
                    check=check_spread,
                    tells="sums of its projected features and their products",
                ),
            ),
            round=(
                Step(
                    "em",
                    train,
                    average,
                    reads=(*features.writes, "expert", "gaussian"),
                    writes=("expert", "gaussian", "pairs"),
                    models=models,
                    beside=True,
                    apart=True,
                    tells="updates of the shared Gaussians and classifiers, weighted by how much of each it has",
                ),
            ),
            kinds={
                "expert": "expert",
                "trunk": "expert",
                "head": "expert",
                "gaussian": "density",
                "mean": "sketch",
                "std": "sketch",
            },
        ),
        predictor=Predictor(
            predict=predict,
            reads=(*features.writes, "expert", "gaussian", "pairs"),
            proportions=lambda states: states["pairs"].reshape(-1, k, k).sum(1),
            responsibilities=lambda server, states, rows: pair_shares(server, states, rows).sum(1),
            infer_client=infer_client,
            identified=identified_of,
            pooled=lambda server: server["pairs"].reshape(k, k).sum(0),
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


FEDGMM = Entry(
    fedgmm,
    FedGMMSettings,
    "K Gaussians for x times K classifiers, each client's own mix of the pairs",
    check=check_weighting,
    tune=WEIGHTINGS,
)
