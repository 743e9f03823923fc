"""One EM round on the clients: responsibilities, then the shares of every component trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Step, Task, mean_by_mass
from fedgmi.methods.fedgmi.evidence import elbo
from fedgmi.methods.fedgmi.experts import average_experts, expert_updates, train_experts
from fedgmi.methods.fedgmi.sketch import reply
from fedgmi.methods.local_training import all_rows, train_components
from fedgmi.mixture.posterior import PROPORTION_FLOOR, Posterior
from fedgmi.tree import Tree

Rule = Callable[[Tree, Tree, Rows], Posterior]  # where a preset's responsibilities and proportions come from
JudgedBy = Literal["words", "densities", "judges"]  # what of the server's models its E-step needs


def em_step(
    task: Task,
    rule: Rule,
    *,
    shared_rounds: int = 0,
    shared_trunk: bool = False,
    judge_rounds: int | None = None,
    judged_by: JudgedBy = "words",
) -> Step:
    """E-step by the rule, M-step by packed training; the server takes means weighted by mass.

    Each component sees a share of the rows only, and what its expert needs to know of pictures as such is learnt from
    everybody's: in the first `shared_rounds` the experts are one model, trained on all rows, and with `shared_trunk`
    they keep its lower layers in common. After `judge_rounds` the judges stay as they are (None: they always follow),
    and where there are labels, so do the densities, which do nothing but judge: only experts are trained and sent.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        posterior = rule(server, states, rows)
        settled = judges_stay(server, judge_rounds) and rows.y is not None
        density = Message() if settled else train_density(task, server, rows, posterior.responsibilities, round)
        joint = int(server["version"]) < shared_rounds
        experts = server["expert"][:1] if joint else server["expert"]
        resp = all_rows(rows) if joint else posterior.responsibilities
        expert = train_experts(task, experts, rows, resp, round, shared_trunk=shared_trunk)
        bound = Message() if settled else reply(bound_sums(task, server, posterior, rows), rows)
        message = replace(density + expert, down=models_down(server, rows, judged_by, density, expert))
        return states | {"proportions": posterior.proportions}, message + bound

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        updated = dict(server)
        if "density total" in sums:
            updated["density"] = mean_by_mass(server["density"], sums["density total"], sums["density mass"])
            updated["bound"] = sums["bound"] / sums["count"]
        updated["expert"] = average_experts(task, server["expert"], sums)
        updated["version"] = server["version"] + 1
        if not judges_stay(server, judge_rounds):
            updated |= judges(updated)
        return updated

    def updates(server: Tree) -> Tree:
        return {"density": server["density"]} | expert_updates(task, server["expert"])

    return Step("em", client, server_step, updates=updates)


def models_down(server: Tree, rows: Rows, judged_by: JudgedBy, density: Message, expert: Message) -> int:
    """Bytes: a client trains what it has fetched to judge by, and fetches what it trains where it judges by less."""
    if judged_by == "judges" and judges_are_components(server):
        return 0  # calibration has brought them
    if judged_by == "densities":
        return rows.n_clients * int(server["density"].nbytes) + expert.down
    return density.down + expert.down


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
    start = server["density"]
    key = (task.seed, round, "density")
    trained = train_components(task, rows, resp, start, lambda p, b: loss(p, b.x, b.noise), key, density.noise_size)
    cost = trained.n_jobs * start[0].nbytes
    return Message({"density total": trained.total, "density mass": trained.mass}, cost, cost)


def judges_are_components(server: Tree) -> bool:
    """Whether the judges are the components as they stand, hence new since the last round."""
    return int(server["judge_version"]) == int(server["version"])


def judges_stay(server: Tree, judge_rounds: int | None) -> bool:
    """Whether `judge_rounds` rounds are over, after which nothing that judges rows changes any more."""
    return judge_rounds is not None and int(server["version"]) >= judge_rounds


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
