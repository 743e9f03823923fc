"""A fitted model: what training left behind, and what can be asked of it, in the rows' own units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.settings.run import Config
from fedgmi.data import chosen_scale
from fedgmi.data.rows import Client, Rows, Schema, pack
from fedgmi.data.federation import Federation
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.standardise import Standardisation
from fedgmi.runs.experiment import choose_device, new_task, settle_components, warn_of_unshown
from fedgmi.protocol.listener import Listener
from fedgmi.methods import METHODS, Method, Task
from fedgmi.mixture.posterior import responsibilities
from fedgmi.randomness import generator
from fedgmi.protocol.rounds import Progress, drive, require_finite
from fedgmi.protocol.in_process import InProcess
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Fitted:
    """config, schema, names, scale: what it was fitted with and on · n_components: K · server: shared state
    · proportions [C, K]: all that is kept of single clients · bytes_down, bytes_up: of all clients."""

    config: Config
    schema: Schema
    names: tuple[str, ...]
    scale: Standardisation | None
    n_components: int
    server: Tree
    proportions: Tensor
    bytes_down: int = 0
    bytes_up: int = 0

    @cached_property
    def task(self) -> Task:
        """What the method may know; one learning rate, for nothing is selected here."""
        lr = self.config.training.lr_candidates("fedgmi")[0]
        return new_task(self.config, self.schema, self.n_components).replace(lr=lr)

    @cached_property
    def method(self) -> Method:
        """The method, as the configuration has it."""
        return METHODS["fedgmi"](self.task)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.server["density"].device

    def rows(self, x: Tensor, y: Tensor | None = None) -> Rows:
        """Rows of one client, in the units that the model knows."""
        x = x if self.scale is None else self.scale.apply(x)
        return pack([Client("rows", x, y)], device=self.device)

    def state(self, proportions: Tensor) -> Tree:
        """The state of a client of these proportions [K]."""
        return {"proportions": proportions.double().to(self.device)[None]}

    def evidence(self, rows: Rows) -> Tensor:
        """log p_k(row)/P(row) [R, K], nats, with Σ_k q_k·exp of it = 1 for the pooled proportions q."""
        assert self.method.evidence is not None
        logs = self.method.evidence(self.server, rows).double()
        share = self.server["share"].double().clamp(min=1e-12).log()
        return logs - (logs + share).logsumexp(1, keepdim=True)

    def posterior(self, rows: Rows, proportions: Tensor) -> Tensor:
        """r_k(row) ∝ π_k · p_k(row) [R, K]."""
        resp, _ = responsibilities(self.evidence(rows), proportions[None].to(self.device), rows.owner)
        return resp

    def log_density(self, x: Tensor, n_samples: int) -> Tensor:
        """log p_k(x) [R, K], nats of the rows' own units: exact, or the importance-weighted bound of n_samples."""
        rows, density = self.rows(x), self.task.density
        noise = torch.randn(len(x), n_samples, density.noise_size, generator=generator(self.task.seed, "score"))
        logs = density.log_prob(self.server["density"], rows.x, noise.to(self.device)).double()
        return logs - (0.0 if self.scale is None else self.scale.log_det)

    def sample(self, n: int, component: int, draws: torch.Generator) -> Tensor:
        """n rows of a component [n, *shape], in their own units."""
        x = self.task.density.sample(self.server["density"][component], n, draws).cpu()
        return x if self.scale is None else self.scale.undo(x)


def train(config: Config, federation: Federation, listener: Listener | None = None) -> Fitted:
    """Fit the method to a federation in this process; raises DivergedError where training runs away."""
    torch.set_flush_denormal(True)  # before threads start, or they do not inherit it
    device = choose_device(config.device)
    scale = chosen_scale(config.data, config.scenario, federation)
    scenario = Scenario(federation) if scale is None else Scenario(federation).rescaled(scale)
    clients = scenario.federation.clients
    settled = settle_components(config, scenario, device)
    fitted = Fitted(config, federation.schema, federation.names, scale, settled.n_components, {}, torch.empty(0))
    transport = InProcess(clients, fitted.method, device=device)

    def after(progress: Progress) -> None:
        require_finite(transport.states, "fedgmi", progress.round)
        if listener is not None:
            bound = progress.server.get("bound")
            record = {"run": "fedgmi", "round": progress.round, "seconds": progress.seconds}
            listener.round_done(record | {"bound": None if bound is None else float(bound), "proportion_tv": None})

    if listener is not None:
        listener.started("fedgmi", config.rounds)
    down, up = scenario.bytes_spent
    end = drive(
        fitted.method,
        transport,
        Progress(tree.to(fitted.method.init(), device), -1, settled.bytes_down + down, settled.bytes_up + up),
        n_clients=len(clients),
        rounds=config.rounds,
        participation=config.method.participation,
        seed=config.seed,
        after=after,
    )
    if listener is not None:
        listener.finished("fedgmi")
    if "components_shown" in end.server:
        warn_of_unshown(settled.n_components, int(end.server["components_shown"]))
    assert fitted.method.proportions is not None
    proportions = fitted.method.proportions(transport.states)
    return replace(fitted, server=end.server, proportions=proportions, bytes_down=end.bytes_down, bytes_up=end.bytes_up)
