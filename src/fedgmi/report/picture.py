"""One self-contained page: what every client is made of, estimated beside true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fedgmi.report import travelled
from fedgmi.report.formats import number, percent
from fedgmi.report.numbers import METRICS, Summary, beware
from fedgmi.storage import files

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
"""Okabe and Ito's colours: colour-blind readers can tell them apart, and so can readers of a print."""


LEAST_WIDTH = 900
"""Pixels below which labels would overlap. A narrower screen moves the figure sideways; words fit any."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #2a3f5f; }}
body {{ margin: 0 auto; max-width: 1500px; padding: 0 1rem 2rem; }}
h1 {{ font-size: 1.3rem; font-weight: 500; }}
h2 {{ font-size: 1.05rem; margin-bottom: 0; }}
p {{ max-width: 45rem; margin-top: 0; }}
.figure {{ overflow-x: auto; }}
.figure > div {{ min-width: {width}px; }}
</style>
</head>
<body>
<h1>{heading}</h1>
<div class="figure">{figure}</div>
{words}
</body>
</html>
"""


def write_picture(summary: Summary, path: Path) -> None:
    """Draw `proportions.html`.

    Args:
        summary: What `summary.json` holds.
        path: Where to write it.
    """
    write_page(figure(summary), path, "fedgmi: proportions", words(summary))


def words(summary: Summary) -> dict[str, list[str]]:
    """What stands below the picture.

    Args:
        summary: What `summary.json` holds.

    Returns:
        Sentences by their heading.
    """
    how = ["A bar is a client. Its colours are the shares of the components, with numbers under the pointer."]
    if summary.get("true_proportions") is not None:
        how.append("A point is a client and a component. If all estimates were right, all would lie on the line.")
    how += beware(summary)
    found = {"How to read it": how}
    if any(quality := [*_accuracy(summary), *_chosen(summary)]):
        found["How good are predictions?"] = quality
    return found | travelled.words(summary)


def _accuracy(summary: Summary) -> list[str]:
    """The mean over clients, and what is easily taken for it: the share of all rows."""
    if summary.get("client_accuracy") is None:
        return []
    own = f"A client's own predictor labels {percent(summary['client_accuracy'])} % of its held-out rows rightly"
    of_all = ((summary.get("metrics") or {}).get("accuracy") or {}).get("all_rows")
    together = "" if of_all is None else f"; of all clients' rows together it is {percent(of_all)} %"
    common = summary.get("majority_accuracy")
    beside = f"Saying each client's most frequent class would, of {percent(common)} % (mean over clients)."
    return [f"{own} (mean over clients){together}.", *([] if common is None else [beside])]


def _chosen(summary: Summary) -> list[str]:
    """The metric that chooses, where it is not the accuracy; and the shared part by it."""
    metric = summary.get("metric") or "accuracy"
    measured = (summary.get("metrics") or {}).get(metric) or {}
    shared, mean = summary.get("shared_score"), measured.get("mean")
    shown = METRICS[metric]
    alone = "" if shared is None else f" The shared part alone has {shown.said(shared)}."
    if metric == "accuracy" or mean is None:
        return [alone.strip()] if alone else []
    if metric == "c_index":
        label = "Of two held-out rows of a client, its own predictor gives the greater risk to the one whose event came"
        return [f"{label} first {shown.said(mean)} of the time (C-index, mean over clients).{alone}"]
    if metric == "rmse":
        of_all = number(summary["metrics"]["r2"]["all_rows"], 3)
        label = f"Clients' own predictors miss held-out targets by {shown.said(mean)} (RMSE, mean over clients)"
        return [f"{label}; over all rows R² is {of_all}.{alone}"]
    name = shown.head.removesuffix(" %")
    return [f"By the metric that chooses, {name}, they have {shown.said(mean)} (mean over clients).{alone}"]


def write_page(drawn: Any, path: Path, title: str, words: Mapping[str, Sequence[str]]) -> None:
    """A plotly figure as one self-contained page. Readers never see half a file.

    Args:
        drawn: The figure. Its title becomes the page's heading, which has room for all of it on any screen.
        path: Where to write it.
        title: Of the page.
        words: Sentences below the figure, by their heading.
    """
    heading = drawn.layout.title.text
    untitled = type(drawn)(drawn).update_layout(title=None)
    parts = (f"<h2>{escape(head)}</h2>\n<p>{escape(' '.join(said))}</p>" for head, said in words.items())
    page = PAGE.format(
        title=escape(title),
        heading=escape(heading),
        figure=untitled.to_html(include_plotlyjs=True, full_html=False, config={"displaylogo": False}),
        words="\n".join(parts),
        width=LEAST_WIDTH,
    )
    files.write_text(path, page)


