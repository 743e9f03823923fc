"""What methods share: random starts, training what a client holds, losses and predictions by row."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedgmi.data.far import tamed
from fedgmi.data.rows import Rows
from fedgmi.data.standardise import feature_sums, standardisation
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Task
from fedgmi.methods.plausible import range_of, wrong_features
from fedgmi.methods.summing import Totals, counted, over_clients
from fedgmi.models import training
from fedgmi.models.clipped import clipped
from fedgmi.models.density import rows_per_chunk
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Step
from fedgmi.randomness import generator
from fedgmi.tree import Tree


def train_components(
    task: Task,
    rows: Rows,
    weights: Tensor,
    start: Tensor,
    objective: training.Objective,
    key: tuple[int | str, ...],
    noise_size: int = 0,
    mu: float = 0.0,
) -> Models:
    """Train component k of client i on its rows ∝ weights; only pairs with mass.

    Args:
        task: Its training settings, and its learning rate.
        rows: Of C clients.
        weights: Of each row for each component. [R, K]
        start: Where the components begin. [K, P]
        objective: What is lowered, in nats.
        key: Of the draws: (seed, round, purpose).
        noise_size: Z, of the noise that the loss takes.
        mu: Of a proximal term μ/2·‖θ_ik − start_k‖².

    Returns:
        Σ_i N_ik θ_ik and Σ_i N_ik, and which clients trained which components.
    """
    jobs, start = plan(task, rows, weights), exact(task, start)
    component = jobs.component.to(start.device)
    mass_of = jobs.mass.to(start.device)
    pull = training.Pull(mu, start, component) if mu else None
    chunks = train_chunks(task, objective, start, jobs, rows, key, component, noise_size=noise_size, pull=pull)
    total, mass = Totals(rows, start), Totals(rows, mass_of.new_zeros(len(start)))
    client = jobs.client.to(start.device)
    for place, local in chunks:
        total.add(client[place], component[place], local.mul_(mass_of[place, None].to(local.dtype)))
    mass.add(client, component, mass_of)
    holders = torch.zeros(rows.n_clients, len(start), dtype=torch.bool)
    holders[jobs.client, jobs.component] = True
    return Models(total.total, mass.total, holders)


def exact(task: Task, start: Tensor) -> Tensor:
    """Where a model begins, in float64 if what a row changes in it is to have a bound.

    n·(θ_i − θ) has no bound in float32: rounding to a multiple of 2⁻²⁴·θ makes a threshold of a sum of gradients, and
    whoever chooses θ chooses its place.

    Args:
        task: Its `clip_rows` says so.
        start: [K, P]

    Returns:
        The same models.
    """
    return start if task.clip_rows is None else start.double()


def held_by_all(rows: Rows, total: Tensor, mass: Tensor) -> Models:
    """Sums of models of which every client holds all.

    Args:
        rows: Of C clients.
        total: Σ_i N_ik θ_ik. [K, P], or [C, K, P] where messages are wanted apart.
        mass: Σ_i N_ik, in rows. [K], or [C, K], float64

    Returns:
        The models, held by all C clients.
    """
    return Models(total, mass, torch.ones(rows.n_clients, total.shape[-2], dtype=torch.bool))


def by_rows(rows: Rows, models: Tensor) -> Models:
    """The sum of clients' own models, each weighted by its client's rows.

    Args:
        rows: Of C clients.
        models: One for each. [C, P]

    Returns:
        Σ_i n_i θ_i [1, P] and Σ_i n_i [1], held by all C clients.
    """
    total = over_clients(rows, (models * rows.counts.to(models.dtype)[:, None])[:, None])
    return held_by_all(rows, total, counted(rows))


def train_own(
    task: Task,
    rows: Rows,
    models: Tensor,
    key: tuple[int | str, ...],
    pull: training.Pull | None = None,
    objective: training.Objective | None = None,
    noise_size: int = 0,
) -> Tensor:
    """Train each client's own model on all of its rows.

    Args:
        task: Its training settings, and its learning rate.
        rows: Of C clients.
        models: Where the clients' models begin. [C, P]
        key: Of the draws: (seed, round, purpose).
        pull: Of a proximal term; its jobs are the clients.
        objective: What is lowered; None: the cross-entropy of the task's expert.
        noise_size: Z, of the noise that the loss takes.

    Returns:
        The trained models. [C, P]
    """
    jobs = plan(task, rows, all_rows(rows))
    assert jobs.client.tolist() == list(range(rows.n_clients))  # every client has rows, so every client has a job
    return training.fit(
        objective or expert_objective(task),
        models,
        jobs,
        rows,
        settings=task.training,
        lr=task.lr,
        key=key,
        noise_size=noise_size,
        pull=pull,
        memory=task.memory,
        part=task.part,
    )


FEATURE_SUMS = "sums of its features, Σx and Σx², of which the federation's mean and deviation are made"


def feature_scale_step(task: Task, prefix: str = "") -> Step:
    """Federated sums of the features, and from them their mean and deviation. Pictures have one deviation in common.

    Args:
        task: Its schema says what rows look like.
        prefix: Of the names of the server's leaves, `mean` [D] and `std` [D].

    Returns:
        The step.
    """
    names = f"{prefix}mean", f"{prefix}std"

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        x = rows.x
        if task.schema.kind == "tabular":
            x = torch.cat([tamed(own) for own in torch.split(x, rows.counts.tolist())])
        return states, Message(sums=feature_sums(x))

    def take(server: Tree, message: Message, round: int) -> Tree:
        scale = standardisation(message.sums, common_scale=task.schema.kind == "image")
        return server | dict(zip(names, (scale.mean.float(), scale.std.float()), strict=True))

    check = wrong_features(range_of(task.schema))
    return Step("features", client, take, writes=names, kind="sketch", tells=FEATURE_SUMS, check=check)


def train_chunks(
    task: Task,
    objective: training.Objective,
    start: Tensor,
    jobs: training.Jobs,
    rows: Rows,
    key: tuple[int | str, ...],
    at: Tensor,
    *,
    noise_size: int = 0,
    pull: training.Pull | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train jobs under the task's settings, chunk by chunk; see `training.fit_chunks`.

    Args:
        task: Its training settings, its learning rate, and its working memory.
        objective: Of each job.
        start: Parameters to start from. [S, P]
        jobs: What is trained.
        rows: Of C clients.
        key: Of the draws: (seed, round, purpose).
        at: Which of the starts is each job's. [J]
        noise_size: Z.
        pull: Towards anchors.

    Returns:
        What `training.fit_chunks` yields.
    """
    return training.fit_chunks(
        objective,
        start,
        jobs,
        rows,
        settings=task.training,
        lr=task.lr,
        key=key,
        at=at,
        noise_size=noise_size,
        pull=pull,
        memory=task.memory,
        part=task.part,
    )


