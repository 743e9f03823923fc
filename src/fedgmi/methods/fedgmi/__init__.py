"""FedGMI: K shared densities and experts, and every client's own proportions (arXiv 2605.08760).

    P_i(x, y) = Σ_k π_ik · p_k(x, y)

E-step (client): r_ik(x) ∝ π_ik·exp ℓ_k(x), π_i its mean over the client's rows. M-step (client): θ_k, φ_k on rows drawn
∝ r_ik. Server: θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik. Predict: p(y | x) = Σ_k r_ik(x)·p_k(y | x), r from x alone.

At the end each client mixes this, and the same with π_i for a gate, with nets of its own; see `methods.personal`.

Only the paper's abstract is public, so the rules are ours. `schedule` tells them on one page. Presets:

default   stage one is the sketch (word counts → proportions). Then the evidence ℓ is calibrated by co-occurrence across
          clients, and proportions follow it. Where labels are classes ℓ is word, and Gaussians made of all other
          clients' sums (`judges`), before the first round; elsewhere word, density and expert, in every round.
plain     the abstract's recipe: random start, the ELBO alone as evidence.
sketch    proportions and word posteriors from the sketch, held fixed; densities and experts trained on them.

To read on: `schedule` is the page. `sketch` is stage one. `judges`, `evidence`, `calibration`, `em` and `experts` are
what follows. `gate` and `newcomers` are the end. `state` names the server's leaves. `presets` says where evidence comes
from. `rows_private` is the sketch under `[privacy]`. `oracle` alone knows the truth.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.candidates import OwnPart
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.fedgmi import rows_private
from fedgmi.methods.fedgmi.judges import no_sums
from fedgmi.methods.fedgmi.newcomers import infer_client
from fedgmi.methods.fedgmi.presets import Preset, by_rows, preset_of, steps_of
from fedgmi.methods.fedgmi.schedule import HISTOGRAMS, lay_out, of_use
from fedgmi.methods.fedgmi.settings import (
    FedGMISettings,
    check_fedgmi,
    choose_judges,
    has_histogram,
    require_histogram,
    settle,
)
from fedgmi.methods.fedgmi.sketch import cells_known, count_words, told_proportions
from fedgmi.methods.fedgmi.state import (
    BYTES,
    CONTRAST,
    Calibration,
    Components,
    Gate,
    Sketch,
    initial_clients,
    initial_server,
    shapes_made,
)
from fedgmi.methods.local_training import identified_of
from fedgmi.methods.personal import personal
from fedgmi.mixture.information import MIN_CONTRAST
from fedgmi.mixture.posterior import responsibilities
from fedgmi.models.expert import mixture_log_prob
from fedgmi.protocol.step import Phase, Program, Step
from fedgmi.tree import Tree


def fedgmi(task: Task[FedGMISettings]) -> Method:
    """The method, as the preset in `task.settings` has it."""
    require_histogram(task.settings)
    task = _with_judges(task)
    if by_rows(task):
        rows_private.check(task)
        task = replace(task, settings=task.settings.model_copy(update={"reference_rounds": 0}))
    return _build(task, "fedgmi", preset_of(task))


def oracle(task: Task[FedGMISettings]) -> Method:
    """The bound that every result stands beside; see `oracle.oracle_preset`."""
    from fedgmi.methods.fedgmi.oracle import oracle_preset  # what knows the truth is not even loaded elsewhere

    task = _with_judges(task)
    return _build(task, "oracle", oracle_preset(task))


def _with_judges(task: Task[FedGMISettings]) -> Task[FedGMISettings]:
    settings = choose_judges(task.settings, task.schema.n_classes)
    if settings.reference_rounds == 0 and settings.judges == "density":
        raise ConfigError(
            "it is 0, so densities would never be trained, and rows are judged by them",
            where="method.reference_rounds",
            fix="set it to 1 or more",
        )
    return replace(task, settings=settings)


def _build(task: Task[FedGMISettings], name: str, preset: Preset) -> Method:
    steps = steps_of(task, preset)

    def phase(which: Phase) -> tuple[Step, ...]:
        return lay_out(preset.schedule, which, steps, task.settings, task.schema)

    program = Program(
        init=lambda: (
            initial_server(task) | (no_sums(task) if task.settings.judges == "closed" else {}) | preset.first()
        ),
        client_init=lambda ids: initial_clients(task, ids),
        prepare=phase("prepare"),
        round=phase("round"),
        finish=phase("finish"),
        kinds=BYTES,
        warm_up=preset.shared_rounds,
        joins_late=False if by_rows(task) else None,  # a newcomer's proportions are of its rows, and nothing released
        made=shapes_made(task.n_components, task.settings.codewords, count_words(task)),
    )
    method = Method(name, program, _predictor(task, preset), metrics, _counts, cells_known)
    return _with_own_parts(method, task, preset) if task.settings.personal else method


def _with_own_parts(method: Method, task: Task[FedGMISettings], preset: Preset) -> Method:
    """Clients end with a part of their own; the shared mixture is a candidate with both gates, r(x) and π."""
    [experts] = Components.names("expert")

    def shared(server: Tree, states: Tree, rows: Rows) -> list[Tensor]:
        gated = method.predictor.predict(server, states, rows)
        if task.n_components == 1:
            return [gated]
        proportions = preset.proportions(states).clamp(min=1e-30)[rows.client_index]
        return [gated, mixture_log_prob(task.expert, server[experts], rows.x, proportions.log())]

    def start(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return preset.proportions(states).to(server[experts].dtype) @ server[experts]

    reads = tuple(dict.fromkeys((experts, *Gate.names("contrast"), *preset.schedule.gate)))
    return personal(method, task, OwnPart(shared, min(task.n_components, 2), start, reads, (experts,)))


def _predictor(task: Task[FedGMISettings], preset: Preset) -> Predictor:
    def evidence(server: Tree, rows: Rows) -> Tensor:
        return (preset.unlabelled if rows.y is None else preset.labelled)(server, {}, rows)

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        logs = preset.unlabelled(server, {}, rows)
        if float(Gate(server).contrast) < MIN_CONTRAST:  # what seems to tell components apart is what models remember
            logs = torch.zeros_like(logs)
        gate = responsibilities(logs, preset.proportions(states), rows.client_index)[0].clamp(min=1e-30)
        return mixture_log_prob(task.expert, Components(server).expert, rows.x, gate.log())

    def density(server: Tree, x: Tensor, noise: Tensor) -> Tensor:
        return task.density.log_prob(Components(server).density, x, noise)

    def sample(server: Tree, component: int, n: int, draws: torch.Generator) -> Tensor:
        return task.density.sample(Components(server).density[component], n, draws).cpu()

    def expert(server: Tree, x: Tensor) -> Tensor:
        return task.expert.log_prob(Components(server).expert, x)

    trained = task.settings.reference_rounds > 0
    models = Components.names(*(("density", "expert") if trained else ("expert",)))
    own = (*models, *Calibration.names("share"), CONTRAST, *Gate.names("contrast"))
    counted = Sketch.names("components_shown", "scatter")
    own += counted if HISTOGRAMS in preset.schedule.prepare else ()
    reads = of_use((*own, *preset.schedule.evidence, *preset.schedule.gate), task.schema)
    return Predictor(
        predict=predict,
        reads=reads,
        proportions=lambda states: states["proportions"],
        told=None if task.settings.epsilon is None else told_proportions,
        responsibilities=lambda server, states, rows: preset.posterior(server, states, rows).responsibilities,
        evidence=evidence,
        infer_client=lambda server, rows: infer_client(server, rows, evidence(server, rows)),
        identified=identified_of,
        standard_errors=lambda states: states["standard_errors"],
        pooled=lambda server: Calibration(server).share,
        client_state=lambda proportions: {"proportions": proportions},
        density=density if trained else None,
        sample=sample if trained else None,
        expert=expert if task.schema.labelled else None,
    )


def metrics(server: Tree) -> dict[str, float]:
    """The bound (nats per row), and of the sketch how many components it shows, which share of rows has a word that is
    lost, how reliable it is, how much clients scatter on their own (ρ̂), and whether rows decide what components are;
    where there are such. And how well rows with
    labels tell the two likest components apart, from 0 to 1, once that is known: 0 too where two clients are all there
    are."""
    [bound], [shown] = Components.names("bound"), Sketch.names("components_shown")
    found = {"bound": float(server[bound])} if bound in server else {}
    if shown not in server:
        return found
    sketch = Sketch(server)
    found |= {"components_shown": int(sketch.components_shown), "rows_in_lost_words": float(sketch.lost)}
    found |= {"reliability": float(sketch.reliability), "rows_decide": float(sketch.rows_decide)}
    found |= {"scatter": float(sketch.scatter)}
    return found | {"contrast": float(server[CONTRAST][0])}


def _counts(server: Tree) -> Tensor | None:
    """The clients' counts of words as they sent them. [C, W]"""
    [histograms] = Sketch.names("histograms")
    return server.get(histograms)


FEDGMI = Entry(
    fedgmi,
    FedGMISettings,
    "K shared densities and experts, and every client's own proportions",
    has_histogram=has_histogram,
    check=check_fedgmi,
    settle=settle,
)
ORACLE = Entry(oracle, FedGMISettings, "fedgmi trained on the true components: a bound", settle=settle)
