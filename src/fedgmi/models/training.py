"""Packed local training: many small models, of any clients and components, trained as one batch.

A *job* is one (client, component) pair. It trains one model on that client's rows, and draws each with probability
proportional to its weight (the responsibility r). Jobs are ordered by their number of steps, so those still running are
always a prefix. A finished job is touched by nothing, and a pair without mass is no job. A job's draws depend on its
key alone, so neither the other clients nor the chunks matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import adam as torch_adam

from fedgmi.data.rows import Rows
from fedgmi.models.memory import STATE, WorkingMemory, ran_out, too_large
from fedgmi.models.stragglers import parts_done
from fedgmi.modes import flushed_denormals
from fedgmi.randomness import generator
from fedgmi.settings.run import TrainingSettings

FILLED = 1000
"""A batch of at most so many rows is filled by drawing a smaller client's rows again. A larger one is not."""


@dataclass(frozen=True)
class Batch:
    """The rows of one step, for J jobs of B rows each.

    Attributes:
        row: Their places among all rows. [J, B]
        x: [J, B, *shape]
        y: Labels, or None where there are none. [J, B]
        noise: Standard normal. [J, B, Z]
    """

    row: Tensor
    x: Tensor
    y: Tensor | None
    noise: Tensor


Loss = Callable[[Tensor, Batch], Tensor]
"""(params [J, P], batch) → [J, B], in nats."""

Gradient = Callable[[Tensor, Batch, Tensor], None]
"""(params [J, P], batch, out [J, P]): writes the gradient of each job's mean loss to `out`."""


@dataclass(frozen=True)
class Objective:
    """What a job lowers: the mean loss of its rows.

    Attributes:
        loss: Of each row.
        gradient: The same loss's gradient, written out: it saves the loss itself, the graph and some copies. None:
            autograd finds it.
        by_job: Whether `gradient` takes one job after another, which is of use on a CPU alone.
        model: What is trained, for messages.
        longest: The norm to which each job's longer gradients are shortened (Pascanu et al. 2013, arXiv 1211.5063).
            None: they stay as they are.
    """

    loss: Loss
    gradient: Gradient | None = None
    by_job: bool = False
    model: str = "the model"
    longest: float | None = None

    def write_gradient(self, params: Tensor, batch: Batch, out: Tensor) -> None:
        """Write the gradient of each job's mean loss to `out`. Jobs share no parameters, so that of the sum is each
        job's own."""
        if self.gradient is not None and not (self.by_job and params.is_cuda):
            self.gradient(params, batch, out)
        else:
            params = params.detach().requires_grad_()
            with torch.enable_grad():
                out.copy_(torch.autograd.grad(self.loss(params, batch).mean(1).sum(), params)[0])
        if self.longest is not None:
            out.mul_((self.longest / out.norm(dim=1, keepdim=True)).clamp_(max=1.0))


@dataclass(frozen=True)
class Pull:
    """strength_j/2 · ‖w_j − anchor_{at_j}‖², added to the mean loss of each job j.

    The proximal term of FedProx (Li et al. 2020, arXiv 1812.06127): the *squared* norm, halved.

    Attributes:
        strength: One for all jobs, or one for each. [J]
        anchor: What jobs' parameters are held to. [A, P]
        at: Which of the anchors is each job's. [J]
    """

    strength: float | Tensor
    anchor: Tensor
    at: Tensor

    def of(self, jobs: Tensor) -> Pull:
        """The pull on some jobs [J'], with an anchor for each."""
        strength = self.strength[jobs, None] if isinstance(self.strength, Tensor) else self.strength
        return Pull(strength, self.anchor[self.at[jobs]], torch.arange(len(jobs)))

    def add_gradient(self, params: Tensor, out: Tensor, buffer: Tensor) -> None:
        """Add strength·(w − anchor) for the first jobs, whose parameters are `params`. The difference comes first: of
        two large terms that cancel, Adam would blow up the residue."""
        active = len(params)
        torch.sub(params, self.anchor[:active], out=buffer)
        if isinstance(self.strength, Tensor):
            out.addcmul_(buffer, self.strength[:active])
        else:
            out.add_(buffer, alpha=self.strength)


