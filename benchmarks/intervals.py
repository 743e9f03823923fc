"""Do intervals cover? Nominal 90 % intervals of clients' proportions on federations of known proportions, as a table.

    .venv/bin/python benchmarks/intervals.py --draws 50

Counts are Dirichlet-multinomial around a mixture, their variance φ times that of a multinomial. Words of a topic are
Dirichlet: "distinct" (0.3), "alike" (2.0), or "own", where no two topics share a word.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

from fedgmi.diagnosis.intervals import proportion_intervals
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.topics import fit_topics
from fedgmi.randomness import numpy_generator
from fedgmi.report.formats import markdown_table

PEAKED = {"distinct": 0.3, "alike": 2.0, "own": 2.0}


@dataclass(frozen=True)
class Case:
    """K components, C clients of n rows, W words; proportions Dirichlet(α), drawn to 1/K until a pure client would hold
    `purest`; φ."""

    k: int
    shape: tuple[int, int, int]
    words: str = "distinct"
    alpha: float = 1.0
    purest: float = 1.0
    phi: float = 1.0

    def draw(self, seed: int) -> tuple[Tensor, Tensor]:
        """Counts [C, W] and proportions [C, K]."""
        n_clients, n_rows, n_words = self.shape
        rng = numpy_generator(seed, "federation", self.k)
        topics = rng.dirichlet([PEAKED[self.words]] * n_words, size=self.k)
        if self.words == "own":
            topics *= np.arange(n_words) % self.k == np.arange(self.k)[:, None]
            topics /= topics.sum(1, keepdims=True)
        even = 1 / self.k
        shares = even + (self.purest - even) / (1 - even) * (
            rng.dirichlet([self.alpha] * self.k, size=n_clients) - even
        )
        totals, rho = torch.full((n_clients,), n_rows), (self.phi - 1) / (n_rows - 1)
        counts = resample(torch.from_numpy(shares @ topics), totals, 1, rng, rho=rho)[0]
        return counts[:, counts.sum(0) > 0], torch.from_numpy(shares)


SMALL, FEW, MANY, DOZEN = (20, 70, 30), (10, 500, 60), (30, 500, 60), (12, 200, 24)
CASES = {
    "20 × 70": Case(3, SMALL),
    "20 × 70, topics alike": Case(3, SMALL, "alike"),
    "20 × 70, φ = 2": Case(3, SMALL, phi=2.0),
    "20 × 70, α = 10": Case(3, SMALL, alpha=10.0),
    "10 × 500": Case(3, FEW),
    "10 × 500, topics alike": Case(3, FEW, "alike"),
    "30 × 500, topics alike, φ = 2": Case(3, MANY, "alike", phi=2.0),
    "12 × 200, K = 2, purest .8": Case(2, DOZEN, purest=0.8),
    "12 × 200, K = 2, purest .8, own words": Case(2, DOZEN, "own", purest=0.8),
    "12 × 200, K = 2, purest .6, own words": Case(2, DOZEN, "own", purest=0.6),
    "30 × 500, purest .7": Case(3, MANY, purest=0.7),
    "30 × 500, purest .7, own words": Case(3, MANY, "own", purest=0.7),
}


def measured(case: Case, seed: int) -> tuple[float, float, float, float]:
    """Coverage, mean width, total variation of the estimate, and CPU seconds of the intervals."""
    counts, true = case.draw(seed)
    fitted = fit_topics(effective(counts, scatter_beside(counts, case.k)), case.k, seed)
    began = time.process_time()
    intervals = proportion_intervals(counts, fitted, seed)
    seconds = time.process_time() - began
    order = match_components(fitted.proportions, true)
    low, high = reorder(intervals, order, dim=1).unbind(-1)
    off = total_variation(reorder(fitted.proportions, order), true)
    return (
        float(((low <= true) & (true <= high)).double().mean()),
        float((high - low).mean()),
        float(off.mean()),
        seconds,
    )


def row(name: str, seeds: range) -> list[str]:
    """A line's figures; the error of a coverage is that of a mean over federations."""
    covered, widths, off, seconds = zip(*(measured(CASES[name], seed) for seed in seeds), strict=True)
    error = stdev(covered) / len(covered) ** 0.5 if len(covered) > 1 else 0.0
    figures = [f"{100 * mean(covered):.1f} ± {100 * error:.1f}", f"{mean(widths):.3f}", f"{mean(off):.3f}"]
    return [name, str(len(covered)), *figures, f"{mean(seconds):.1f}"]


def main() -> None:
    """Print the table, each line as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=50, help="federations of each kind")
    parser.add_argument("--seed", type=int, default=1000, help="of the first draw")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = ["clients × rows", "federations", "coverage %", "width", "TV", "CPU s"]
    for number, name in enumerate(options.cases):
        lines = markdown_table(head, [row(name, range(options.seed, options.seed + options.draws))])
        print(lines if number == 0 else lines.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
