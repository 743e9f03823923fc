"""The topics that a diagnosis rests on: as a run of fedgmi has them, those of clusters of rows where rows decide."""

from __future__ import annotations

from torch import Tensor

from fedgmi.mixture.identity import Cells, topics_of_rows
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.topics import Topics, fit_topics


def fit(
    histograms: Tensor, n_components: int, seed: int, *, shown: int, cells: Cells | None = None
) -> tuple[Topics, bool]:
    """Topics and proportions of counts.

    Args:
        histograms: Counts of merged words that somebody holds. [C, W]
        n_components: K.
        seed: The run's.
        shown: K̂.
        cells: What else is known of the same rows; None: counts decide.

    Returns:
        The topics, and whether rows decide what they are.
    """
    rho = scatter_beside(histograms, n_components)
    fitted = fit_topics(effective(histograms, rho), n_components, seed)
    found = None if cells is None else topics_of_rows(cells.held(), fitted, shown, rho, seed)
    return found or fitted, found is not None
