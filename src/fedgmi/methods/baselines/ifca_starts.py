"""How IFCA's models start: as they were drawn, drawn until clients spread over them, or far apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Task, client_ids, wrong_index
from fedgmi.methods.local_training import all_rows, expert_objective, random_starts, row_losses, train_components
from fedgmi.methods.shared_trunk import TrunkSettings
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.randomness import generator
from fedgmi.settings.base import Count, Exchanges, PositiveFloat
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.tree import Tree


class IfcaSettings(TrunkSettings):
    """IFCA's own settings.

    Attributes:
        init: How the K models start.
        draws: From how many draws "balanced" takes the best.
        warm_rounds: Rounds of FedAvg before the clusters, which then start from its model; 0: none. See `ifca_warm`.
        warm_spread: How far from that model they start, as a share of its parameters' root mean square.
    """

    name: Literal["ifca"] = "ifca"
    init: Literal["random", "balanced", "farthest"] = "random"
    draws: Exchanges = 10
    warm_rounds: Count = 0
    warm_spread: PositiveFloat = 0.1


def check_starts(settings: IfcaSettings, rounds: int) -> None:
    """Refuse a number of draws where nothing is drawn several times, and a warm start beside another or without an end.

    Raises:
        ConfigError: It names the setting.
    """
    if settings.shared_trunk:
        why = "method.shared_trunk has the clusters start from one trunk"
        refuse_without_effect(settings, "method", ["init"], why, fix="set method.shared_trunk = false")
    if settings.warm_rounds:
        why = "method.warm_rounds has clusters start from FedAvg's model"
        refuse_without_effect(settings, "method", ["init"], why, fix="set method.warm_rounds = 0")
    else:
        why = "method.warm_rounds is 0"
        refuse_without_effect(settings, "method", ["warm_spread"], why, fix="raise method.warm_rounds")
    if settings.warm_rounds >= rounds:
        raise ConfigError(
            f"clusters begin after that many rounds, and there are {rounds} in all",
            where="method.warm_rounds",
            fix="lower it, or raise rounds",
        )
    if settings.init != "balanced":
        why = f"method.init is {settings.init}"
        refuse_without_effect(settings, "method", ["draws"], why, fix='set method.init = "balanced"')


def mean_losses(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """The mean cross-entropy of each client's rows under each model.

    Args:
        task: Its expert is the form of the models.
        models: θ_k. [K, P]
        rows: Of C clients, with labels.

    Returns:
        F_i(θ_k). [C, K], float64, nats
    """
    return rows.sum_by_client(row_losses(task, models, rows).double()) / rows.counts[:, None]


def best_fit(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """Which model fits each client's rows best; the first one, where several are equal.

    Args:
        task: Its expert is the form of the models.
        models: θ_k. [K, P]
        rows: Of C clients, with labels.

    Returns:
        argmin_k F_i(θ_k), one-hot. [C, K], float64
    """
    return torch.nn.functional.one_hot(mean_losses(task, models, rows).argmin(1), len(models)).double()


def as_drawn(task: Task[IfcaSettings]) -> tuple[Step, ...]:
    """K random models and nothing else, as in the paper's Algorithm 1.

    Args:
        task: IFCA's.

    Returns:
        No step.
    """
    return ()


def balanced(task: Task[IfcaSettings]) -> tuple[Step, ...]:
    """Of several draws of K random models, the one whose smallest cluster has the most clients.

    The paper's code draws again until every cluster holds a given share of the clients (35 % at K = 2, 10 % at K = 4).
    The first draw is that of `as_drawn`. Where two are equal, the earlier one stays. Clients know the seed, and draw
    the models themselves.

    Args:
        task: Its settings say how many draws there are.

    Returns:
        One step a draw.
    """
    return tuple(_offer(task, draw) for draw in range(task.settings.draws))


def _offer(task: Task[IfcaSettings], draw: int) -> Step:
    n_clusters = task.n_components

    def models(device: torch.device) -> Tensor:
        return random_starts(task, n_clusters, first=draw * n_clusters).to(device)

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums={"clients": best_fit(task, models(rows.x.device), rows).sum(0)})

    def keep_the_best(server: Tree, message: Message, round: int) -> Tree:
        smallest = message.sums["clients"].min()
        if "smallest" in server and smallest <= server["smallest"]:
            return server
        return server | {"expert": models(smallest.device), "smallest": smallest}

    tells = "which of the drawn models fits its rows best"
    return Step(f"draw {draw}", client, keep_the_best, writes=("expert", "smallest"), tells=tells)


def farthest(task: Task[IfcaSettings]) -> tuple[Step, ...]:
    """Models of K clients, each the one that those before it fit worst: k-means' farthest-first start (as in FedJAX).

    The first client is drawn at random. One that is picked trains from the common random start for a round's passes
    and sends its model. The server needs single replies: every client's mean loss.

    Args:
        task: IFCA's.

    Returns:
        Two steps a model: pick a client, adopt its model.
    """
    return tuple(step for k in range(task.n_components) for step in (_pick(task, k), _adopt(task, k)))


LOSS = "its number, and how badly the models so far fit its rows"


def _pick(task: Task[IfcaSettings], k: int) -> Step:
    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        if k:
            loss = mean_losses(task, server["expert"][:k], rows).amin(1)
        else:
            draws = [torch.rand((), generator=generator(task.seed, "first client", i)) for i in rows.ids]
            loss = torch.stack(draws).double().to(rows.x.device)
        return states, Message(replies={"client": client_ids(rows), "loss": loss})

    def worst(server: Tree, message: Message, round: int) -> Tree:
        replies = message.replies
        return server | {"picked": replies["client"][replies["loss"].argmax()]}

    needs = ("expert",) if k else ()
    written = ("picked",)
    return Step(f"pick {k}", client, worst, reads=needs, writes=written, single=True, check=wrong_index, tells=LOSS)


def _adopt(task: Task[IfcaSettings], k: int) -> Step:
    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        picked = client_ids(rows) == server["picked"]
        weights = all_rows(rows) * picked[rows.client_index, None]
        start = random_starts(task, 1).to(rows.x.device)
        key = (task.seed, 0, f"start {k}")
        return states, Message({"start": train_components(task, rows, weights, start, expert_objective(task), key)})

    def adopt(server: Tree, message: Message, round: int) -> Tree:
        models, start = server["expert"].clone(), message.models["start"]
        models[k] = start.mean(models[k : k + 1])[0]  # where who was picked fell silent, the random start stays
        return server | {"expert": models}

    return Step(
        f"adopt {k}",
        client,
        adopt,
        reads=("picked",),
        writes=("expert",),
        models=lambda server: {"start": random_starts(task, 1)},
        apart=True,
        tells="a model trained on its rows, if it is picked",
    )


STARTS: dict[str, Callable[[Task[IfcaSettings]], tuple[Step, ...]]] = {
    "random": as_drawn,
    "balanced": balanced,
    "farthest": farthest,
}
