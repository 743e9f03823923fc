"""What validation rows choose: the learning rate, and with `training.patience` the round that a run ends with.

A round is judged by the predictor that the run would have if it ended there: the last steps of the method's program
are run, the predictor is asked about validation rows, and the clients then go on as if nothing had been. What that
costs is counted. Held-out rows are not looked at.

What clients have of their own (fine-tuning, memories, weights) was chosen by the same rows, so the score is better than
that of rows which chose nothing. It ranks rates and rounds, and is no estimate of how well clients will fare.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fedgmi import tree
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.aside import fifth_aside
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.validate import check_learnable
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import Method
from fedgmi.methods.candidates import TRIED
from fedgmi.methods.personal import SHARED_ALONE
from fedgmi.models.heads import HEADS
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, advance
from fedgmi.protocol.step import Program
from fedgmi.runs.config import Config
from fedgmi.runs.evaluation import predictions
from fedgmi.runs.metrics import METRICS, USUAL, mean, measure
from fedgmi.settings.run import TaskName
from fedgmi.storage.checkpoint import Checkpoint
from fedgmi.tree import Tree

CHOSEN = "chosen/"
"""Before the names of the chosen round's leaves in a checkpoint."""
ASIDE = "nobody has rows for validation: a fifth of each client's rows is set aside to choose what it has of its own"


class Score(NamedTuple):
    """How a predictor does on validation rows, mean over clients. None where nobody knows.

    Attributes:
        accuracy: The share of right labels; None where labels are no classes.
        chosen_by: The metric that chooses.
    """

    accuracy: float | None = None
    chosen_by: float | None = None


UNKNOWN = Score()


def score(method: Method, server: Tree, states: Tree, rows: Sequence[Client], metric: str) -> Score:
    """Ask a predictor about validation rows.

    Args:
        method: Whose predictor.
        server: The server's state.
        states: The clients' states. [C, …]
        rows: The clients' validation rows.
        metric: Which one chooses.

    Returns:
        The score.
    """
    predicted = predictions(method.predictor, server, states, rows)
    if predicted is None:
        return UNKNOWN
    task = METRICS[metric].task
    names = {"accuracy", metric} if task == "classification" else {metric}
    each = [measure(logs, y, names, task) for logs, y in predicted]
    return Score(mean(one.get("accuracy") for one in each), mean(one[metric] for one in each))


@dataclass
class BestRound:
    """The best round so far of one run, and when to stop; see `protocol.rounds.Choice`.

    Attributes:
        method: Whose run it is.
        transport: To the clients.
        rows: The clients' validation rows.
        metric: Which one chooses.
        rounds: R.
        patience: So many rounds without a better one end the run.
        latest: The score of the latest round.
        round: The best one; None while there is none.
        best: Its score.
        server: The server's state that the run would have ended with after it.
        states: The clients' states likewise. [C, …]
    """

    method: Method
    transport: InProcess
    rows: Sequence[Client]
    metric: str
    rounds: int
    patience: int
    latest: Score = UNKNOWN
    round: int | None = None
    best: float | None = None
    server: Tree | None = None
    states: Tree | None = None

    def after_round(self, progress: Progress) -> Progress:
        """Judge the round, unless it is one of the method's warm-up. Of equal rounds the first one is the best."""
        program, self.latest = self.method.program, UNKNOWN
        if progress.round <= program.warm_up:
            return progress
        began, before = time.perf_counter(), dict(self.transport.states)
        everyone, last = (
            range(len(self.rows)),
            progress.round + 1,
        )  # the number that the end has in a run of so many rounds
        tried = advance(self.method.name, program.finish, self.transport, progress, everyone, last)
        self.latest = score(self.method, tried.server, self.transport.states, self.rows, self.metric)
        rank = METRICS[self.metric].rank
        if self.round is None or rank(self.latest.chosen_by) > rank(self.best):
            self.round, self.best = progress.round, self.latest.chosen_by
            self.server, self.states = tried.server, self.transport.states
        self.transport.states = before
        return replace(
            progress,
            bytes_down=tried.bytes_down,
            bytes_up=tried.bytes_up,
            seconds=progress.seconds + time.perf_counter() - began,
        )

    def end(self, progress: Progress) -> Progress | None:
        """After the last round, or once patience is at its end."""
        if self.round is None or (progress.round < self.rounds and progress.round - self.round < self.patience):
            return None
        assert self.server is not None
        assert self.states is not None
        self.transport.states = self.states
        return replace(progress, server=self.server, round=self.rounds + 1)

    def to_checkpoint(self, kept: Checkpoint) -> Checkpoint:
        """The checkpoint with what is needed to go on choosing."""
        if self.round is None or self.server is None or self.states is None:
            return kept
        server = kept.server | {CHOSEN + name: leaf for name, leaf in self.server.items()}
        clients = kept.clients | {CHOSEN + name: leaf for name, leaf in self.states.items()}
        meta = kept.meta | {"chosen": {"round": self.round, "best": self.best}}
        return replace(kept, server=server, clients=clients, meta=meta)

    def restore(self, chosen: Checkpoint) -> None:
        """Go on from the second part of `split`."""
        if "chosen" in chosen.meta:
            self.round, self.best = chosen.meta["chosen"]["round"], chosen.meta["chosen"]["best"]
            self.server, self.states = chosen.server, chosen.clients


