"""FedRep: a representation for all, a head for every client, trained in turn (Collins et al. 2021, arXiv 2102.07078).

    h_i ← passes over client i's rows with the representation b as received, from where h_i stood
    b_i ← passes over the same rows with the new h_i, from b
    b   ← Σ_i n_i b_i / Σ_i n_i

The head comes first, and has ten passes, as in the paper's experiments. The representation has those of the other
methods' rounds. Per round and client: the representation down and up.

Deviations from the paper:
- Clients weigh by their rows. The paper's mean is plain, and its clients have as many.
- Adam, fresh for each of the two.

Heads are not trained anew after the last mean: clients predict with the final representation and with the heads of
their last round. A client that was never there has no head: see `own_heads`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.own_heads import own_heads
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.methods.local_training import expert_objective, train_own, trained_part
from fedgmi.settings.base import MethodSettings, Passes


class FedRepSettings(MethodSettings):
    """FedRep's own settings.

    Attributes:
        head_epochs: Passes for the head in a round. The representation has `training.epochs`.
    """

    name: Literal["fedrep"] = "fedrep"
    head_epochs: Passes = 10


def fedrep(task: Task[FedRepSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the models.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels, and for an expert without a trunk.
    """
    trunk, objective = task.expert.trunk, expert_objective(task)
    body, head = trained_part(objective, slice(trunk)), trained_part(objective, slice(trunk, None))
    heads_task = task.replace(training=task.training.model_copy(update={"epochs": task.settings.head_epochs}))

    def train(models: Tensor, rows: Rows, round: int) -> Tensor:
        models = train_own(heads_task, rows, models, (task.seed, round, "head"), objective=head)
        return train_own(task, rows, models, (task.seed, round, "expert"), objective=body)

    return own_heads(task, "fedrep", train)


FEDREP = Entry(
    fedrep,
    FedRepSettings,
    "a representation for all, a head for every client, in turn",
    has_components=False,
    tune={"head_epochs": (1, 5, 10)},
)
