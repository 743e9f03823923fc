"""IFCA: every client joins the one cluster whose model fits it best (Ghosh et al. 2020, arXiv 2006.04088).

    j_i = argmin_k F_i(θ_k)        θ_k ← Σ_{i: j_i = k} n_i θ_i / Σ_{i: j_i = k} n_i, θ_i trained from θ_k

F_i(θ) is the mean cross-entropy on client i's labelled training rows. A cluster that nobody chose stays as it was.
After the last round every client chooses once more, by the final models, and predicts with the one chosen. The rows to
be predicted never choose. A client that was not there chooses likewise. Without labels it cannot, and gets the largest
cluster, with `identified` false. Proportions are one-hot. Per round and client: K models down, one up.

`method.init` says how the K models start: see `ifca_starts`. `method.warm_rounds` has them start from FedAvg's model:
see `ifca_warm`. The paper proves convergence from a good start, and its code draws until there is one. What ours does
is stated, keyed by the seed, and counted in bytes. `method.shared_trunk` gives the clusters' models all layers but the
last in common, which the paper calls weight sharing; the trunk's mean is over all participants.

Deviations from the paper:
- Clients weigh by their rows. The paper's code does so on FEMNIST alone; elsewhere all have as many.
- Adam, fresh in every round.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.baselines.ifca_starts import STARTS, IfcaSettings, best_fit, check_starts
from fedgmi.methods.baselines.ifca_warm import warm_started
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    expert_objective,
    identified,
    identified_of,
    need_labels,
    own_log_prob,
    random_starts,
    train_components,
    train_own,
)
from fedgmi.methods.plausible import wrong_rows
from fedgmi.methods.shared_trunk import parts_of_own, parts_step, starts
from fedgmi.mixture.posterior import uniform
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree

UPDATE = "an update of the model of its cluster, weighted by its rows"


def ifca(task: Task[IfcaSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of a cluster's model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "ifca")

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, chosen[rows.client_index], server["expert"], expert_objective(task), key)
        return {"proportions": chosen}, Message({"expert": trained})

    def train_parts(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)
        trained = train_own(task, rows, server["expert"][chosen.argmax(1)], (task.seed, round, "expert"))
        return {"proportions": chosen}, Message(parts_of_own(task, rows, trained, chosen * rows.counts[:, None]))

    shared = task.settings.shared_trunk
    first = starts(task, task.n_components, shared, "ifca")
    method = best_of_k(task, "ifca", parts_step(task, train_parts, UPDATE) if shared else experts_step(train, UPDATE))
    program = method.program
    program = replace(
        program,
        init=lambda: method.program.init() | {"expert": first},
        prepare=STARTS[task.settings.init](task),
        kinds=dict(program.kinds) | {"start": "expert", "trunk": "expert", "head": "expert"},
    )
    return warm_started(replace(method, program=program), task)


def best_of_k(task: Task, name: str, train: Step) -> Method:
    """A method with K models, of which every client has the one that fits its rows best.

    Args:
        task: Its expert is the form of the models.
        name: The method's.
        train: The one step of a round. It leaves each client's choice in the state `proportions`, one-hot [C, K].

    Returns:
        The method. Its models are the server's leaf `expert` [K, P], each at a random start of its own.
    """
    n_clusters = task.n_components

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)
        return {"proportions": chosen}, Message(sums={"rows": rows.counts.double() @ chosen})

    def settled(server: Tree, message: Message, round: int) -> Tree:
        return server | {"rows": message.sums["rows"]}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, server["expert"][states["proportions"].argmax(1)], rows)

    def infer_client(server: Tree, rows: Rows) -> Tree:
        if rows.y is not None:
            return {"proportions": best_fit(task, server["expert"], rows)} | identified(rows, True)
        largest = F.one_hot(server["rows"].argmax(), n_clusters).double()
        return {"proportions": largest.repeat(rows.n_clients, 1)} | identified(rows, False)

    return Method(
        name=name,
        program=Program(
            init=lambda: {
                "expert": random_starts(task, n_clusters),
                "rows": 0.0 * uniform(1, n_clusters)[0],  # of the clients that chose each cluster in the end
            },
            client_init=lambda ids: {"proportions": uniform(len(ids), n_clusters)},  # not chosen yet
            round=(train,),
            finish=(
                Step(
                    "choose",
                    settle,
                    settled,
                    reads=("expert",),
                    writes=("rows",),
                    check=wrong_rows,
                    tells="how many rows it has, and in which cluster",
                ),
            ),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert", "rows"),
            proportions=lambda states: states["proportions"],
            responsibilities=lambda server, states, rows: states["proportions"][rows.client_index],
            infer_client=infer_client,
            identified=identified_of,
            client_state=lambda proportions: {"proportions": proportions},
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


IFCA = Entry(
    ifca,
    IfcaSettings,
    "every client joins the one cluster whose model fits it best",
    check=check_starts,
    tune={"init": ("random", "balanced", "farthest")},
)
