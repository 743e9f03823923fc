"""An expert or a density of one's own: a name, a module, or a function. It is copied, and tried before it is used."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedgmi import Federation, FedGMI
from fedgmi.data.rows import Schema
from fedgmi.errors import CheckpointError, ConfigError, FedgmiWarning, UserError
from fedgmi.models.experts import EXPERTS
from fedgmi.models.own import TRIED, expert_from_module, own_density, own_expert
from fedgmi.runs import model_file
from fedgmi.settings.run import DensitySettings, ExpertSettings

TABLE = Schema(shape=(6,), n_classes=4, kind="tabular")


class Counting(nn.Module):
    """It changes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.layer(x)


class Net(nn.Module):
    """A network of a forward function; what it does with the last logits is the case's."""

    def __init__(self, end: Callable[[Any, torch.Tensor], Any] = lambda net, x: x) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(6, 4), end

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self, self.layer(x))


REFUSED = {
    "functional dropout": (lambda: Net(lambda net, x: F.dropout(x, 0.5, net.training)), "draws at random"),
    "noise": (lambda: Net(lambda net, x: x + torch.rand_like(x)), "draws at random"),
    "NumPy's noise": (lambda: Net(lambda net, x: x + float(np.random.default_rng().random())), "draws at random"),
    "batch norm by hand": (lambda: Net(lambda net, x: x - x.mean(0)), "depends on the other rows"),
    "squeeze": (lambda: Net(lambda net, x: x.squeeze()), "depends on the other rows"),
    "batch norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "nn.GroupNorm"),
    "float64 inside": (lambda: Net(lambda net, x: net.layer(x.double())), "float32"),
    "two outputs": (lambda: Net(lambda net, x: (x, x)), "gives a tuple"),
    "the batch in one number": (lambda: Net(lambda net, x: x * x.sum().item()), "depends on the other rows"),
    "no way for gradients": (lambda: Net(lambda net, x: x.detach()), "no gradient comes"),
    "NumPy inside": (lambda: Net(lambda net, x: torch.from_numpy(x.detach().numpy())), "no gradient comes"),
    "a function that fails": (lambda: 1 / 0, r"raised ZeroDivisionError: division by zero"),
    "rows of another width": (lambda: nn.Linear(5, 4), r"fails on 3 rows of shape \(6,\)"),
    "too few logits": (lambda: nn.Linear(6, 3), r"\(3, 3\), not \(3, 4\)"),
    "no module": (lambda: 3, "a int is no nn.Module"),
    "a buffer that changes": (Counting, "expert: the buffer 'seen' changes while the module runs"),
    "running statistics": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Linear(6, 4)
        ),
        "the buffer '1.running_mean' changes",
    ),
    "the device meta": (lambda: nn.Linear(6, 4, device="meta"), "weight lies on the device meta"),
    "noise in training alone": (lambda: Net(lambda net, x: x + torch.rand(4) * net.training), "draws at random"),
    "two shapes": (lambda: Net(lambda net, x: x if net.training else x[:, :3]), "in training mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_an_expert_is_said_in_our_own_words(name):
    make, told = REFUSED[name]
    with pytest.raises(UserError, match=told):
        expert_from_module(make, TABLE)


TAKEN: dict[str, Callable[[], Any]] = {
    "a module": lambda: Net(),
    "a shared module": lambda: (lambda module: lambda: module)(Net()),
    "a class": lambda: Net,
    "a function of nothing": lambda: lambda: nn.Linear(6, 4),
    "a function of the schema": lambda: lambda schema: nn.Linear(schema.n_features, schema.n_classes),
    "a function of settings and schema": lambda: lambda settings, schema: EXPERTS["mlp"](settings, schema),
    "float64": lambda: nn.Linear(6, 4).double(),
    "lazily built": lambda: lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_an_expert(name):
    expert = own_expert(TAKEN[name](), ExpertSettings(hidden=8), TABLE)
    params = torch.stack([expert.init(torch.Generator().manual_seed(k)) for k in range(2)])
    assert params.dtype == torch.float32
    assert expert.log_prob(params, torch.zeros(5, 6)).shape == (5, 2, 4)


def test_a_module_is_copied_and_stays_as_it_is():
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    before = copy.deepcopy(module.state_dict())
    expert = own_expert(module, ExpertSettings(), TABLE)
    first = expert.init(torch.Generator().manual_seed(0))
    for name, value in module.state_dict().items():
        assert (value.device.type, value.dtype) == ("cpu", torch.float64)
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(first[:48].view(8, 6), before["0.weight"].float())  # training starts from its parameters


ENDS = [
    (nn.Softmax(-1), r"sum to one, as after a Softmax.*Likely fix: leave out that last layer"),
    (nn.Sigmoid(), "between 0 and 1, as after a Sigmoid"),
]


@pytest.mark.parametrize(("end", "told"), ENDS, ids=lambda value: type(value).__name__)
def test_probabilities_in_place_of_logits_are_said(end, told):
    (remark,) = expert_from_module(lambda: nn.Sequential(nn.Linear(6, 4), end), TABLE).remarks
    assert re.search(told, remark)


@pytest.mark.parametrize(
    "end", [nn.LogSoftmax(-1), nn.ReLU(), nn.Tanh(), nn.Identity()], ids=lambda end: type(end).__name__
)
def test_logits_of_other_kinds_are_taken_without_a_word(end):
    assert not expert_from_module(lambda: nn.Sequential(nn.Linear(6, 4), end), TABLE).remarks


class Stack(nn.Sequential):
    """A Sequential that makes its own layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


class Residual(Stack):
    """A Sequential that is more than its layers one after another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x[:, :4]


def tied() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Sequential(layer, nn.Tanh()), nn.Sequential(layer, nn.Linear(6, 4)))


@pytest.mark.parametrize(
    ("own", "trunk"), [(Stack, 56), (Stack(), 56), (lambda: Stack(), 56), (Residual, 0), (tied, 0)]
)
def test_a_sequential_has_a_trunk_where_it_is_its_layers_and_no_more(own, trunk):
    expert = own_expert(own, ExpertSettings(), TABLE)
    assert expert.trunk == trunk
    params, x = torch.stack([expert.init(torch.Generator().manual_seed(0))]), torch.randn(1, 5, 6)
    torch.testing.assert_close(expert.heads(params, x).squeeze(2), expert.logits(params, x))


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (nn.Linear, r"expert: Linear wants in_features, out_features.*Likely fix: .*lambda: Linear\(…\)"),
        (lambda schema: nn.Linear(schema.wide, 4), r"raised AttributeError.*wide"),
    ],
)
def test_a_function_that_raises_is_told_with_its_cause(own, told):
    with pytest.raises(UserError, match=told) as found:
        own_expert(own, ExpertSettings(), TABLE)
    assert type(found.value.__cause__) in (TypeError, AttributeError)


