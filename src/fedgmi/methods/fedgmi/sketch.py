"""Stage one, the sketch: a codebook, histograms of words, and from them the proportions. Kilobytes per client, once."""

from __future__ import annotations

import hashlib
import math

import torch

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, ServerStep, Step, Task
from fedgmi.methods.fedgmi.evidence import raw_words
from fedgmi.methods.local_training import scale_step
from fedgmi.mixture import codebook, topics
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.privacy import geometric as privacy
from fedgmi.randomness import KeyedBits
from fedgmi.tree import Tree

SPECTRUM_RESAMPLES = 20  # enough to warn of components that the data do not show


def codebook_steps(task: Task) -> tuple[Step, ...]:
    """Standardise by federated sums, draw first centres, and a few rounds of federated k-means."""

    def project(server: Tree, rows: Rows) -> torch.Tensor:
        if "projected" not in rows.cache:
            projector = codebook.projector(server["mean"], server["std"], task.settings.projection, task.seed)
            rows.cache["projected"] = projector(rows.x)
        return rows.cache["projected"]

    def send_spread(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sums = codebook.spread_sums(project(server, rows))
        return states, reply(sums, rows, down=tree.n_bytes({"mean": server["mean"], "std": server["std"]}))

    def take_spread(server: Tree, sums: Tree, round: int) -> Tree:
        return server | {"centres": codebook.first_centres(sums, task.settings.codewords, task.seed)}

    def send_cells(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sums = codebook.cell_sums(project(server, rows), server["centres"], rows)
        return states, reply(sums, rows, down=tree.n_bytes({"centres": server["centres"]}))

    def take_cells(server: Tree, sums: Tree, round: int) -> Tree:
        return server | {"centres": codebook.move_centres(server["centres"], sums, task.seed)}

    moves = (Step("k-means", send_cells, take_cells),) * task.settings.kmeans_rounds
    return scale_step(task), Step("spread", send_spread, take_spread), *moves


def count_words(task: Task) -> int:
    """W: a word is a codebook cell, or a (cell, label) pair where there are labels."""
    return task.settings.codewords * max(task.schema.n_classes, 1)


def histogram_step(task: Task, take: ServerStep) -> Step:
    """Every client's counts of words go up, one client at a time; `take` makes of them [C, W] what the server needs.

    With `method.epsilon` they go up with noise, and a client keeps what it sent as `released`.
    """
    n_words, epsilon = count_words(task), task.settings.epsilon

    def send_histogram(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        counts = codebook.histogram(raw_words(task, server, rows), rows, n_words)
        if epsilon is not None:
            counts = privacy.release(counts, epsilon, [noise_source(task, server, client) for client in rows.ids])
            states = states | {"released": counts}
        return states, reply({"histogram": counts.int()}, rows, down=tree.n_bytes({"c": server["centres"]}), each=True)

    return Step("histograms", send_histogram, take, reduce="stack")


def noise_source(task: Task, server: Tree, client: int) -> KeyedBits:
    """Where a client's noise comes from: the site's secret, or in simulation the seed.

    Under one secret the same request has the same noise, so that an answer may be repeated, and another request (other
    words, another ε) has noise of its own: the difference of two answers tells no more than the two.
    """
    if task.secret is None:
        return KeyedBits(task.seed, "histogram noise", client)
    words = b"".join(server[name].cpu().numpy().tobytes() for name in ("mean", "std", "centres"))
    request = (task.seed, repr(task.settings.epsilon), hashlib.sha256(words).hexdigest())
    return KeyedBits(task.secret, "histogram noise", client, *request)


def map_words(released: torch.Tensor, epsilon: float | None) -> tuple[torch.Tensor, privacy.Noise | None]:
    """Where each word of the released counts [C, W] goes [W], and the noise in the words after merging."""
    if epsilon is None:
        return codebook.merge_rare(released.sum(0)), None
    deviation = math.sqrt(len(released) * privacy.noise_variance(epsilon))
    word_map = codebook.merge_rare(released.sum(0), deviation)
    return word_map, privacy.Noise(epsilon, word_map.bincount())


def topic_steps(task: Task) -> tuple[Step, ...]:
    """Histograms go up, topics come down, and each client infers its proportions from its own words."""
    n_words = count_words(task)

    def take_histograms(server: Tree, replies: Tree, round: int) -> Tree:
        released = replies["histogram"].double()
        word_map, noise = map_words(released, task.settings.epsilon)
        phantom_rows = None if noise is None else noise.phantom_rows
        counts = merge_words(released.clamp(min=0.0), word_map)
        fitted = topics.fit_topics(counts, task.n_components, task.seed, phantom_rows=phantom_rows)
        share = fitted.counts.sum(0) / fitted.counts.sum()
        merged = merge_words(released, word_map)
        shown = estimate_components(merged, task.seed, noise=noise, resamples=SPECTRUM_RESAMPLES).n_components
        found = {"word_map": word_map, "topics": fitted.counts, "components_shown": torch.tensor(shown)}
        return server | found | uncalibrated(share)

    def fold_in(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        counts = codebook.histogram(raw_words(task, server, rows), rows, n_words).double()
        merged = merge_words(counts, server["word_map"])
        start = server["share"].expand(rows.n_clients, -1)
        sent = None
        if "released" in states:  # the topics were fitted to these, the proportions are to the exact counts
            sent = merge_words(states["released"].clamp(min=0).double(), server["word_map"])
        _, own = topics.fold_in(merged, server["topics"], start, None, released=sent)
        proportions, own = topics.fold_in(merged, server["topics"], start, own, released=sent)
        states = states | {"proportions": proportions, "own_words": own}
        down = tree.n_bytes({name: server[name] for name in ("word_map", "topics", "share")})
        return states, reply({}, rows, down=down)

    return histogram_step(task, take_histograms), Step("fold in", fold_in, lambda server, sums, round: server)


def true_topics_step(task: Task) -> Step:
    """The oracle's sketch: topic counts from the true components, and the realised proportions."""
    n_words = count_words(task)

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        truth = true_components(rows, task.n_components)
        flat = rows.owner * n_words + raw_words(task, server, rows)
        own = truth.new_zeros((rows.n_clients * n_words, task.n_components)).index_add_(0, flat, truth)
        own = own.reshape(rows.n_clients, n_words, -1)
        realised = rows.sum_by_client(truth) / rows.counts[:, None]
        return states | {"own_words": own, "realised": realised}, reply({"topics": own.sum(0)}, rows)

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        share = sums["topics"].sum(0) / sums["topics"].sum()
        words = torch.arange(n_words, device=share.device)
        return server | {"topics": sums["topics"], "word_map": words} | uncalibrated(share)

    return Step("true topics", client, server_step)


def true_components(rows: Rows, n_components: int) -> torch.Tensor:
    """The oracle's responsibilities: 1 for the component that a row came from. [R, K]"""
    if rows.component is None:
        raise ValueError("the oracle needs rows that carry their true component")
    return torch.nn.functional.one_hot(rows.component, n_components).double()


def uncalibrated(share: torch.Tensor, prefix: str = "") -> Tree:
    """q and the bias log q under which word evidence of weight 1 is the plain log p(w | k)."""
    bias = share.clamp(min=1e-6).log()
    return {f"{prefix}share": share, f"{prefix}bias": bias - bias[0]}


def merge_words(histograms: torch.Tensor, word_map: torch.Tensor) -> torch.Tensor:
    """Counts [C, W] after merging rare words, [C, W']."""
    merged = histograms.new_zeros((len(histograms), int(word_map.max()) + 1))
    return merged.index_add_(1, word_map, histograms)


def reply(values: Tree, rows: Rows, *, down: int = 0, each: bool = False) -> Message:
    """A message whose cost is the same for every client: `down` bytes out, its own size back.

    each: the leaves are [C, …], one entry per client (a stacked reply).
    """
    size = tree.n_bytes(values)
    return Message(values, down * rows.n_clients, size if each else size * rows.n_clients)
