"""Every density keeps the contract of `Density`; the Gaussian is exact, the VAE a bound."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from density_contract import findings
from fedgmi.data.rows import Client, Rows, Schema, pack
from fedgmi.errors import ConfigError
from fedgmi.models.densities import DENSITIES, Density, make_density
from fedgmi.models.densities.elbo import MIN_SCALE
from fedgmi.models.densities.gaussian import MIN_VARIANCE, mean_and_covariance
from fedgmi.models.training import Objective, fit, plan_jobs
from fedgmi.settings.run import DensitySettings, TrainingSettings

TABLE = Schema(shape=(3,), n_classes=2, kind="tabular")
IMAGE = Schema(shape=(1, 8, 8), n_classes=10, kind="image")
COLOUR = Schema(shape=(3, 12, 12), n_classes=10, kind="image")
CASES = {
    "gaussian": (DensitySettings(name="gaussian"), TABLE),
    "gaussian image": (DensitySettings(name="gaussian"), IMAGE),
    "vae": (DensitySettings(hidden=32, latent=4), IMAGE),
    "vae conv": (DensitySettings(architecture="conv", hidden=32, latent=4), IMAGE),
    "vae colour": (DensitySettings(hidden=16, latent=4), COLOUR),
    "vae table": (DensitySettings(likelihood="gaussian", hidden=32, latent=2), TABLE),
    "vae apart": (DensitySettings(hidden=32, latent=4, shared="none"), IMAGE),
    "vae apart table": (DensitySettings(likelihood="gaussian", hidden=32, latent=2, shared="none"), TABLE),
    "vae grey": (DensitySettings(likelihood="gaussian", hidden=32, latent=4), IMAGE),
}
CASES |= {
    name: (DensitySettings(name=name), TABLE) for name in DENSITIES if name not in CASES
}  # a new one needs no line


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(schema: Schema, n: int, seed: int = 0) -> torch.Tensor:
    """Structured data: a smooth pattern whose strength varies from row to row."""
    draw = seeded(seed)
    pattern = torch.linspace(-1, 1, schema.n_features).view(schema.shape)
    x = pattern * torch.randn(n, *[1] * len(schema.shape), generator=draw)
    x = x + 0.1 * torch.randn(n, *schema.shape, generator=draw)
    return (2 * x).sigmoid() if schema.kind == "image" else x


def noise_for(density: Density, n: int, samples: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, samples, density.noise_size, generator=seeded(seed))


def train(density: Density, x: torch.Tensor, epochs: int = 60, longest: float | None = None) -> torch.Tensor:
    """Parameters [1, P] fitted to x in the density's own way, by gradients of any length or shortened ones."""
    rows = pack([Client("all", x)])
    if density.fit is not None:
        return density.fit(x, torch.ones(len(x), 1), rows.client_index, 1)[0]
    loss, start = density.loss, density.init(seeded(0))[None]
    assert loss is not None
    jobs = plan_jobs(torch.ones(len(x), 1), rows.client_index, epochs=epochs, batch_size=50)
    return fit(
        Objective(lambda params, batch: loss(params, batch.x, batch.noise), longest=longest),
        start, jobs, rows, settings=TrainingSettings(), lr=3e-3, key=(0,), noise_size=density.noise_size,
    )  # fmt: skip


def test_every_entry_of_the_table_has_a_case():
    assert {config.name for config, _ in CASES.values()} == set(DENSITIES)


@pytest.fixture(params=CASES)
def case(request) -> tuple[Density, Schema]:
    config, schema = CASES[request.param]
    return make_density(config, schema), schema


