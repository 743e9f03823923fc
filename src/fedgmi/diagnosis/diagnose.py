"""What a federation is made of, as far as its word counts tell.

How many components there are, how much they explain and how much is each client's own, whether the federation is a
mixture of them at all, which clients do not fit, and how well the proportions are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedgmi.diagnosis.explained import Explained, explain
from fedgmi.diagnosis.fitting import fit
from fedgmi.diagnosis.intervals import anchor_mass, proportion_intervals, purest
from fedgmi.diagnosis.misfit import Misfit, misfit
from fedgmi.errors import ConfigError, DataError, too_many_components
from fedgmi.mixture.identity import Cells
from fedgmi.mixture.spectrum import Spectrum, estimate_components
from fedgmi.mixture.topics import Topics

FEW_CLIENTS = 15
"""With fewer clients, weak components may be missed."""
FEW_PER_COMPONENT = 3
"""With fewer clients per component, any federation looks like a mixture."""
FEW_ROWS = 100
"""With fewer rows, a client's proportions are rough."""


@dataclass(frozen=True)
class Diagnosis:
    """What word counts say about a mixture of K components.

    Attributes:
        n_components: K.
        size: Of the test for a mixture.
        spectrum: How many components the data show.
        explained: How much K components explain of what differs between clients, and how much is each client's own.
        misfit: Whether a mixture of K components fits, and which clients do not.
        topics: The proportions and what they rest on.
        intervals: How well the proportions are known. [C, K, 2]
        purest: How near the purest client comes to each corner. [K]
        anchor_mass: How many of each component's rows have words that are its own. [K]
        warnings: What a reader should know before relying on the numbers, in plain sentences.
        rows_decide: Whether topics are those of clusters that rows form.
    """

    n_components: int
    size: float
    spectrum: Spectrum
    explained: Explained
    misfit: Misfit
    topics: Topics
    intervals: Tensor
    purest: Tensor
    anchor_mass: Tensor
    warnings: tuple[str, ...]
    rows_decide: bool = False

    @property
    def mixture_supported(self) -> bool:
        """Whether nothing speaks against a mixture, at the test's size."""
        return self.misfit.p_value >= self.size

    def in_order(self, order: Tensor) -> Diagnosis:
        """The same with its components in another order.

        Args:
            order: The place of each component, as `match_components` has it; −1 where there is none.

        Returns:
            The diagnosis, with as many components as before.
        """
        order = order[order >= 0].to(self.purest.device)
        topics = replace(
            self.topics, proportions=self.topics.proportions[:, order], counts=self.topics.counts[:, order]
        )
        intervals, purest = self.intervals[:, order], self.purest[order]
        return replace(self, topics=topics, intervals=intervals, purest=purest, anchor_mass=self.anchor_mass[order])

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, for `diagnosis.json`."""
        return {
            "n_components": self.n_components,
            "singular_values": self.spectrum.singular_values.tolist(),
            "noise": self.spectrum.noise.tolist(),
            "threshold": self.spectrum.threshold,
            "explained": self.explained.share,
            "explained_interval": None if self.explained.interval is None else list(self.explained.interval),
            "own_scatter": self.explained.own_scatter,
            "own_scatter_interval": list(self.explained.own_scatter_interval),
            "mixture_supported": self.mixture_supported,
            "speaks_against": self.misfit.against,
            "p_value": self.misfit.p_value,
            "test_size": self.size,
            "client_misfit": self.misfit.client_per_dof.tolist(),
            "client_p_value": self.misfit.client_p_value.tolist(),
            "unfit_clients": list(self.misfit.unfit),
            "proportions": self.topics.proportions.tolist(),
            "proportion_intervals": self.intervals.tolist(),
            "purest": self.purest.tolist(),
            "anchor_mass": self.anchor_mass.tolist(),
            "rows_decide": self.rows_decide,
            "interval_width": float((self.intervals[..., 1] - self.intervals[..., 0]).mean()),
            "warnings": list(self.warnings),
        }


MOST_ROWS = 2.0**53
"""Of a word. Whole numbers beyond are not exact in float64."""


def diagnose(
    histograms: Tensor,
    *,
    n_components: int | None = None,
    seed: int,
    level: float = 0.9,
    size: float = 0.01,
    cells: Cells | None = None,
) -> Diagnosis:
    """Everything that counts of clients by words say about a mixture.

    Args:
        histograms: Counts. [C, W]
        n_components: K, or None for the estimated number.
        seed: Of all resamples.
        level: Of the intervals.
        size: Of the test for a mixture.
        cells: What else is known of the same rows, where they may decide what components are.

    Returns:
        The diagnosis.

    Raises:
        DataError: These are no counts.
        ConfigError: There are more components than clients, or the number is none.

    >>> import torch
    >>> alike = torch.tensor([[30, 20, 10]]).expand(20, 3)
    >>> diagnose(alike, seed=0).to_json()["n_components"], diagnose(alike, seed=0).mixture_supported
    (1, True)
    """
    histograms = _counts(histograms)
    if n_components is not None and (type(n_components) is not int or n_components < 1):
        raise ConfigError(f"it is {n_components!r}, expected a whole number from 1 on", where="n_components")
    if n_components is not None and n_components > len(histograms):
        fix = "ask for fewer components, or for None"
        raise too_many_components(n_components, len(histograms), where="n_components", fix=fix)
    spectrum = estimate_components(histograms, seed)
    k = n_components or spectrum.n_components
    fitted, rows_decide = fit(histograms, k, seed, shown=spectrum.n_components, cells=cells)
    return Diagnosis(
        n_components=k,
        size=size,
        spectrum=spectrum,
        explained=explain(histograms, k, seed, level=level),
        misfit=misfit(histograms, fitted, seed, size=size),
        topics=fitted,
        intervals=proportion_intervals(histograms, fitted, seed, level=level, rows_decide=rows_decide),
        purest=purest(fitted.proportions),
        anchor_mass=anchor_mass(fitted.counts),
        warnings=tuple(cautions(histograms, k, spectrum)),
        rows_decide=rows_decide,
    )


def _counts(histograms: Tensor) -> Tensor:
    """Counts as float64, words that nobody holds left out."""
    if histograms.ndim != 2 or not histograms.numel():
        what = f"they have the shape {tuple(histograms.shape)}"
    elif not bool((histograms.isfinite() & (histograms >= 0)).all()):
        what = "some are negative or not finite"
    elif bool((histograms != histograms.round()).any()) or float(histograms.max()) > MOST_ROWS:
        what = "some are no whole numbers, or beyond what rows can be"
    elif not bool(histograms.any()):
        what = "there is not a single row"
    else:
        counts = histograms.double().cpu()
        return counts[:, counts.sum(0) > 0]
    raise DataError(what, where="histograms", fix="give counts of clients by words")


def cautions(histograms: Tensor, n_components: int, spectrum: Spectrum) -> list[str]:
    """What a reader should know before relying on the numbers.

    Args:
        histograms: Counts. [C, W]
        n_components: K.
        spectrum: Which says how many components the data show.

    Returns:
        Plain sentences, none where there is nothing to beware of.
    """
    said, found, n_clients = [], spectrum.n_components, len(histograms)
    if n_clients == 1:
        said.append("There is a single client. With one client, nothing tells components apart.")
    elif n_clients == 2:
        said.append("There are two clients. Nothing tells a component from what each client has for itself.")
    if n_components > found:
        said.append(f"{n_components} components were asked for. The data support {found}. The others are invented.")
    if n_components < found:
        said.append(f"{n_components} components were asked for. The data show {found}.")
    if 2 < n_clients < FEW_PER_COMPONENT * n_components:
        said.append(
            f"{n_clients} clients are few for {n_components} components. Any federation looks like such a mixture."
        )
    elif 2 < n_clients < FEW_CLIENTS:
        rough = ", and intervals are rough" if n_components > 1 else ""
        said.append(f"{n_clients} clients are few. Weak components may be missed{rough}.")
    rows = float(histograms.sum(1).median())
    if rows < FEW_ROWS and n_clients > 1:
        rough = "Their proportions are rough" if n_components > 1 else "Weak components may be missed"
        said.append(f"Half of the clients have {rows:g} rows or fewer. {rough}.")
    return said
