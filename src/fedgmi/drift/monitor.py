"""The monitor: a model, a client, and what was seen of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedgmi.data.names import place_of
from fedgmi.data.rows import Client, pack
from fedgmi.drift import watch
from fedgmi.drift.charts import Array, threshold_for
from fedgmi.drift.model import Model, evidence, labels_of, tells_components_apart
from fedgmi.drift.own_file import KeptMonitor
from fedgmi.drift.report import Report, State
from fedgmi.drift.watch import Watch
from fedgmi.errors import CheckpointError, ConfigError, DataError
from fedgmi.mixture.posterior import e_step
from fedgmi.randomness import numpy_generator

LEARNING_ROWS = 50
"""Rows that a monitor must have seen before its charts start."""
RECENT_ROWS = 2000
"""New proportions are estimated from about so many rows at most."""
MIN_RUN_LENGTH, MAX_RUN_LENGTH = 10.0, 1e9
FORMAT = 1


class Monitor:
    """Says, batch after batch, whether a client's proportions moved, and whither, or its rows no longer fit.

    Each batch gives K + 2 numbers. While rows are exchangeable they are N(0, 1) and independent of other batches',
    exactly, however wrong the model is (`drift.charts`). A CUSUM accumulates each of them (`drift.watch`).

    After an alarm only `reset` leads back. Until then new proportions sharpen with every batch, and moved proportions
    may turn out to be rows that no longer fit.

    Attributes:
        client: Its name.
        average_run_length: Mean number of batches to a false alarm.
        seed: Of ties and random subsets.
    """

    def __init__(
        self,
        model: Model,
        client: str | int,
        *,
        average_run_length: float = 370.0,
        reference: tuple[Any, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Start to watch a client.

        Args:
            model: A fitted model.
            client: The client's name. A whole number is a name, too; where no client's name is one, it is a place in
                `client_names_`.
            average_run_length: Mean number of batches to a false alarm, from 10 to 10⁹.
            reference: (x, y) or (x, None), rows of this client that the model was *not trained on*. Models remember
                their rows, so that other rows would look like drift. Without a reference, and until 50 rows are seen,
                the first batches are the reference. Labels are given always, or never.
            seed: Of ties and random subsets.

        Raises:
            ConfigError: The run length is below 10, or above 10⁹.
            DataError: There is no such client, or the reference cannot be used.

        Warns:
            FedgmiWarning: Such rows cannot tell components apart. Then only the fit is watched.
        """
        names = [str(name) for name in model.client_names_]
        place = place_of(client, names)
        if not MIN_RUN_LENGTH <= average_run_length <= MAX_RUN_LENGTH:
            raise ConfigError(
                f"{average_run_length:g} batches",
                where="average_run_length",
                fix=f"ask for {MIN_RUN_LENGTH:g} to {MAX_RUN_LENGTH:g}; 370 is usual",
            )
        self.client, self.average_run_length, self.seed = names[place], float(average_run_length), int(seed)
        self._model = model
        self._weights: Array = np.asarray(model.weights_[place], dtype=float)
        self._labelled: bool | None = None
        self._watch: Watch | None = None
        self._state: State = "learning"
        self._cause: int | None = None
        self._change_point: int | None = None
        self._batch = 0
        self._recent: list[tuple[int, Array]] = []  # batch and log ratios [n, K]
        if reference is not None:
            if not isinstance(reference, tuple) or len(reference) != 2:
                raise DataError("it is no pair", where="reference", fix="give (x, y), or (x, None) without labels")
            self._learn(*self._evidence(*reference, where="reference"))

    @property
    def state(self) -> State:
        """What is going on: "learning", "in control", "proportions moved" or "rows no longer fit"."""
        return self._state

    def update(self, x: Any, y: Any = None) -> Report:
        """Take the next batch.

        Args:
            x: Rows, in order of arrival. [n, …]
            y: Labels [n], if the reference had them. None: a table has them in the column that the model was fitted to.

        Returns:
            What is to be said after it.

        Raises:
            DataError: The rows cannot be used. The monitor stays as it was.
        """
        ratios, log_prob = self._evidence(x, y, where=f"batch {self._batch + 1}")
        self._batch += 1
        if self._state == "learning":
            self._learn(ratios, log_prob)
            return self._report()
        self._recent.append((self._batch, ratios))
        if self._state == "in control":
            self._chart(ratios, log_prob)
        elif self._state == "proportions moved":
            self._look_closer(ratios, log_prob)
        while sum(len(past) for _, past in self._recent[1:]) > RECENT_ROWS:
            self._recent.pop(0)
        return self._report()

    def reset(self, *, new_normal: bool = False) -> None:
        """Start the charts again after an alarm.

        Args:
            new_normal: False after a false alarm, or after one whose cause is mended. All rows up to the alarm stay the
                reference. True where the change is here to stay. The reference is then forgotten, the next batches are
                learnt in its place, and `weights_before` become the proportions that were found.
        """
        if new_normal:
            found = self._weights_now()
            self._weights = self._weights if found is None else found
            self._watch, self._labelled, self._state = None, None, "learning"
        elif self._watch is not None:
            self._begin(self._watch)
        self._cause, self._change_point, self._recent = None, None, []

    def to_dict(self) -> dict[str, Any]:
        """All that the monitor knows, as JSON values: counts, log densities and log ratios of rows, but no rows."""
        return {
            "format": FORMAT,
            "client": self.client,
            "average_run_length": self.average_run_length,
            "seed": self.seed,
            "weights": self._weights.tolist(),
            "labelled": self._labelled,
            "watch": None if self._watch is None else watch.to_dict(self._watch),
            "state": self._state,
            "cause": self._cause,
            "change_point": self._change_point,
            "batch": self._batch,
            "recent": [[batch, ratios.tolist()] for batch, ratios in self._recent],
        }

    @classmethod
    def from_dict(cls, model: Model, data: Mapping[str, Any]) -> Monitor:
        """The monitor that `to_dict` described.

        Args:
            model: The model that it watched with.
            data: What `to_dict` returned.

        Returns:
            A monitor that goes on as if nothing had happened.

        Raises:
            CheckpointError: The data are of another version, cannot be, or the model has another number of components.
        """
        if data.get("format") != FORMAT:
            fix = "start a new Monitor, or use the fedgmi that wrote it"
            raise CheckpointError("this is no state of a drift monitor of this version", where="Monitor", fix=fix)
        fix = "start a new Monitor"
        KeptMonitor.parse(json.dumps(data), lambda what: CheckpointError(what, where="Monitor", fix=fix))
        if len(data["weights"]) != model.n_components_:
            raise CheckpointError(
                f"it watched {len(data['weights'])} components, and the model has {model.n_components_}",
                where=f"monitor of client {data['client']!r}",
                fix="load the model that it was made with, or start a new Monitor",
            )
        monitor = cls(model, data["client"], average_run_length=data["average_run_length"], seed=data["seed"])
        monitor._weights = np.array(data["weights"], float)
        monitor._labelled = data["labelled"]
        monitor._watch = None if data["watch"] is None else watch.from_dict(data["watch"])
        monitor._state, monitor._batch = data["state"], data["batch"]
        monitor._cause, monitor._change_point = data["cause"], data["change_point"]
        monitor._recent = [(batch, np.array(ratios, float)) for batch, ratios in data["recent"]]
        return monitor

    def _evidence(self, x: Any, y: Any, where: str) -> tuple[Array, Array]:
        """Log ratios and log densities of the rows; the first ones settle what is watched."""
        y = labels_of(self._model, x, y)
        if self._labelled is not None and self._labelled != (y is not None):
            had, have = ("labels", "none") if self._labelled else ("none", "labels")
            fix = "give labels with the reference and with every batch, or with none of them"
            raise DataError(f"earlier rows had {had}, these have {have}", where=where, fix=fix)
        found = evidence(self._model, x, y, where)
        if self._watch is None:
            proportions = tells_components_apart(self._model, x, y, self.client)
            self._watch, self._labelled = watch.new_watch(len(self._weights), proportions=proportions), y is not None
        return found

    def _scores(
        self, ratios: Array, log_prob: Array, weights: Array | None = None
    ) -> tuple[Watch, watch.Scores, np.random.Generator]:
        assert self._watch is not None
        rng = numpy_generator(self.seed, "drift", self.client, self._batch)
        weights = self._weights if weights is None else weights
        return self._watch, watch.score(self._watch, ratios, log_prob, weights, rng), rng

    def _learn(self, ratios: Array, log_prob: Array) -> None:
        self._begin(watch.learn(*self._scores(ratios, log_prob)))

    def _begin(self, start: Watch) -> None:
        """Charts at zero after this batch, once enough rows were seen."""
        self._watch = start.restarted()
        self._state = "in control" if start.seen >= LEARNING_ROWS else "learning"

    def _chart(self, ratios: Array, log_prob: Array) -> None:
        self._watch = watch.chart(*self._scores(ratios, log_prob))
        found = watch.alarm(self._watch, self._threshold)
        if found is None:
            self._recent = self._recent[max(0, len(self._recent) - len(self._watch.path)) :]
        else:
            self._blame(found[0], self._batch - found[1])

    def _look_closer(self, ratios: Array, log_prob: Array) -> None:
        """Proportions moved: do rows fit where they moved to?"""
        assert self._change_point is not None
        self._watch = watch.watch_fit(*self._scores(ratios, log_prob, self._weights_now()))
        doubt = watch.misfit(self._watch, self._batch - self._change_point)
        if doubt is not None:
            self._blame(doubt, self._change_point)

    def _blame(self, cause: int, change_point: int) -> None:
        assert self._watch is not None
        self._cause, self._change_point = cause, change_point
        self._state = "rows no longer fit" if cause >= len(self._watch.levels) else "proportions moved"

    @property
    def _threshold(self) -> float:
        n_charts = 2 if self._watch is None else len(self._watch.cusum)
        return threshold_for(self.average_run_length, n_charts)

    def _weights_now(self) -> Array | None:
        """Proportions of the rows since the change, with one row's worth of the old ones; [K]."""
        since = self._change_point
        if self._state != "proportions moved" or since is None:
            return None
        logs = torch.from_numpy(np.concatenate([ratios for batch, ratios in self._recent if batch > since]))
        before = torch.from_numpy(self._weights)
        found = e_step(logs, pack([Client(self.client, logs)]), before[None], before)
        return np.asarray(found.proportions[0].numpy())

    def _report(self) -> Report:
        names = [] if self._watch is None else self._watch.charts
        cusum = [] if self._watch is None else self._watch.cusum.tolist()
        return Report(
            client=self.client,
            batch=self._batch,
            state=self._state,
            statistics=dict(zip(names, cusum, strict=True)),
            threshold=self._threshold,
            cause=None if self._cause is None else names[self._cause],
            change_point=self._change_point,
            weights_before=self._weights,
            weights_now=self._weights_now(),
        )
