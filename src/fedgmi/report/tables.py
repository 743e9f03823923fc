"""What a run found, as tables for the terminal: clients, components, headline numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedgmi.report.console import words
from fedgmi.report.explained_words import Diagnosis, verdict
from fedgmi.report.formats import bare_table, number, percent, rows_show, short_shares, size
from fedgmi.report.numbers import METRICS, Summary, beware, errors, judged_by, own_and_others, per_client
from fedgmi.report.travelled import AS_THEY_ARE, each_client
from fedgmi.storage import folder

MOST_CLIENTS = 30
"""Clients that are shown."""
MOST_CLASSES = 20
"""Classes that are shown."""
BESIDE = ("fedavg", "local", "oracle")
"""What may have run beside the method."""

HEADLINES: tuple[tuple[str, str, int | None], ...] = (
    ("proportion error (TV)", "proportion_tv", 3),
    ("… to the drawn proportions", "proportion_tv_drawn", 3),
    ("rows assigned rightly, %", "assignment_accuracy", None),
    ("client accuracy, %", "client_accuracy", None),
    ("… of the shared part alone, %", "client_accuracy_shared", None),
    ("… of the worst tenth, %", "metrics.accuracy.worst_tenth", None),
    ("… of all rows together, %", "metrics.accuracy.all_rows", None),
    ("… by each client's commonest class, %", "majority_accuracy", None),
    ("balanced accuracy, %", "metrics.balanced_accuracy.mean", None),
    ("macro-F1, %", "metrics.macro_f1.mean", None),
    ("AUC, %", "metrics.auc.mean", None),
    ("log loss, nats", "metrics.log_loss.mean", 3),
    ("calibration error, points", "metrics.calibration_error.mean", None),
    ("RMSE", "metrics.rmse.mean", 3),
    ("… of the worst tenth", "metrics.rmse.worst_tenth", 3),
    ("… of all rows together", "metrics.rmse.all_rows", 3),
    ("MAE", "metrics.mae.mean", 3),
    ("R²", "metrics.r2.mean", 3),
    ("… of all rows together", "metrics.r2.all_rows", 3),
    ("−log density, nats", "metrics.nll.mean", 3),
    ("coverage of 90% intervals, %", "metrics.coverage.mean", None),
    ("C-index, %", "metrics.c_index.mean", None),
    ("… of the worst tenth, %", "metrics.c_index.worst_tenth", None),
    ("… of all rows together, %", "metrics.c_index.all_rows", None),
    ("best round", "best_round", 0),
    ("unseen clients: proportion error", "unseen.proportion_tv", 3),
    ("… from rows without labels", "unseen.proportion_tv_unlabelled", 3),
    ("unseen clients: accuracy, %", "unseen.client_accuracy", None),
    ("… nothing trained on their rows, %", "unseen.client_accuracy_shared", None),
    ("unseen clients: RMSE", "unseen.metrics.rmse.mean", 3),
    ("… nothing trained on their rows", "unseen.metrics_shared.rmse.mean", 3),
    ("unseen clients: C-index, %", "unseen.metrics.c_index.mean", None),
    ("… nothing trained on their rows, %", "unseen.metrics_shared.c_index.mean", None),
)
"""By row of the table of numbers: its name, the key in a summary, and digits; None: a share, in percent."""


def print_report(summary: Summary, out: Path, console: Console, diagnosis: Diagnosis | None = None) -> None:
    """Print all tables, then where the results lie.

    Args:
        summary: What `summary.json` holds.
        out: The results folder.
        console: Where to print.
        diagnosis: What the `diagnosis.json` of the same clients holds; None: there is none.
    """
    components = [components_table(summary)] if summary.get("component_mass") else []
    classes = [classes_table(summary)] if summary.get("per_class") else []
    tables = (clients_table(summary), *components, *classes, headline_table(summary))
    for table in (table for table in tables if table.row_count):
        console.print(table)
        console.print()
    console.print(words(_identity(summary)))
    for line in beware(summary):
        console.print(words(line, style="yellow"))
    if summary.get("rows_decide"):
        console.print(rows_show(summary["n_components"]), highlight=False)
    if not summary.get("proportions"):
        console.print(words(no_proportions(summary)))
    if summary.get("metrics") and summary.get("unseen") and not summary["unseen"].get("metrics"):
        name = summary.get("method", "it")
        console.print(words(f"{name} has no predictor for clients that took no part in training."))
    if summary.get("client_accuracy") is None and not summary.get("metrics"):
        console.print(words(_no_metrics(summary)))
    for line in [] if diagnosis is None else verdict(diagnosis):
        console.print(words(line), style="yellow" if line.startswith("Beware") else None)
    more = "" if diagnosis is None else f" (diagnosis: fedgmi report {out / folder.OF_DEPLOYMENT})"
    console.print(words(f"Results: {out}{more}"), soft_wrap=True)


def _no_metrics(summary: Summary) -> str:
    """Why there are none."""
    if summary.get("sites") is None:
        return "There are no labels, so there are no predictors. data.label_column names their column."
    return (
        "Sites told no metrics: there are no labels, or noise or a site keeps them back. Each site's own are in its "
        "results/metrics.json."
    )


def no_proportions(summary: Summary) -> str:
    """Why there are no proportions, and where they are to be had.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A sentence or two.

    Examples:
        >>> no_proportions({"method": "fedavg", "n_components": 1})
        'fedavg estimates no proportions. The command fedgmi diagnose does.'
        >>> no_proportions({"method": "fedgmi", "n_components": 2, "sites": 3})
        "Proportions were not told by all sites. Each site's own are in its results/proportions.json."
    """
    if summary.get("sites") is None:
        return f"{summary.get('method', 'it')} estimates no proportions. The command fedgmi diagnose does."
    if summary.get("n_components") == 1:
        return f"There are no proportions: {summary.get('method', 'it')} has one component at most."
    return "Proportions were not told by all sites. Each site's own are in its results/proportions.json."


def clients_table(summary: Summary) -> Table:
    """One row per client: rows, estimated and true proportions, their distance, accuracies.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A table for the terminal.
    """
    names, tv = summary["clients"], errors(summary)
    baselines = [name for name in ("fedavg", "local") if name != summary.get("method")]
    accuracies = {run: per_client(summary, run) for run in (None, *baselines)}
    metric = judged_by(summary)
    show, word = METRICS[metric].show, metric.replace("_", " ")
    present = {run or word: values for run, values in accuracies.items() if values is not None}
    common = summary.get("majority_accuracy_per_client") if metric == "accuracy" else None
    present |= {"one class": common} if common else {}
    estimated, true = summary.get("proportions"), summary.get("true_proportions")
    shares = ["estimated"] if estimated else []  # fedavg and local estimate none
    table = bare_table("Clients", ["client", "rows", *shares, *(["true", "TV"] if true else []), *present])
    own = present.get(word)
    chosen, left_out = _shown(tv, own if METRICS[metric].higher else _negated(own))
    for position, i in enumerate(chosen):
        if left_out and position == MOST_CLIENTS // 2:
            table.add_section()
        client = [
            str(names[i]),
            str(summary["rows_per_client"][i]),
            *([short_shares(estimated[i])] if estimated else []),
        ]
        truth = [short_shares(true[i]), number(tv[i], 3)] if true else []
        table.add_row(*client, *truth, *(show(values[i]) for values in present.values()))
    if left_out:
        by = "proportion error" if true else word
        half, more = MOST_CLIENTS // 2, f"{left_out} more clients in summary.json"
        table.caption = f"the {half} worst and the {half} best by {by}, the worst first; {more}"
    return table


def components_table(summary: Summary) -> Table:
    """One row per estimated component: its share of all rows, and how its expert and density do.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A table for the terminal.
    """
    expert, density = summary.get("expert_accuracy"), summary.get("density")
    n_true = len(summary["true_proportions"][0]) if summary.get("true_proportions") else 0
    columns = ["component", *(["true one"] if n_true else []), "share"]
    columns += ["expert: own", "others"] if expert else []
    columns += ["density: own", "others"] if density else []
    table = bare_table("Components", columns)
    total = sum(summary["component_mass"]) or 1.0
    for k, mass in enumerate(summary["component_mass"]):
        matched = [str(k) if k < n_true else "none"] if n_true else []
        accuracies = [percent(value) for value in own_and_others(expert, k)] if expert else []
        densities = [number(value, 1) for value in own_and_others(density, k)] if density else []
        table.add_row(str(k), *matched, percent(mass / total), *accuracies, *densities)
    if density:
        table.caption = "accuracy in %, density in nats per held-out row"
    return table


def classes_table(summary: Summary) -> Table:
    """One row per class: how well it is told from the others, over all clients' held-out rows.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A table for the terminal.
    """
    table = bare_table("Classes", ["class", "precision", "recall", "F1", "held-out rows"])
    classes = sorted(summary["per_class"], key=lambda one: -1.0 if one["f1"] is None else one["f1"])
    for one in classes[:MOST_CLASSES]:
        table.add_row(one["name"], *(percent(one[key]) for key in ("precision", "recall", "f1")), str(one["support"]))
    left_out = len(classes) - MOST_CLASSES
    table.caption = "in %, the worst by F1 first"
    table.caption += f"; {left_out} more classes in summary.json" if left_out > 0 else ""
    return table


def headline_table(summary: Summary) -> Table:
    """The numbers that are quoted, beside those of the baselines and the oracle where they ran.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A table for the terminal.
    """
    beside = [name for name in BESIDE if summary.get(name) and name != summary.get("method")]
    table = bare_table("Result", ["", str(summary.get("method", "fedgmi")), *beside])
    parts = (summary, *(summary[name] for name in beside))
    for label, key, digits in _headlines(summary.get("metric")):
        values = [_at(part, key) for part in parts]
        if any(value is not None for value in values):
            table.add_row(label, *(percent(v) if digits is None else number(v, digits) for v in values))
    table.caption = "of held-out rows, as means over clients where nothing else is said"
    return table


def _headlines(metric: str | None) -> Iterator[tuple[str, str, int | None]]:
    """The rows, with the shared part's score below that of the metric that chooses."""
    for label, key, digits in HEADLINES:
        yield label, key, digits
        if key == f"metrics.{metric}.mean":
            yield f"… of the shared part alone{', %' if digits is None else ''}", "shared_score", digits