@dataclass(frozen=True)
class Jobs:
    """Which (client, component) pairs train, on which rows, and for how many steps.

    The rows of job j are the entries from start[j] to start[j + 1].

    Attributes:
        client: Numbers from 0 to C − 1, as in the rows. [J]
        component: [J]
        steps: [J]
        batch: Rows of a step. [J]
        mass: The sum of the weights that were kept. [J], float64
        row: Places among all rows. [E]
        weight: Their weights. [E], float64
        start: [J + 1]
    """

    client: Tensor
    component: Tensor
    steps: Tensor
    batch: Tensor
    mass: Tensor
    row: Tensor
    weight: Tensor
    start: Tensor

    def __len__(self) -> int:
        return len(self.client)


def plan_jobs(
    weights: Tensor,
    client_index: Tensor,
    *,
    epochs: int,
    batch_size: int,
    max_steps: int | None = None,
    threshold: float = 0.01,
) -> Jobs:
    """A job for every (client, component) with a row whose weight exceeds the threshold.

    A job has ⌈epochs · mass / b⌉ steps of b rows. b is the batch size; above `FILLED` rows, for a client that has fewer
    than the batch size, it is the job's mass, so that each step is an epoch. A job's b depends on its own client alone,
    as all of it does. Jobs are in order of client, then component.

    Args:
        weights: How much of each row belongs to each component, usually its responsibilities. [R, K]
        client_index: The client of each row, from 0 to C − 1. [R]
        epochs: Passes over the job's rows.
        batch_size: Rows per step.
        max_steps: At most so many steps a job. None for no limit.
        threshold: Rows of less weight are left out.

    Returns:
        The jobs.

    >>> plan_jobs(torch.tensor([[1.0, 0.0], [0.7, 0.3]]), torch.tensor([0, 1]), epochs=1, batch_size=1).component
    tensor([0, 0, 1])
    """
    weights, client_index = weights.detach().cpu().double(), client_index.cpu()
    n_components = weights.shape[1]
    row, component = torch.nonzero(weights > threshold, as_tuple=True)
    pair, order = torch.sort(client_index[row] * n_components + component, stable=True)
    row, weight = row[order], weights[row[order], component[order]]
    pairs, index, sizes = torch.unique_consecutive(pair, return_inverse=True, return_counts=True)
    mass = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, index, weight)
    client = pairs // n_components
    batch = torch.full_like(client, batch_size)
    steps = torch.ceil(epochs * mass / batch_size - 1e-6).long().clamp(min=1, max=max_steps)
    if batch_size > FILLED:
        small = client_index.bincount()[client] < batch_size
        batch = torch.where(small, mass.round().long().clamp(min=1), batch)
        steps = steps.masked_fill(small, min(epochs, max_steps or epochs))
    start = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    return Jobs(client, pairs % n_components, steps, batch, mass, row, weight, start)


def fit(
    objective: Objective,
    start: Tensor,
    jobs: Jobs,
    rows: Rows,
    *,
    settings: TrainingSettings,
    lr: float,
    key: tuple[int | str, ...],
    at: Tensor | None = None,
    noise_size: int = 0,
    pull: Pull | None = None,
    memory: WorkingMemory | None = None,
    part: float = 1.0,
) -> Tensor:
    """Train every job with Adam (Kingma & Ba 2015) from a fresh state, or with plain SGD. Arguments as those of
    `fit_chunks`.

    Returns:
        The trained parameters. [J, P]
    """
    trained = start.new_empty((len(jobs), start.shape[1]))
    chunks = fit_chunks(
        objective,
        start,
        jobs,
        rows,
        settings=settings,
        lr=lr,
        key=key,
        at=at,
        noise_size=noise_size,
        pull=pull,
        memory=memory,
        part=part,
    )
    for place, params in chunks:
        trained[place] = params
    return trained


