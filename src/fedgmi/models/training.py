"""Packed local training: many small models, of any clients and components, trained as one batch.

A *job* is one (client, component) pair: it trains one model on that client's rows, each drawn with
probability proportional to its weight (the responsibility r). Jobs are ordered by their number of steps,
so those still running are always a prefix; a finished job is touched by nothing, and one without mass
never exists. A job's draws depend on its key alone, so neither the other clients nor the chunks matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from fedgmi.data.rows import Rows
from fedgmi.randomness import generator
from fedgmi.settings.run import TrainingSettings

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2 * 2**30}
"""Working memory of the jobs trained together. On a CPU about the size of the cache: larger is slower."""

Penalty = Callable[[Tensor, Tensor], Tensor]
"""(params [J, P], jobs [J]) → [J], added to the mean loss of each job; `jobs` are their places in the plan."""


@dataclass(frozen=True)
class Batch:
    """One step's rows: row [J, B], their places · x [J, B, *shape] · y [J, B] or None · noise [J, B, Z] normal."""

    row: Tensor
    x: Tensor
    y: Tensor | None
    noise: Tensor


Loss = Callable[[Tensor, Batch], Tensor]
"""(params [J, P], batch) → [J, B], in nats."""


@dataclass(frozen=True)
class Jobs:
    """Which (client, component) pairs train, on which rows, and for how many steps.

    client [J] (index 0..C-1 in the rows) · component [J] · steps [J] · mass [J] float64, the sum of the weights
    kept · row [E] and weight [E] float64: the rows of job j are entries start[j] to start[j+1]; start [J+1].
    """

    client: Tensor
    component: Tensor
    steps: Tensor
    mass: Tensor
    row: Tensor
    weight: Tensor
    start: Tensor

    def __len__(self) -> int:
        return len(self.client)