def test_shapes_and_finite_values_from_the_first_parameters_on(case):
    density, schema = case
    params = torch.stack([density.init(seeded(k)) for k in range(2)])
    assert params.shape == (2, density.size)
    assert params.dtype == torch.float32
    assert torch.equal(params[0], density.init(seeded(0)))
    assert not torch.equal(params[0], params[1])
    x = random_rows(schema, 7)
    scores = density.log_prob(params, x, noise_for(density, 7))
    assert scores.shape == (7, 2)
    assert scores.dtype == torch.float32
    assert bool(scores.isfinite().all())
    assert density.log_prob(params, x[:0], noise_for(density, 0)).shape == (0, 2)
    samples = density.sample(params[0], 5, seeded(3))
    assert samples.shape == (5, *schema.shape)
    assert torch.equal(samples, density.sample(params[0], 5, seeded(3)))


def test_loss_is_the_negative_score_and_its_gradient_is_finite(case):
    density, schema = case
    if density.loss is None:
        assert density.fit is not None
        return
    params = torch.stack([density.init(seeded(k)) for k in range(2)]).requires_grad_()
    x, noise = random_rows(schema, 6), noise_for(density, 6)
    value = density.loss(params, x.expand(2, *x.shape), noise[:, 0].expand(2, -1, -1))
    assert value.shape == (2, 6)
    torch.testing.assert_close(-value.detach().T, density.log_prob(params, x, noise), rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert bool(gradient.isfinite().all())
    assert float((gradient != 0).float().mean()) > 0.3


def test_a_gradient_that_is_written_out_is_autograds(case):
    density, schema = case
    if density.gradient is None:
        pytest.skip("autograd finds it, or none is needed")
    params = (torch.stack([density.init(seeded(i)) for i in range(3)]) + 0.05).requires_grad_()
    x = torch.stack([random_rows(schema, 4, seed=i) for i in range(3)])
    noise = torch.randn(3, 4, density.noise_size, generator=seeded(9))
    (expected,) = torch.autograd.grad(density.loss(params, x, noise).mean(1).sum(), params)
    found = torch.full_like(params, torch.nan).detach()
    with torch.no_grad():
        density.gradient(params, x, noise, found)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, (_, schema) in CASES.items() if schema is TABLE])
def test_a_row_a_thousand_deviations_out_moves_no_density_away_from_the_others(name):
    """An encoder's log variance of such a row was beyond what float32 has the exponential of."""
    density = make_density(*CASES[name])
    x = random_rows(TABLE, 200)
    rows = torch.cat([x, torch.full((1, 3), 1000.0)])
    usual, spiked = (train(density, some, longest=density.longest) for some in (x, rows))
    scores = density.log_prob(torch.cat([usual, spiked]), rows, noise_for(density, 201, samples=4))
    assert bool(scores.isfinite().all())
    median = scores[:200].median(0).values
    assert float(median[0]) > float(scores[200, 0]) + 100  # that row is none of the usual ones
    if density.loss is not None:
        assert float((median[1] - median[0]).abs()) < 1.0


def test_far_rows_have_the_gradient_of_the_loss_too():
    density = make_density(*CASES["vae apart table"])
    params = (density.init(seeded(0))[None] + 0.05).requires_grad_()
    x, noise = 200.0 * random_rows(TABLE, 5)[None], noise_for(density, 5)[:, 0][None]
    (expected,) = torch.autograd.grad(density.loss(params, x, noise).mean(1).sum(), params)
    found = torch.full_like(params, torch.nan).detach()
    with torch.no_grad():
        density.gradient(params, x, noise, found)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_scores_do_not_depend_on_chunks(case, monkeypatch):
    density, schema = case
    params = torch.stack([density.init(seeded(k)) for k in range(2)])
    x, noise = random_rows(schema, 5), noise_for(density, 5, samples=3)
    whole = density.log_prob(params, x, noise)
    monkeypatch.setattr("fedgmi.models.density.CHUNK_BYTES", 1)
    torch.testing.assert_close(density.log_prob(params, x, noise), whole, rtol=1e-4, atol=1e-3)


