"""Fine-tuning: what every client makes of the shared model for itself, after the last round.

    w_i(e, ρ) ← e passes over client i's rows, from the shared model w, at ρ times the rounds' learning rate
    q̃ ∝_y q^β                                        temperature, one β for each (e, ρ)
    (e, ρ, β) = argmax Σ_i Σ_v log q̃_i(y_v | x_v) − 3·log²β     v: client i's rows for validation

Fine-tuning before deployment is Wang et al. 2019 (arXiv 1910.10252) and Yu et al. 2020 (arXiv 2002.04758). Temperature
is Guo et al. 2017 (arXiv 1706.04599). It is fitted before the choice: a fine-tuned net is right long before it is
modest, and raw likelihood stops too early. The last term is a prior: a handful of rows says little of β. Zero passes
are always among those tried. What travels is one log likelihood for each candidate and each β of a grid, summed over
rows. The tuned models stay with their clients.

In survival β is 1: see `own_models.betas_of`.

A candidate that runs away at some client drops out: its likelihood counts as −∞.

Where nobody has rows for validation, nothing is chosen: as many passes as a round has, at the rounds' rate, β = 1.

A newcomer gets the shared model, at the shared model's own β: `infer_client` trains nothing. So does a client that
missed the last steps. With labels a newcomer tunes as the others do (`welcome`).

Adam is fresh in each stretch between two numbers of passes, and a stretch has at least one step. Models that were tried
are not kept: the chosen one is trained again, by the same draws.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.local_training import own_log_prob
from fedgmi.methods.own_models import LAST, NOBODY, betas_of, by_temperature, doubted, labelled_validation, tuned
from fedgmi.methods.plausible import wrong_held
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.settings.base import ListOfPasses, MethodSettings, PositiveFloats
from fedgmi.tree import Tree

CHOSEN, BETA = "tuning/chosen", "tuning/beta"
TELLS = "how likely its rows for validation are under models tuned to its own rows, summed over these rows"


class FineTuningSettings(MethodSettings):
    """What methods with fine-tuning at the end have in common.

    Attributes:
        passes: The numbers of passes to try, beside none.
        rates: The learning rates to try, as parts of the rounds' own.
    """

    passes: ListOfPasses = [1, 2, 4, 8, 16]  # noqa: RUF012  # pydantic copies it
    rates: PositiveFloats = [0.3, 1.0, 3.0]  # noqa: RUF012


def fine_tuned(method: Method, task: Task[FineTuningSettings]) -> Method:
    """A method with one shared model, and fine-tuning after its last round.

    Args:
        method: Its shared model is the server's leaf `expert` [1, P].
        task: From which it was built; its settings say what to try.

    Returns:
        The method with two more steps at the end, and with clients that predict by their own models.
    """
    passes, rates = sorted(set(task.settings.passes)), sorted(set(task.settings.rates))
    candidates = [(0, 1.0), *((n, rate) for rate in rates for n in passes)]

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        shared, held = server["expert"].repeat(rows.n_clients, 1), labelled_validation(rows)
        shape = len(candidates), len(betas_of(task.expert.head))
        likelihood = torch.zeros(*shape, dtype=torch.float64, device=rows.x.device)
        count = 0 if held is None else len(held)
        if held is not None and held.y is not None:
            models = chain([shared], *(tuned(task, shared, rows, passes, rate, round) for rate in rates))
            likelihood = torch.stack(
                [by_temperature(own_log_prob(task, model, held), held.y, task.expert.head) for model in models]
            )
        return states, Message(sums={"log_likelihood": likelihood, "rows": likelihood.new_tensor(float(count))})

    def choose(server: Tree, message: Message, round: int) -> Tree:
        betas = betas_of(task.expert.head)
        best, place = doubted(message.sums["log_likelihood"], betas).max(1)
        beta, chosen = betas.to(best.device)[place], best.argmax()
        beta = torch.stack([beta[0], beta[chosen]])  # of the shared model, and of the chosen ones
        if float(message.sums["rows"]) == 0:
            beta, chosen = torch.ones_like(beta), torch.full_like(chosen, NOBODY)
        return server | {CHOSEN: chosen, BETA: beta}

    def tune(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        shared, place = server["expert"].repeat(rows.n_clients, 1), int(server[CHOSEN])
        most, rate = (task.training.epochs, 1.0) if place == NOBODY else candidates[place]
        stops = [most] if place == NOBODY else [n for n in passes if n <= most]
        *_, own = chain([shared], tuned(task, shared, rows, stops, rate, round))
        return states | {"personal": own, "beta": server[BETA][1].expand(rows.n_clients)}, Message()

    def infer_client(server: Tree, rows: Rows) -> Tree:
        shared = server["expert"].repeat(rows.n_clients, 1)
        return {"personal": shared, "beta": server[BETA][0].expand(rows.n_clients)}

    def welcome(server: Tree, states: Tree, rows: Rows) -> Tree:
        return states if rows.y is None else tune(server, states, rows, LAST)[0]

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        own = states if "personal" in states else infer_client(server, rows)
        logs = own_log_prob(task, own["personal"], rows)
        return task.expert.head.temper(logs, own["beta"][rows.client_index, None])

    program, predictor = method.program, method.predictor
    steps = (
        Step(
            "try tuning",
            look,
            choose,
            reads=("expert",),
            writes=(CHOSEN, BETA),
            check=wrong_held,
            tells=TELLS,
            part="fine-tuning",
        ),
        Step("tune", tune, reads=("expert", CHOSEN, BETA), part="fine-tuning"),
    )
    reads = (*predictor.reads, CHOSEN, BETA)
    return replace(
        method,
        program=replace(program, finish=(*program.finish, *steps)),
        predictor=replace(predictor, predict=predict, reads=reads, infer_client=infer_client, welcome=welcome),
        chooses=True,
    )
