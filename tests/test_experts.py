"""Every expert keeps the contract of `Expert`, and so does a user's own module."""

import pytest
import torch
from torch import nn

from fedgmi.data.rows import Client, Schema, pack
from fedgmi.errors import ConfigError, UserError
from fedgmi.models.expert import Expert, mixture_log_prob
from fedgmi.models.experts import EXPERTS, expert_from_module, make_expert
from fedgmi.models.training import Objective, fit, plan_jobs
from fedgmi.settings.run import ExpertSettings, TrainingSettings

IMAGE = Schema(shape=(1, 8, 8), n_classes=4, kind="image")
ODD = Schema(shape=(3, 13, 9), n_classes=4, kind="image")
TABLE = Schema(shape=(6,), n_classes=4, kind="tabular")
CASES = {
    "mlp": lambda: (make_expert(ExpertSettings(hidden=32), IMAGE), IMAGE),
    "mlp table": lambda: (make_expert(ExpertSettings(hidden=32), TABLE), TABLE),
    "cnn": lambda: (make_expert(ExpertSettings(name="cnn", hidden=32), IMAGE), IMAGE),
    "linear": lambda: (make_expert(ExpertSettings(name="linear"), TABLE), TABLE),
    "linear pictures": lambda: (make_expert(ExpertSettings(name="linear"), IMAGE), IMAGE),
    "cnn odd": lambda: (make_expert(ExpertSettings(name="cnn", hidden=16), ODD), ODD),
    "custom": lambda: (
        expert_from_module(
            lambda: nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4)), TABLE
        ),
        TABLE,
    ),
}
CASES |= {  # a new one needs no line here
    name: lambda name=name: (make_expert(ExpertSettings(name=name, hidden=32), TABLE), TABLE)
    for name in EXPERTS
    if name not in CASES
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=CASES)
def case(request) -> tuple[Expert, Schema]:
    return CASES[request.param]()


def test_every_entry_of_the_table_has_a_case():
    assert set(EXPERTS) <= set(CASES)


def test_shapes_and_normalised_probabilities(case):
    expert, schema = case
    params = torch.stack([expert.init(seeded(k)) for k in range(2)])
    assert params.shape == (2, expert.size)
    assert params.dtype == torch.float32
    assert torch.equal(params[1], expert.init(seeded(1)))
    x = torch.rand(5, *schema.shape, generator=seeded(0))
    log_prob = expert.log_prob(params, x)
    assert log_prob.shape == (5, 2, schema.n_classes)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(5, 2))
    assert expert.log_prob(params, x[:0]).shape == (0, 2, schema.n_classes)


def test_a_mixture_of_experts_is_the_mean_of_their_probabilities(case):
    expert, schema = case
    params = torch.stack([expert.init(seeded(k)) for k in range(3)])
    x = torch.rand(5, *schema.shape, generator=seeded(0))
    gate = torch.rand(5, 3, generator=seeded(1), dtype=torch.float64).softmax(1)
    found = mixture_log_prob(expert, params, x, gate.log())
    assert found.shape == (5, schema.n_classes)
    assert found.dtype == torch.float64
    expected = (gate[:, :, None] * expert.log_prob(params, x).double().exp()).sum(1)
    torch.testing.assert_close(found.exp(), expected)
    alone = mixture_log_prob(expert, params[:1], x, torch.zeros(5, 1))
    assert torch.equal(alone, expert.log_prob(params[:1], x)[:, 0].double())


def test_heads_on_a_trunk_are_experts_whose_lower_layers_agree(case):
    expert, schema = case
    assert 0 < expert.trunk < expert.size or (expert.name == "linear" and expert.trunk == 0)
    params = torch.stack([expert.init(seeded(k)) for k in range(6)]).view(2, 3, -1)  # [J, K, P]
    params[:, :, : expert.trunk] = params[:, :1, : expert.trunk]
    x = torch.rand(2, 5, *schema.shape, generator=seeded(0))
    joint = torch.cat([params[:, 0, : expert.trunk], params[:, :, expert.trunk :].flatten(1)], 1)
    assert joint.shape == (2, expert.numbers(3))
    apart = torch.stack([expert.logits(params[:, k], x) for k in range(3)], 2)
    torch.testing.assert_close(expert.heads(joint, x), apart)


def test_features_are_what_the_last_layer_is_given(case):
    """A linear layer on them gives the logits, and it is the part of the parameters above the trunk."""
    expert, schema = case
    if expert.name == "linear":
        assert expert.features is None  # all of it is the last layer
        return
    params = torch.stack([expert.init(seeded(k)) for k in range(2)])
    x = torch.rand(2, 5, *schema.shape, generator=seeded(0))
    features = expert.features(params, x)
    upper, bias = params[:, expert.trunk :].split([expert.size - expert.trunk - 4, 4], 1)
    by_row = upper.view(2, features.shape[2], 4), upper.view(2, 4, features.shape[2]).mT  # ours, and nn.Linear's
    logits = [features @ weight + bias[:, None] for weight in by_row]
    assert any(torch.allclose(found, expert.logits(params, x), atol=1e-5) for found in logits)


def test_experts_that_share_nothing_have_no_trunk():
    for name in EXPERTS:
        expert = make_expert(ExpertSettings(name=name, shared="none"), IMAGE)
        assert expert.trunk == 0
        assert expert.numbers(3) == 3 * expert.size


