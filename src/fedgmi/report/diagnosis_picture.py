"""One self-contained page: singular values against chance, and where every client lies among the components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedgmi.report.diagnosis_words import answers
from fedgmi.report.explained_words import Diagnosis, percent
from fedgmi.report.formats import number, plural, short_share
from fedgmi.report.picture import COLOURS, client_order, write_page

MOST_VALUES = 20
"""Singular values that are drawn."""
MOST_NAMES = 45
"""Clients whose names stand at the axis."""
ABSENT = 0.02
"""A smaller share is a small point."""
MOST_SCALES = 6
"""Columns that have a scale of their own."""
ROOMY = 25
"""Clients whose names are written in full size."""
COLUMN = 0.86
"""Width of a component's column, of 1."""
LOOKS = {False: ("fits", COLOURS[0], "circle"), True: ("does not fit", COLOURS[5], "x")}
"""Name, colour and symbol of clients that fit (False) and of those that do not (True)."""
FAINT = "#999999"
TRIVIAL = 1e-6
"""Singular values below this, over the threshold, are rounding: C clients differ in C − 1 directions at most."""


def write_diagnosis_picture(diagnosis: Diagnosis, path: Path) -> None:
    """Draw `diagnosis.html`.

    Args:
        diagnosis: What `diagnosis.json` holds.
        path: Where to write it.
    """
    beware = {"Beware": list(diagnosis["warnings"])} if diagnosis["warnings"] else {}
    write_page(figure(diagnosis), path, "fedgmi: diagnosis", answers(diagnosis) | beware)


def figure(diagnosis: Diagnosis) -> Any:
    """Left the singular values, right the clients.

    Three components make a triangle. Otherwise every component is a column, from a share of 0 to a share of 1, in which
    each client is a point with its interval. Two components need one column. With one component all shares are 1, and
    the column shows how badly each client fits instead.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        A plotly figure.
    """
    from plotly.subplots import make_subplots

    n_components = diagnosis["n_components"]
    titles = {1: "How badly each client fits", 2: "Share of component 0 (the rest is component 1)"}
    drawn = make_subplots(
        cols=2,
        column_widths=[0.34, 0.66],
        horizontal_spacing=0.13,
        specs=[[{}, {"type": "ternary" if n_components == 3 else "xy"}]],
        subplot_titles=[
            "Singular values of the clients' differences",
            titles.get(n_components, "What clients are made of"),
        ],
    )
    _singular_values(drawn, diagnosis)
    if n_components == 3:
        _triangle(drawn, diagnosis)
    elif n_components == 1:
        _clients(drawn, diagnosis, [[value] for value in diagnosis["client_misfit"]])
        drawn.add_vline(x=1, line={"color": FAINT, "dash": "dot"}, row=1, col=2)
        drawn.update_xaxes(title_text="misfit per degree of freedom; 1 is expected", row=1, col=2)
    else:
        n_columns = 1 if n_components == 2 else n_components
        _clients(drawn, diagnosis, [shares[:n_columns] for shares in diagnosis["proportions"]], intervals=True)
        _column_ticks(drawn, n_columns)
    _lay_out(drawn, diagnosis)
    return drawn


def moved(shares: Sequence[float], component: int, share: float) -> list[float]:
    """The same client with another share of one component. The others keep their proportions among themselves.

    Args:
        shares: The client's proportions. [K]
        component: Whose share changes.
        share: The new share.

    Returns:
        Proportions. [K]

    >>> moved([0.5, 0.25, 0.25], 0, 0.0)
    [0.0, 0.5, 0.5]
    """
    rest = sum(value for k, value in enumerate(shares) if k != component)
    if rest <= 0:
        return [share if k == component else (1 - share) / (len(shares) - 1) for k in range(len(shares))]
    return [share if k == component else value * (1 - share) / rest for k, value in enumerate(shares)]


def hovers(diagnosis: Diagnosis) -> list[str]:
    """What is said of each client under the pointer.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        HTML, one of each client.
    """
    unfit, texts = set(diagnosis["unfit_clients"]), []
    for i, name in enumerate(diagnosis["clients"]):
        ends = zip(diagnosis["proportions"][i], diagnosis["proportion_intervals"][i], strict=True)
        lines = [
            f"component {k}: {short_share(share)} ({short_share(low)}-{short_share(high)})"
            for k, (share, (low, high)) in enumerate(ends)
        ]
        fit = f"misfit {number(diagnosis['client_misfit'][i], 2)}: {LOOKS[i in unfit][0]}"
        rows = plural(diagnosis["rows_per_client"][i], "row")
        texts.append("<br>".join([f"<b>{name}</b>, {rows}", *lines, fit]))
    return texts


