"""When can proportions be known at all? Two Gaussian blobs, by how pure clients are and how far apart the blobs lie.

    .venv/bin/python benchmarks/identifiability.py --seeds 1000 1001 1002 --out runs/identifiability
    .venv/bin/python benchmarks/identifiability.py --presets default --picture identifiability.html

Clients hold shares of the first blob that lie evenly between 1 − p and p, so p is the share of the purest client of
each blob. Blobs are spherical, of deviation 1, in four dimensions; labels there are none. Beside fedgmi stands a
mixture of two Gaussians of all rows together (scikit-learn's). It knows the blobs' family, and learns nothing from
whose rows are whose. A finished cell lies in --out as JSON and is read, not repeated.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from fedgmi import Federation, FedGMI
from fedgmi.errors import FedgmiWarning
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.randomness import numpy_generator
from fedgmi.report.formats import markdown_table
from fedgmi.report.picture import write_page
from fedgmi.storage import files

N_FEATURES = 4
LEVEL = 0.9  # of the intervals
PUREST = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SEPARATIONS = (0.5, 1.0, 2.0, 3.0, 5.0)
KNOWN_BY = {"tv", "width", "coverage", "identified", "mean"}


@dataclass(frozen=True)
class Blobs:
    """A federation of two blobs.

    Attributes:
        rows: Of each client. [n_i, D] each
        drawn: The shares that rows were drawn with. [C, 2]
        realised: The shares that came of it. [C, 2]
    """

    rows: list[np.ndarray[Any, Any]]
    drawn: Tensor
    realised: Tensor


def blobs(purest: float, separation: float, seed: int, n_clients: int, n_rows: int) -> Blobs:
    """Clients with shares evenly from 1 − purest to purest of the first of two blobs, `separation` deviations apart."""
    first = np.linspace(1 - purest, purest, n_clients)
    centres = np.zeros((2, N_FEATURES))
    centres[1, 0] = separation
    rows, realised = [], []
    for i, share in enumerate(first):
        rng = numpy_generator(seed, "blobs", i)
        blob = (rng.random(n_rows) > share).astype(int)
        rows.append((centres[blob] + rng.standard_normal((n_rows, N_FEATURES))).astype(np.float32))
        realised.append([1 - blob.mean(), blob.mean()])
    return Blobs(rows, torch.from_numpy(np.stack([first, 1 - first], 1)), torch.tensor(realised).double())


@dataclass(frozen=True)
class Cell:
    """One fit."""

    preset: str
    purest: float
    separation: float
    seed: int

    def result(self, options: argparse.Namespace) -> dict[str, Any]:
        """Its numbers, from its file where there is one."""
        path = options.out / f"{self.preset}-{self.purest:g}-{self.separation:g}-{self.seed}.json"
        if not path.exists():
            files.write_json(path, self.measured(options))
            print(f"done {path.stem}", flush=True)
        return files.read_json(path, "a result", KNOWN_BY, "remove it")

    def measured(self, options: argparse.Namespace) -> dict[str, Any]:
        """TV to the realised shares, intervals against the drawn ones, and who is said to be identified."""
        made = blobs(self.purest, self.separation, self.seed, options.clients, options.rows)
        model = FedGMI(2, preset=self.preset, rounds=options.rounds, epochs=options.epochs, seed=self.seed, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FedgmiWarning)  # what is not known is what this is about
            model.fit(Federation.from_arrays(made.rows))
        weights = torch.from_numpy(np.asarray(model.weights_))
        order = match_components(weights, made.realised)
        low, high = reorder(torch.from_numpy(np.asarray(model.weights_interval_)), order, dim=1).unbind(-1)
        return {
            "tv": float(total_variation(reorder(weights, order), made.realised).mean()),
            "width": float((high - low).mean()),
            "coverage": float(((low <= made.drawn) & (made.drawn <= high)).double().mean()),
            "identified": mean(bool(model.infer_weights(rows).identified) for rows in made.rows),
            "mean": float(total_variation(made.realised.mean(0).expand_as(made.realised), made.realised).mean()),
        }


def rival(purest: float, separation: float, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """TV of scikit-learn's mixture of two Gaussians of all rows: by each client's mean responsibilities, and by the
    shares that fit its rows best with these Gaussians.
    """
    path = options.out / f"mixture-{purest:g}-{separation:g}-{seed}.json"
    if not path.exists():
        made = blobs(purest, separation, seed, options.clients, options.rows)
        mixture = GaussianMixture(2, n_init=5, random_state=0).fit(np.concatenate(made.rows))
        odds = [mixture.predict_proba(rows) / mixture.weights_ for rows in made.rows]
        means = np.stack([(each * mixture.weights_).mean(0) for each in odds])
        fitted = np.stack([shares(each, mixture.weights_) for each in odds])
        files.write_json(path, {"mean": off(means, made.realised), "fitted": off(fitted, made.realised)})
    return files.read_json(path, "a result", {"mean", "fitted"}, "remove it")


def shares(odds: Any, start: Any, steps: int = 500) -> Any:
    """The shares π under which rows of likelihoods ∝ odds are likeliest, by EM. [n, 2] → [2]"""
    for _ in range(steps):
        responsibilities = odds * start
        start = (responsibilities / responsibilities.sum(1, keepdims=True)).mean(0)
    return start


def off(found: Any, realised: Tensor) -> float:
    """Mean total variation to the realised shares, after the better matching."""
    found = torch.as_tensor(found)
    return float(total_variation(reorder(found, match_components(found, realised)), realised).mean())


def figures(preset: str, purest: float, separation: float, options: argparse.Namespace) -> dict[str, float]:
    """A cell's figures, as means over seeds."""
    found = [Cell(preset, purest, separation, seed).result(options) for seed in options.seeds]
    rivals = [rival(purest, separation, seed, options) for seed in options.seeds]
    told = {name: mean(each[name] for each in found) for name in KNOWN_BY}
    return told | {"pooled": mean(each["mean"] for each in rivals), "fitted": mean(each["fitted"] for each in rivals)}


