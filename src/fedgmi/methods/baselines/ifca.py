"""IFCA: every client joins the one cluster whose model fits it best (Ghosh et al. 2020, arXiv 2006.04088).

    j_i = argmin_k F_i(θ_k)        θ_k ← Σ_{i: j_i = k} n_i θ_i / Σ_{i: j_i = k} n_i, θ_i trained from θ_k

F_i(θ) is the mean cross-entropy on client i's labelled training rows; a cluster that nobody chose stays as it was.
After the last round every client chooses once more, by the final models, and predicts with the one chosen: never by
the rows to be predicted. A client that was not there chooses likewise; without labels it cannot, and gets the largest
cluster, with `identified` false. Proportions are one-hot. Per round and client: K models down; one, and its number, up.

`method.ifca.init`: how the K models start, see `starts`. The paper proves convergence from a good start, and its code
draws until there is one; what ours does is stated, keyed by the seed, and counted in the bytes.

Deviations from the paper: clients weigh by their rows (the paper's code does so on FEMNIST alone; elsewhere all have as
many); Adam, fresh in every round.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.ifca_starts import NUMBER_BYTES, STARTS, best_fit
from fedgmi.methods.contract import Message, Method, Step, Task, mean_by_mass
from fedgmi.methods.local_training import expert_loss, need_labels, own_log_prob, random_starts, train_components
from fedgmi.tree import Tree


def ifca(task: Task) -> Method:
    """The method for a task; a cluster's model is the task's expert."""
    need_labels(task, "ifca")
    n_clusters = task.n_components

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, chosen[rows.owner], server["expert"], expert_loss(task), key)
        up = trained.n_jobs * (server["expert"][0].nbytes + NUMBER_BYTES)
        values = {"total": trained.total, "mass": trained.mass}
        return {"proportions": chosen}, Message(values, rows.n_clients * server["expert"].nbytes, up)

    def average(server: Tree, sums: Tree, round: int) -> Tree:
        return server | {"expert": mean_by_mass(server["expert"], sums["total"], sums["mass"])}

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)
        cost = rows.n_clients * server["expert"].nbytes, rows.n_clients * NUMBER_BYTES
        return {"proportions": chosen}, Message({"rows": rows.counts.double() @ chosen}, *cost)

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, server["expert"][states["proportions"].argmax(1)], rows)

    def welcome(server: Tree, rows: Rows) -> Tree:
        identified = torch.full((rows.n_clients,), rows.y is not None, device=rows.x.device)
        if rows.y is not None:
            return {"proportions": best_fit(task, server["expert"], rows), "identified": identified}
        largest = F.one_hot(server["rows"].argmax(), n_clusters).double()
        return {"proportions": largest.repeat(rows.n_clients, 1), "identified": identified}

    return Method(
        name="ifca",
        init=lambda: {
            "expert": random_starts(task, n_clusters),
            "rows": torch.zeros(n_clusters, dtype=torch.float64),  # of the clients that chose each cluster in the end
        },
        client_init=lambda ids: {
            "proportions": torch.full((len(ids), n_clusters), 1.0 / n_clusters, dtype=torch.float64)  # not chosen yet
        },
        prepare=STARTS[task.settings.ifca.init](task),
        round=(Step("train", train, average),),
        finish=(Step("choose", settle, lambda server, sums, round: server | sums),),
        predict=predict,
        proportions=lambda states: states["proportions"],
        responsibilities=lambda server, states, rows: states["proportions"][rows.owner],
        welcome=welcome,
        experts="expert",
    )
