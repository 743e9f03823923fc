"""The densities' part of an EM round: K models apart, one network with K small parts, or a fit in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.evidence import elbo
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Components
from fedgmi.methods.local_training import all_rows, held_by_all, plan, train_chunks, train_components
from fedgmi.methods.summing import Totals, counted, over_clients, over_rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR, Posterior
from fedgmi.models.density import Density
from fedgmi.models.training import Batch, Objective
from fedgmi.protocol.message import Message, Models
from fedgmi.tree import Tree

Densities = dict[str, Models]
TRUNK, OWN = "density/trunk", "density/own"


def train_densities(task: Task[FedGMISettings], start: Tensor, rows: Rows, resp: Tensor, round: int) -> Densities:
    """The clients' densities, in closed form or trained from `start`, on rows weighted by responsibilities.

    Args:
        task: Its density and its training settings.
        start: Where they begin. [K, P]
        rows: Of C clients.
        resp: [R, K]
        round: Of the draws.

    Returns:
        The models of a message: "density", or a trunk and each component's own part.
    """
    density, key = task.density, (task.seed, round, "density")
    if density.fit is not None:
        mass = rows.sum_by_client(resp)  # [C, K]
        local = density.fit(rows.x, resp, rows.client_index, rows.n_clients)
        total = over_clients(rows, mass[:, :, None] * local.double())
        return {"density": Models(total.to(local.dtype), over_clients(rows, mass), (mass != 0).cpu())}
    if density.trunk:
        return train_on_one_trunk(task, start, rows, resp, key)
    objective = density_objective(density)
    return {"density": train_components(task, rows, resp, start, objective, key, density.noise_size)}


def train_on_one_trunk(
    task: Task[FedGMISettings], start: Tensor, rows: Rows, resp: Tensor, key: tuple[int | str, ...]
) -> Densities:
    """One job a client: the trunk and all own parts at once, each row with a component drawn ∝ r_k(x).

    The expectation of a step's gradient is that of Σ_x Σ_k r_k(x)·loss_k(x), at the cost of one component.

    Args:
        task: Its density has a trunk.
        start: Where they begin, with one trunk. [K, P]
        rows: Of C clients.
        resp: [R, K]
        key: Of the draws: (seed, round, purpose).

    Returns:
        Trunks by rows, own parts by how much of each component a client has.
    """
    density, trunk, mass = task.density, task.density.trunk, rows.sum_by_client(resp)
    first = torch.cat([start[0, :trunk], start[:, trunk:].flatten()])[None]  # [1, T + K·H]
    jobs = plan(task, rows, all_rows(rows))
    place, up_to = jobs.client.to(start.device), resp.cumsum(1).to(start.dtype)

    def drawn(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        chance = torch.special.ndtr(batch.noise[..., -1:]) * up_to[batch.row][..., -1:]  # uniform below the row's mass
        return batch.x, batch.noise[..., :-1], (chance > up_to[batch.row][..., :-1]).sum(-1)

    loss_of, gradient_of = density.loss_of, density.gradient_of
    assert loss_of is not None
    objective = Objective(
        lambda params, batch: loss_of(params, *drawn(batch)),
        None if gradient_of is None else lambda params, batch, out: gradient_of(params, *drawn(batch), out),
        model=f"density {density.name}",
        longest=density.longest,
    )
    trunks, own = Totals(rows, start[:1, :trunk]), Totals(rows, start[:, trunk:])
    chunks = train_chunks(
        task, objective, first, jobs, rows, key, torch.zeros_like(place), noise_size=density.noise_size + 1
    )
    for done, local in chunks:
        parts = local[:, trunk:].reshape(len(local), len(start), -1)  # [J', K, H]
        client = place[done]
        trunks.add_all(client, rows.counts[client, None].to(local.dtype), local[:, None, :trunk])
        own.add_all(client, mass[client].to(local.dtype), parts)
    return {
        TRUNK: held_by_all(rows, trunks.total, counted(rows)),
        OWN: Models(own.total, over_clients(rows, mass), (mass != 0).cpu()),
    }


def density_models(task: Task[FedGMISettings], densities: Tensor) -> Tree:
    """The models that messages hold sums of, by name."""
    trunk = task.density.trunk
    return {TRUNK: densities[:1, :trunk], OWN: densities[:, trunk:]} if trunk else {"density": densities}


def average_densities(task: Task[FedGMISettings], densities: Tensor, message: Message) -> Tensor:
    """The new densities [K, P] from what `train_densities` sent; as they were where nobody sent any."""
    before = density_models(task, densities)
    if not before.keys() <= message.models.keys():
        return densities
    parts = [message.models[name].mean(old) for name, old in before.items()]
    return torch.cat([parts[0].expand(len(densities), -1), parts[1]], 1) if task.density.trunk else parts[0]


def density_objective(density: Density) -> Objective:
    """What one density a job lowers: −log p(x), or the negative ELBO."""
    loss, gradient = density.loss, density.gradient
    assert loss is not None
    written = None if gradient is None else lambda params, batch, out: gradient(params, batch.x, batch.noise, out)
    return Objective(
        lambda params, batch: loss(params, batch.x, batch.noise),
        written,
        model=f"density {density.name}",
        longest=density.longest,
    )


def bound_sums(task: Task[FedGMISettings], server: Tree, posterior: Posterior, rows: Rows) -> Tree:
    """Additive: Σ_x log Σ_k π_ik exp e_k(x) in nats, the bound on log P_i, and the rows."""
    logs = posterior.proportions.clamp(min=PROPORTION_FLOOR).log()
    now, version = Components(server), server.get(Components.names("version")[0])  # it is sent where rows have labels
    joint = elbo(task, now.density, rows, version).double() + logs[rows.client_index]
    return {"bound": over_rows(rows, joint.logsumexp(1)), "count": over_clients(rows, rows.counts).double()}