def plan(task: Task, rows: Rows, weights: Tensor) -> training.Jobs:
    """The jobs of one round under the task's training settings.

    Args:
        task: Whose settings they are.
        rows: Of C clients.
        weights: Of each row for each component. [R, K]

    Returns:
        One job for each pair of client and component with mass.
    """
    settings = task.training
    return training.plan_jobs(
        weights, rows.client_index, epochs=settings.epochs, batch_size=settings.batch_size, max_steps=settings.max_steps
    )


def need_labels(task: Task, method: str) -> None:
    """Refuse a task without labels, for a method that has nothing but an expert.

    Args:
        task: What it is built for.
        method: The method's name.

    Raises:
        ConfigError: For rows without labels.
    """
    if not task.schema.labelled:
        raise ConfigError(
            f"{method} trains a model of labels, and these rows have none",
            where="method.name",
            fix='name the labels with data.label_column, or use method.name = "fedgmi"',
        )


def expert_objective(task: Task, weights: Tensor | None = None) -> training.Objective:
    """What one expert a job lowers.

    Args:
        task: Whose expert it is.
        weights: How much each row's loss counts, in the parameters' type. None: all count 1. [R]

    Returns:
        The cross-entropy of its rows, times their weights, in nats.
    """

    expert = task.expert

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        assert batch.y is not None
        return expert.loss(params, batch.x, batch.y, None if weights is None else weights[batch.row])

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        assert batch.y is not None
        assert expert.gradient is not None
        ones = batch.x.new_ones(())
        share = ones.expand(batch.y.shape) if weights is None else weights[batch.row]
        expert.gradient(params, batch.x, batch.y, share[:, :, None], out)

    found = training.Objective(loss, gradient if expert.gradient else None, expert.by_job, f"expert {expert.name}")
    return found if task.clip_rows is None else clipped(found, task.clip_rows)