def plan_jobs(
    weights: Tensor,
    owner: Tensor,
    *,
    epochs: int,
    batch_size: int,
    max_steps: int | None = None,
    threshold: float = 0.01,
) -> Jobs:
    """A job for every (client, component) with a row whose weight exceeds the threshold.

    weights [R, K], owner [R] → steps_j = ⌈epochs · mass_j / batch_size⌉, at most max_steps. Jobs are in order
    of client, then component.

    >>> plan_jobs(torch.tensor([[1.0, 0.0], [0.7, 0.3]]), torch.tensor([0, 1]), epochs=1, batch_size=1).component
    tensor([0, 0, 1])
    """
    weights, owner = weights.detach().cpu().double(), owner.cpu()
    n_components = weights.shape[1]
    row, component = torch.nonzero(weights > threshold, as_tuple=True)
    pair, order = torch.sort(owner[row] * n_components + component, stable=True)
    row, weight = row[order], weights[row[order], component[order]]
    pairs, index, sizes = torch.unique_consecutive(pair, return_inverse=True, return_counts=True)
    mass = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, index, weight)
    steps = torch.ceil(epochs * mass / batch_size - 1e-6).long().clamp(min=1, max=max_steps)
    start = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    return Jobs(pairs // n_components, pairs % n_components, steps, mass, row, weight, start)


def proximal(strength: float | Tensor, anchor: Tensor) -> Penalty:
    """strength_j/2 · ‖w_j − anchor_j‖², anchor [J, P] and strength [J] (or one for all) in the order of the jobs.

    The proximal term of FedProx (Li et al. 2020, arXiv 1812.06127): the *squared* norm, halved.
    """
    strengths = torch.as_tensor(strength, dtype=anchor.dtype, device=anchor.device).expand(len(anchor))
    return lambda params, jobs: 0.5 * strengths[jobs] * (params - anchor[jobs]).square().sum(1)


def fit(
    loss: Loss,
    start: Tensor,
    jobs: Jobs,
    rows: Rows,
    *,
    settings: TrainingSettings,
    lr: float,
    key: tuple[int | str, ...],
    noise_size: int = 0,
    penalty: Penalty | None = None,
) -> Tensor:
    """Train every job from start [J, P] with Adam (Kingma & Ba 2015; fresh state) and return [J, P].

    Each step lowers mean_B loss + penalty. key: (seed, round, purpose); a job's rows and noise are drawn from
    the generator of (*key, client id, component).
    """
    # Adam's moments underflow, and on many CPUs denormals are ten times slower. Worker threads inherit the flag only
    # if it is set before the first parallel operation, so a program should set it at its start as well.
    torch.set_flush_denormal(True)
    trained = torch.empty_like(start)
    per_job = 4 * (6 * start.shape[1] + 8 * settings.batch_size * (math.prod(rows.x.shape[1:]) + noise_size))
    width = max(1, CHUNK_BYTES["cuda" if rows.x.is_cuda else "cpu"] // per_job)
    order = torch.argsort(jobs.steps, descending=True, stable=True)
    for chunk in torch.split(order, width) if len(jobs) else ():
        place = chunk.to(start.device)
        params = start[place].detach()
        moments = torch.zeros_like(params), torch.zeros_like(params)
        count = torch.zeros((), device=params.device)
        for batch in _batches(jobs, chunk, rows, settings.batch_size, noise_size, key):
            active = len(batch.x)
            gradient = _gradient(loss, params[:active], batch, penalty, place[:active])
            _adam(params[:active], gradient, moments[0][:active], moments[1][:active], count, lr)
        trained[place] = params
    return trained


def _gradient(loss: Loss, params: Tensor, batch: Batch, penalty: Penalty | None, places: Tensor) -> Tensor:
    """[J, P]. Jobs share no parameters, so the gradient of the sum over jobs is each job's own."""
    params = params.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(params, batch).mean(1).sum()
        if penalty is not None:
            value = value + penalty(params, places).sum()
        return torch.autograd.grad(value, params)[0]


def _adam(params: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: Tensor, lr: float) -> None:
    """One step in place. Jobs all start together, so one step count serves all."""
    adam(
        [params], [gradient], [first], [second], [], [count],
        fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=lr, weight_decay=0.0, eps=1e-8, maximize=False,
    )  # fmt: skip


def _batches(
    jobs: Jobs, chunk: Tensor, rows: Rows, batch_size: int, noise_size: int, key: tuple[int | str, ...]
) -> Iterator[Batch]:
    """The batches of a chunk of jobs, which are in descending order of steps."""
    device = rows.x.device
    drawn, noise = zip(*(_draw(jobs, int(j), rows, batch_size, noise_size, key) for j in chunk), strict=True)
    all_rows, all_noise = torch.cat(drawn).to(device), torch.cat(noise).to(device)  # [Σ steps, B] · [Σ steps, B, Z]
    steps = jobs.steps[chunk]
    first = (steps.cumsum(0) - steps).to(device)
    for step in range(int(steps[0])):
        at = first[: int((steps > step).sum())] + step
        index = all_rows[at]
        yield Batch(index, rows.x[index], None if rows.y is None else rows.y[index], all_noise[at])


def _draw(
    jobs: Jobs, job: int, rows: Rows, batch_size: int, noise_size: int, key: tuple[int | str, ...]
) -> tuple[Tensor, Tensor]:
    """All rows [steps, B] and noise [steps, B, Z] of one job, on the CPU."""
    begin, end = int(jobs.start[job]), int(jobs.start[job + 1])
    steps = int(jobs.steps[job])
    draws = generator(*key, rows.ids[int(jobs.client[job])], int(jobs.component[job]))
    chosen = resample(jobs.weight[begin:end], steps * batch_size, draws)
    noise = torch.randn(steps, batch_size, noise_size, generator=draws)
    return jobs.row[begin:end][chosen].view(steps, batch_size), noise


def resample(weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n places [n] in weight [R], drawn with probability ∝ weight, one epoch of round(Σ weight) draws after another.

    Within an epoch by systematic resampling of the rows in random order (Kitagawa 1996): a row is drawn
    ⌊m·w⌋ or ⌈m·w⌉ times, w its share, m the draws; with all weights 1 an epoch is a permutation.

    >>> sorted(resample(torch.ones(4), 4, torch.Generator().manual_seed(0)).tolist())
    [0, 1, 2, 3]
    """
    size = min(n, max(1, round(float(weight.sum()))))
    epochs = math.ceil(n / size)
    order = torch.rand(epochs, len(weight), generator=generator, dtype=torch.float64).argsort(1)
    cumulated = weight.double()[order].cumsum(1)
    cumulated = cumulated * (size / cumulated[:, -1:])
    points = torch.arange(size) + torch.rand(epochs, 1, generator=generator, dtype=torch.float64)
    places = torch.searchsorted(cumulated, points, right=True).clamp(max=len(weight) - 1)
    return order.gather(1, places).view(-1)[:n]
