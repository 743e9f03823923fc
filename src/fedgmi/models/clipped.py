"""Gradients to which no row adds much: each row's own is cut to a length before they are added up."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fedgmi.models.training import Batch, Objective

NUMBERS_AT_ONCE = 2**24
"""Of rows' gradients that are held at once."""


def clipped(objective: Objective, clip: float) -> Objective:
    """The same objective, by whose gradient no row moves its job's model by more than clip over the batch's rows.

        g_j = 1/B · Σ_b g_jb·min(1, clip/‖g_jb‖)        (Abadi et al. 2016, arXiv 1607.00133)

    Each row is a job of its own, whose parameters are its job's. Numbers of a row's gradient that are none count as 0.
    Parameters may be float64 where the rows are float32: a row's gradient is then found in float32, from parameters
    that are rounded, and added up in float64.

    Args:
        objective: Any of which rows' losses add up.
        clip: The length of a row's gradient.

    Returns:
        The objective.
    """

    def gradient(params: Tensor, batch: Batch, out: Tensor) -> None:
        n_jobs, n_rows = batch.row.shape
        at_once = max(1, NUMBERS_AT_ONCE // params.numel())
        out.zero_()
        for begin in range(0, n_rows, at_once):
            some = slice(begin, begin + at_once)
            apart = Batch(
                batch.row[:, some].reshape(-1, 1),
                batch.x[:, some].flatten(0, 1)[:, None],
                None if batch.y is None else batch.y[:, some].flatten(0, 1)[:, None],
                batch.noise[:, some].flatten(0, 1)[:, None],
            )
            width = apart.row.numel() // n_jobs
            own = params.to(batch.x.dtype).repeat_interleave(width, 0)
            found = own.new_empty(own.shape)
            objective.write_gradient(own, apart, found)
            found.nan_to_num_(0.0, 0.0, 0.0)  # no row's gradient may make the sum NaN: it would tell of the row
            cut = found.to(out.dtype)
            cut.mul_((clip / cut.norm(dim=1, keepdim=True)).clamp_(max=1.0))
            out.add_(cut.view(n_jobs, width, -1).sum(1), alpha=1 / n_rows)

    return replace(objective, gradient=gradient, by_job=False, longest=None)
