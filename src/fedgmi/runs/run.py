"""One method run to its outcome: rounds, records, checkpoints. A killed run goes on from its last round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.diagnosis.survey import Survey
from fedgmi.errors import DivergedError
from fedgmi.methods import Method
from fedgmi.protocol.allowance import MB, Allowance
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger, bytes_by_kind
from fedgmi.protocol.listener import Listener
from fedgmi.protocol.phases import require_finite
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.runs import evaluation
from fedgmi.runs.budget.plan import plan
from fedgmi.runs.budget.planned import Plan
from fedgmi.runs.budget.words import planning_line, spending
from fedgmi.runs.choosing import UNKNOWN, BestRound, Score, choice_of, score, split, to_device
from fedgmi.runs.records import Record
from fedgmi.runs.setup import Setup, losses_of
from fedgmi.storage import checkpoint, files, folder
from fedgmi.storage.checkpoint import Checkpoint


@dataclass
class Runner:
    """What runs methods: one scenario, one results folder, one device.

    Attributes:
        setup: From which tasks and methods are made.
        out: The results folder.
        scenario: The federation, and the truth where it is known.
        device: Where models and rows are.
        listener: Who wants to know how it goes.
        unseen: Clients that come at the end only.
        survey: Which was taken for the number of components; the settings' method goes on from it, if it begins so.
        validation: The mean accuracy on validation rows after each round of the run at hand.
        score: The latest on validation rows.
        choice: Of the round that the run at hand ends with; None: the last.
        spent: Bytes of a client before the run, for the number of components.
        allowance: What clients may cost in the run at hand; None: any number of bytes.
        plans: How methods keep to their budgets, by name.
    """

    setup: Setup
    out: Path
    scenario: Scenario
    device: torch.device
    listener: Listener | None = None
    unseen: Scenario | None = None
    survey: Survey | None = None
    validation: list[float | None] = field(default_factory=list)
    score: Score = UNKNOWN
    choice: BestRound | None = None
    spent: int = 0
    allowance: Allowance | None = None
    plans: dict[str, Plan | None] = field(default_factory=dict)

    def outcome(self, name: str, lr: float, *, components: Sequence[Tensor] | None) -> dict[str, Any]:
        """The evaluation after the last round. A finished run is read from its checkpoint, not repeated.

        Args:
            name: The method's, or the bound's.
            lr: The learning rate.
            components: The true component of each row, client by client; for the oracle only.

        Returns:
            What `summary.json` says of the method.
        """
        config = self.setup.config
        where = self.out / folder.CHECKPOINTS
        key = name if len(config.training.lr_candidates(name)) == 1 else f"{name}-lr{lr!r}"
        found = checkpoint.load(where, key, digest=config.digest())
        if found is not None and "outcome" in found.meta:
            torch.set_num_threads(int(found.meta["threads"]))  # those that follow then have them too
            return dict(found.meta["outcome"])
        federation = self.scenario.federation
        if name not in self.plans:  # a plan takes seconds, and is the same at every rate
            if self.listener and config.communication.limited:
                self.listener.said(key, planning_line(name))
            self.plans[name] = plan(self.setup, name, len(federation.clients), self.spent)
        planned = self.plans[name]
        self.allowance = None if planned is None else planned.allowance(self.spent)
        setup = self.setup if planned is None else planned.setup
        method, coding = setup.method(name, lr=lr), setup.coding()
        transport = InProcess(
            federation.clients,
            method.program,
            device=self.device,
            components=components,
            validation=federation.validation,
            coding=coding,
            losses=losses_of(config, method),
        )
        progress, threads = self._start(found, method, transport)
        torch.set_num_threads(threads)
        if found is None and self.survey is not None and name == config.method.name:
            program, server = self.survey.open(method.program, transport, progress.server)
            method, progress = replace(method, program=program), replace(progress, server=server)
        folder.keep_records(self.out, lambda line: line["run"] != key or line["round"] <= progress.round)
        line = coding.line(key, method.program) if planned is None else planned.line
        if self.listener and line:
            self.listener.said(key, line)
        if self.listener:
            self.listener.started(key, config.rounds)
        result: dict[str, Any] = {}

        def tell(part: str) -> None:
            if self.listener:
                self.listener.doing(key, part)

        def after(progress: Progress) -> None:
            if progress.round > config.rounds:
                tell("evaluation")
                transport.admit(progress.server)
            require_finite(transport.states, method.name, progress.round)
            record = self._record(key, method, transport, progress)
            meta = record | {"digest": config.digest(), "threads": threads, "validation": self.validation}
            meta |= {"requests": transport.requests.to_json(), "at": list(transport.at)}
            meta |= {} if self.allowance is None else {"allowance": self.allowance.to_json()}
            if progress.round > config.rounds:
                result.update(self._evaluate(method, lr, transport, progress))
                most = int(transport.ledger.by_client().sum(1).max()) + self.spent
                result.update(most_mb=most / MB, models_travelled=coding.in_words(method.program))
                result.update({} if planned is None else {"budget": self._spending(planned, transport, key)})
                meta["outcome"] = result
            folder.append_record(self.out, Record.checked(record))
            kept = Checkpoint(progress.server, transport.states, meta, transport.ledger.to_tree())
            going_on = self.choice is not None and progress.round <= config.rounds
            checkpoint.save(where, key, self.choice.to_checkpoint(kept) if self.choice and going_on else kept)
            if self.listener:
                self.listener.round_done(record)

        self._run(method, lr, transport, progress, after, tell)
        if self.listener:
            self.listener.finished(key)
        return result

    def _run(
        self,
        method: Method,
        lr: float,
        transport: InProcess,
        start: Progress,
        after: Callable[[Progress], None],
        tell: Callable[[str], None],
    ) -> None:
        """The round loop under this configuration; what runs away is told with the rate that it ran at."""
        config = self.setup.config
        try:
            run_rounds(
                method.name,
                method.program,
                transport,
                start,
                n_clients=len(self.scenario.federation.clients),
                rounds=config.rounds,
                participation=config.method.participation,
                seed=config.seed,
                after=after,
                choice=self.choice,
                tell=tell,
                allowance=self.allowance,
            )
        except DivergedError as error:
            raw = self.setup.schema.kind == "tabular" and not self.setup.standardise
            scales = ", or data.standardise = true," if raw else ""
            lower = error.fix if method.program.rate else f"set training.lr below {lr:g}{scales}"
            fix = f"{lower} and give another folder with --out"
            raise DivergedError(error.what, where=error.where, fix=fix) from error

    def _start(self, found: Checkpoint | None, method: Method, transport: InProcess) -> tuple[Progress, int]:
        """Where to begin, and with how many threads: those of the start, so that sums are the same bits."""
        self.validation, rows = [], self.scenario.federation.validation
        found, chosen = (None, None) if found is None else split(to_device(found, self.device))
        self.choice = choice_of(self.setup.config, method, transport, rows, chosen)
        if found is None:
            start = Progress(tree.to(method.program.init(), self.device))
            return start, self.setup.threads()
        transport.states = found.clients
        transport.ledger = Ledger.from_tree(len(self.scenario.federation.clients), found.ledger)
        transport.requests.restore(found.meta["requests"])
        transport.at = tuple(found.meta["at"])
        self.validation = list(found.meta["validation"])
        if self.allowance is not None:
            self.allowance.restore(found.meta["allowance"])
        return Progress.of(found.server, found.meta), int(found.meta["threads"])

    def _record(self, key: str, method: Method, transport: InProcess, progress: Progress) -> dict[str, Any]:
        """One line of `records.jsonl`."""
        self.score = self._score(method, transport, progress)
        self.validation.append(self.score.accuracy)
        record = {
            "run": key,
            "round": progress.round,
            "bound": method.metrics(progress.server).get("bound"),
            "proportion_tv": self._error(method, transport, progress),
            "validation_accuracy": self.score.accuracy,
            "validation_score": self.score.chosen_by,
            **({} if self.choice is None else {"best_round": self.choice.round}),
            **self._absent(transport, progress.round),
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "bytes": bytes_by_kind(transport.ledger),
            "seconds": progress.seconds,
            **({} if self.allowance is None else {"sat_out": len(self.allowance.sat_out.get(progress.round, ()))}),
        }
        return dict(files.finite(record))

    def _absent(self, transport: InProcess, round: int) -> dict[str, list[str]]:
        """Who was lost in a round; nothing where nobody can be."""
        if transport.losses is None:
            return {}
        clients = self.scenario.federation.clients
        return {"absent": [clients[i].name for i in sorted(transport.absent.get(round, ()))]}

    def _spending(self, planned: Plan, transport: InProcess, key: str) -> dict[str, Any]:
        """How the run kept to its budget, which is said."""
        assert self.allowance is not None
        found = spending(planned, self.allowance, transport.ledger, key, self.spent)
        if self.listener:
            self.listener.said(key, found["kept"])
        return found

    def _score(self, method: Method, transport: InProcess, progress: Progress) -> Score:
        """On validation rows. A method with last steps has no predictor before, unless these are tried each round."""
        config, over = self.setup.config, progress.round > self.setup.config.rounds
        if self.choice is not None and not over:
            return self.choice.latest
        if progress.round == 0 or (method.program.finish and not over):
            return UNKNOWN
        rows = self.scenario.federation.validation
        return score(method, progress.server, transport.states, rows, config.evaluation.metric)

    def _chosen(self) -> dict[str, int | None]:
        """Which round the run ended with, and which one was its last; nothing where it was not chosen."""
        if self.choice is None:
            return {}
        return {"best_round": self.choice.round, "stopped_round": len(self.validation) - 2}

    def _error(self, method: Method, transport: InProcess, progress: Progress) -> float | None:
        """The oracle estimates its proportions at the end alone."""
        if method.name == "oracle" and progress.round <= self.setup.config.rounds:
            return None
        return evaluation.proportion_error(method.predictor, transport.states, self.scenario)

    def _evaluate(self, method: Method, lr: float, transport: InProcess, progress: Progress) -> dict[str, Any]:
        planned = self.plans.get(method.name)
        task = (self.setup if planned is None else planned.setup).task(method.name)
        metric = self.setup.config.evaluation.metric
        result = evaluation.evaluate(method, task, progress.server, transport.states, self.scenario, metric)
        if self.unseen is not None:
            seen = self.scenario
            result["unseen"] = evaluation.newcomers(
                method.predictor, progress.server, transport.states, seen, self.unseen
            )
        before, last = self.validation[max(1, len(self.validation) - 7)], self.validation[-1]
        result |= {
            "rounds": self.setup.config.rounds,
            "learning_rate": lr,
            **self._chosen(),
            "validation_accuracy": last,
            "validation_score": self.score.chosen_by,
            "gain_last_5_rounds": None if before is None or last is None else last - before,
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "bytes": bytes_by_kind(transport.ledger),
            "seconds": progress.seconds,
        }
        return dict(files.finite(result))
