"""kNN-Per: FedAvg's model, and every client's memory of its own rows (Marfoq et al. 2022, arXiv 2111.09360).

    z(x)                what FedAvg's last layer is given for a row x                     [F]
    q_i(y | x) ∝ Σ_j exp(−‖z(x) − z(x_j)‖² / F) · [y_j = y]      over the k rows of client i that are nearest to x
    predict             λ_i q_i(y | x) + (1 − λ_i) p(y | x)      p: FedAvg's model

After the last round every client keeps z and the labels of its rows, and chooses λ_i and k_i by the likelihood of its
rows for validation. What travels after the rounds is one log likelihood for each pair (λ, k), summed over validation
rows. Per round and client: one model down, one up.

The pair that is best for all clients' validation rows together is that of clients without any, and of newcomers. Where
nobody has any, λ is 0.5 and k the first of `method.neighbours`. A newcomer gets FedAvg's model, as does a client that
missed the last step. With labels it remembers its own rows (`welcome`), and trains nothing.

Deviations from the paper:
- λ and k are chosen by likelihood, not by accuracy: on few rows many pairs have the same.
- `fedgmi compare --tune` tries half and twice the paper's k.
- λ is 0, 0.1, …, 0.9. At 1, classes that no neighbour has would be impossible.
- A client remembers at most `method.capacity` rows, evenly spaced. The paper's code draws them. A memory takes the
  place of so many, whatever it holds: capacity · F numbers a client.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.baselines.averaging import one_model
from fedgmi.methods.baselines.memories import memory_votes, mixed, remembered, shared_log_prob
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.methods.local_training import need_labels
from fedgmi.methods.own_models import labelled_validation, told
from fedgmi.methods.plausible import wrong_held
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.settings.base import MethodSettings, PositiveInt, PositiveInts
from fedgmi.tree import Tree

SHARES = tuple(i / 10 for i in range(10))
"""λ that are tried."""
UNDECIDED = 0.5
"""λ where nobody has rows for validation."""
SHARE, NEIGHBOURS = "memory/share", "memory/neighbours"
TELLS = "how likely its rows for validation are with a memory of its own rows, summed over these rows"


class KnnPerSettings(MethodSettings):
    """kNN-Per's own settings.

    Attributes:
        neighbours: The numbers of neighbours k to choose from. The paper's experiments have 10.
        capacity: How many rows a client remembers at most.
    """

    name: Literal["knn-per"] = "knn-per"
    neighbours: PositiveInts = [10]  # noqa: RUF012  # pydantic copies it
    capacity: PositiveInt = 1000


def knn_per(task: Task[KnnPerSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model, of which all but the last layer tells what rows are near.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels, and for an expert without a last layer apart.
    """
    need_labels(task, "knn-per")
    method, settings = one_model(task, "knn-per"), task.settings
    if task.expert.features is None:
        raise ConfigError(
            f"knn-per needs what the last layer is given, and the expert {task.expert.name} has no last layer apart",
            where="method.name",
            fix="of modules of your own an nn.Sequential has one",
        )
    ks = sorted(set(settings.neighbours))
    pairs = [(share, k) for k in ks for share in SHARES]

    def likelihoods(server: Tree, memory: Tree, held: Rows) -> Tensor:
        """The log likelihood of each client's validation rows under each pair. [C, G]"""
        assert held.y is not None
        labels, columns = held.y[:, None], []
        logs = shared_log_prob(task, server, held)
        for k in ks:
            votes = memory_votes(task, server, memory, held, held.counts.new_full(held.counts.shape, k), logs)
            columns += [mixed(logs, votes, share).gather(1, labels) for share in SHARES]
        return told(held.sum_by_client(torch.cat(columns, 1)))

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        found, count = server["expert"].new_zeros(len(pairs), dtype=torch.float64), 0
        if (held := labelled_validation(rows)) is not None:
            memory = remembered(task, server, rows, settings.capacity)
            found, count = likelihoods(server, memory, held).sum(0), len(held)
        return states, Message(sums={"log_likelihood": found, "rows": found.new_tensor(float(count))})

    def choose(server: Tree, message: Message, round: int) -> Tree:
        found = message.sums["log_likelihood"]
        share, k = pairs[int(found.argmax())] if message.sums["rows"] > 0 else (UNDECIDED, settings.neighbours[0])
        return server | {SHARE: found.new_tensor(share), NEIGHBOURS: torch.tensor(k, device=found.device)}

    def common(server: Tree, rows: Rows) -> Tree:
        return {"share": server[SHARE].expand(rows.n_clients), "neighbours": server[NEIGHBOURS].expand(rows.n_clients)}

    def remember(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        memory, chosen = remembered(task, server, rows, settings.capacity), common(server, rows)
        if (held := labelled_validation(rows)) is not None:
            best = likelihoods(server, memory, held).argmax(1)
            own = held.counts > 0
            table = torch.tensor(pairs, dtype=torch.float64, device=best.device)[best]  # [C, 2]
            chosen = {
                "share": torch.where(own, table[:, 0], chosen["share"]),
                "neighbours": torch.where(own, table[:, 1].long(), chosen["neighbours"]),
            }
        return states | memory | chosen, Message()

    def welcome(server: Tree, states: Tree, rows: Rows) -> Tree:
        return states if rows.y is None else remembered(task, server, rows, settings.capacity) | common(server, rows)

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        logs = shared_log_prob(task, server, rows)
        if "memory" not in states:
            return logs
        votes = memory_votes(task, server, states, rows, states["neighbours"], logs)
        return mixed(logs, votes, states["share"][rows.client_index, None])

    program, predictor = method.program, method.predictor
    steps = (
        Step(
            "try memories",
            look,
            choose,
            reads=("expert",),
            writes=(SHARE, NEIGHBOURS),
            check=wrong_held,
            tells=TELLS,
        ),
        Step("remember", remember, reads=("expert", SHARE, NEIGHBOURS)),
    )
    reads = (*predictor.reads, SHARE, NEIGHBOURS)
    return replace(
        method,
        program=replace(program, finish=(*program.finish, *steps)),
        predictor=replace(predictor, predict=predict, reads=reads, welcome=welcome),
        chooses=True,
    )


KNN_PER = Entry(
    knn_per,
    KnnPerSettings,
    "FedAvg's model, and every client's memory of its own rows",
    has_components=False,
    tasks=("classification",),
    tune={"neighbours": ([5], [10], [20])},
)
