"""How IFCA's models start: as they were drawn, drawn until clients spread over them, or far apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Step, Task
from fedgmi.methods.local_training import all_rows, expert_loss, random_starts, row_losses, train_components
from fedgmi.randomness import generator
from fedgmi.tree import Tree

NUMBER_BYTES = 8  # of a cluster's or a client's number, or of a loss


def mean_losses(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """F_i(θ_k), the mean cross-entropy of each client's rows under models [K, P], in nats. [C, K] float64"""
    return rows.sum_by_client(row_losses(task, models, rows).double()) / rows.counts[:, None]


def best_fit(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """One-hot argmin_k F_i(θ_k) [C, K] float64; of equals the first."""
    return torch.nn.functional.one_hot(mean_losses(task, models, rows).argmin(1), len(models)).double()


def as_drawn(task: Task) -> tuple[Step, ...]:
    """K random models and nothing else, as in the paper's Algorithm 1."""
    return ()


def balanced(task: Task) -> tuple[Step, ...]:
    """Of several draws of K random models, the one whose smallest cluster has the most clients.

    The paper's code draws again until every cluster holds a given share of the clients (35 % at K = 2, 10 % at K = 4).
    The first draw is that of `as_drawn`, and of equals the earlier one stays. A draw costs every client K models down.
    """
    return tuple(_offer(task, draw) for draw in range(task.settings.ifca.draws))


def _offer(task: Task, draw: int) -> Step:
    n_clusters = task.n_components

    def models(device: torch.device) -> Tensor:
        return random_starts(task, n_clusters, first=draw * n_clusters).to(device)

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        drawn = models(rows.x.device)
        cost = rows.n_clients * drawn.nbytes, rows.n_clients * NUMBER_BYTES
        return states, Message({"clients": best_fit(task, drawn, rows).sum(0)}, *cost)

    def keep_the_best(server: Tree, sums: Tree, round: int) -> Tree:
        smallest = sums["clients"].min()
        if "smallest" in server and smallest <= server["smallest"]:
            return server
        return server | {"expert": models(smallest.device), "smallest": smallest}

    return Step(f"draw {draw}", client, keep_the_best)


def farthest(task: Task) -> tuple[Step, ...]:
    """Models of K clients, each the one that those before it fit worst: k-means' farthest-first start (as in FedJAX).

    The first client is drawn at random. One that is picked trains from the common random start for a round's passes
    and sends its model. Needs single replies: every client's mean loss.
    """
    return tuple(step for k in range(task.n_components) for step in (_pick(task, k), _adopt(task, k)))


def _pick(task: Task, k: int) -> Step:
    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        before = server["expert"][:k]
        if k:
            loss = mean_losses(task, before, rows).amin(1)
        else:
            draws = [torch.rand((), generator=generator(task.seed, "first client", i)) for i in rows.ids]
            loss = torch.stack(draws).double().to(rows.x.device)
        number = torch.tensor(rows.ids, device=rows.x.device)
        cost = rows.n_clients * before.nbytes, rows.n_clients * 2 * NUMBER_BYTES
        return states, Message({"client": number, "loss": loss}, *cost)

    def worst(server: Tree, replies: Tree, round: int) -> Tree:
        return server | {"picked": replies["client"][replies["loss"].argmax()]}

    return Step(f"pick {k}", client, worst, reduce="stack")


def _adopt(task: Task, k: int) -> Step:
    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        picked = torch.tensor(rows.ids, device=rows.x.device) == server["picked"]
        weights = all_rows(rows) * picked[rows.owner, None]
        start = random_starts(task, 1).to(rows.x.device)
        trained = train_components(task, rows, weights, start, expert_loss(task), (task.seed, 0, f"start {k}"))
        cost = trained.n_jobs * start.nbytes
        return states, Message({"total": trained.total[0], "mass": trained.mass[0]}, cost, cost)

    def adopt(server: Tree, sums: Tree, round: int) -> Tree:
        models = server["expert"].clone()
        models[k] = sums["total"] / sums["mass"]
        return server | {"expert": models}

    return Step(f"adopt {k}", client, adopt)


STARTS: dict[str, Callable[[Task], tuple[Step, ...]]] = {
    "random": as_drawn,
    "balanced": balanced,
    "farthest": farthest,
}
