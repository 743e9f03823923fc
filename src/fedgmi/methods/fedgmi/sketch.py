"""Stage one, the sketch: a codebook, histograms of words, and from them the proportions. Kilobytes per client, once."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods import plausible
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.evidence import raw_words
from fedgmi.methods.fedgmi.points import projected, projector_of
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Sketch, uncalibrated
from fedgmi.methods.local_training import feature_scale_step
from fedgmi.methods.plausible import range_of
from fedgmi.mixture import codebook, rare_words, scatter, target_bins, topics
from fedgmi.mixture.rare_words import merge_words
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import ServerStep, Step
from fedgmi.randomness import KeyedBits
from fedgmi.tree import Tree

if TYPE_CHECKING:
    from fedgmi.mixture.identity import Cells
    from fedgmi.privacy.geometric import Noise

RELIABLE = 0.2
"""Where less of what clients differ by is more than chance, every client has π̄: it is then nearer the truth than what
each would find. Rows know more than words, so the limit is below ½. docs/decisions.md has the figures."""

Steps = dict[str, Step]

TOLD = "told"
"""The leaf of a client's proportions as its released counts have them; only with `method.epsilon`. [C, K]"""


def codebook_steps(task: Task[FedGMISettings]) -> Steps:
    """Standardise features by federated sums, draw first centres, and move them by federated k-means."""

    def send_spread(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums=codebook.spread_sums(projected(task, server, rows)))

    def take_spread(server: Tree, message: Message, round: int) -> Tree:
        centres = codebook.first_centres(message.sums, task.settings.codewords, task.seed)
        return server | Sketch.leaves(covariance=codebook.pooled_covariance(message.sums), centres=centres)

    def send_cells(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums=codebook.cell_sums(projected(task, server, rows), Sketch(server).centres, rows))

    def take_cells(server: Tree, message: Message, round: int) -> Tree:
        return server | Sketch.leaves(centres=codebook.move_centres(Sketch(server).centres, message.sums, task.seed))

    def send_targets(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        assert rows.y is not None
        counts = target_bins.grid_counts(target_bins.level(task.schema, rows.y))
        return states, Message(sums={"targets": counts})

    def take_targets(server: Tree, message: Message, round: int) -> Tree:
        return server | Sketch.leaves(edges=target_bins.edges(message.sums["targets"]))

    def limits(server: Tree) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest that rows can be once they are projected."""
        sketch = Sketch(server)
        projector = codebook.projector(sketch.mean, sketch.std, task.settings.projection, task.seed)
        return plausible.projected_range(projector.matrix, projector.mean, projector.std, range_of(task.schema))

    def check_spread(server: Tree, message: Message, client: int, rows: int) -> str | None:
        return plausible.wrong_spread("its projected features", message.sums, rows, limits(server))

    def check_cells(server: Tree, message: Message, client: int, rows: int) -> str | None:
        return plausible.wrong_cells(message, Sketch(server).centres, rows, limits(server), codebook.MIN_CELL_ROWS)

    def check_targets(server: Tree, message: Message, client: int, rows: int) -> str | None:
        return plausible.wrong_counts("its counts of targets", message.sums["targets"], rows, all_rows=True)

    centres, spread = Sketch.names("centres"), Sketch.names("covariance", "centres")
    grid = Step("target", send_targets, take_targets, writes=Sketch.names("edges"), kind="sketch", check=check_targets)
    return {
        "features": feature_scale_step(task, Sketch.prefix),
        "target": grid,
        "spread": Step("spread", send_spread, take_spread, writes=spread, kind="sketch", check=check_spread),
        "k-means": Step("k-means", send_cells, take_cells, writes=centres, kind="sketch", check=check_cells),
    }


def count_words(task: Task[FedGMISettings]) -> int:
    """W: a word is a codebook cell, or a (cell, label) pair where there are labels, or (cell, bin) of other targets."""
    return task.settings.codewords * target_bins.n_values(task.schema)


def histogram_step(task: Task[FedGMISettings], take: ServerStep, writes: tuple[str, ...]) -> Step:
    """Every client's counts of words go up, one client at a time.

    With `method.epsilon` they go up with noise, and a client keeps what it sent as `released`.

    Args:
        task: Its settings.
        take: What the server makes of the reply `histogram` [C, W].
        writes: The leaves that it makes.

    Returns:
        The step.
    """
    n_words, epsilon = count_words(task), task.settings.epsilon

    def send(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        counts = codebook.histogram(raw_words(task, server, rows), rows, n_words)
        if epsilon is not None:
            from fedgmi.privacy import geometric  # a site without ε has no noise to load

            counts = geometric.release(counts, epsilon, noise_sources(task, server, rows, counts))
            states = states | {"released": counts}
        return states, Message(replies={"histogram": counts.int()})

    def noisy(server: Tree, message: Message, client: int, rows: int) -> str | None:
        return plausible.wrong_noisy(epsilon or 1.0, message.replies["histogram"], rows)

    check = wrong_with if epsilon is None else noisy
    return Step("histograms", send, take, writes=writes, kind="sketch", single=True, counts=True, check=check)


def wrong_with(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with a client's histogram.

    Args:
        server: The server's state.
        message: The client's.
        client: Its index in the federation.
        rows: How many rows it has.

    Returns:
        The reason in words; None where nothing is wrong.

    Examples:
        >>> wrong_with({}, Message(replies={"histogram": torch.tensor([[3, 2]])}), 0, 4)
        'its histogram counts 5 rows, and the site has 4'
    """
    histogram = message.replies["histogram"].long()
    if int(histogram.min()) < 0:
        return f"its histogram counts {int(histogram.min())} rows in a word, expected 0 or more"
    total = int(histogram.sum())
    return None if total == rows else f"its histogram counts {total} rows, and the site has {rows}"


def survey_steps(task: Task[FedGMISettings]) -> tuple[Step, ...]:
    """The sketch up to the histograms, which the server keeps as they come: all that a diagnosis asks of clients."""

    def take(server: Tree, message: Message, round: int) -> Tree:
        return server | Sketch.leaves(histograms=message.replies["histogram"])

    steps = codebook_steps(task) | {"histograms": histogram_step(task, take, Sketch.names("histograms"))}
    own = task.settings
    return schedule.lay_out(schedule.survey(own), "prepare", steps, own, task.schema)


def noise_sources(task: Task[FedGMISettings], server: Tree, rows: Rows, counts: torch.Tensor) -> list[KeyedBits]:
    """Where each client's noise comes from: the site's secret, or in simulation the seed.

    Under one secret noise goes by what is counted and how: the rows as they are counted, the counts [C, W], the
    codebook, ε. Nothing else that a coordinator chooses has a part in it, so that asking again under another name
    brings the same answer. Other rows, counts or another codebook have noise of their own, so that no difference of two
    answers is exact; each is a release of its own, for which the site's ledger is asked first.
    """
    if task.secret is None:
        return [KeyedBits(task.seed, "histogram noise", client) for client in rows.ids]
    sources, epsilon, how = [], task.settings.epsilon, _codebook_digest(task, server)
    assert epsilon is not None
    place = torch.split(torch.arange(len(rows), device=rows.x.device), rows.counts.tolist())
    for mine, found in zip(place, counts, strict=True):
        counted = tree.digest([found, *(leaf[mine] for leaf in (rows.x, rows.y) if leaf is not None)])
        key = (task.secret, "histogram noise", counted, how, repr(epsilon))
        if task.charge is not None:
            release = hashlib.sha256(repr(key).encode()).hexdigest()  # it tells nothing of the secret
            task.charge(release, epsilon, 0.0, "its histogram of words", {"mechanism": "geometric"})
        sources.append(KeyedBits(*key))
    return sources


def _codebook_digest(task: Task[FedGMISettings], server: Tree) -> str:
    """A hash of all by which a row becomes a word: scale, projection, centres, bins."""
    sketch = Sketch(server)
    leaves = [*projector_of(task, server), sketch.centres, *(server[name] for name in schedule.BINS if name in server)]
    return tree.digest([*leaves, torch.tensor(count_words(task))])


def map_words(released: torch.Tensor, epsilon: float | None, n_values: int) -> tuple[torch.Tensor, Noise | None]:
    """Where each word goes when rare ones back off, and the noise in the words afterwards.

    Args:
        released: Counts as clients sent them. [C, W]
        epsilon: Of the noise in them; None: there is none.
        n_values: With how many labels, or bins of targets, a cell is counted.

    Returns:
        The merged word of each word [W], and the noise.
    """
    if epsilon is None:
        by = rare_words.telling(released, n_values)
        return rare_words.back_off(released.sum(0), n_values, telling=by), None
    from fedgmi.privacy import geometric

    deviation = math.sqrt(len(released) * geometric.noise_variance(epsilon))
    word_map = rare_words.back_off(released.sum(0), n_values, deviation)
    return word_map, geometric.Noise(epsilon, word_map.bincount())


def told_proportions(states: Tree) -> torch.Tensor:
    """What clients say of their proportions where histograms have noise: what their released counts say already.

    Args:
        states: Theirs.

    Returns:
        Post-processing of what went out; 1/K each of clients that have released nothing. [C, K]

    Examples:
        >>> told_proportions({"proportions": torch.tensor([[0.9, 0.1]])}).tolist()
        [[0.5, 0.5]]
    """
    own = states["proportions"]
    told = states.get(TOLD, torch.zeros_like(own))
    return told.where(told.sum(1, keepdim=True) > 0, 1.0 / own.shape[1])


def cells_of(server: Tree, histograms: torch.Tensor, word_map: torch.Tensor) -> Cells:
    """What the server knows of rows: where cells are, and how many rows of each client are in them."""
    sketch = Sketch(server)
    from fedgmi.mixture.identity import Cells  # the server's part alone needs it

    return Cells(sketch.centres, sketch.covariance, histograms, word_map)


def cells_known(server: Tree) -> Cells | None:
    """The same once the sketch is made; None before, and without one."""
    needed = Sketch.names("histograms", "word_map")
    return cells_of(server, *(server[name] for name in needed)) if all(name in server for name in needed) else None


def topic_steps(task: Task[FedGMISettings]) -> Steps:
    """Histograms go up, topics come down, and each client infers its proportions from its own words.

    With `method.epsilon` it infers them twice: from its exact counts for itself, and from those that it has released
    for whoever asks. Where rows are the unit of a private run (`[privacy]`) it has the latter alone: what it tells
    later hangs on its rows through nothing else.
    """
    n_words, n_values = count_words(task), target_bins.n_values(task.schema)

    def take_histograms(server: Tree, message: Message, round: int) -> Tree:
        from fedgmi.mixture.identity import topics_of_rows  # the server's part alone needs these
        from fedgmi.mixture.spectrum import estimate_components, reliability

        histograms = message.replies["histogram"]
        released = histograms.double()
        word_map, noise = map_words(released, task.settings.epsilon, n_values)
        phantom_rows = None if noise is None else noise.phantom_rows
        counts = merge_words(released.clamp(min=0.0), word_map)
        rho = scatter.scatter_beside(counts, task.n_components) if noise is None else 0.0
        effective = scatter.effective(counts, rho)
        merged = merge_words(released, word_map)
        known = reliability(merged, task.n_components, task.seed, noise=noise)
        if known < RELIABLE:
            fitted = topics.alike(effective, task.n_components)
        else:
            fitted = topics.fit_topics(effective, task.n_components, task.seed, phantom_rows=phantom_rows)
        shown = estimate_components(merged, task.seed, noise=noise).n_components
        of_rows = None
        if known >= RELIABLE and noise is None:
            of_rows = topics_of_rows(cells_of(server, histograms, word_map), fitted, shown, rho, task.seed)
            fitted = of_rows or fitted
        found = Sketch.leaves(
            histograms=histograms,
            word_map=word_map,
            topics=fitted.counts,
            components_shown=torch.tensor(shown),
            lost=torch.tensor(rare_words.share_lost(released.sum(0), word_map, n_values), dtype=torch.float64),
            scatter=torch.tensor(rho, dtype=torch.float64),
            reliability=torch.tensor(known, dtype=torch.float64),
            rows_decide=torch.tensor(of_rows is not None),
        )
        return server | found | uncalibrated(Calibration, fitted.counts.sum(0) / fitted.counts.sum())

    def fold_in(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sketch = Sketch(server)
        if task.clip_rows is not None:
            return states | {"proportions": _private(states, sketch, Calibration(server).share)}, Message()
        counts = codebook.histogram(raw_words(task, server, rows), rows, n_words).double()
        merged = scatter.effective(merge_words(counts, sketch.word_map), float(sketch.scatter))
        start = Calibration(server).share.expand(rows.n_clients, -1)
        sent = None
        if "released" in states:  # the topics were fitted to these, the proportions are to the exact counts
            sent = merge_words(states["released"].clamp(min=0).double(), sketch.word_map)
        _, own = topics.fold_in(merged, sketch.topics, start, None, released=sent)
        proportions, own = topics.fold_in(merged, sketch.topics, start, own, released=sent)
        if sent is not None:
            states = states | {TOLD: _from_released(states["released"], sketch, start)}
        return states | {"proportions": proportions, "own_words": own}, Message()

    def _private(states: Tree, sketch: Sketch, share: torch.Tensor) -> torch.Tensor:
        """Those of released counts; of clients that have released none, which missed it, the pooled ones. [C, K]"""
        start = share.expand_as(states["proportions"])
        if "released" not in states:
            return start.clone()
        found = _from_released(states["released"], sketch, start)
        return found.where((states["released"] != 0).any(1, keepdim=True), start)

    def _from_released(released: torch.Tensor, sketch: Sketch, start: torch.Tensor) -> torch.Tensor:
        """Proportions of which nothing is known but what went out. [C, K]"""
        counts = merge_words(released.double(), sketch.word_map).clamp(min=0.0)
        _, own = topics.fold_in(counts, sketch.topics, start, None)
        return topics.fold_in(counts, sketch.topics, start, own)[0]

    made = (
        *Sketch.names("histograms", "word_map", "topics", "components_shown", "lost", "scatter", "reliability"),
        *Sketch.names("rows_decide"),
        *Calibration.names("share", "bias"),
    )
    return {
        "histograms": histogram_step(task, take_histograms, made),
        "fold in": Step("fold in", fold_in, kind="sketch"),
    }
