"""Is K̂ right where clients scatter on their own? Counts of components and false alarms, as tables.

    .venv/bin/python benchmarks/scatter.py --draws 40

Counts are Dirichlet-multinomial around a mixture, their variance φ times that of a multinomial; words of a topic are
Dirichlet(2). Real federations are in `mixture_or_not.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from fedgmi.diagnosis.misfit import misfit
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.mixture.topics import fit_topics
from fedgmi.randomness import numpy_generator
from fedgmi.report.formats import markdown_table

PEAKED = 2.0  # the Dirichlet parameter of a topic's words
LEVELS = (0.05, 0.01)
Shape = tuple[int, int, int]  # clients, rows of each, words
USUAL: Shape = (30, 500, 60)
SHAPES: tuple[Shape, ...] = (USUAL, (20, 70, 30), (100, 300, 200), (10, 500, 60))


def federation(k: int, alpha: float, phi: float, seed: int, shape: Shape = USUAL) -> Tensor:
    """Counts [C, W] around a mixture of k topics, with φ = 1 + (n − 1)ρ."""
    n_clients, n_rows, n_words = shape
    rng = numpy_generator(seed, "federation", k)
    topics, shares = rng.dirichlet([PEAKED] * n_words, size=k), rng.dirichlet([alpha] * k, size=n_clients)
    totals = torch.full((n_clients,), n_rows)
    return resample(torch.from_numpy(shares @ topics), totals, 1, rng, rho=(phi - 1) / (n_rows - 1))[0]


def how_often(right: Callable[[int], bool], options: argparse.Namespace) -> str:
    """The share of draws in which it is right."""
    n_right = sum(right(seed) for seed in range(options.seed, options.seed + options.draws))
    return f"{n_right / options.draws:.2f}"


def one_table(options: argparse.Namespace) -> str:
    """How often K̂ = 1 where one component is true, by shape and φ."""
    rows = []
    for shape in options.shapes:
        name = "{} × {}, {} words".format(*shape)
        rows.append([name])
        for phi in (1.0, 1.1, 2.0, 5.0):
            rows[-1].append(how_often(lambda s, c=(phi, shape): estimated(1, 1.0, c[0], s, c[1]) == 1, options))
    return markdown_table(["K̂ = 1", "φ = 1", "φ = 1.1", "φ = 2", "φ = 5"], rows)


def estimated(k: int, alpha: float, phi: float, seed: int, shape: Shape = USUAL) -> int:
    """K̂."""
    return estimate_components(federation(k, alpha, phi, seed, shape), seed).n_components


CASES = [(k, alpha) for k in (2, 3, 4) for alpha in (0.3, 1.0)]


def several_table(options: argparse.Namespace) -> str:
    """How often K̂ = K, by K, α and φ; and with more clients where it is hardest."""
    rows = []
    for n_clients in options.clients:
        shape = (n_clients, *USUAL[1:])
        for phi in (1.0, 1.5, 2.0):
            rows.append([f"{n_clients} clients, φ = {phi:g}"])
            for case in CASES:
                right = how_often(lambda s, c=(*case, phi), w=shape: estimated(*c, s, w) == c[0], options)
                rows[-1].append(right)
    return markdown_table(["K̂ = K", *[f"K = {k}, α = {alpha:g}" for k, alpha in CASES]], rows)


def alarms_table(options: argparse.Namespace) -> str:
    """How often the test calls true mixtures none, at two sizes."""
    rows = []
    for phi in (1.0, 2.0, 5.0):
        rows.append([f"φ = {phi:g}"])
        for k, alpha in [(1, 1.0), *CASES[:4]]:
            p_values = [p_value(k, alpha, phi, options.seed + draw) for draw in range(options.draws)]
            shares = [sum(p < level for p in p_values) / options.draws for level in LEVELS]
            rows[-1].append(" / ".join(f"{share:.3f}" for share in shares))
    heads = [f"K = {k}, α = {alpha:g}" for k, alpha in [(1, 1.0), *CASES[:4]]]
    return markdown_table(["p < .05 / p < .01", *heads], rows)


def p_value(k: int, alpha: float, phi: float, seed: int) -> float:
    """Of the test for a mixture with the true K."""
    counts = federation(k, alpha, phi, seed)
    return misfit(counts, fit_topics(counts, k, seed), seed).p_value


TABLES = {"one": one_table, "several": several_table, "alarms": alarms_table}


def main() -> None:
    """Print the tables, each as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10, help="federations of each kind")
    parser.add_argument("--seed", type=int, default=5000, help="of the first draw")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--clients", nargs="+", type=int, default=[30])
    parser.add_argument("--shapes", nargs="+", type=shape_of, default=list(SHAPES), help="as 30x500x60")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tables:
        print(f"\n{TABLES[name](options)}", flush=True)


def shape_of(text: str) -> Shape:
    """Clients × rows × words of an option."""
    n_clients, n_rows, n_words = map(int, text.split("x"))
    return n_clients, n_rows, n_words


if __name__ == "__main__":
    main()