def _at(part: Summary, key: str) -> Any:
    """The value at a dotted key, None where a part of the way is missing."""
    found: Any = part
    for word in key.split("."):
        found = (found or {}).get(word)
    return found


def _identity(summary: Summary) -> str:
    """Method, scenario and cost in one line."""
    preset = f" ({summary['preset']})" if summary.get("preset") else ""
    what = f"{summary.get('method', '?')}{preset} on {summary.get('scenario', '?')}"
    how = summary.get("models_travelled")
    cost = [
        f"seed {summary.get('seed', '?')}",
        *([_components(summary)] if summary.get("proportions") else []),
        _rounds(summary),
        *([f"histograms with ε = {summary['epsilon']:g}"] if summary.get("epsilon") else []),
        f"{size(summary.get('bytes_down'))} down, {size(summary.get('bytes_up'))} up",
        *([each] if (each := each_client(summary)) else []),
        *([f"models {how}"] if how and not how.startswith(AS_THEY_ARE) else []),
        f"{number(summary.get('seconds'), 0)} s",
    ]
    return f"{what}: {', '.join(cost)}."


def _rounds(summary: Summary) -> str:
    rounds, stopped, best = (summary.get(key) for key in ("rounds", "stopped_round", "best_round"))
    if stopped is None:
        return f"{'?' if rounds is None else rounds} rounds"
    return f"{stopped} of {rounds} rounds (the best by {summary.get('metric', 'accuracy')}: {best})"


def _components(summary: Summary) -> str:
    estimated = " (estimated)" if summary.get("n_components_estimated") else ""
    return f"{summary.get('n_components', '?')} components{estimated}"


def _negated(values: Sequence[float | None] | None) -> list[float | None] | None:
    """Of what is better when it is less, the same with more as better."""
    return None if values is None else [None if value is None else -value for value in values]


def _shown(tv: Sequence[float | None], accuracy: Sequence[float | None] | None) -> tuple[list[int], int]:
    """Which clients to show, worst first if there are too many; and how many are left out."""
    everyone = list(range(len(tv)))
    if len(everyone) <= MOST_CLIENTS:
        return everyone, 0

    def badness(i: int) -> float:
        error, right = tv[i], accuracy[i] if accuracy else None
        return error if error is not None else -right if right is not None else 0.0

    ranked = sorted(everyone, key=badness, reverse=True)
    half = MOST_CLIENTS // 2
    return ranked[:half] + ranked[-half:], len(everyone) - 2 * half
