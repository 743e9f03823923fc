"""What a federation is made of, as far as its word counts tell: how many components, whether it is a mixture of them
at all, which clients do not fit, and how well the proportions are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedgmi.diagnosis.intervals import anchor_mass, proportion_intervals, purest
from fedgmi.diagnosis.misfit import Misfit, misfit
from fedgmi.errors import ConfigError, DataError
from fedgmi.mixture.spectrum import Spectrum, estimate_components
from fedgmi.mixture.topics import Topics, fit_topics

FEW_CLIENTS = 15
FEW_PER_COMPONENT = 3
FEW_ROWS = 100


@dataclass(frozen=True)
class Diagnosis:
    """spectrum: how many components the data show · misfit: whether a mixture of `n_components` fits
    · topics, intervals [C, K, 2], purest [K], anchor_mass [K]: what the proportions are, and how well they are known
    · warnings: plain sentences."""

    n_components: int
    size: float
    spectrum: Spectrum
    misfit: Misfit
    topics: Topics
    intervals: Tensor
    purest: Tensor
    anchor_mass: Tensor
    warnings: tuple[str, ...]

    @property
    def mixture_supported(self) -> bool:
        return self.misfit.p_value >= self.size

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, for `diagnosis.json`."""
        return {
            "n_components": self.n_components,
            "singular_values": self.spectrum.singular_values.tolist(),
            "noise": self.spectrum.noise.tolist(),
            "threshold": self.spectrum.threshold,
            "mixture_supported": self.mixture_supported,
            "misfit_per_dof": self.misfit.per_dof,
            "p_value": self.misfit.p_value,
            "client_misfit": self.misfit.client_per_dof.tolist(),
            "client_p_value": self.misfit.client_p_value.tolist(),
            "unfit_clients": list(self.misfit.unfit),
            "proportions": self.topics.proportions.tolist(),
            "proportion_intervals": self.intervals.tolist(),
            "purest": self.purest.tolist(),
            "anchor_mass": self.anchor_mass.tolist(),
            "interval_width": float((self.intervals[..., 1] - self.intervals[..., 0]).mean()),
            "warnings": list(self.warnings),
        }


def diagnose(
    histograms: Tensor, *, n_components: int | None = None, seed: int, level: float = 0.9, size: float = 0.01
) -> Diagnosis:
    """Everything that the counts [C, W] of C clients and W words say about the mixture.

    n_components: K, or None for the estimated K̂ · level: of the intervals · size: of the test for a mixture. Raises
    DataError where these are no counts, ConfigError for more components than clients.

    >>> import torch
    >>> alike = torch.tensor([[30, 20, 10]]).expand(20, 3)
    >>> diagnose(alike, seed=0).to_json()["n_components"], diagnose(alike, seed=0).mixture_supported
    (1, True)
    """
    histograms = _counts(histograms)
    if n_components is not None and n_components > len(histograms):
        raise ConfigError(
            f"{n_components} components cannot be told apart from {len(histograms)} clients",
            where="n_components",
            fix="ask for fewer components, or for None",
        )
    spectrum = estimate_components(histograms, seed)
    k = n_components or spectrum.n_components
    fitted = fit_topics(histograms, k, seed)
    return Diagnosis(
        n_components=k,
        size=size,
        spectrum=spectrum,
        misfit=misfit(histograms, fitted, seed, size=size),
        topics=fitted,
        intervals=proportion_intervals(histograms, fitted, seed, level=level),
        purest=purest(fitted.proportions),
        anchor_mass=anchor_mass(fitted.counts),
        warnings=tuple(cautions(histograms, k, spectrum)),
    )


def _counts(histograms: Tensor) -> Tensor:
    """Counts as float64, words that nobody holds left out."""
    if histograms.ndim != 2 or not histograms.numel():
        what = f"they have the shape {tuple(histograms.shape)}"
    elif not bool((histograms.isfinite() & (histograms >= 0)).all()):
        what = "some are negative or not finite"
    elif not bool(histograms.any()):
        what = "there is not a single row"
    else:
        counts = histograms.double().cpu()
        return counts[:, counts.sum(0) > 0]
    raise DataError(what, where="histograms", fix="give counts of clients by words")


def cautions(histograms: Tensor, n_components: int, spectrum: Spectrum) -> list[str]:
    """What a reader should know before relying on the numbers."""
    said, found, n_clients = [], spectrum.n_components, len(histograms)
    if n_clients == 1:
        said.append("A single client is its own only mixture: with one client nothing tells components apart.")
    elif found == 1:
        said.append("All clients look alike: the data show one component.")
    if n_components > found:
        said.append(f"{n_components} components were asked for, and the data support {found}: the others are invented.")
    if n_components < found:
        said.append(f"{n_components} components were asked for, and the data show {found}.")
    if 1 < n_clients < FEW_PER_COMPONENT * n_components:
        said.append(f"{n_components} components of {n_clients} clients: any federation looks like such a mixture.")
    elif 1 < n_clients < FEW_CLIENTS:
        said.append(f"{n_clients} clients are few: weak components may be missed, and intervals are rough.")
    rows = float(histograms.sum(1).median())
    if rows < FEW_ROWS:
        said.append(f"Half of the clients have {rows:g} rows or fewer: their proportions are rough.")
    return said
