"""Fit the method to a federation in this process: what `FedGMI.fit` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedgmi import tree
from fedgmi.data.far import warn_of_far_values
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.scenarios import wants_scale
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.validate import check_learnable
from fedgmi.errors import ConfigError, DivergedError
from fedgmi.methods import Method
from fedgmi.models.own import Own
from fedgmi.modes import own_modes
from fedgmi.protocol.codecs.coding import check_communication
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.listener import Listener
from fedgmi.protocol.phases import require_finite
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import select
from fedgmi.runs.budget.plan import plan
from fedgmi.runs.budget.planned import Plan
from fedgmi.runs.budget.words import planning_line, spending
from fedgmi.runs.choosing import (
    UNKNOWN,
    BestRound,
    Score,
    check_choice,
    choice_of,
    say_what_chooses,
    score,
    warn_of_idle_metric,
    with_rows_to_choose,
)
from fedgmi.runs.components import (
    ComponentCount,
    count_components,
    warn_of_unshown,
    warn_of_warm_up,
)
from fedgmi.runs.config import Config, check_method, check_metric, check_rates, refuse_compare
from fedgmi.runs.evaluation import identified
from fedgmi.runs.fitted import Fitted
from fedgmi.runs.metrics import METRICS
from fedgmi.runs.setup import Setup, choose_device, losses_of
from fedgmi.storage import files

SAMPLES = 16
"""Draws for a VAE's bound, where learning rates are told apart by it."""


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
        config: The settings. Where they have several learning rates, the one that does best on rows for validation is
            chosen: by `evaluation.metric`, and without labels by the density of these rows. With `training.patience`
            these rows choose the round, too.
        federation: Its clients' training rows, and rows for validation.
        listener: Who wants to know how it goes.
        expert: The user's own, in place of the one that the settings name: a module, or a function that makes one.
        density: Likewise.

    Returns:
        The fitted model.

    Raises:
        ConfigError: For a choice, and no rows for validation that could make it.
        DivergedError: Where training runs away, at every rate.
    """
    refuse_compare(config)
    check_method(config.method, config.rounds)
    check_rates(config)
    check_communication(config.communication)
    check_metric(config.evaluation.metric, federation.schema.task)
    check_learnable(federation.schema, federation.clients)
    warn_of_idle_metric(config, federation.schema.task, [config.method.name])
    with own_modes(config.threads):
        device, standardise = choose_device(config.device), wants_scale(config.data, config.scenario, federation.schema)
        setup = Setup(config, federation.schema, 1, standardise, expert, density)
        torch.set_num_threads(setup.threads())
        return _best(setup, federation, device, listener)


def _best(setup: Setup, federation: Federation, device: torch.device, listener: Listener | None) -> Fitted:
    """The fit at the rate that does best; one that diverges is out of the running."""
    config, name = setup.config, setup.config.method.name
    rates = config.training.lr_candidates(name)
    setup.say_remarks()
    came, federation = federation, with_rows_to_choose(Scenario(federation), setup.method(), config.seed).federation
    warn_of_far_values(federation.schema, federation.clients)
    counted = count_components(config, setup, federation.clients, device)
    setup = replace(setup, n_components=counted.n_components)
    warn_of_warm_up(setup.method(), config.rounds)
    say_what_chooses(setup.method(), came, federation, "fit(federation.with_validation(0.2))")
    if federation.schema.labelled or config.training.patience is not None:
        check_choice(config, came, setup.method().program, name)
    elif len(rates) > 1 and not came.validation:
        what = f"validation rows choose a learning rate of {len(rates)}, and there are none"
        raise ConfigError(what, where="training.lr", fix="give one rate, or Federation.from_arrays(validation=…)")
    spent = counted.bytes_of_client(setup.method().program, len(federation.clients))
    if listener is not None and config.communication.limited:
        listener.said(name, planning_line(name))
    planned = plan(setup, name, len(federation.clients), spent)
    fits: list[Fitted] = []
    ranks: list[float] = []
    diverged = None
    for rate in rates:
        run = _Run(setup, federation, device, rate, f"{name}-lr{rate!r}" if len(rates) > 1 else name, planned, spent)
        if fits and config.method.n_components == "auto":  # every rate goes on from a survey of its own
            counted = count_components(config, setup, federation.clients, device)
        try:
            fits.append(run.fit(counted, listener))
        except DivergedError as error:
            diverged = error
            continue
        ranks.append(run.rank(fits[-1]) if len(rates) > 1 else 0.0)
    if not fits:
        assert diverged is not None
        raise diverged
    return fits[ranks.index(max(ranks))]


@dataclass
class _Run:
    """One fit at one learning rate."""

    setup: Setup
    federation: Federation
    device: torch.device
    rate: float
    name: str
    planned: Plan | None
    spent: int
    history: list[dict[str, Any]] = field(default_factory=list)
    latest: Score = UNKNOWN

    def fit(self, counted: ComponentCount, listener: Listener | None) -> Fitted:
        """All rounds, and what is left of them."""
        config, clients = self.setup.config, self.federation.clients
        planned = self.planned
        allowance = None if planned is None else planned.allowance(self.spent)
        setup = self.setup if planned is None else planned.setup
        method = setup.method(lr=self.rate)
        program, validation, coding = method.program, self.federation.validation, setup.coding()
        line = coding.line(self.name, program) if planned is None else planned.line
        if listener is not None and line:
            listener.said(self.name, line)
        transport = InProcess(
            clients,
            program,
            device=self.device,
            validation=validation,
            coding=coding,
            losses=losses_of(config, method),
        )
        choice = choice_of(config, method, transport, validation)
        server = tree.to(program.init(), self.device)
        if counted.survey is not None:
            program, server = counted.survey.open(program, transport, server)

        def after(progress: Progress) -> None:
            require_finite(transport.states, method.name, progress.round)
            record = self._record(method, transport, progress, choice)
            if listener is not None:
                listener.round_done(record)

        def tell(part: str) -> None:
            if listener is not None:
                listener.doing(self.name, part)

        if listener is not None:
            listener.started(self.name, config.rounds)
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
            choice=choice,
            tell=tell,
            allowance=allowance,
        )
        budget = None
        if planned is not None and allowance is not None:
            budget = spending(planned, allowance, transport.ledger, self.name, self.spent)
            if listener is not None:
                listener.said(self.name, budget["kept"])
        if listener is not None:
            listener.finished(self.name)
        told: dict[str, Any] = dict(method.metrics(end.server))
        if "contrast" in told:
            told["identified"] = identified(method, end.server, transport.states, clients)
        warn_of_unshown(setup.n_components, told)
        return replace(self._left(setup, method, transport, end, counted, choice), budget=budget)

    def _left(
        self,
        setup: Setup,
        method: Method,
        transport: InProcess,
        end: Progress,
        counted: ComponentCount,
        choice: BestRound | None,
    ) -> Fitted:
        """The fitted model."""
        beside = counted.bytes_beside(method.program).values()
        assert method.predictor.proportions is not None
        transport.admit(end.server)
        counts = None if transport.absent.get(0) else method.counts(end.server)
        last = max(record["round"] for record in self.history if record["round"] <= self.setup.config.rounds)
        return Fitted(
            setup,
            self.federation.names,
            select(end.server, method.predictor.reads),
            method.predictor.proportions(transport.states),
            method.metrics(end.server).get("bound"),
            end.bytes_down + sum(down for down, _ in beside),
            end.bytes_up + sum(up for _, up in beside),
            history=tuple(self.history),
            best_round=last if choice is None or choice.round is None else choice.round,
            learning_rate=self.rate,
            client_column=self.federation.client_column,
            label_column=self.federation.label_column,
            own={name: transport.states[name] for name in method.predictor.own if name in transport.states},
            counts=None if counts is None else counts.cpu(),
            cells=method.cells(end.server),
            rows_decide=bool(method.metrics(end.server).get("rows_decide", False)),
        )

    def _record(
        self, method: Method, transport: InProcess, progress: Progress, choice: BestRound | None
    ) -> dict[str, Any]:
        """What is known after a round. A predictor that is finished at the end is not asked before, unless it may be
        chosen."""
        config, rows = self.setup.config, self.federation.validation
        over = progress.round > config.rounds
        self.latest = UNKNOWN
        if choice is not None and not over:
            self.latest = choice.latest
        elif progress.round > 0 and (over or not method.program.finish) and rows:
            self.latest = score(method, progress.server, transport.states, rows, config.evaluation.metric)
        record = {
            "run": self.name,
            "round": progress.round,
            "bound": method.metrics(progress.server).get("bound"),
            "validation_accuracy": self.latest.accuracy,
            "validation_score": self.latest.chosen_by,
            "seconds": progress.seconds,
        }
        self.history.append(dict(files.finite(record)))
        return record | {"proportion_tv": None}

    def rank(self, model: Fitted) -> float:
        """A number that is larger where the model does better on rows for validation."""
        if self.federation.schema.labelled:
            return METRICS[self.setup.config.evaluation.metric].rank(self.latest.chosen_by)
        return log_density(model, self.federation.validation)


def log_density(model: Fitted, clients: Sequence[Client]) -> float:
    """The mean over clients of their rows' log density, each under its own mixture.

    Args:
        model: Fitted to the same clients.
        clients: Their rows for validation.

    Returns:
        Nats per row. More is better.
    """
    scores = []
    for client, proportions in zip(clients, model.proportions, strict=True):
        if len(client):
            joint = model.log_density(client.x, SAMPLES) + proportions.to(model.device).clamp(min=1e-300).log()
            scores.append(float(joint.logsumexp(1).mean()))
    return sum(scores) / len(scores)
