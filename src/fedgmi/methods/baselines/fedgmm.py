"""FedGMM: K Gaussians for x times K classifiers, each client's own mix of the pairs (Wu et al. 2023, arXiv 2305.01068).

    P_i(x, y) = Σ_jk π_ijk · N(z(x); μ_j, Σ_j) · p_k(y | x)                   j, k = 1..K
    E-step    q_ijk(x, y) ∝ exp(log π_ijk + log N(z; μ_j, Σ_j) + log p_k(y | x)),  π_ijk ← mean of q over i's rows
    M-step    μ_ij, Σ_ij on client i's rows weighted by Σ_k q_ijk; θ_ik from θ_k on its rows weighted by Σ_j q_ijk
    server    θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik, N_ik = n_i Σ_j π_ijk; so also the Gaussians' moments, by n_i Σ_k π_ijk
    predict   p(y | x) = Σ_jk r_ijk(x) p_k(y | x),  r_ijk(x) ∝ π_ijk · N(z; μ_j, Σ_j), from x alone

What travels of a Gaussian are E[z] and E[z zᵀ]: their mean by mass is that of all rows together, and Σ_j holds the
spread between clients' means (law of total variance). Its eigenvalues are at least 1e-4. A Gaussian or a classifier
that nobody holds stays as it was. The proportions reported are the classifiers', Σ_j π_ijk [C, K], as are the
experts. Per round and client: K classifiers and K Gaussians down; the same, and π_i, up.

A new client iterates the E-step from the pooled π until its own converges, all else fixed. Without labels, rows tell
how much there is of each Gaussian, and its pairs share that as they do in the pooled π.

Deviations from the paper:
- z is no frozen network's code but the features, standardised by federated sums and, where they are more than
  `method.projection`, projected by a seeded random matrix; a table of few columns keeps them.
- The Gaussians start with the pooled covariance, at means drawn from the pooled Gaussian by the seed: two exchanges
  of sums.
- Classifiers learn on rows drawn ∝ Σ_j q_ijk, for as many steps as these rows' mass takes (the paper weights the
  loss), with Adam fresh each round. A new client's Gaussians and classifiers stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Rows, Schema
from fedgmi.methods.contract import Message, Method, Step, Task, mean_by_mass
from fedgmi.methods.local_training import (
    expert_loss,
    need_labels,
    random_starts,
    row_losses,
    scale_step,
    train_components,
)
from fedgmi.mixture import codebook
from fedgmi.mixture.posterior import e_step, responsibilities
from fedgmi.models.densities.gaussian import gaussian, to_moments
from fedgmi.settings.run import DensitySettings
from fedgmi.tree import Tree


def fedgmm(task: Task) -> Method:
    """The method for a task; the classifiers are experts from K random starts."""
    need_labels(task, "fedgmm")
    k, size = task.n_components, min(task.settings.projection, task.schema.n_features)
    density = gaussian(DensitySettings(), Schema((size,), 0, "tabular"))
    assert density.fit is not None
    fit = density.fit

    def codes(server: Tree, rows: Rows) -> Tensor:
        """z of each row [R, D]."""
        if "codes" not in rows.cache:
            rows.cache["codes"] = codebook.projector(server["mean"], server["std"], size, task.seed)(rows.x)
        return rows.cache["codes"]

    def pair_logs(server: Tree, rows: Rows) -> Tensor:
        """log N(z; μ_j, Σ_j) + log p_k(y | x), the latter where there are labels. [R, K·K], nats"""
        z = codes(server, rows)
        logs = density.log_prob(server["gaussian"], z, z.new_zeros(0)).double()[:, :, None].expand(-1, -1, k)
        return (logs if rows.y is None else logs - row_losses(task, server["expert"], rows)[:, None, :]).flatten(1)

    def pair_shares(server: Tree, states: Tree, rows: Rows) -> Tensor:
        """q_ijk of each row, or r_ijk where there are no labels. [R, K, K]"""
        return responsibilities(pair_logs(server, rows), states["pairs"], rows.owner)[0].reshape(-1, k, k)

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        shares = pair_shares(server, states, rows)
        mass = rows.sum_by_client(shares)  # n_i π_ijk [C, K, K]
        local = fit(codes(server, rows), shares.sum(2), rows.owner, rows.n_clients)
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, shares.sum(1), server["expert"], expert_loss(task), key)
        values = {
            "expert total": trained.total,
            "expert mass": trained.mass,
            "gaussian total": (mass.sum(2)[:, :, None] * local.double()).sum(0).to(local.dtype),
            "pairs": mass.sum(0).flatten(),
        }
        pairs = (mass / rows.counts[:, None, None]).flatten(1)
        models = rows.n_clients * (server["expert"].nbytes + server["gaussian"].nbytes)
        return {"pairs": pairs}, Message(values, models, models + pairs.nbytes)

    def average(server: Tree, sums: Tree, round: int) -> Tree:
        of_gaussians = sums["pairs"].reshape(k, k).sum(1)
        return server | {
            "expert": mean_by_mass(server["expert"], sums["expert total"], sums["expert mass"]),
            "gaussian": mean_by_mass(server["gaussian"], sums["gaussian total"], of_gaussians),
            "pairs": sums["pairs"] / sums["pairs"].sum(),
        }

    def spread(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sums = codebook.spread_sums(codes(server, rows))
        down, up = server["mean"].nbytes + server["std"].nbytes, tree.n_bytes(sums)
        return states, Message(sums, rows.n_clients * down, rows.n_clients * up)

    def start(server: Tree, sums: Tree, round: int) -> Tree:
        mean, second = sums["sum"] / sums["count"], sums["outer"] / sums["count"]
        centres = codebook.first_centres(sums, k, task.seed).double()
        around = second - mean.outer(mean) + centres[:, :, None] * centres[:, None, :]
        return server | {"gaussian": to_moments(centres, around).float()}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        gate = pair_shares(server, states, replace(rows, y=None)).sum(1).clamp(min=1e-30).log()  # [R, K]
        return (task.expert.log_prob(server["expert"], rows.x).double() + gate[:, :, None]).logsumexp(1)

    def welcome(server: Tree, rows: Rows) -> Tree:
        pooled = server["pairs"].expand(rows.n_clients, -1)
        identified = torch.full((rows.n_clients,), rows.y is not None, device=rows.x.device)
        return {"pairs": e_step(pair_logs(server, rows), rows, pooled).proportions, "identified": identified}

    return Method(
        name="fedgmm",
        init=lambda: {"expert": random_starts(task, k), "pairs": torch.full((k * k,), 1.0 / k**2, dtype=torch.float64)},
        client_init=lambda ids: {"pairs": torch.full((len(ids), k * k), 1.0 / k**2, dtype=torch.float64)},
        prepare=(scale_step(task), Step("spread", spread, start)),
        round=(Step("em", train, average),),
        predict=predict,
        proportions=lambda states: states["pairs"].reshape(-1, k, k).sum(1),
        responsibilities=lambda server, states, rows: pair_shares(server, states, rows).sum(1),
        welcome=welcome,
        experts="expert",
    )