def bent(packed: bool) -> nn.Module:
    """Two slopes, by a choice that torch.vmap takes or by one that it refuses."""

    def choose(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if packed:
            return torch.where(x.sum(1, keepdim=True) > 0, x, 2 * x)
        return torch.stack([row if row.sum() > 0 else 2 * row for row in x])

    return Net(choose)


class Spoils(nn.Module):
    """It writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.mul_(2.0))


def test_what_cannot_be_packed_runs_job_by_job_and_is_the_same_model():
    fast, slow = (expert_from_module(lambda packed=packed: bent(packed), TABLE) for packed in (True, False))
    assert not fast.remarks
    assert "does not run under torch.vmap" in slow.remarks[0]
    draw = torch.Generator().manual_seed(0)
    params, x = torch.randn(3, fast.size, generator=draw), torch.randn(3, 5, 6, generator=draw)
    y, weight = torch.randint(4, (3, 5), generator=draw), torch.ones(3, 5, 1)
    torch.testing.assert_close(slow.logits(params, x), fast.logits(params, x))
    out = torch.empty_like(params)
    assert slow.gradient is not None
    slow.gradient(params, x, y, weight, out)
    params.requires_grad_()
    torch.testing.assert_close(out, torch.autograd.grad(fast.loss(params, x, y).mean(1).sum(), params)[0])


def test_a_module_that_writes_over_its_input_leaves_the_rows_alone():
    expert = expert_from_module(Spoils, TABLE)
    x = torch.randn(5, 6)
    before = x.clone()
    expert.log_prob(torch.stack([expert.init(torch.Generator())]), x)
    assert torch.equal(x, before)
    assert expert.remarks


class Laplace(nn.Module):
    """Independent Laplace features."""

    def __init__(self, n_features: int = 2) -> None:
        super().__init__()
        self.centre, self.log_scale = nn.Parameter(torch.randn(n_features)), nn.Parameter(torch.zeros(n_features))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        distance = (x - self.centre).abs() * (-self.log_scale).exp()
        return -(distance + self.log_scale + float(np.log(2))).sum(-1)

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        half = (noise.abs() / 2**0.5).erfc().log()  # of the two tails, from a normal deviate
        return self.centre - noise.sign() * self.log_scale.exp() * half


@pytest.fixture(scope="module")
def clients() -> list[Any]:
    rng = np.random.default_rng(0)
    made = []
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.2):
        kind, x = rng.random(60) < share, rng.normal(size=(60, 2))
        made.append((x + 4 * kind[:, None], (x[:, 0] > 0).astype(int)))
    return made


def quick(**changes: Any) -> FedGMI:
    few = {"method.codewords": 4, "method.kmeans_rounds": 2, "method.calibration_steps": 1, "method.warm_up_rounds": 1}
    return FedGMI(2, rounds=2, epochs=1, settings=few, **changes)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def own(clients) -> FedGMI:
    return quick(expert=linear, density=Laplace).fit(Federation.from_arrays(clients))


def test_the_estimator_takes_them_and_its_answers_come_of_them(own, clients):
    x = clients[0][0]
    assert own.predict(x, client=0).shape == (60,)
    assert own.sample(5, component=1).shape == (5, 2)
    task = own._fitted.setup.task()
    assert (task.expert.name, task.density.name, task.expert.trunk) == ("custom", "custom", 12)
    scale = own._fitted.server["density"]
    assert scale.shape == (2, 4)
    assert not torch.equal(scale[0], scale[1])


class Branches(Laplace):
    """A density that torch.vmap refuses."""

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return super().log_prob(x) if float(self.log_scale.detach().abs().max()) < 50 else x.sum(1)


def test_remarks_are_made_once_a_fit(clients):
    softmax = nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1))
    with pytest.warns(FedgmiWarning) as found:
        quick(expert=softmax, density=Branches).fit(Federation.from_arrays(clients))
    quiet = ("asked for", "rows for validation")
    told = [text for one in found if not any(word in (text := str(one.message)) for word in quiet)]
    assert len(told) == 2
    assert "the density does not run under torch.vmap" in told[0]
    assert "as after a Softmax" in told[1]


def test_a_saved_model_says_at_load_what_it_needs(own, clients, tmp_path):
    own.save(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has an expert of its own \(linear\).*FedGMI\.load\(folder, expert=linear\)"
    ):
        FedGMI.load(tmp_path, density=Laplace)
    with pytest.raises(CheckpointError, match=r"has a density of its own \(Laplace\)"):
        FedGMI.load(tmp_path, expert=linear)
    with pytest.raises(CheckpointError, match="has 22 parameters, and this one has 6"):
        FedGMI.load(tmp_path, expert=lambda: nn.Linear(2, 2), density=Laplace)
    again = FedGMI.load(tmp_path, expert=linear, density=Laplace)
    x = clients[1][0]
    np.testing.assert_array_equal(again.predict_proba(x, client=1), own.predict_proba(x, client=1))


class Negated(nn.Sequential):
    """The parameters of `linear`, and the opposite answers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class Doubled(Laplace):
    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().log_prob(x)


def test_another_model_of_as_many_parameters_is_refused_at_load(own, tmp_path, monkeypatch):
    own.save(tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"on 3 trial rows this expert answers otherwise .*give the expert"):
        FedGMI.load(tmp_path / "new", expert=Negated, density=Laplace)
    with pytest.raises(CheckpointError, match="this density answers otherwise"):
        FedGMI.load(tmp_path / "new", expert=linear, density=Doubled)
    FedGMI.load(tmp_path / "new", expert=linear, density=Laplace)
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "_answers", lambda *_: {})  # as an earlier fedgmi saved
        own.save(tmp_path / "old")
    FedGMI.load(tmp_path / "old", expert=linear, density=Laplace)


