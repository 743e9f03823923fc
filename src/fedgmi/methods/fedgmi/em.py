"""One EM round on the clients: responsibilities, then the shares of every component trained on them."""

from __future__ import annotations

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.conditions import reference_stays, warming_up
from fedgmi.methods.fedgmi.densities import average_densities, bound_sums, density_models, train_densities
from fedgmi.methods.fedgmi.evidence import Rule
from fedgmi.methods.fedgmi.experts import average_experts, expert_models, train_experts
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Components, Reference, reference_of
from fedgmi.methods.local_training import all_rows
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


def em_step(
    task: Task[FedGMISettings],
    rule: Rule,
    *,
    shared_rounds: int = 0,
    shared_trunk: bool = False,
    reference_rounds: int | None = None,
) -> Step:
    """E-step by the rule, M-step by packed training; the server takes means weighted by mass.

    Each component sees a share of the rows only, and what its expert needs to know of pictures as such is learnt from
    everybody's. After `reference_rounds` only experts are trained and sent where there are labels: densities do nothing
    but judge.

    Args:
        task: Its models and settings.
        rule: Whose responsibilities.
        shared_rounds: The first rounds, in which the experts are one model, trained on all rows.
        shared_trunk: Whether they keep their lower layers in common for good.
        reference_rounds: After which the reference models stay as they are; None: they always follow.

    Returns:
        The step.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        posterior, now = rule(server, states, rows), Components(server)
        message, [density] = Message(), Components.names("density")
        if rows.y is None or (density in server and not reference_stays(reference_rounds, server)):
            densities = train_densities(task, now.density, rows, posterior.responsibilities, round)
            message = Message(densities, bound_sums(task, server, posterior, rows))
        if rows.y is not None:
            one = warming_up(shared_rounds, server)
            experts, resp = (now.expert[:1], all_rows(rows)) if one else (now.expert, posterior.responsibilities)
            message += Message(train_experts(task, experts, rows, resp, round, shared_trunk=shared_trunk))
        return states | {"proportions": posterior.proportions}, message

    def take(server: Tree, message: Message, round: int) -> Tree:
        now, updated = Components(server), dict(server)
        if "bound" in message.sums:
            bound = message.sums["bound"] / message.sums["count"]
            updated |= Components.leaves(density=average_densities(task, now.density, message), bound=bound)
        expert = average_experts(task, now.expert, message)
        updated |= Components.leaves(expert=expert, version=now.version + 1)
        if not reference_stays(reference_rounds, server):
            updated |= reference_of(updated)
        return updated

    def models(server: Tree) -> Tree:
        now, [density] = Components(server), Components.names("density")
        densities = density_models(task, now.density) if density in server else {}  # they may not have been sent
        experts = expert_models(task, now.expert) if task.schema.labelled else {}  # clients are not sent them then
        return densities | experts

    trained = not task.schema.labelled or reference_rounds != 0  # densities, and with them the bound
    writes = (*Components.names(), *Reference.names())
    return Step("em", client, take, writes=writes, models=models, beside=trained, apart=True)


def e_step_alone(rule: Rule) -> Step:
    """An E-step alone, so that proportions answer to the last densities; no message comes of it."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states | {"proportions": rule(server, states, rows).proportions}, Message()

    return Step("e-step", client)
