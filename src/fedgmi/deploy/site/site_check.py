"""`fedgmi site check`: whether a site's rows are what the federation agreed on, and what of them leaves the site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedgmi.data.rows import Client
from fedgmi.deploy import private
from fedgmi.deploy.settings import FederationSettings, SiteSettings, check_limits, read, tells_metrics
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.errors import ConfigError, DataError
from fedgmi.methods.disclosing import TELLS
from fedgmi.methods.fedgmi.sketch import count_words
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.step import Phase, Program, Step
from fedgmi.report.formats import plural, size
from fedgmi.runs.config import check_method
from fedgmi.runs.private import Cost


@dataclass(frozen=True)
class Check:
    """A site that has passed.

    Attributes:
        settings: site.toml.
        federation: federation.toml.
        rows: The site's.
        program: What the federation asks of it.
        class_counts: Per class how many rows train, choose, and are held out; none without labels.
        n_counts: Of the histogram of codewords and labels; 0 where the method asks for none.
        own: Whether sites end with a part of the predictor of their own.
        cost: What `[privacy]` bounds, and what the run costs; None: there is none.
    """

    settings: SiteSettings
    federation: FederationSettings
    rows: SiteRows
    program: Program
    class_counts: tuple[tuple[str, int, int, int], ...]
    n_counts: int
    own: bool = False
    cost: Cost | None = None

    @property
    def histogram_bytes(self) -> int:
        """As it travels."""
        return self.n_counts * torch.int32.itemsize

    @property
    def epsilon(self) -> float | None:
        """Of the noise on the histogram."""
        return self.federation.epsilon


def check(site_toml: Path, federation_toml: Path) -> Check:
    """Read both files and the site's rows; nothing is connected to.

    Args:
        site_toml: The site's own settings.
        federation_toml: The federation's.

    Returns:
        What was found.

    Raises:
        ConfigError: For settings that cannot be, a path of rows among them that is not there.
        DataError: For rows that are not what the federation agreed on; see `load_site`.
    """
    settings, federation = read(SiteSettings, site_toml), read(FederationSettings, federation_toml)
    check_limits(settings, federation)
    federation.check_private()
    schema = federation.rows.as_schema()
    asked = federation.method.n_components
    known = asked if isinstance(asked, int) else 2  # what leaves is the same for any number but one
    setup = federation.setup_of(known)
    check_method(federation.method, federation.rounds)
    try:
        rows = load_site(settings, federation, site_toml.parent)
    except DataError as error:
        if not (site_toml.parent / Path(settings.data.path).expanduser()).exists():
            raise ConfigError(error.what, where=error.where, fix=error.fix) from error
        raise
    private.check_rows(federation.config(), len(rows.train), settings.name)
    counts = (_class_counts(part, schema.n_classes) for part in (rows.train, rows.validation, rows.held_out))
    method = federation.running(setup.method())
    has_histogram = any(step.counts for step in method.program.all_steps)
    return Check(
        settings,
        federation,
        rows,
        method.program,
        tuple(zip(schema.classes, *counts, strict=True)),
        count_words(setup.task()) if has_histogram else 0,
        bool(method.predictor.own),
        federation.cost(method),
    )


def leaves(check: Check) -> Iterator[str]:
    """What the coordinator is sent, one sentence each: as the program's steps tell."""
    yield "its name, how many rows it has, and, where something fails, a line that quotes no row"
    phases: tuple[tuple[Phase, str], ...] = (
        ("prepare", "before the first round"),
        ("round", "in every round"),
        ("finish", "at the end"),
    )
    said: set[str] = set()
    for phase, when in phases:
        steps = check.program.steps(phase)
        for step in steps:
            if step.tells and step.tells not in said:
                said.add(step.tells)
                times = sum(other.name == step.name for other in steps)
                yield f"{when}{f', up to {times} times' * (times > 1)}, {_sentence(check, step)}"
    rows = check.rows
    if not tells_metrics(check.settings, check.federation):
        return  # metrics stay at the site
    if rows.held_out is not None and rows.held_out.y is not None and check.federation.rows.task != "classification":
        told = "RMSE, MAE, R², −log density and coverage of intervals"
        told = told if check.federation.rows.task == "regression" else "C-index"
        yield f"at the end, its predictor's {told} on the {plural(len(rows.held_out), 'row')} held out"
    elif rows.held_out is not None and rows.held_out.y is not None:
        yield (
            f"at the end, its predictor's accuracy on the {plural(len(rows.held_out), 'row')} held out, the other "
            "metrics (macro-F1, AUC, log loss, …), and the accuracy of saying its most frequent class"
        )


def never(check: Check) -> Iterator[str]:
    """What no message has, one sentence each: as the program's steps are."""
    yield "a row or a label as it stands, and the names and values of ignored columns: no message has a place for them"
    if check.n_counts or check.cost is not None:
        yield "its secret, from which noise is drawn"
    if not tells_metrics(check.settings, check.federation):
        yield "how good its predictor is on the rows held out: results/ has it"
    if check.own:
        yield "its own part of the predictor"


