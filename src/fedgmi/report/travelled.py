"""What travelled, in words: megabytes of a client, how models travelled, and how a run kept to its budget."""

from __future__ import annotations

from fedgmi.report.formats import listed, number, plural
from fedgmi.report.numbers import Summary

MB = 10**6
AS_THEY_ARE = "as they are"
"""How models travelled where nobody asked that they be made smaller."""
WORDS = {
    "sketch": "counts for the proportions",
    "density": "densities",
    "expert": "experts",
    "statistics": "sums and judges in closed form",
}
"""Kinds of bytes, as people know them."""
BESIDE = ("fedavg", "local", "oracle")


def mb_of_client(summary: Summary, key: str = "bytes_down", part: Summary | None = None) -> float | None:
    """Megabytes of a client, mean over all that took part.

    Args:
        summary: What `summary.json` holds.
        key: "bytes_down" or "bytes_up".
        part: Of the summary, a run beside the method; None: the method's own.

    Returns:
        10^6 bytes; None where nobody counted.
    """
    found = (summary if part is None else part).get(key)
    return None if found is None else found / MB / len(summary["clients"])


def each_client(summary: Summary) -> str:
    """What a client cost, for one line: the mean, and the dearest one where that is known."""
    down, up = (mb_of_client(summary, key) for key in ("bytes_down", "bytes_up"))
    if down is None or up is None:
        return ""
    most = "" if summary.get("most_mb") is None else f" (at most {number(summary['most_mb'], 3)})"
    return f"{number(down + up, 3)} MB a client{most}"


def words(summary: Summary) -> dict[str, list[str]]:
    """What a page says of what travelled.

    Args:
        summary: What `summary.json` holds.

    Returns:
        Sentences by their heading; nothing where nobody counted.
    """
    down, up = (mb_of_client(summary, key) for key in ("bytes_down", "bytes_up"))
    if down is None or up is None:
        return {}
    count = plural(len(summary["clients"]), "client")
    told = [f"{number(down, 3)} MB went to a client and {number(up, 3)} MB came from it (mean over {count})."]
    if summary.get("most_mb") is not None:
        told.append(f"The client that cost most took {number(summary['most_mb'], 3)} MB, both ways together.")
    told += [*_kinds(summary), *_models(summary), *_beside(summary)]
    found = {"What travelled?": told}
    return found | {f"The budget of {run}": _budget(part) for run, part in _runs(summary) if part.get("budget")}


def _runs(summary: Summary) -> list[tuple[str, Summary]]:
    """The method's own run, and those beside it."""
    method = str(summary.get("method", "fedgmi"))
    return [(method, summary), *((name, summary[name]) for name in BESIDE if summary.get(name) and name != method)]


def _kinds(summary: Summary) -> list[str]:
    """What the bytes were of, the largest share first."""
    kinds = {kind: sum(both) for kind, both in (summary.get("bytes") or {}).items()}
    total = sum(kinds.values())
    if not total:
        return []
    ranked = sorted(kinds.items(), key=lambda entry: -entry[1])
    shares = [f"{number(100 * n / total, 0)} % {WORDS.get(kind, kind)}" for kind, n in ranked if n >= 0.005 * total]
    return [f"By kind the bytes are {listed(shares)}."]


def _models(summary: Summary) -> list[str]:
    how = summary.get("models_travelled")
    return [] if how is None else [f"Models travelled {how}."]


def _beside(summary: Summary) -> list[str]:
    """What a client cost in the runs beside the method."""
    costs = []
    for name, part in _runs(summary)[1:]:
        how = part.get("models_travelled") or ""
        coded = f", models {how}" if how and not how.startswith(AS_THEY_ARE) else ""
        down, up = (mb_of_client(summary, key, part) or 0.0 for key in ("bytes_down", "bytes_up"))
        if down + up:
            costs.append(f"{name} took {number(down + up, 3)} MB a client{coded}")
    return [f"Beside it, {'; '.join(costs)}."] if costs else []


def _budget(part: Summary) -> list[str]:
    """The plan, and what became of it, without the words that the heading has."""
    said = (str(part["budget"].get(key) or "").partition(": ")[2] for key in ("plan", "kept"))
    return [line[:1].upper() + line[1:] for line in said if line]