def test_a_saved_model_whose_expert_is_not_registered_says_so_at_load(clients, tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERTS, "mine", EXPERTS["mlp"])
    quick(expert="mine").fit(Federation.from_arrays(clients)).save(tmp_path)
    FedGMI.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"leave out density="):
        FedGMI.load(tmp_path, density=Laplace)
    monkeypatch.delitem(EXPERTS, "mine")
    with pytest.raises(CheckpointError, match=r'the model needs what is not here: there is no expert "mine"'):
        FedGMI.load(tmp_path)


def test_no_number_of_components_is_not_three(clients):
    with pytest.raises(ConfigError, match=r'n_components.*or "auto"'):
        FedGMI(None).fit(Federation.from_arrays(clients))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        return noise


@pytest.mark.parametrize(
    ("own", "told"), [(Half, r"log_prob turns 3 rows into \(3, 6\)"), (Net, "no function log_prob")]
)
def test_what_cannot_be_a_density_is_said(own, told):
    with pytest.raises(ConfigError, match=told):
        own_density(own, DensitySettings(), TABLE)


class Modal(nn.Module):
    """Its logits are smaller in evaluation mode. It keeps the modes in which it was called, but for the trial."""

    modes: list[tuple[bool, bool]]  # the module's, and whether gradients were taken

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > TRIED:
            type(self).modes.append((self.training, torch.is_grad_enabled()))
        return self.layer(x) if self.training else self.layer(x) / 10