def may_come_out(check: Check) -> str:
    """What a coordinator that lies could work out of what leaves; empty where nothing made of single rows leaves."""
    if not leaves_told(check.program):
        return ""
    if check.cost is not None:
        return private_words(check, check.cost)
    runs, noise = check.settings.max_runs, "" if check.epsilon is None else " Noise is on the histogram alone."
    limit = "as many runs as are asked for" if runs is None else f"{plural(runs, 'run')} over the same rows"
    return (
        "Sums and updates are exact. A coordinator that chooses with care what they are taken at can work single rows "
        f"out of them. The site answers each step once a run and in order, in {limit} (max_runs in site.toml), and "
        f"audit.jsonl says what left.{noise}"
    )


def private_words(check: Check, cost: Cost) -> str:
    """What `[privacy]` protects and what it costs this site."""
    spent = f"ledger.json is charged ε = {cost.epsilon:.3g}, δ = {cost.delta:g} before the first message leaves"
    own, masked = check.settings, check.federation.masked
    limit = "; site.toml has no max_epsilon" if own.max_epsilon is None else f", of max_epsilon = {own.max_epsilon:g}"
    others = " Other sites know their own parts of the noise, and can take these off." if masked else ""
    return f"With [privacy] {private.guarantee(cost, masked=masked)}. {spent}{limit}.{others}"


def leaves_told(program: Program) -> list[str]:
    """What answers to a program's steps tell, each once, in the order of the phases."""
    return list(dict.fromkeys(step.tells for step in program.all_steps if step.tells))


def _sentence(check: Check, step: Step) -> str:
    """What a step tells, and who sees it."""
    if step.single and check.n_counts and step.kind == "sketch":
        singly = ", seen singly though sums are masked" if check.federation.masked else ""
        return f"how many of its rows have each codeword{_and_label(check)}{singly}: {_histogram(check)}"
    return f"masked, {step.tells}" if check.federation.masked and not seen_singly(step) else step.tells


def tells_proportions(check: Check) -> bool:
    """Whether the site's proportions go to the coordinator."""
    return any(step.tells == TELLS for step in check.program.all_steps)


def warning(check: Check) -> str:
    """What follows where nothing hides a single site's messages."""
    learns = []
    if check.cost is not None and not check.federation.masked:
        counts = f" and its histogram of codewords{_and_label(check).replace(' and ', ' × ')}" if check.n_counts else ""
        return (
            f"Without secure aggregation (communication.secure) the coordinator learns every site's updates{counts}, "
            "with their noise."
        )
    if tells_proportions(check):
        learns.append("every site's proportions")
    if check.n_counts:
        noise = "" if check.epsilon is None else ", with its noise"
        learns.append(f"its histogram of codewords{_and_label(check).replace(' and ', ' × ')}{noise}")
    if check.federation.masked:
        return masked_warning(check, learns)
    learnt = " and ".join(learns) or "every site's updates"
    rebuilt = "; proportions and shared models together make a site's predictor" if learns else ""
    return f"Without secure aggregation (communication.secure) the coordinator learns {learnt}{rebuilt}."


def masked_warning(check: Check, learns: list[str]) -> str:
    """What masks leave to be seen, and whom they leave to be trusted."""
    seen = f" Of single sites it learns {' and '.join(learns)}." if learns else ""
    trusted = (
        " Keys go through the coordinator: with mask_secret in every site's site.toml it cannot put its own in between."
        if check.settings.mask_secret is None
        else ""
    )
    return f"Sums are masked: the coordinator sees those over two sites or more.{seen}{_insists(check)}{trusted}"


def _insists(check: Check) -> str:
    """What the site insists on, and what it costs."""
    settings, found = check.settings, ""
    if settings.only_masked:
        found += " only_masked is set: whatever is seen singly has noise, but its number of rows."
    if settings.same_sites:
        return (
            found + " same_sites is set: its sums are over the same sites always, and a run waits for one that fails."
        )
    return f"{found} Sums over other sites, of other numbers, may differ by one site's part: same_sites refuses these."


def _class_counts(part: Client | None, n_classes: int) -> list[int]:
    if part is None or part.y is None or not n_classes:
        return [0] * n_classes
    counts: list[int] = part.y.bincount(minlength=n_classes).tolist()
    return counts


def _and_label(check: Check) -> str:
    if check.federation.rows.task != "classification":
        return " and bin of the target" if check.federation.rows.task == "regression" else " and bin of time and event"
    return " and label" if check.class_counts else ""


def _histogram(check: Check) -> str:
    """Its size, and what protects it."""
    epsilon = check.epsilon
    cost = f"{plural(check.n_counts, 'count')}, {size(check.histogram_bytes)}"
    if epsilon is None:
        return f"{cost}, without noise (method.epsilon is unset), so its label counts and rare rows show as they are"
    if check.cost is not None:
        return (
            f"{cost}, with noise of ε = {epsilon:g} on each. One row in another's place changes two: that is part of "
            "what the whole run costs"
        )
    return (
        f"{cost}, with noise of ε = {epsilon:g}: whatever goes out is at most e^ε times as likely with any one row as "
        "without it. Nothing else in this list is protected"
    )