def own_gradient(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """∇F_i(θ_i), F_i the mean cross-entropy of all of client i's rows, each client at a model of its own.

    Args:
        task: Its expert is the form of the models.
        models: [C, P]
        rows: Of these C clients, with labels.

    Returns:
        [C, P]
    """
    total = torch.zeros_like(models)
    for i, share, gradient in gradients_of_parts(task, models, rows, rows_per_chunk(task.expert.floats_per_row)):
        total[i] += gradient * share
    return total


def gradients_of_parts(task: Task, models: Tensor, rows: Rows, size: int) -> Iterator[tuple[int, float, Tensor]]:
    """∇F_b(θ_i), F_b the mean cross-entropy of some of client i's rows, part by part of each client's rows in turn.

    Args:
        task: Its expert is the form of the models.
        models: θ_i. [C, P]
        rows: Of these C clients, with labels.
        size: Of a part, in rows.

    Yields:
        i, the part's share of the client's rows, and the gradient [P], which the next one overwrites.
    """
    assert rows.y is not None
    objective, gradient = expert_objective(task), torch.empty_like(models[:1])
    place = torch.arange(len(rows), device=rows.x.device)
    for i, mine in enumerate(torch.split(place, rows.counts.tolist())):
        for part in torch.split(mine, size):
            noise = rows.x.new_empty(1, len(part), 0)
            batch = training.Batch(part[None], rows.x[part][None], rows.y[part][None], noise)
            objective.write_gradient(models[i : i + 1].contiguous(), batch, gradient)
            yield i, len(part) / len(mine), gradient[0]


def trained_part(objective: training.Objective, part: slice) -> training.Objective:
    """The same objective, by which only some of the parameters move: Adam leaves those alone whose gradient is 0.

    Args:
        objective: Any.
        part: The places that are trained, among the P parameters.

    Returns:
        The objective with a gradient of 0 elsewhere.
    """

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        objective.write_gradient(params, batch, out)
        kept = out[:, part].clone()
        out.zero_()[:, part] = kept

    return training.Objective(objective.loss, gradient)


def all_rows(rows: Rows) -> Tensor:
    """Weight 1 of every row for the one component of a method without any.

    Args:
        rows: R of them.

    Returns:
        Ones. [R, 1], float64
    """
    return torch.ones(len(rows), 1, dtype=torch.float64, device=rows.x.device)


def random_starts(task: Task, n_models: int, first: int = 0) -> Tensor:
    """Experts at different random starts, by the task's seed.

    Args:
        task: Its expert is the form of the models.
        n_models: How many.
        first: The number of the first draw.

    Returns:
        [n_models, P]
    """
    return torch.stack([task.expert.init(generator(task.seed, "expert", first + k)) for k in range(n_models)])


def row_losses(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """−log p_k(y | x) of every row under every model.

    Args:
        task: Its expert is the form of the models.
        models: [K, P]
        rows: R of them, with labels.

    Returns:
        [R, K], nats
    """
    assert rows.y is not None
    return -task.expert.head.log_lik(task.expert.log_prob(models, rows.x), rows.y)


def own_log_prob(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """log p(y | x) of every row by the model of the client that holds it.

    Args:
        task: Its expert is the form of the models.
        models: The clients'. [C, P]
        rows: Of these clients.

    Returns:
        Of every class [R, L], nats; of other heads their numbers [R, Q].
    """
    by_client = torch.split(rows.x, rows.counts.tolist())
    parts = [task.expert.log_prob(model[None], x)[:, 0] for model, x in zip(models, by_client, strict=True)]
    return torch.cat(parts)


def identified(rows: Rows, yes: bool) -> Tree:
    """The leaf that says of new clients whether their rows can tell their proportions.

    Args:
        rows: Of C new clients.
        yes: What it says of all of them.

    Returns:
        The leaf `identified`. [C], bool
    """
    return {"identified": torch.full((rows.n_clients,), yes, device=rows.x.device)}


def identified_of(states: Tree) -> Tensor:
    """What `identified` said of new clients.

    Args:
        states: Theirs. [C, …]

    Returns:
        [C], bool
    """
    return states["identified"]