def test_fitted_densities_prefer_data_like_theirs_and_their_own_samples_to_noise(case):
    density, schema = case
    params = train(density, random_rows(schema, 400))
    held_out = random_rows(schema, 100, seed=5)
    shuffled = held_out.flatten(1)[:, torch.randperm(schema.n_features, generator=seeded(6))].view_as(held_out)
    samples = density.sample(params[0], 100, seeded(7))
    noise = torch.rand(100, *schema.shape, generator=seeded(8))
    noise = noise if schema.kind == "image" else 8 * noise - 4
    rows = torch.cat([held_out, samples, shuffled, noise])
    scores = density.log_prob(params, rows, noise_for(density, len(rows)))
    data, own, mixed_up, far = scores.view(4, 100).median(1).values.tolist()
    assert data > mixed_up + 1
    assert own > far + 1


def test_more_samples_tighten_the_bound(case):
    density, schema = case
    params = torch.stack([density.init(seeded(k)) for k in range(2)])
    x = random_rows(schema, 200)
    one = density.log_prob(params, x, noise_for(density, 200)).mean(0)
    many = density.log_prob(params, x, noise_for(density, 200, samples=20)).mean(0)
    if density.exact:
        assert torch.equal(one, many)
    else:
        assert bool((many > one - 1e-3).all())


def low(name: str, n_features: int) -> tuple[Density, torch.Tensor]:
    """A density of the table on a few features, fitted to rows of two clumps. Its parameters. [P]"""
    few: dict[str, Any] = {"hidden": 8, "latent": n_features} if name.startswith("vae") else {}
    shared: dict[str, Any] = {"shared": "none"} if name == "vae apart" else {}
    kind = name.removesuffix(" apart")
    density = make_density(DensitySettings(name=kind, **few, **shared), Schema((n_features,), 0, "tabular"))
    draw = seeded(0)
    x = torch.randn(300, n_features, generator=draw) + 2 * (torch.rand(300, 1, generator=draw) < 0.3) - 0.5
    return density, train(density, x, epochs=20)[0]


@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize("name", [*DENSITIES, "vae apart"])
def test_samples_and_scores_are_of_one_distribution_of_mass_one(name, n_features):
    density, params = low(name, n_features)
    assert findings(density, params, n_features) == []


def scaled(density: Density, factor: float) -> Density:
    return replace(density, sample=lambda *given: factor * density.sample(*given))


