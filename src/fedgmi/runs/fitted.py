"""A fitted model: what training left behind, and what can be asked of it, in the rows' own units."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Client, Rows, Schema, pack
from fedgmi.data.standardise import Standardisation
from fedgmi.errors import ConfigError
from fedgmi.methods import Method
from fedgmi.methods.standardising import scale_of
from fedgmi.mixture.identity import Cells
from fedgmi.mixture.posterior import responsibilities
from fedgmi.randomness import row_noise
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Inferred:
    """What is known of a client that was not there.

    Attributes:
        proportions: [K]
        identified: Whether its rows tell its proportions. Where rows of their kind cannot, the proportions are the
            pooled ones; where they are too few, the proportions lie between.
        standard_errors: Of the proportions, the components taken as known. [K]
    """

    proportions: Tensor
    identified: bool
    standard_errors: Tensor


@dataclass(frozen=True)
class Fitted:
    """A method's result.

    Attributes:
        setup: What it was fitted with.
        names: The clients'.
        server: The leaves of the server's state that the predictor reads.
        proportions: The clients'. [C, K]
        bound: Nats per row, of the last round; None where the method has none.
        bytes_down: Bytes to all clients.
        bytes_up: Bytes from all clients.
        history: What was known after each round, as a listener is told of it.
        best_round: The round that it ended with: the last one, or the one that rows for validation chose.
        learning_rate: Which was chosen, where there were several.
        client_column: The column that names each row's client, where the federation was one table.
        label_column: The column of labels, likewise.
        own: What else is kept of single clients: the leaves by which they predict, where there are such. [C, …]
        counts: The clients' counts of words, where they sent such. They are kept in memory, and never saved. [C, W]
        cells: What else was known of their rows, likewise.
        rows_decide: Whether rows show just K clusters, which are then the components.
        budget: How training kept to its budget, as a run's `summary.json` has it; None where there was none.
    """

    setup: Setup
    names: tuple[str, ...]
    server: Tree
    proportions: Tensor
    bound: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    history: tuple[dict[str, Any], ...] = ()
    best_round: int = 0
    learning_rate: float | None = None
    client_column: str | None = None
    label_column: str | None = None
    own: Tree = field(default_factory=dict)
    counts: Tensor | None = None
    cells: Cells | None = None
    rows_decide: bool = False
    budget: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and for users' own pickles: the method is a handful of functions, and is made again when asked."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def config(self) -> Config:
        """Its settings."""
        return self.setup.config

    @property
    def schema(self) -> Schema:
        """What rows look like."""
        return self.setup.schema

    @property
    def n_components(self) -> int:
        """K."""
        return self.setup.n_components

    @cached_property
    def method(self) -> Method:
        """The method, as the configuration has it."""
        return self.setup.method(lr=self.learning_rate)

    @property
    def scale(self) -> Standardisation | None:
        """How rows are standardised; None where they are in their own units."""
        return scale_of(self.server)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(iter(self.server.values())).device

    def rows(self, x: Tensor, y: Tensor | None = None) -> Rows:
        """Rows that are asked about, in their own units."""
        return pack([Client("rows", x, y)], device=self.device, by_content=True)

    def state(self, proportions: Tensor, place: int | None = None, own: Tree | None = None) -> Tree:
        """A client's state [1, …].

        Args:
            proportions: [K]
            place: Where it is among ours; None: it is not.
            own: What one that is not among ours has of its own, from `welcome`; None: nothing.

        Returns:
            What the predictor takes.
        """
        assert self.method.predictor.client_state is not None
        state = self.method.predictor.client_state(proportions.double().to(self.device)[None])
        ours = {} if place is None else {name: leaf[place][None] for name, leaf in self.own.items()}
        return state | tree.to(ours | (own or {}), self.device)

    def pooled(self) -> Tensor:
        """The proportions of all rows together. [K], float64"""
        assert self.method.predictor.pooled is not None
        return self.method.predictor.pooled(self.server).double()

    def evidence(self, rows: Rows) -> Tensor:
        """log p_k(row)/P(row), with Σ_k q_k·exp of it = 1 for the pooled proportions q. [R, K], nats"""
        assert self.method.predictor.evidence is not None
        logs = self.method.predictor.evidence(self.server, rows).double()
        share = self.pooled().clamp(min=1e-12).log()
        return logs - (logs + share).logsumexp(1, keepdim=True)

    def posterior(self, rows: Rows, proportions: Tensor) -> Tensor:
        """r_k(row) ∝ π_k · p_k(row). [R, K]"""
        resp, _ = responsibilities(self.evidence(rows), proportions[None].to(self.device), rows.client_index)
        return resp

    def infer(self, rows: Rows) -> Inferred:
        """The proportions of a new client, from its rows."""
        predictor = self.method.predictor
        assert predictor.infer_client is not None
        assert predictor.proportions is not None
        assert predictor.identified is not None
        assert predictor.standard_errors is not None
        client = predictor.infer_client(self.server, rows)
        return Inferred(
            predictor.proportions(client)[0],
            bool(predictor.identified(client)[0]),
            predictor.standard_errors(client)[0],
        )

    def welcome(self, rows: Rows) -> Tree:
        """What a client that was not there has of its own. This trains, on its rows with labels; nothing else changes.

        Args:
            rows: The client's.

        Returns:
            Leaves of its state [1, …]. None, where clients have no part of their own, or the rows have no labels.
        """
        predictor = self.method.predictor
        if predictor.welcome is None:
            return {}
        assert predictor.infer_client is not None
        with torch.no_grad():
            state = predictor.welcome(self.server, predictor.infer_client(self.server, rows), rows)
        return {name: state[name] for name in predictor.own if name in state}

    def log_density(self, x: Tensor, n_samples: int) -> Tensor:
        """log p_k(x): exact, or the importance-weighted bound of n_samples. [R, K], nats of the rows' own units"""
        rows, task, density = self.rows(x), self.setup.task(), self.method.predictor.density
        if density is None:
            raise _no_densities()
        noise = row_noise(x, n_samples, task.density.noise_size, task.seed, "score")
        logs = density(self.server, rows.x, noise.to(self.device)).double()
        return logs - (0.0 if self.scale is None else self.scale.log_det)

    def sample(self, n: int, component: int, draws: torch.Generator) -> Tensor:
        """n rows of a component, in their own units. [n, *shape]"""
        drawn = self.method.predictor.sample
        if drawn is None:
            raise _no_densities()
        return drawn(self.server, component, n, draws)


def _no_densities() -> ConfigError:
    return ConfigError(
        "densities were trained in no round, so rows can be neither drawn nor scored",
        where="method.reference_rounds",
        fix="set it to 1 or more; under a budget, raise communication.mb_per_client, too",
    )