def split(found: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """A checkpoint as it is without a choice, and what belongs to the chosen round."""

    def parts(both: Tree) -> tuple[Tree, Tree]:
        chosen = {name: leaf for name, leaf in both.items() if name.startswith(CHOSEN)}
        others = {name: leaf for name, leaf in both.items() if name not in chosen}
        return others, {name.removeprefix(CHOSEN): leaf for name, leaf in chosen.items()}

    (server, best_server), (clients, best_clients) = parts(found.server), parts(found.clients)
    return replace(found, server=server, clients=clients), replace(found, server=best_server, clients=best_clients)


def to_device(found: Checkpoint, device: torch.device) -> Checkpoint:
    """A checkpoint whose states lie on a device."""
    return replace(found, server=tree.to(found.server, device), clients=tree.to(found.clients, device))


def with_rows_to_choose(scenario: Scenario, method: Method, seed: int) -> Scenario:
    """The scenario that a method is trained on: with a fifth of each client's rows set aside, where it chooses by rows
    for validation and nobody has such.

    Args:
        scenario: As it came.
        method: Any.
        seed: Of the draw.

    Returns:
        The scenario. Other methods have it as it came.

    Raises:
        DataError: Where nothing can be learnt from the rows that are left.
    """
    if not method.chooses or any(map(len, scenario.federation.validation)):
        return scenario
    found = fifth_aside(scenario, seed)
    if found is scenario:
        return scenario
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were said of the federation as it came
        check_learnable(found.federation.schema, found.federation.clients)
    return found


def say_what_chooses(method: Method, came: Federation, trained: Federation, fix: str) -> None:
    """Warn of rows that were set aside, or that no client had enough of them.

    Args:
        method: Which is trained.
        came: As it came.
        trained: As it is trained on.
        fix: How it would come with rows for validation.
    """
    if not method.chooses:
        return
    if any(map(len, came.validation)):
        _say_who_has_none(method, came)
        return
    taken, personal = sum(map(len, trained.validation)), TRIED in method.predictor.reads
    if taken:
        told = f"{ASIDE}, {taken:,} of {sum(map(len, came)):,}, and not trained on. Likely fix: {fix}"
        told += ", or set method.personal = false to train on all" if personal else ""
        warnings.warn(FedgmiWarning(told), stacklevel=2)
    elif personal:
        why = f"{SHARED_ALONE}. No client has the five rows of which one could be set aside"
        warnings.warn(FedgmiWarning(f"{why}. Likely fix: {fix}, or set method.personal = false"), stacklevel=2)


def _say_who_has_none(method: Method, came: Federation) -> None:
    """Warn of single clients without rows for validation, where clients have parts of their own."""
    without = [client.name for client in came.validation if not len(client)]
    if without and TRIED in method.predictor.reads:  # rivals' own models need no such rows
        others = f" and {len(without) - 1} more" if len(without) > 1 else ""
        what = f"no rows for validation: client {without[0]!r}{others}. Without such rows a client's own nets count"
        warnings.warn(FedgmiWarning(f"{what} as much as others' do, less where its rows are few"), stacklevel=3)


def choice_of(
    config: Config, method: Method, transport: InProcess, rows: Sequence[Client], found: Checkpoint | None = None
) -> BestRound | None:
    """The choice that the settings ask for, as it stood in a checkpoint; None: a run ends with its last round."""
    if config.training.patience is None:
        return None
    metric = config.evaluation.metric
    choice = BestRound(method, transport, rows, metric, config.rounds, config.training.patience)
    if found is not None:
        choice.restore(found)
    return choice


def best_of(outcomes: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The outcome that does best on validation rows; the first of several."""
    return outcomes[METRICS[metric].best([outcome["validation_score"] for outcome in outcomes])]


def warn_of_idle_metric(config: Config, task: TaskName, names: Sequence[str]) -> None:
    """Warn of a metric by which a run chooses nothing: it has one rate, and no patience.

    Args:
        config: The settings.
        task: What labels are.
        names: The methods that run.
    """
    metric = config.evaluation.metric
    chooses = any(len(config.training.lr_candidates(name)) > 1 for name in names)
    if metric != USUAL[task] and config.training.patience is None and not chooses:
        what = f"evaluation.metric is {metric}, and nothing is chosen by it: there is one rate, and no patience"
        told = f"{what}. Likely fix: give training.lr a list, or training.patience; `fedgmi compare` ranks by it"
        warnings.warn(FedgmiWarning(told), stacklevel=2)


def check_choice(config: Config, federation: Federation, program: Program, name: str) -> None:
    """Refuse settings that leave something to validation rows which these cannot decide, before anything is run.

    Args:
        config: The settings.
        federation: Whose validation rows there are.
        program: The method's.
        name: The method's.

    Raises:
        ConfigError: Where validation rows are missing, or lack the labels that the metric needs; and where all rounds
            belong to the method's warm-up.
    """
    patience, metric = config.training.patience, config.evaluation.metric
    several = len(config.training.lr_candidates(name)) > 1
    if patience is None and not several:
        return
    where, fix = ("training.patience", "unset it") if patience else ("training.lr", "give one rate")
    fix += ", or give the federation validation rows with labels"
    choices = "the best round" if patience else "a learning rate"
    why = undecided(federation, metric)
    if why:
        usual = USUAL[federation.schema.task]
        fix = fix if metric == usual else f"{fix}, or set evaluation.metric to {usual}"
        raise ConfigError(f"validation rows choose {choices}, and {why}", where=where, fix=fix)
    if patience and config.rounds <= program.warm_up:
        raise ConfigError(
            f"no round of {name}'s warm-up can be the best one, and all {config.rounds} rounds belong to it",
            where=where,
            fix=f"set rounds to {program.warm_up + 1} or more, or unset patience",
        )


def undecided(federation: Federation, metric: str) -> str:
    """Why validation rows cannot choose by a metric; "" where they can."""
    if not any(len(client) for client in federation.validation):
        return "there are none"
    if any(client.y is None for client in federation.validation):
        return "these have no labels"
    task = federation.schema.task
    width = HEADS[task].width or federation.schema.n_classes
    no_idea = ((np.zeros((len(c), width)), c.y) for c in federation.validation)
    if mean(measure(logs, y, [metric], task)[metric] for logs, y in no_idea) is None:
        two = {
            "classification": "rows of two classes",
            "regression": "rows of two targets",
            "survival": "rows of which one's event came before another's time",
        }
        return f"the {METRICS[metric].words} means nothing on them: no client has validation {two[task]}"
    return ""
