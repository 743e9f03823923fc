"""Averaging experts by mass: the server's part of most methods, FedAvg's round, and a method with one model for all."""

from __future__ import annotations

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.candidates import OwnPart
from fedgmi.methods.contract import Method, Predictor, Task
from fedgmi.methods.local_training import all_rows, expert_objective, need_labels, random_starts, train_components
from fedgmi.methods.personal import personal
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import ClientStep, Program, Step
from fedgmi.settings.base import MethodSettings
from fedgmi.tree import Tree


class OneModelSettings(MethodSettings):
    """What methods with one model for all have in common.

    Attributes:
        personal: Whether clients end with a part of their own, which never travels (docs/estimator.md).
    """

    personal: bool = False


def experts_of(server: Tree) -> Tree:
    """The one kind of models that most methods average, as they stand.

    Args:
        server: The server's state.

    Returns:
        Its leaf `expert`. [K, P]
    """
    return {"expert": server["expert"]}


def average_experts(server: Tree, message: Message, round: int) -> Tree:
    """θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik, for the server's leaf `expert`.

    Args:
        server: The server's state.
        message: With the models `expert`.
        round: Of which it is.

    Returns:
        The server's state. A model that nobody holds stays as it was.
    """
    return server | {"expert": message.models["expert"].mean(server["expert"])}


def experts_step(client: ClientStep, tells: str) -> Step:
    """A round in which clients train the experts that they are sent, and the server averages them.

    Args:
        client: Its client part. It reads the leaf `expert`, sends models of that name, and heeds `Rows.apart`.
        tells: What a message tells of a client's rows.

    Returns:
        The step.
    """
    return Step(
        "train",
        client,
        average_experts,
        reads=("expert",),
        writes=("expert",),
        models=experts_of,
        apart=True,
        tells=tells,
    )


def average_step(task: Task, mu: float = 0.0) -> Step:
    """FedAvg's round on the one model in the server's leaf `expert` [1, P].

    Args:
        task: Whose expert it is.
        mu: Of FedProx's proximal term; 0: none.

    Returns:
        The step.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, all_rows(rows), server["expert"], expert_objective(task), key, mu=mu)
        return states, Message({"expert": trained})

    return experts_step(client, "updates of the model, weighted by its rows")


def one_model(task: Task, name: str, mu: float = 0.0) -> Method:
    """A method with one model for all, by FedAvg's rounds.

    Args:
        task: Its expert is the model.
        name: The method's.
        mu: Of FedProx's proximal term; 0: none.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, name)

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return task.expert.log_prob(server["expert"], rows.x)[:, 0]

    method = Method(
        name=name,
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)},
            client_init=lambda ids: {},
            round=(average_step(task, mu),),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            infer_client=lambda server, rows: {},
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )
    if not (isinstance(task.settings, OneModelSettings) and task.settings.personal):
        return method
    part = OwnPart(
        shared=lambda server, states, rows: [predict(server, states, rows)],
        n_shared=1,
        start=lambda server, states, rows: server["expert"].repeat(rows.n_clients, 1),
        reads=("expert",),
        start_reads=("expert",),
    )
    return personal(method, task, part)