def groups(diagnosis: Diagnosis) -> dict[bool, list[int]]:
    """The clients that fit (False), and those that do not (True). A group without clients is left out.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Places in `clients`, by whether the clients are in doubt.
    """
    unfit = set(diagnosis["unfit_clients"])
    clients = range(len(diagnosis["clients"]))
    both = {doubt: [i for i in clients if (i in unfit) is doubt] for doubt in (False, True)}
    return {doubt: members for doubt, members in both.items() if members}


def _singular_values(drawn: Any, diagnosis: Diagnosis) -> None:
    """The largest ones in panel (1, 1), those that count filled; and what chance and scatter make of them."""
    import plotly.graph_objects as go

    threshold = diagnosis["threshold"]
    values = [value for value in diagnosis["singular_values"][:MOST_VALUES] if value > TRIVIAL * threshold]
    numbers = list(range(1, len(values) + 1))
    colours = [COLOURS[0] if value > threshold else "white" for value in values]
    found = go.Scatter(x=numbers, y=values, mode="markers", name="these clients")
    found.update(marker={"size": 10, "color": colours, "line": {"width": 2, "color": COLOURS[0]}}, cliponaxis=False)
    found.update(hovertemplate="singular value %{x}: %{y:.2f}<extra></extra>")
    lines = [
        go.Scatter(x=numbers, y=heights, name=name, mode="lines", hoverinfo="skip", line=look)
        for name, heights, look in (
            ("on average, without components", diagnosis["noise"][: len(values)], {"color": FAINT, "dash": "dot"}),
            (
                f"the most that chance and own scatter make: {threshold:.1f}",
                [threshold] * len(values),
                {"color": COLOURS[5], "width": 1},
            ),
        )
    ]
    drawn.add_traces([found, *lines], rows=1, cols=1)
    drawn.update_traces(legend="legend", row=1, col=1)
    ticks = numbers if len(numbers) <= 10 else [1, *range(5, len(numbers) + 1, 5)]
    drawn.update_xaxes(title_text="singular value, from the largest", tickvals=ticks, zeroline=False, row=1, col=1)
    drawn.update_yaxes(range=[0, 1.08 * max([threshold, *values]) or 1.0], row=1, col=1)


def _triangle(drawn: Any, diagnosis: Diagnosis) -> None:
    """Clients between three corners, with an arm to either end of each interval."""
    import plotly.graph_objects as go

    shares, intervals, hover = diagnosis["proportions"], diagnosis["proportion_intervals"], hovers(diagnosis)
    for doubt, members in groups(diagnosis).items():
        name, colour, symbol = LOOKS[doubt]
        arms: list[list[float | None]] = []
        for i in members:
            for k in range(3):
                arms += [[*moved(shares[i], k, end)] for end in intervals[i][k]]
                arms.append([None, None, None])
        look = {"mode": "lines", "line": {"color": colour, "width": 1}, "opacity": 0.35, "hoverinfo": "skip"}
        drawn.add_trace(go.Scatterternary(**_corners(arms), showlegend=False, **look), row=1, col=2)
        points = go.Scatterternary(**_corners([shares[i] for i in members]), mode="markers", name=name)
        points.update(marker={"color": colour, "symbol": symbol, "size": 9}, text=[hover[i] for i in members])
        points.update(hovertemplate="%{text}<extra></extra>", legend="legend2", cliponaxis=False)
        drawn.add_trace(points, row=1, col=2)
    ticks = {"tickvals": [0.2, 0.4, 0.6, 0.8], "tickformat": ".1f"}
    axes = {f"{axis}axis": {"title": {"text": f"component {k}"}, **ticks} for k, axis in enumerate("abc")}
    drawn.update_ternaries(sum=1, domain_y=[0.0, 0.93], **axes)


