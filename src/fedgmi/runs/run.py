"""One method run to its outcome: rounds, records, checkpoints. A killed run goes on from its last round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgmi.storage import checkpoint, folder
from fedgmi.runs import evaluation
from fedgmi import tree
from fedgmi.storage.checkpoint import Checkpoint
from fedgmi.settings.run import Config
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.errors import DivergedError
from fedgmi.protocol.listener import Listener
from fedgmi.methods import Method, Task
from fedgmi.protocol.rounds import Progress, drive, require_finite
from fedgmi.protocol.in_process import InProcess

CHECKPOINTS = "checkpoints"


@dataclass
class Bench:
    """Where methods are run: one scenario, one results folder, one device.

    unseen: clients that come at the end only.
    """

    config: Config
    out: Path
    scenario: Scenario
    device: torch.device
    listener: Listener | None = None
    unseen: Scenario | None = None
    validation: list[float | None] = field(default_factory=list)

    def outcome(self, name: str, method: Method, task: Task, *, components: Sequence[Tensor] | None) -> dict[str, Any]:
        """The evaluation after the last round. A finished run is read from its checkpoint, not repeated."""
        where = self.out / CHECKPOINTS
        key = name if len(self.config.training.lr_candidates(name)) == 1 else f"{name}-lr{task.lr!r}"
        found = checkpoint.load(where, key, digest=self.config.digest())
        if found is not None and "outcome" in found.meta:
            torch.set_num_threads(int(found.meta["threads"]))  # those that follow then have them too
            return dict(found.meta["outcome"])
        transport = InProcess(self.scenario.federation.clients, method, device=self.device, components=components)
        progress, threads = self._start(found, method, transport)
        torch.set_num_threads(threads)
        folder.keep_records(self.out, lambda line: line["run"] != key or line["round"] <= progress.round)
        if self.listener:
            self.listener.started(key, self.config.rounds)
        result: dict[str, Any] = {}

        def after(progress: Progress) -> None:
            require_finite(transport.states, method.name, progress.round)
            record = self._record(key, method, transport, progress)
            meta = record | {"digest": self.config.digest(), "threads": threads, "validation": self.validation}
            if progress.round > self.config.rounds:
                result.update(self._evaluate(method, task, transport, progress))
                meta["outcome"] = result
            folder.append_record(self.out, record)
            checkpoint.save(where, key, Checkpoint(progress.server, transport.states, meta))
            if self.listener:
                self.listener.round_done(record)

        self._drive(method, task, transport, progress, after)
        if self.listener:
            self.listener.finished(key)
        return result

    def _drive(
        self, method: Method, task: Task, transport: InProcess, start: Progress, after: Callable[[Progress], None]
    ) -> None:
        """The round loop under this configuration; what runs away is told with the rate that it ran at."""
        try:
            drive(
                method,
                transport,
                start,
                n_clients=len(self.scenario.federation.clients),
                rounds=self.config.rounds,
                participation=self.config.method.participation,
                seed=self.config.seed,
                after=after,
            )
        except DivergedError as error:
            raw = task.schema.kind == "tabular" and self.scenario.standardisation is None
            scales = ", or data.standardise = true," if raw else ""
            fix = f"set training.lr below {task.lr:g}{scales} and give another folder with --out"
            raise DivergedError(error.what, where=error.where, fix=fix) from error

    def _start(self, found: Checkpoint | None, method: Method, transport: InProcess) -> tuple[Progress, int]:
        """Where to begin, and with how many threads: those of the start, so that sums are the same bits."""
        self.validation = []
        if found is None:
            down, up = self.scenario.bytes_spent
            start = Progress(tree.to(method.init(), self.device), bytes_down=down, bytes_up=up)
            return start, self.config.threads or torch.get_num_threads()
        transport.states = tree.to(found.clients, self.device)
        self.validation = list(found.meta["validation"])
        numbers = {name: found.meta[name] for name in ("round", "bytes_down", "bytes_up", "seconds")}
        return Progress(tree.to(found.server, self.device), **numbers), int(found.meta["threads"])

    def _record(self, key: str, method: Method, transport: InProcess, progress: Progress) -> dict[str, Any]:
        """One line of `records.jsonl`."""
        bound = progress.server.get("bound")
        validation = None
        if progress.round > 0 and (not method.finish or progress.round > self.config.rounds):
            rows = self.scenario.federation.validation
            accuracy = evaluation.client_accuracy(method, progress.server, transport.states, rows)
            validation = None if accuracy is None else folder.finite(float(accuracy.nanmean()))
        self.validation.append(validation)
        record = {
            "run": key,
            "round": progress.round,
            "bound": None if bound is None else float(bound),
            "proportion_tv": self._error(method, transport, progress),
            "validation_accuracy": validation,
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "seconds": progress.seconds,
        }
        return dict(folder.finite(record))

    def _error(self, method: Method, transport: InProcess, progress: Progress) -> float | None:
        """The oracle estimates its proportions at the end alone."""
        if method.name == "oracle" and progress.round <= self.config.rounds:
            return None
        return evaluation.proportion_error(method, transport.states, self.scenario)

    def _evaluate(self, method: Method, task: Task, transport: InProcess, progress: Progress) -> dict[str, Any]:
        result = evaluation.evaluate(method, task, progress.server, transport.states, self.scenario)
        if self.unseen is not None:
            seen = self.scenario
            result["unseen"] = evaluation.newcomers(method, progress.server, transport.states, seen, self.unseen)
        before, last = self.validation[max(1, len(self.validation) - 7)], self.validation[-1]
        result |= {
            "rounds": self.config.rounds,
            "learning_rate": task.lr,
            "validation_accuracy": last,
            "gain_last_5_rounds": None if before is None or last is None else last - before,
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "seconds": progress.seconds,
        }
        return dict(folder.finite(result))
