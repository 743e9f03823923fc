"""Flat parameters: views, equality with ordinary modules, and what is refused."""

import pytest
import torch
from torch import nn

from fedgmi.errors import UserError
from fedgmi.models.flat import FlatModule, Layout, init_linear, linear


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def copy_of(model: FlatModule, params: torch.Tensor) -> nn.Module:
    module = small()
    parts = {name.removeprefix("module."): part for name, part in model.layout.split(params).items()}
    module.load_state_dict(parts)
    return module


def test_layout_splits_into_views_and_joins_back():
    layout = Layout({"a": (2, 3), "b": (), "c": (4,)})
    params = torch.arange(22.0).view(2, 11)
    parts = layout.split(params)
    assert [tuple(part.shape) for part in parts.values()] == [(2, 2, 3), (2,), (2, 4)]
    assert parts["a"].untyped_storage().data_ptr() == params.untyped_storage().data_ptr()
    assert torch.equal(layout.join({name: part[1] for name, part in parts.items()}), params[1])


def test_lifted_module_equals_its_copies_in_value_and_gradient():
    model = FlatModule(small)
    params = torch.stack([model.init(seeded(job)) for job in range(3)]).requires_grad_()
    x = torch.randn(3, 5, 1, 4, 4, generator=seeded(9))
    packed = model(params, x)
    (gradient,) = torch.autograd.grad(packed.square().sum(), params)
    for job in range(3):
        module = copy_of(model, params[job].detach())
        alone = module(x[job])
        alone.square().sum().backward()
        torch.testing.assert_close(packed[job], alone)
        torch.testing.assert_close(gradient[job], torch.cat([p.grad.flatten() for p in module.parameters()]))


def test_init_depends_on_the_generator_alone_and_leaves_the_global_one_be():
    model = FlatModule(small)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = model.init(seeded(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(first, model.init(seeded(0)))
    assert not torch.equal(first, model.init(seeded(1)))


def test_linear_is_a_stack_of_linear_layers():
    weight, bias = torch.randn(3, 5, 4, generator=seeded(0)), torch.randn(3, 4, generator=seeded(1))
    x = torch.randn(3, 7, 5, generator=seeded(2))
    for job, output in enumerate(linear(x, weight, bias)):
        torch.testing.assert_close(output, nn.functional.linear(x[job], weight[job].T, bias[job]))


def test_init_linear_has_the_stated_variance():
    weight = init_linear(100, 200, seeded(0), gain=2.0)
    assert float(weight.var()) == pytest.approx(4 / 100, rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), r"Sequential\.1: BatchNorm1d .*nn\.GroupNorm"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), r"Sequential\.1: Dropout .*set p=0"),
        (nn.Identity, r"Identity: the module has no parameters"),
    ],
)
def test_refused_modules_are_told_why_and_what_to_do(make, message):
    with pytest.raises(UserError, match=message):
        FlatModule(make)


def test_dropout_that_drops_nothing_is_fine():
    assert FlatModule(lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))).size == 6


def test_tied_parameters_count_once_and_learn_from_both_uses():
    def tied() -> nn.Module:
        layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        layers[2].weight = layers[0].weight
        return layers

    model, module = FlatModule(tied), tied()
    assert model.size == 16 + 4 + 4
    params = torch.cat([p.detach().flatten() for p in module.parameters()])[None].requires_grad_()
    x = torch.randn(1, 5, 4, generator=seeded(0))
    module(x[0]).square().sum().backward()
    (gradient,) = torch.autograd.grad(model(params, x).square().sum(), params)
    torch.testing.assert_close(gradient[0], torch.cat([p.grad.flatten() for p in module.parameters()]))