@pytest.mark.parametrize("given", ["train", "eval"])
def test_a_module_trains_in_training_mode_and_answers_in_evaluation_mode(clients, given):
    Modal.modes = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Modal().train(given == "train")
    estimator = quick(expert=module)
    estimator.fit(Federation.from_arrays(clients))
    assert {mode for mode, taken in Modal.modes if taken} == {True}
    Modal.modes = []
    x, y = clients[0]
    estimator.predict(x, client=0)
    estimator.score(x, y, client=0)
    assert {mode for mode, _ in Modal.modes} == {False}


class Fixed(nn.Module):
    """Columns in another order and scale, by buffers that are constants. The norm keeps its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(6)
        self.norm.running_mean += 2.0
        self.norm.eval()
        self.register_buffer("order", torch.arange(5, -1, -1))
        self.register_buffer("scale", torch.linspace(1.0, 2.0, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x[:, self.order] / self.scale))


def test_buffers_that_do_not_change_are_constants():
    module = Fixed()
    expert = own_expert(module, ExpertSettings(), TABLE)
    assert expert.size == sum(p.numel() for p in module.parameters())
    params, x = expert.init(torch.Generator())[None], torch.randn(1, 5, 6)
    wanted = module(x[0])
    torch.testing.assert_close(expert.logits(params, x)[0], wanted)
    torch.testing.assert_close(expert.logits(params.requires_grad_(), x)[0], wanted)  # in training too


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_script_module_is_refused():
    with pytest.raises(UserError, match=r"TorchScript.*give the nn\.Module"):
        own_expert(torch.jit.script(nn.Linear(6, 4)), ExpertSettings(), TABLE)


def test_an_expert_that_fails_on_real_rows_alone_is_told_as_one(clients):
    def fussy(net: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise ValueError("too many")
        return x

    expert = expert_from_module(lambda: Net(fussy), TABLE)
    params = expert.init(torch.Generator())[None]
    with pytest.raises(UserError, match=r"expert: the module fails on 5 rows of shape \(6,\) \(ValueError: too many\)"):
        expert.log_prob(params, torch.zeros(5, 6))


def test_what_torch_says_of_its_own_vmap_reaches_nobody():
    """Warnings are errors here; and an error would make it run job by job."""
    expert = expert_from_module(lambda: Net(lambda net, x: x.renorm(2, 0, 1.0)), TABLE)
    params = expert.init(torch.Generator())[None]
    assert expert.logits(params, torch.zeros(1, 5, 6)).shape == (1, 5, 4)
    assert not expert.remarks
