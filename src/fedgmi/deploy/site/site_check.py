"""`fedgmi site check`: whether a site's rows are what the federation agreed on, and what of them leaves the site."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedgmi.data.missing import MARK
from fedgmi.data.rows import Client
from fedgmi.data.sources.frames import column_of
from fedgmi.data.validate import TEACHES_NOTHING, teaches_nothing
from fedgmi.deploy import private
from fedgmi.deploy.settings import FederationSettings, SiteSettings, check_limits, read, tells_metrics
from fedgmi.deploy.site.readiness import hints
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.errors import ConfigError, DataError, UserError
from fedgmi.methods.disclosing import TELLS
from fedgmi.methods.fedgmi.sketch import count_words
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.step import Phase, Program, Step
from fedgmi.report.console import tell
from fedgmi.report.formats import bare_table, listed, plural, size
from fedgmi.runs.config import check_method
from fedgmi.runs.private import Cost

MOST_NAMES = 12  # features listed by name


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


def lacks(check: Check) -> str:
    """What the site's own training rows lack, and what follows; empty where they lack nothing."""
    schema, rows = check.federation.rows.as_schema(), check.rows
    if not teaches_nothing(schema, rows.train):
        return ""
    what, so = TEACHES_NOTHING[schema.task]
    found = f"{what} the {plural(len(rows.train), 'training row')} of {check.settings.name} (by {rows.label}): {so}"
    return f"{found}. The federation's models learn from the other sites' rows; is it the right column?"


def print_check(check: Check, console: Console, *, ready: bool = True) -> None:
    """What was read and how it was matched; then what leaves the site, and what never does.

    Args:
        check: Rows that are as agreed.
        console: Where to print.
        ready: Whether nothing hinders `serve`.
    """
    _paragraph(console, "Rows", _rows(check))
    if check.class_counts:
        console.print(Padding(_class_table(check), (0, 0, 0, 2)))
        console.print()
    if lacks(check):
        console.print(Text(lacks(check), style="bold yellow"))
        console.print()
    _paragraph(console, "Leaves the site", leaves(check), "· ")
    _paragraph(console, "Never leaves it", never(check), "· ")
    if may_come_out(check):
        console.print(Text(may_come_out(check), style="yellow"))
        console.print()
    console.print(Text(warning(check), style="bold yellow"))
    console.print()
    for hint in hints(check.settings, check.rows):
        console.print(Text(hint, style="bold yellow"))
        console.print()
    if ready:
        console.print(Text(f"{check.settings.name} is ready for {check.federation.name}.", style="green"))
    else:
        console.print(Text(f"Its rows are as agreed. {check.settings.name} cannot be served yet.", style="bold red"))


def _rows(check: Check) -> Iterator[str]:
    rows, agreed = check.rows, check.federation.rows
    held_out = 0 if rows.held_out is None else len(rows.held_out)
    validation = 0 if rows.validation is None else len(rows.validation)
    n, choosing = len(rows.train) + validation + held_out, f"{validation:,} for validation, " if validation else ""
    yield f"{plural(n, 'row')}: {len(rows.train):,} to train on, {choosing}{held_out:,} held out"
    if agreed.kind == "image":
        yield f"pictures of {'×'.join(map(str, agreed.shape))}, by {rows.columns[0]}"
    else:
        yield f"{plural(len(agreed.features), 'feature')}, as agreed: {listed(agreed.features, MOST_NAMES)}"
    for name, (least, greatest) in agreed.ranges.items():
        yield f"{name} within [{least:g}, {greatest:g}], as agreed"
    for column, gaps in _missing(check).items():
        share = f"{gaps:,} of {n:,} rows ({gaps / n:.0%})"
        yield f"{column} is missing in {share}: filled by the federation's rule, {agreed.missing}"
        if column in rows.unknown:
            yield f"of these: {unknown_words(column, rows.unknown[column])}"
    if rows.label is not None:
        lacking = sum(not any(counts) for _, *counts in check.class_counts)
        without = f"; {lacking} of {len(check.class_counts)} classes have no row here" if lacking else ""
        yield f"labels by {rows.label}{without}"
    if rows.ignored:
        yield f"ignored: {listed(rows.ignored, MOST_NAMES)}"


def unknown_words(column: str, texts: Mapping[str, int]) -> str:
    """Which texts of a column the federation does not have, for the site's own terminal.

    Args:
        column: Its name.
        texts: How many rows have each.

    Returns:
        A sentence.

    Examples:
        >>> unknown_words("ward", {"Ost": 1, "West": 3})
        "ward holds 'Ost' (1 row) and 'West' (3 rows), which the federation does not have: they count as missing"
    """
    named = [f"{text!r} ({plural(n, 'row')})" for text, n in texts.items()]
    what, count = ("it", "counts") if len(named) == 1 else ("they", "count")
    return f"{column} holds {listed(named, MOST_NAMES)}, which the federation does not have: {what} {count} as missing"


def _missing(check: Check) -> dict[str, int]:
    """By column, in how many rows its value is missing; columns without such rows are left out."""
    agreed, rows = check.federation.rows, check.rows
    if agreed.missing == "refuse":
        return {}
    x = torch.cat([part.x for part in (rows.train, rows.validation, rows.held_out) if part is not None])
    found: dict[str, int] = {}
    for place, feature in enumerate(agreed.features):
        marker = feature.endswith(f"={MARK}")
        gaps = int((x[:, place] == 1 if marker else x[:, place].isnan()).sum())
        column = column_of(feature, rows.columns) or feature
        found[column] = max(gaps, found.get(column, 0))
    return {column: gaps for column, gaps in found.items() if gaps}


def print_problems(found: Sequence[UserError], console: Console) -> None:
    """All that is wrong, a line each, and how many there are.

    Args:
        found: What `check` raised, apart, or what hinders `serve`.
        console: Where to print.
    """
    for problem in found:
        tell(console, "error", str(problem))
    last = [f"{len(found)} problems; nothing was sent anywhere."] if len(found) > 1 else []
    if any(re.search(r"\brow \d", str(problem)) for problem in found):
        last.append("Rows are counted from 0: in a CSV file with a header, row 0 is line 2.")
    if last:
        console.print(Text(" ".join(last)), soft_wrap=True)


def _class_table(check: Check) -> Table:
    table = bare_table("", ["class", "train", "validation", "held out"])
    for name, *counts in check.class_counts:
        table.add_row(Text(name), *(f"{count:,}" for count in counts))
    return table


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


def _paragraph(console: Console, title: str, lines: Iterator[str] | tuple[str, ...], bullet: str = "") -> None:
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Padding(Text(f"{bullet}{line}"), (0, 0, 0, 2)))
    console.print()
