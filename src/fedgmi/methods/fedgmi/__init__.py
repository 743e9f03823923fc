"""FedGMI: K shared densities and experts, and every client's own proportions (arXiv 2605.08760).

    P_i(x, y) = Σ_k π_ik · p_k(x, y)

E-step (client): r_ik(x) ∝ π_ik·exp ℓ_k(x), π_i its mean over the client's rows. M-step (client): θ_k, φ_k on rows drawn
∝ r_ik. Server: θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik. Predict: p(y | x) = Σ_k r_ik(x)·p_k(y | x), r from x alone.

Only the paper's abstract is public, so the rules are ours. Presets:

default   stage one is the sketch (word counts → proportions), stage two EM rounds whose evidence ℓ (word, density,
          expert) is calibrated by co-occurrence across clients.
plain     the abstract's recipe: random start, the ELBO alone as evidence.
sketch    proportions and word posteriors from the sketch, held fixed; densities and experts trained on them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.fedgmi.calibration import gate_proportions
from fedgmi.methods.fedgmi.em import em_step, judges
from fedgmi.methods.fedgmi.evidence import KINDS
from fedgmi.methods.fedgmi.newcomers import contrast_step, welcome
from fedgmi.methods.fedgmi.presets import PRESETS, Preset
from fedgmi.mixture.information import MIN_CONTRAST
from fedgmi.mixture.posterior import responsibilities
from fedgmi.randomness import generator
from fedgmi.tree import Tree


def fedgmi(task: Task) -> Method:
    """The method, as the preset in `task.settings` has it."""
    return _build(task, "fedgmi", PRESETS[task.settings.preset](task))


def oracle(task: Task) -> Method:
    """The bound that every result stands beside; see `presets.oracle`."""
    return _build(task, "oracle", PRESETS["oracle"](task))


def _build(task: Task, name: str, preset: Preset) -> Method:
    def evidence(server: Tree, rows: Rows) -> Tensor:
        return (preset.unlabelled if rows.y is None else preset.labelled)(server, {}, rows)

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        logs = preset.unlabelled(server, {}, rows)
        if float(server["gate_contrast"]) < MIN_CONTRAST:  # what seems to tell components apart is what models remember
            logs = torch.zeros_like(logs)
        gate = responsibilities(logs, gate_proportions(states), rows.owner)[0].clamp(min=1e-30)
        return (task.expert.log_prob(server["expert"], rows.x).double() + gate.log()[:, :, None]).logsumexp(1)

    em = em_step(
        task,
        preset.training,
        shared_rounds=preset.shared_rounds,
        shared_trunk=preset.shared_trunk,
        judge_rounds=preset.judge_rounds,
        judged_by=preset.judged_by,
    )
    return Method(
        name=name,
        init=lambda: initial_server(task),
        client_init=lambda ids: initial_clients(task, ids),
        prepare=preset.prepare,
        round=(*preset.before_em, em),
        finish=(*preset.finish, contrast_step(preset.labelled, preset.unlabelled)),
        predict=predict,
        proportions=lambda states: states["proportions"],
        evidence=evidence,
        welcome=lambda server, rows: welcome(server, rows, evidence(server, rows)),
        responsibilities=lambda server, states, rows: preset.posterior(server, states, rows).responsibilities,
        densities="density",
        experts="expert" if task.schema.n_classes else None,
    )


def initial_server(task: Task) -> Tree:
    """Random densities and experts; evidence is the word's alone until calibration says otherwise."""
    k = task.n_components
    server = {
        "density": torch.stack([task.density.init(generator(task.seed, "density", j)) for j in range(k)]),  # [K, P]
        "expert": torch.stack([task.expert.init(generator(task.seed, "expert", j)) for j in range(k)]),  # [K, P]
        "version": torch.tensor(0),
        "share": torch.full((k,), 1.0 / k, dtype=torch.float64),  # q
        "weights": torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),  # λ, by KINDS
        "calibrated": torch.tensor(-1),  # the version at which calibration began last
        "weights_before": torch.zeros(len(KINDS), dtype=torch.float64),
        "scale": torch.ones(len(KINDS), dtype=torch.float64),
        "bias": torch.zeros(k, dtype=torch.float64),
        "contrast": torch.zeros(2, dtype=torch.float64),
        "gate_contrast": torch.ones((), dtype=torch.float64),
    }
    return server | judges(server)


def initial_clients(task: Task, ids: tuple[int, ...]) -> Tree:
    """Uniform proportions [C, K]."""
    uniform = torch.full((len(ids), task.n_components), 1.0 / task.n_components, dtype=torch.float64)
    return {"proportions": uniform}