WRONG: dict[str, tuple[Callable[[Density], Density], str]] = {
    "constant": (lambda d: replace(d, log_prob=lambda *x: d.log_prob(*x) + 0.05), "mass of 1.05"),
    "blind to its generator": (
        lambda d: replace(d, sample=lambda p, n, g: d.sample(p, n, seeded(0))),
        "follow from the generator",
    ),
    "every row twice": (
        lambda d: replace(d, sample=lambda p, n, g: d.sample(p, (n + 1) // 2, g).repeat(2, 1)[:n]),
        "repeat themselves",
    ),
    "another score in small batches": (
        lambda d: replace(d, log_prob=lambda p, x, noise: d.log_prob(p, x, noise) + 0.3 * (len(x) < 50)),
        "the rows beside it",
    ),
    "forgotten half log 2π": (lambda d: replace(d, log_prob=lambda *x: d.log_prob(*x) + 0.92), "mass of 2.5"),
    "temperature": (lambda d: replace(d, log_prob=lambda *x: 1.1 * d.log_prob(*x)), "mass"),
    "wide sampler": (lambda d: scaled(d, 1.1), "another distribution"),
    "narrow sampler": (lambda d: scaled(d, 0.9), "another distribution"),
    "mirrored sampler": (lambda d: scaled(d, -1.0), "another distribution"),
    "shifted sampler": (lambda d: replace(d, sample=lambda *x: d.sample(*x) + 0.1), "other moments"),
    "one row again and again": (
        lambda d: replace(d, sample=lambda p, n, g: d.sample(p, 1, g).repeat(n, 1)),
        "another distribution",
    ),
}
"""Mistakes that a density of the table might have, and what the contract says of them."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", DENSITIES)
def test_a_wrong_density_breaks_the_contract(name, wrong):
    make, told = WRONG[wrong]
    density, params = low(name, 1)
    assert told in " ".join(findings(make(density), params, 1))


@pytest.mark.parametrize("wrong", [0.01, "uniform"])
def test_the_contract_of_an_exact_density_sees_a_hundredth_and_a_shape(wrong):
    density, params = low("gaussian", 2)
    assert findings(density, params, 2) == []
    if wrong == "uniform":
        drawn = density.sample(params, 20_000, seeded(1))
        root = torch.linalg.cholesky(torch.cov(drawn.T))
        uniform = replace(
            density,
            sample=lambda p, n, g: drawn.mean(0) + 3**0.5 * (2 * torch.rand(n, 2, generator=g) - 1) @ root.T,
        )
        assert "another shape" in " ".join(findings(uniform, params, 2))
    else:
        added = replace(density, log_prob=lambda *x: density.log_prob(*x) + wrong)
        assert "mass of 1.010" in " ".join(findings(added, params, 2))


def test_the_elbo_is_exact_where_rows_say_nothing_of_the_code():
    """All weights are 0: q(z|x) is the prior, and p(x) is N(0, 1), or a fair coin for each pixel."""
    table = make_density(DensitySettings(hidden=4, latent=2), Schema((2,), 0, "tabular"))
    x = random_rows(Schema((2,), 0, "tabular"), 50)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    for samples in (1, 7):
        found = table.log_prob(torch.zeros(1, table.size), x, noise_for(table, 50, samples))[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    image = make_density(DensitySettings(hidden=4, latent=2), Schema((1, 2, 2), 0, "image"))
    pixels = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(16, 1, 2, 2)
    found = image.log_prob(torch.zeros(1, image.size), pixels, noise_for(image, 16))[:, 0]
    torch.testing.assert_close(found, torch.full((16,), -4 * math.log(2)))


def test_a_bernoulli_vae_sums_to_one_over_all_pictures_and_draws_their_means():
    density = make_density(DensitySettings(hidden=8, latent=1), Schema((1, 2, 2), 0, "image"))
    params = 3 * torch.randn(density.size, generator=seeded(0)) / 2
    pixels = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(16, 1, 2, 2)
    probability = density.log_prob(params[None], pixels, noise_for(density, 16, samples=20_000))[:, 0].exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=0.03)
    mean = (probability[:, None] * pixels.flatten(1)).sum(0) / probability.sum()
    drawn = density.sample(params, 20_000, seeded(1)).flatten(1).mean(0)
    torch.testing.assert_close(drawn, mean, atol=0.03, rtol=0)


def test_the_gaussian_is_torchs_gaussian():
    density = make_density(DensitySettings(name="gaussian"), TABLE)
    x = random_rows(TABLE, 300)
    params = train(density, x)
    mean, covariance = x.double().mean(0), x.double().T.cov(correction=0)
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double())
    torch.testing.assert_close(
        density.log_prob(params, x, noise_for(density, 300))[:, 0].double(), expected, rtol=1e-4, atol=1e-4
    )
    draws = density.sample(params[0], 20_000, seeded(2)).double()
    torch.testing.assert_close(draws.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), covariance, atol=0.04, rtol=0)


def federation(seed: int, counts: list[int]) -> tuple[Rows, torch.Tensor]:
    draw = seeded(seed)
    clients = [Client(str(i), torch.randn(n, 3, generator=draw) + i) for i, n in enumerate(counts)]
    weights = torch.rand(sum(counts), 2, generator=draw)
    return pack(clients), weights / weights.sum(1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_averaging_moments_by_mass_is_the_pooled_fit(seed, counts):
    density = make_density(DensitySettings(name="gaussian"), TABLE)
    rows, weights = federation(seed, counts)
    local = density.fit(rows.x, weights, rows.client_index, rows.n_clients)  # [C, K, P]
    mass = rows.sum_by_client(weights)  # [C, K]
    averaged = (mass.unsqueeze(-1) * local).sum(0) / mass.sum(0).unsqueeze(-1)
    pooled = density.fit(rows.x, weights, torch.zeros_like(rows.client_index), 1)[0]
    torch.testing.assert_close(averaged, pooled, atol=1e-4, rtol=1e-4)


def test_em_with_the_gaussian_never_lowers_the_likelihood():
    density = make_density(DensitySettings(name="gaussian"), TABLE)
    rows, _ = federation(1, [60, 60, 60])
    params = torch.stack([density.init(seeded(k)) for k in range(2)])
    weights, history = torch.full((2,), 0.5), []
    for _ in range(15):
        joint = density.log_prob(params, rows.x, noise_for(density, len(rows))) + weights.log()
        history.append(float(joint.logsumexp(1).mean()))
        r = joint.softmax(1)
        mass = rows.sum_by_client(r)
        local = density.fit(rows.x, r, rows.client_index, rows.n_clients)
        params = (mass.unsqueeze(-1) * local).sum(0) / mass.sum(0).unsqueeze(-1)
        weights = r.mean(0)
    steps = torch.tensor(history).diff()
    assert bool((steps > -1e-5).all())
    assert history[-1] > history[0] + 0.1


def test_a_client_without_mass_yields_zeros_and_a_constant_feature_meets_the_floor():
    density = make_density(DensitySettings(name="gaussian"), TABLE)
    x = torch.cat([torch.randn(20, 2, generator=seeded(0)), torch.full((20, 1), 0.25)], 1)
    weights = torch.stack([torch.ones(20), torch.zeros(20)], 1)
    params = density.fit(x, weights, torch.zeros(20, dtype=torch.long), 2)
    assert params.shape == (2, 2, density.size)
    assert float(params[0, 1].abs().max()) == float(params[1].abs().max()) == 0.0
    assert float(mean_and_covariance(params[0, :1], 3)[1][0, 2, 2]) < MIN_VARIANCE
    draws = density.sample(params[0, 0], 4000, seeded(1))
    assert float(draws[:, 2].std()) == pytest.approx(math.sqrt(MIN_VARIANCE), rel=0.1)


def test_the_elbo_stays_below_the_true_likelihood_and_comes_close():
    schema = Schema(shape=(1,), n_classes=0, kind="tabular")
    density = make_density(DensitySettings(likelihood="gaussian", hidden=16, latent=1), schema)
    x = 0.5 * torch.randn(2000, 1, generator=seeded(0)) - 1
    params = train(density, x, epochs=20)
    truth = float(torch.distributions.Normal(x.mean(), x.std(correction=0)).log_prob(x).mean())
    elbo = float(density.log_prob(params, x, noise_for(density, len(x))).mean())
    assert truth - 0.2 < elbo < truth + 0.02


def test_the_learnt_scale_has_a_floor():
    schema = Schema(shape=(2,), n_classes=0, kind="tabular")
    density = make_density(DensitySettings(likelihood="gaussian", hidden=8, latent=1), schema)
    params = density.init(seeded(0))[None].clone()
    params[:, -2:] = -100.0
    highest = -2 * math.log(MIN_SCALE * math.sqrt(2 * math.pi))
    assert float(density.log_prob(params, torch.zeros(50, 2), noise_for(density, 50)).max()) <= highest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DensitySettings(name="gausian"), r'density\.name: there is no density "gausian".*"gaussian"'),
        (DensitySettings(architecture="conv", likelihood="gaussian"), r"density\.architecture: .*table.*\"mlp\""),
        (DensitySettings(likelihood="bernoulli"), r"density\.likelihood: .*table.*\"gaussian\""),
        (DensitySettings(name="gaussian", shared="trunk"), r"density\.shared: .*no effect, for a Gaussian"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_explained(config, message):
    with pytest.raises(ConfigError, match=message):
        make_density(config, TABLE)


def test_convolutions_share_no_trunk():
    with pytest.raises(ConfigError, match=r"density\.shared: .*conv.*density\.architecture"):
        make_density(DensitySettings(shared="trunk"), COLOUR)


@pytest.mark.parametrize("schema", [TABLE, IMAGE])
def test_one_network_with_parts_scores_each_row_as_its_component_does(schema):
    """[trunk, part 1, part 2, …] and a component for each row say what whole models say of these rows."""
    density = make_density(DensitySettings(hidden=8, latent=2, shared="trunk"), schema)
    models = torch.stack([density.init(seeded(k)) for k in range(3)])
    models += 0.1 * torch.randn(models.shape, generator=seeded(7))
    trunk = models[0, : density.trunk].clone()
    models[:, : density.trunk] = trunk
    assert 0 < density.trunk < density.size
    x, noise = random_rows(schema, 12), noise_for(density, 12)
    component = torch.arange(12) % 3
    assert density.loss is not None
    assert density.loss_of is not None
    each = density.loss(models, x.expand(3, *x.shape), noise[:, 0].expand(3, -1, -1))  # [K, R]
    joint = torch.cat([trunk, models[:, density.trunk :].flatten()])[None]
    found = density.loss_of(joint, x[None], noise[:, 0][None], component[None])
    torch.testing.assert_close(found[0], each.gather(0, component[None])[0])
    assert len(each.unique()) == each.numel()
    joint = joint.repeat(2, 1).requires_grad_()
    given = x.expand(2, *x.shape), noise[:, 0].expand(2, -1, -1), torch.stack([component, component.flip(0)])
    (expected,) = torch.autograd.grad(density.loss_of(joint, *given).mean(1).sum(), joint)
    written = torch.full_like(joint, torch.nan).detach()
    assert density.gradient_of is not None
    with torch.no_grad():
        density.gradient_of(joint, *given, written)
    torch.testing.assert_close(written, expected, atol=1e-5, rtol=1e-4)


def test_one_network_learns_the_scale_of_each_components_features():
    """Where one component's feature is narrow, the other's is wide: a scale in common would be neither."""
    density = make_density(DensitySettings(hidden=8, latent=1), Schema((2,), 0, "tabular"))
    component, draws = torch.arange(400) % 2, seeded(1)
    spread = torch.tensor([[1.0, 0.2], [0.2, 1.0]])
    x = 3.0 * component[:, None] + spread[component] * torch.randn(400, 2, generator=draws)
    parts = [density.init(seeded(0)), density.init(seeded(2))[density.trunk :]]
    params = torch.cat(parts)[None].requires_grad_()
    adam = torch.optim.Adam([params], lr=0.05)
    assert density.loss_of is not None
    for _ in range(120):
        adam.zero_grad()
        noise = torch.randn(1, 400, density.noise_size, generator=draws)
        density.loss_of(params, x[None], noise, component[None]).mean().backward()
        adam.step()
    trunk, own = params.detach()[0].tensor_split([density.trunk])
    for k, part in enumerate(own.view(2, -1)):
        rows = density.sample(torch.cat([trunk, part]), 4000, seeded(3))
        torch.testing.assert_close(rows.std(0), spread[k], rtol=0.25, atol=0.05)


def test_colour_pictures_get_convolutions_by_default():
    sizes = {
        name: make_density(DensitySettings(architecture=name, hidden=16, latent=4), COLOUR).size
        for name in ("auto", "conv", "mlp")
    }
    assert sizes["auto"] == sizes["conv"] != sizes["mlp"]
    grey = [make_density(DensitySettings(architecture=name, hidden=16), IMAGE).size for name in ("auto", "mlp")]
    assert grey[0] == grey[1]
