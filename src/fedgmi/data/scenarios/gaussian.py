"""Gaussian components with linear labels: every density is known in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Schema, client_names
from fedgmi.data.scenarios.draws import draw_proportions, draw_requests, rows_wanted
from fedgmi.data.scenarios.mixing import PURE_ROWS
from fedgmi.data.scenarios.truth import Scenario, Truth
from fedgmi.randomness import numpy_generator
from fedgmi.settings.run import DataSettings, ScenarioSettings


def gaussian_components(scenario: ScenarioSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the components' means and covariances.

    Covariances have random axes. Their variances are log-uniform on [1/2, 2], scaled to a mean of 1. Any two means are
    `separation` apart where K ≤ D (a random simplex). Otherwise means are random, and the two nearest are
    `separation` apart.

    Args:
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        Means [K, D] and covariances [K, D, D], float64.

    Examples:
        >>> settings = ScenarioSettings(n_components=3, n_features=4, separation=5)
        >>> means, covariances = gaussian_components(settings, seed=0)
        >>> torch.cdist(means, means).round(decimals=6)[0]
        tensor([0., 5., 5.], dtype=torch.float64)
    """
    k, d = scenario.n_components, scenario.n_features
    draws = numpy_generator(seed, "gaussian", "means").standard_normal((d, max(k, d)))
    means = np.linalg.qr(draws)[0].T[:k] / np.sqrt(2) if k <= d else draws.T[:k]
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    nearest = distances[~np.eye(k, dtype=bool)].min() if k > 1 else 1.0
    rng = numpy_generator(seed, "gaussian", "covariances")
    axes = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    variances = 2.0 ** rng.uniform(-1, 1, (k, d))
    variances /= variances.mean(axis=1, keepdims=True)
    covariances = np.einsum("kij,kj,klj->kil", axes, variances, axes)
    return torch.from_numpy(means * scenario.separation / nearest), torch.from_numpy(covariances)


def gaussian_rules(scenario: ScenarioSettings, seed: int) -> Tensor:
    """Draw the components' rules for labels, y = 1[w_k · (x − μ_k) > 0].

    Args:
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The w_k, of length 1. [K, D], float64
    """
    draws = numpy_generator(seed, "gaussian", "rules").standard_normal((scenario.n_components, scenario.n_features))
    return torch.from_numpy(draws / np.linalg.norm(draws, axis=1, keepdims=True))


def gaussian(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · N(x; μ_k, Σ_k) · 1[y = (w_k · (x − μ_k) > 0)].

    Args:
        data: Not used: all rows are drawn afresh.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation and the truth about it.
    """
    means, covariances = gaussian_components(scenario, seed)
    factors, rules = torch.linalg.cholesky(covariances), gaussian_rules(scenario, seed)

    def draw(name: str, component: Tensor, purpose: str, i: int) -> Client:
        noise = numpy_generator(seed, "gaussian", purpose, i).standard_normal((len(component), scenario.n_features))
        offset = torch.from_numpy(noise)
        for k in torch.unique(component).tolist():  # a factor [D, D] a row would be more memory than the rows
            offset[component == k] = offset[component == k] @ factors[k].T
        y = (offset * rules[component]).sum(1) > 0
        return Client(name, (means[component] + offset).float(), y.long())

    drawn = draw_proportions(scenario, scenario.n_components, seed)
    clients: dict[str, tuple[Client, ...]] = {}
    truths: dict[str, tuple[Tensor, ...]] = {}
    for purpose, sizes in rows_wanted(scenario, seed).items():
        requests = draw_requests(purpose, sizes, drawn, None, seed)
        truths[purpose] = tuple(torch.from_numpy(request.component) for request in requests)
        named = zip(client_names(len(sizes)), truths[purpose], strict=True)
        clients[purpose] = tuple(draw(name, component, purpose, i) for i, (name, component) in enumerate(named))
    pure = tuple(draw(f"component-{k}", torch.full((PURE_ROWS,), k), "pure", k) for k in range(scenario.n_components))
    features = tuple(f"x{j}" for j in range(scenario.n_features))
    schema = Schema((scenario.n_features,), 2, "tabular", ("0", "1"), features)
    federation = Federation(schema, clients["training"], clients["validation"], clients["held-out"])
    return Scenario(federation, Truth(torch.from_numpy(drawn), truths["training"], truths["held-out"], pure))