def _corners(points: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Plotly's names for the three shares."""
    return {axis: [point[k] for point in points] for k, axis in enumerate("abc")}


def _clients(drawn: Any, diagnosis: Diagnosis, values: Sequence[Sequence[float]], *, intervals: bool = False) -> None:
    """A line per client and a column per value in panel (1, 2), with intervals where values are shares."""
    import plotly.graph_objects as go

    hover, order = hovers(diagnosis), client_order(diagnosis["proportions"])
    if len(values[0]) == 1:
        order = sorted(order, key=lambda i: -values[i][0])
    height = {client: position for position, client in enumerate(order)}
    scale = COLUMN if intervals else 1.0
    for doubt, members in groups(diagnosis).items():
        name, colour, symbol = LOOKS[doubt]
        marks = [(i, m) for i in members for m in range(len(values[i]))]
        points = go.Scatter(x=[m + scale * values[i][m] for i, m in marks], y=[height[i] for i, _ in marks])
        points.update(mode="markers", marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 1}, name=name)
        points.update(text=[hover[i] for i, _ in marks], hovertemplate="%{text}<extra></extra>", legend="legend2")
        points.update(cliponaxis=False)
        if intervals:
            points.marker.size = [7 if values[i][m] >= ABSENT or len(values[i]) == 1 else 3 for i, m in marks]
            ends = [(values[i][m], *diagnosis["proportion_intervals"][i][m]) for i, m in marks]
            arms = {
                "array": [scale * (high - share) for share, _, high in ends],
                "arrayminus": [scale * (share - low) for share, low, _ in ends],
            }
            points.update(error_x={**arms, "symmetric": False, "thickness": 1, "width": 0})
        drawn.add_trace(points, row=1, col=2)
    named = len(order) <= MOST_NAMES
    names = [str(diagnosis["clients"][i]) for i in order]
    drawn.update_yaxes(tickvals=list(range(len(order))), ticktext=names, showticklabels=named, row=1, col=2)
    drawn.update_yaxes(tickfont_size=14 if len(order) <= ROOMY else 11, row=1, col=2)
    drawn.update_yaxes(range=[len(order) - 0.5, -0.5], showgrid=named, zeroline=False, row=1, col=2)
    if not named:
        drawn.update_yaxes(title_text="clients, by their largest component", row=1, col=2)


def _column_ticks(drawn: Any, n_columns: int) -> None:
    """The component's number below its column, and 0 and 1 at its edges where there is room."""
    ticks: dict[float, str] = {}
    for k in range(n_columns):
        if n_columns > MOST_SCALES:
            ticks |= {k: str(k)}
        else:
            ticks |= {k: "0", k + COLUMN / 2: "0.5" if n_columns == 1 else f"<br>component {k}", k + COLUMN: "1"}
    if n_columns > MOST_SCALES:
        drawn.update_xaxes(title_text="component: 0 at its line, 1 before the next", row=1, col=2)
    drawn.update_xaxes(tickvals=[*ticks], ticktext=[*ticks.values()], tickangle=0, zeroline=False, row=1, col=2)
    drawn.update_xaxes(range=[-0.03, n_columns - 1 + COLUMN + 0.03], row=1, col=2)


def _lay_out(drawn: Any, diagnosis: Diagnosis) -> None:
    supported, n_components = diagnosis["mixture_supported"], diagnosis["n_components"]
    n_clients, n_unfit = len(diagnosis["clients"]), len(diagnosis["unfit_clients"])
    verdict = "nothing speaks against a mixture" if supported else "not a mixture of them"
    if supported and n_unfit:
        verdict += f" but {plural(n_unfit, 'client')}"
    title = f"{diagnosis['scenario']}: {plural(n_components, 'component')}, {verdict}"
    p = f"p = {diagnosis['p_value']:.2g}" if diagnosis["p_value"] >= 0.001 else "p < 0.001"
    if n_components > 1 and diagnosis["explained"] is not None:
        p = f"{percent(diagnosis['explained'])} % explained, {p}"
    title += f" ({p})"
    drawn.update_layout(
        title={"text": title, "x": 0.02},
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 14},
        legend={"x": 0.0, "y": -0.12, "yanchor": "top"},
        legend2={"x": 1.0, "y": 1.09, "xanchor": "right", "orientation": "h", "itemsizing": "constant"},
        height=760 if n_clients > MOST_NAMES else max(760, 270 + 13 * n_clients),
        margin={"t": 90, "r": 80, "b": 150},
    )