@pytest.mark.parametrize(("schema", "name"), [(IMAGE, "mlp"), (TABLE, "mlp"), (ODD, "cnn")])
def test_colour_pictures_get_convolutions_by_default(schema, name):
    assert make_expert(ExpertSettings(), schema).name == name


def test_a_linear_expert_is_the_logistic_regression_of_its_rows():
    """Trained to the end without noise it is scikit-learn's, unregularised."""
    from sklearn.linear_model import LogisticRegression

    draw = seeded(3)
    x = torch.randn(120, 6, generator=draw)
    y = (x[:, :4] + 1.5 * torch.randn(120, 4, generator=draw)).argmax(1)
    rows, expert = pack([Client("a", x, y)]), make_expert(ExpertSettings(name="linear"), TABLE)
    jobs = plan_jobs(torch.ones(120, 1), rows.client_index, epochs=600, batch_size=120)
    params = fit(
        Objective(lambda p, batch: expert.loss(p, batch.x, batch.y)),
        expert.init(seeded(0))[None], jobs, rows,
        settings=TrainingSettings(batch_size=120, optimizer="sgd"), lr=1.0, key=(0,),
    )  # fmt: skip
    reference = LogisticRegression(C=1e8, max_iter=1000, tol=1e-8).fit(x.numpy(), y.numpy())
    expected = torch.from_numpy(reference.predict_proba(x.numpy())).float()
    torch.testing.assert_close(expert.log_prob(params, x)[:, 0].exp(), expected, atol=2e-3, rtol=0)


def test_a_module_of_unknown_inside_has_no_trunk():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    expert = expert_from_module(Net, TABLE)
    params, x = torch.stack([expert.init(seeded(k)) for k in range(2)]), torch.rand(1, 5, 6, generator=seeded(0))
    apart = torch.stack([expert.logits(params[k : k + 1], x) for k in range(2)], 2)
    assert (expert.trunk, expert.features) == (0, None)
    torch.testing.assert_close(expert.heads(params.view(1, -1), x), apart)


def test_loss_is_the_cross_entropy_of_the_label_and_its_gradient_is_finite(case, monkeypatch):
    expert, schema = case
    params = torch.stack([expert.init(seeded(k)) for k in range(2)]).requires_grad_()
    x = torch.rand(5, *schema.shape, generator=seeded(0))
    y = torch.tensor([0, 1, 2, 3, 0])
    value = expert.loss(params, x.expand(2, *x.shape), y.expand(2, -1))
    monkeypatch.setattr("fedgmi.models.density.CHUNK_BYTES", 1)  # row by row
    expected = -expert.log_prob(params, x)[torch.arange(5), :, y].T
    torch.testing.assert_close(value.detach(), expected)
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.abs().sum(1).gt(0).all())


def test_a_gradient_that_is_written_out_is_autograds(case):
    expert, schema = case
    if expert.gradient is None:
        pytest.skip("autograd finds it")
    n_jobs, n_heads, upper = 3, 2, expert.size - expert.trunk
    params = torch.randn(n_jobs, expert.trunk + n_heads * upper, generator=seeded(0)).mul_(0.1).requires_grad_()
    x, y = torch.rand(n_jobs, 5, *schema.shape, generator=seeded(1)), torch.randint(4, (n_jobs, 5), generator=seeded(2))
    weight = torch.rand(n_jobs, 5, n_heads, generator=seeded(3))
    logs = expert.heads(params, x).log_softmax(-1)
    loss = -(weight * logs.gather(3, y[:, :, None, None].expand(-1, -1, n_heads, 1)).squeeze(3)).sum(2)
    (expected,) = torch.autograd.grad(loss.mean(1).sum(), params)
    found = torch.full_like(params, torch.nan).detach()
    with torch.no_grad():
        expert.gradient(params, x, y, weight, found)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_packed_experts_learn_their_own_labels(case):
    expert, schema = case
    draw = seeded(1)
    y = torch.randint(4, (200,), generator=draw)
    x = 0.3 * torch.rand(200, *schema.shape, generator=draw)
    x.view(200, -1)[torch.arange(200), y] += 1.0
    rows = pack([Client("a", x[:100], y[:100]), Client("b", x[100:], (y[100:] + 1) % 4)])
    jobs = plan_jobs(torch.ones(200, 1), rows.client_index, epochs=40, batch_size=20)
    start = expert.init(seeded(0)).expand(2, -1)
    params = fit(
        Objective(lambda p, batch: expert.loss(p, batch.x, batch.y)),
        start, jobs, rows, settings=TrainingSettings(batch_size=20), lr=3e-3, key=(0,),
    )  # fmt: skip
    guess = expert.log_prob(params, x).argmax(-1)
    assert float((guess[:100, 0] == rows.y[:100]).float().mean()) > 0.95
    assert float((guess[100:, 1] == rows.y[100:]).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_expert(ExpertSettings(name="mpl"), IMAGE), r'expert\.name: there is no expert "mpl".*"mlp"'),
        (lambda: make_expert(ExpertSettings(name="linear", hidden=9), TABLE), r"expert\.hidden: .*no hidden layer"),
        (lambda: make_expert(ExpertSettings(name="cnn"), TABLE), r"expert\.name: .*table.*\"mlp\""),
        (lambda: expert_from_module(lambda: nn.Linear(6, 3), TABLE), r"expert: .*\(3, 3\), not \(3, 4\).*4 classes"),
    ],
)
def test_what_cannot_be_an_expert_is_explained(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_batch_norm_is_refused_with_the_alternative():
    with pytest.raises(UserError, match="GroupNorm"):
        expert_from_module(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), TABLE)