def figure(summary: Summary) -> Any:
    """Stacked bars per client, estimated above true, and a scatter of one against the other.

    Clients stand in the order of their largest component, so that groups can be seen at a glance. Without truth, only
    the estimated bars are drawn.

    Args:
        summary: What `summary.json` holds.

    Returns:
        A plotly figure.
    """
    from plotly.subplots import make_subplots

    estimated, true = summary["proportions"], summary.get("true_proportions")
    order = client_order(true if true is not None else estimated)
    if true is None:
        drawn = make_subplots(rows=1, cols=1, subplot_titles=["Estimated proportions"])
    else:
        drawn = make_subplots(
            rows=2,
            cols=2,
            specs=[[{}, {"rowspan": 2}], [{}, None]],
            column_widths=[0.6, 0.4],
            vertical_spacing=0.08,
            horizontal_spacing=0.09,
            subplot_titles=["Estimated proportions", "Estimated against true", "True proportions"],
        )
        _bars(drawn, summary, true, order, row=2, legend=False)
        _scatter(drawn, summary)
    _bars(drawn, summary, estimated, order, row=1, legend=True)
    _lay_out(drawn, summary)
    return drawn


def client_order(proportions: list[list[float]]) -> list[int]:
    """Clients by their largest component, the purest first within each.

    Args:
        proportions: [C, K]

    Returns:
        Places of the clients. [C]

    >>> client_order([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
    [2, 1, 0]
    """

    def key(i: int) -> tuple[int, float]:
        row = proportions[i]
        largest = max(range(len(row)), key=row.__getitem__)
        return largest, -row[largest]

    return sorted(range(len(proportions)), key=key)


def _bars(
    drawn: Any, summary: Summary, proportions: list[list[float]], order: list[int], *, row: int, legend: bool
) -> None:
    """Stacked bars, one per client, in panel (row, 1)."""
    import plotly.graph_objects as go

    names = [str(summary["clients"][i]) for i in order]
    for k in range(len(proportions[0])):
        bar = go.Bar(
            x=names,
            y=[proportions[i][k] for i in order],
            name=f"component {k}",
            legendgroup=str(k),
            showlegend=legend,
            marker={"color": COLOURS[k % len(COLOURS)], "line": {"width": 0}},
            hovertemplate=f"%{{x}}<br>component {k}: %{{y:.3f}}<extra></extra>",
        )
        drawn.add_trace(bar, row=row, col=1)
    lowest = row == 2 or summary.get("true_proportions") is None
    drawn.update_xaxes(type="category", showticklabels=lowest and len(order) <= 60, row=row, col=1)
    if lowest:
        drawn.update_xaxes(title_text="clients, by their largest component", row=row, col=1)
    drawn.update_yaxes(range=[0, 1], title_text="share of the client's rows", row=row, col=1)


def _scatter(drawn: Any, summary: Summary) -> None:
    """A point per client and component, and the line on which all would lie."""
    import plotly.graph_objects as go

    line = go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": "#999", "dash": "dot"}, showlegend=False)
    line.update(hoverinfo="skip")
    drawn.add_trace(line, row=1, col=2)
    estimated, true = summary["proportions"], summary["true_proportions"]
    for k in range(min(len(estimated[0]), len(true[0]))):
        points = go.Scatter(
            x=[row[k] for row in true],
            y=[row[k] for row in estimated],
            mode="markers",
            text=[str(name) for name in summary["clients"]],
            legendgroup=str(k),
            showlegend=False,
            marker={"color": COLOURS[k % len(COLOURS)], "size": 8, "opacity": 0.8},
            hovertemplate=f"%{{text}}, component {k}<br>true %{{x:.3f}}, estimated %{{y:.3f}}<extra></extra>",
        )
        drawn.add_trace(points, row=1, col=2)
    drawn.update_xaxes(range=[-0.02, 1.02], title_text="true share", constrain="domain", row=1, col=2)
    square = {"scaleanchor": "x2", "constrain": "domain"}
    drawn.update_yaxes(range=[-0.02, 1.02], title_text="estimated share", **square, row=1, col=2)


def _lay_out(drawn: Any, summary: Summary) -> None:
    n_clients, n_components = len(summary["clients"]), len(summary["proportions"][0])
    title = f"What {n_clients} clients are made of: {summary.get('scenario', '')}, {n_components} components"
    error = summary.get("proportion_tv")
    if error is not None:
        title += f", proportion error {error:.3f} (total variation)"
    drawn.update_layout(
        title={"text": title, "x": 0.02},
        barmode="stack",
        bargap=0.08 if n_clients <= 60 else 0,
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 14},
        legend={"orientation": "h", "y": 1.09, "x": 0.02, "traceorder": "normal"},
        height=800,
        margin={"t": 90, "r": 30, "b": 110},
    )