SHOWN = {
    "TV": lambda cell: f"{cell['tv']:.3f} ({cell['pooled']:.3f}, {cell['fitted']:.3f})",
    "width of the intervals": lambda cell: f"{cell['width']:.2f}",
    "coverage %": lambda cell: f"{100 * cell['coverage']:.0f}",
    "identified %": lambda cell: f"{100 * cell['identified']:.0f}",
}
"""What a table shows of a cell; with TV those of the `rival` in brackets."""


def table(preset: str, name: str, options: argparse.Namespace) -> str:
    """One figure by purest client (rows) and separation (columns)."""
    cells = {(p, s): figures(preset, p, s, options) for p in options.purest for s in options.separations}
    rows = [[f"{p:g}", *(SHOWN[name](cells[p, s]) for s in options.separations)] for p in options.purest]
    if name == "TV":
        for p, row in zip(options.purest, rows, strict=True):
            row.append(f"{mean(cells[p, s]['mean'] for s in options.separations):.3f}")
    beside = ["π̄ for all"] if name == "TV" else []
    return markdown_table([f"{preset}: {name}", *(f"{s:g}σ" for s in options.separations), *beside], rows)


PANELS = {"tv": "TV of fedgmi", "fitted": "TV of a mixture of all rows", "width": "width of fedgmi's intervals"}


def picture(preset: str, options: argparse.Namespace) -> Any:
    """TV beside that of the pooled mixture, and the width of the intervals, by purest client and separation."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    drawn = make_subplots(cols=len(PANELS), subplot_titles=list(PANELS.values()), shared_yaxes=True)
    for column, name in enumerate(PANELS, start=1):
        values = [[figures(preset, p, s, options)[name] for s in options.separations] for p in options.purest]
        panel = graph_objects.Heatmap(
            z=values,
            x=[f"{s:g}σ" for s in options.separations],
            y=[f"{p:g}" for p in options.purest],
            zmin=0,
            zmax=0.5 if name == "width" else 0.25,
            colorscale="Cividis" if name == "width" else "Viridis",
            reversescale=True,
            texttemplate="%{z:.2f}",
            showscale=False,
        )
        drawn.add_trace(panel, row=1, col=column)
        drawn.update_xaxes(title_text="how far the blobs lie apart", type="category", row=1, col=column)
    drawn.update_yaxes(type="category")
    drawn.update_yaxes(title_text="share of the purest client", row=1, col=1)
    title = (
        f"When can proportions be known? Two blobs, {options.clients} clients × {options.rows} rows, preset {preset}"
    )
    return drawn.update_layout(title=title, template="plotly_white", font={"size": 14}, height=420, margin={"t": 60})


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/identifiability"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001, 1002])
    parser.add_argument("--presets", nargs="+", choices=["sketch", "default"], default=["sketch", "default"])
    parser.add_argument("--purest", nargs="+", type=float, default=list(PUREST))
    parser.add_argument("--separations", nargs="+", type=float, default=list(SEPARATIONS))
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6, help="of the preset default")
    parser.add_argument("--epochs", type=int, default=2, help="of the preset default")
    parser.add_argument("--picture", type=Path, help="a page to write, of the last preset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        for name in SHOWN:
            print(f"\n{table(preset, name, options)}", flush=True)
    if options.picture:
        write_page(picture(options.presets[-1], options), options.picture, "fedgmi: when proportions can be known", {})


if __name__ == "__main__":
    main()
