"""Fit the method to a federation in this process: what `FedGMI.fit` does."""

from __future__ import annotations

from dataclasses import replace

from fedgmi import tree
from fedgmi.data.federation import Federation
from fedgmi.data.scenarios.scenarios import wants_scale
from fedgmi.models.own import Own
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.listener import Listener
from fedgmi.protocol.phases import require_finite
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import select
from fedgmi.runs.components import count_components, warn_of_unshown
from fedgmi.runs.config import Config, check_method, refuse_compare
from fedgmi.runs.fitted import Fitted
from fedgmi.runs.setup import Setup, choose_device


def fit(
    config: Config,
    federation: Federation,
    listener: Listener | None = None,
    *,
    expert: Own = None,
    density: Own = None,
) -> Fitted:
    """Fit the method of the settings to a federation.

    Args:
        config: The settings. One learning rate counts, for nothing is selected here.
        federation: Its clients' training rows.
        listener: Who wants to know how it goes.
        expert: The user's own, in place of the one that the settings name: a module, or a function that makes one.
        density: Likewise.

    Returns:
        The fitted model.

    Raises:
        DivergedError: Where training runs away.
    """
    refuse_compare(config)
    check_method(config.method, config.rounds)
    device, clients = choose_device(config.device), federation.clients
    setup = Setup(
        config, federation.schema, 1, wants_scale(config.data, config.scenario, federation.schema), expert, density
    )
    counted = count_components(config, setup, clients, device)
    setup = replace(setup, n_components=counted.n_components)
    method = setup.method()
    transport, program = InProcess(clients, method.program, device=device), method.program
    server = tree.to(program.init(), device)
    if counted.survey is not None:
        program, server = counted.survey.open(program, transport, server)

    def after(progress: Progress) -> None:
        require_finite(transport.states, method.name, progress.round)
        if listener is not None:
            record = {"run": method.name, "round": progress.round, "seconds": progress.seconds, "proportion_tv": None}
            listener.round_done(record | {"bound": method.metrics(progress.server).get("bound")})

    if listener is not None:
        listener.started(method.name, config.rounds)
    end = run_rounds(
        method.name,
        program,
        transport,
        Progress(server),
        n_clients=len(clients),
        rounds=config.rounds,
        participation=config.method.participation,
        seed=config.seed,
        after=after,
    )
    if listener is not None:
        listener.finished(method.name)
    metrics = method.metrics(end.server)
    warn_of_unshown(setup.n_components, metrics.get("components_shown"))
    beside = counted.bytes_beside(method.program).values()
    assert method.predictor.proportions is not None
    return Fitted(
        setup,
        federation.names,
        select(end.server, method.predictor.reads),
        method.predictor.proportions(transport.states),
        metrics.get("bound"),
        end.bytes_down + sum(down for down, _ in beside),
        end.bytes_up + sum(up for _, up in beside),
    )
