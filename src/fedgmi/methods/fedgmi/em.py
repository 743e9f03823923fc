"""One EM round on the clients: responsibilities, then the shares of every component trained on them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fedgmi import training
from fedgmi.data.federation import Rows
from fedgmi.methods.base import Message, Step, Task, mean_by_mass
from fedgmi.methods.fedgmi.evidence import elbo
from fedgmi.methods.fedgmi.sketch import reply
from fedgmi.methods.local_training import all_rows, expert_loss, train_components
from fedgmi.mixture.posterior import PROPORTION_FLOOR, Posterior
from fedgmi.tree import Tree

Rule = Callable[[Tree, Tree, Rows], Posterior]  # where a preset's responsibilities and proportions come from


def em_step(task: Task, rule: Rule, *, shared_rounds: int = 0, judge_rounds: int | None = None) -> Step:
    """E-step by the rule, M-step by packed training; the server takes means weighted by mass.

    In the first `shared_rounds` the experts are one model, trained on all rows: each component sees a share of the rows
    only, and what its expert needs to know of pictures as such is learnt from everybody's. After `judge_rounds` the
    judges stay as they are (None: they always follow).
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        posterior = rule(server, states, rows)
        density = train_density(task, server, rows, posterior.responsibilities, round)
        shared = int(server["version"]) < shared_rounds
        expert = train_expert(task, server, rows, all_rows(rows) if shared else posterior.responsibilities, round)
        sums = bound_sums(task, server, posterior, rows)
        return states | {"proportions": posterior.proportions}, density + expert + reply(sums, rows)

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        updated = dict(server)
        for name in ("density", "expert"):
            if f"{name} mass" in sums:
                total, mass = sums[f"{name} total"], sums[f"{name} mass"]
                updated[name] = mean_by_mass(server[name][: len(mass)], total, mass)
                if len(mass) < task.n_components:  # one model stands for all
                    updated[name] = updated[name].expand(task.n_components, -1).contiguous()
        updated["bound"] = sums["bound"] / sums["count"]
        updated["version"] = server["version"] + 1
        if judge_rounds is None or int(updated["version"]) <= judge_rounds:
            updated |= judges(updated)
        return updated

    return Step("em", client, server_step)


def refresh_step(rule: Rule) -> Step:
    """An E-step alone, so that proportions answer to the last densities; nothing travels."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states | {"proportions": rule(server, states, rows).proportions}, Message()

    return Step("e-step", client, lambda server, sums, round: server)


def train_density(task: Task, server: Tree, rows: Rows, resp: Tensor, round: int) -> Message:
    """Σ_i N_ik θ_ik and Σ_i N_ik, in closed form or by packed training."""
    density = task.density
    if density.fit is not None:
        mass = rows.sum_by_client(resp)  # [C, K]
        local = density.fit(rows.x, resp, rows.owner, rows.n_clients)
        total = (mass[:, :, None] * local.double()).sum(0)
        cost = rows.n_clients * server["density"].numel() * server["density"].element_size()
        return Message({"density total": total.to(local.dtype), "density mass": mass.sum(0)}, cost, cost)
    assert density.loss is not None
    loss = density.loss
    return _train(task, server, rows, resp, round, "density", lambda p, b: loss(p, b.x, b.noise), density.noise_size)


def train_expert(task: Task, server: Tree, rows: Rows, weights: Tensor, round: int) -> Message:
    """The same for the experts, where there are labels. weights [R, K], or [R, 1] while they are one model."""
    if rows.y is None:
        return Message()
    return _train(task, server, rows, weights, round, "expert", expert_loss(task), 0)


def _train(
    task: Task, server: Tree, rows: Rows, weights: Tensor, round: int, name: str, loss: training.Loss, noise_size: int
) -> Message:
    start = server[name][: weights.shape[1]]
    trained = train_components(task, rows, weights, start, loss, (task.seed, round, name), noise_size)
    cost = trained.n_jobs * start.shape[1] * start.element_size()
    return Message({f"{name} total": trained.total, f"{name} mass": trained.mass}, cost, cost)


def judges(server: Tree) -> Tree:
    """The densities and experts that rows are judged by: those of round `judge_rounds`, once that is past.

    Models remember the rows that they were trained on, the more the longer, and a client judged by what it has taught
    them finds its own proportions confirmed. So the judges stay, and the components train on.
    """
    return {"judge_density": server["density"], "judge_expert": server["expert"], "judge_version": server["version"]}


def bound_sums(task: Task, server: Tree, posterior: Posterior, rows: Rows) -> Tree:
    """Additive: Σ_x log Σ_k π_ik exp e_k(x) in nats, the bound on log P_i, and the rows.

    Densities that a client does not train, for want of mass, add next to nothing here, and are not counted as sent.
    """
    logs = posterior.proportions.clamp(min=PROPORTION_FLOOR).log()
    joint = elbo(task, server["density"], rows).double() + logs[rows.owner]
    return {"bound": joint.logsumexp(1).sum(), "count": rows.counts.sum().double()}