def fit_chunks(
    objective: Objective,
    start: Tensor,
    jobs: Jobs,
    rows: Rows,
    *,
    settings: TrainingSettings,
    lr: float,
    key: tuple[int | str, ...],
    at: Tensor | None = None,
    noise_size: int = 0,
    pull: Pull | None = None,
    memory: WorkingMemory | None = None,
    part: float = 1.0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train every job, and give out each chunk of jobs when it is done, so that sums need no memory for all of them.

    Args:
        objective: Of each job.
        start: Parameters to start from. They stay as they are. [S, P]
        jobs: What is trained, on which rows.
        rows: All rows.
        settings: `training.*`, of which the optimiser matters, and the stragglers.
        lr: Learning rate.
        key: (seed, round, purpose). A job's rows and noise are drawn from the generator of (*key, client id,
            component).
        at: Which of the starts is each job's; None: there is one for each, in order. [J]
        noise_size: Z.
        pull: Towards anchors.
        memory: What the jobs trained together may take. Where the device runs out, a chunk is halved and begins anew,
            so that results are those of smaller chunks from the start. None for what suits the device.
        part: Of the local steps, that all clients here finish; see `parts_done`.

    Yields:
        Places among the jobs [J'], and these jobs' trained parameters [J', P], which are the caller's until the next.
    """
    at = torch.arange(len(jobs), device=start.device) if at is None else at.to(start.device)
    jobs = shortened(jobs, rows, settings.stragglers, key, part)
    memory = memory or WorkingMemory()
    size, device, n_buffers = start.shape[1], start.device, 5 if pull else 4
    largest = max(jobs.batch.tolist(), default=1)
    per_job = STATE * size + 32 * largest * (math.prod(rows.x.shape[1:]) + noise_size)
    width = min(memory.jobs(per_job, rows.x.device), len(jobs))
    order = torch.argsort(jobs.steps, descending=True, stable=True)
    order = order[torch.argsort(jobs.batch[order], stable=True)]
    buffers: list[Tensor] = []
    begin = 0
    while begin < len(order):
        chunk = order[begin : begin + width]
        chunk = chunk[jobs.batch[chunk] == jobs.batch[chunk[0]]]  # the first ones, for they lie in this order
        try:
            buffers = buffers or [start.new_empty((width, size)) for _ in range(n_buffers)]
            params, *others = (buffer[: len(chunk)] for buffer in buffers)
            place = chunk.to(device)
            torch.index_select(start, 0, at[place], out=params)
            near = pull and pull.of(place)
            batches = _batches(jobs, chunk, rows, noise_size, key)
            _train(objective, params, others, batches, near, lr, adam=settings.optimizer == "adam")
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            if len(chunk) == 1:
                raise too_large(objective.model, size, per_job, f"the {device.type} has no more") from error
        else:
            yield place, params
            begin += len(chunk)
            continue
        # Free them here: inside of `except` the error holds the frames.
        buffers, others, params, near, batches = [], [], start, None, iter(())
        width = memory.halve(len(chunk), per_job, objective.model)


def shortened(jobs: Jobs, rows: Rows, share: float, key: tuple[int | str, ...], part: float = 1.0) -> Jobs:
    """The jobs of a round with stragglers: ⌈u·steps⌉ steps each, u the part that their client finishes.

    Args:
        jobs: All.
        rows: Of their clients.
        share: The chance of being a straggler.
        key: (seed, round, purpose).
        part: That all others finish; 1: without stragglers the jobs are as they were.

    Returns:
        The jobs. Their masses stay: a model counts by the rows that it is of, however far it came.
    """
    if not share and part == 1:
        return jobs
    done = parts_done(share, rows.ids, key, part)[jobs.client]
    return replace(jobs, steps=torch.ceil(jobs.steps * done - 1e-9).long().clamp(min=1))


def _train(
    objective: Objective,
    params: Tensor,
    buffers: list[Tensor],
    batches: Iterator[Batch],
    near: Pull | None,
    lr: float,
    *,
    adam: bool,
) -> None:
    """All steps of a chunk of jobs, on `params` in place: with Adam, or w ← w − lr·gradient."""
    first, second, gradient, *rest = buffers
    for moment in (first, second):
        moment.zero_()
    count = torch.zeros((), device=params.device)
    with flushed_denormals(), torch.no_grad():  # Adam's moments underflow
        for batch in batches:
            n = len(batch.x)
            objective.write_gradient(params[:n], batch, gradient[:n])
            if near is not None:
                near.add_gradient(params[:n], gradient[:n], rest[0][:n])
            if adam:
                _adam(params[:n], gradient[:n], first[:n], second[:n], count, lr)
            else:
                params[:n].add_(gradient[:n], alpha=-lr)


def _adam(params: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: Tensor, lr: float) -> None:
    """One step in place. Jobs all start together, so one step count serves all."""
    torch_adam.adam(
        [params], [gradient], [first], [second], [], [count],
        fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=lr, weight_decay=0.0, eps=1e-8, maximize=False,
    )  # fmt: skip


def _batches(jobs: Jobs, chunk: Tensor, rows: Rows, noise_size: int, key: tuple[int | str, ...]) -> Iterator[Batch]:
    """The batches of a chunk of jobs, which are of one size and in descending order of steps."""
    device = rows.x.device
    drawn, noise = zip(*(draw_batches(jobs, int(j), rows, noise_size, key) for j in chunk), strict=True)
    all_rows, all_noise = torch.cat(drawn).to(device), torch.cat(noise).to(device)  # [Σ steps, B] · [Σ steps, B, Z]
    steps = jobs.steps[chunk]
    first = (steps.cumsum(0) - steps).to(device)
    for step in range(int(steps[0])):
        at = first[: int((steps > step).sum())] + step
        index = all_rows[at]
        chosen = rows.x.index_select(0, index.view(-1))  # a fifth of the time of x[index]
        x = chosen.view(*index.shape, *rows.x.shape[1:])
        yield Batch(index, x, None if rows.y is None else rows.y[index], all_noise[at])


def draw_batches(
    jobs: Jobs, job: int, rows: Rows, noise_size: int, key: tuple[int | str, ...]
) -> tuple[Tensor, Tensor]:
    """All rows and all noise of one job. They depend on the key, the client's id and the component alone.

    Args:
        jobs: All jobs.
        job: Which of them.
        rows: All rows.
        noise_size: Z.
        key: As for `fit`.

    Returns:
        Places among all rows [steps, B] and noise [steps, B, Z], on the CPU.
    """
    begin, end = int(jobs.start[job]), int(jobs.start[job + 1])
    steps, batch_size = int(jobs.steps[job]), int(jobs.batch[job])
    draws = generator(*key, rows.ids[int(jobs.client[job])], int(jobs.component[job]))
    chosen = resample(jobs.weight[begin:end], steps * batch_size, draws)
    noise = torch.randn(steps, batch_size, noise_size, generator=draws)
    return jobs.row[begin:end][chosen].view(steps, batch_size), noise


def resample(weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Places drawn with probability ∝ weight, one epoch of round(Σ weight) draws after another.

    Within an epoch, rows in random order are resampled systematically (Kitagawa 1996). A row is drawn ⌊m·w⌋ or ⌈m·w⌉
    times, with w its share and m the draws. Where all weights are 1, an epoch is a permutation.

    Args:
        weight: [R]
        n: How many places to draw.
        generator: Where the draws come from.

    Returns:
        Places in `weight`. [n]

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
