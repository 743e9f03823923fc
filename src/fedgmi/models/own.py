"""Models of the user's own: any `nn.Module` as an expert or a density, tried once before anything is trained."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError, FedgmiError, UserError
from fedgmi.models.by_job import wants_loop, write_gradient
from fedgmi.models.density import Density, rows_per_chunk
from fedgmi.models.expert import Expert
from fedgmi.models.flat import GLOBAL_DRAWS, SLOW, FlatModule, in_mode, own_copy, told
from fedgmi.models.memory import ran_out
from fedgmi.settings.run import DensitySettings, ExpertSettings

Own: TypeAlias = nn.Module | Callable[..., Any] | None
"""A module, or a function that makes one: of nothing, of the schema, or of (settings, schema)."""
TRIED = 3  # rows of the trial
OUTPUTS = {
    "classification": "one logit for each of the {} classes",
    "regression": "{} numbers, the mean of the target and the log of its deviation, both for a target of deviation 1",
    "survival": "{} number, the log of the risk",
}
"""What a module of the user's has to end with."""


def own_expert(own: Own, settings: ExpertSettings, schema: Schema) -> Expert:
    """The user's own expert.

    Args:
        own: A module, whose parameters are where training starts. Or a function of nothing, of the schema, or of
            (settings, schema), that makes a module or an `Expert`.
        settings: `expert.*`.
        schema: Of the rows.

    Returns:
        The expert.

    Raises:
        UserError: It cannot be used as one.
    """
    made = _made(own, settings, schema, "expert")
    if isinstance(made, Expert):
        return made
    return expert_from_module(lambda: cast(nn.Module, _made(own, settings, schema, "expert")), schema)


def own_density(own: Own, settings: DensitySettings, schema: Schema) -> Density:
    """The user's own density; arguments as those of `own_expert`, and the module as `density_from_module` wants it."""
    made = _made(own, settings, schema, "density")
    if isinstance(made, Density):
        return made
    return density_from_module(lambda: cast(nn.Module, _made(own, settings, schema, "density")), schema)


def _made(own: Own, settings: object, schema: Schema, where: str) -> object:
    """What was given, or what the function makes."""
    if isinstance(own, nn.Module) or not callable(own):
        return own
    try:
        required = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
    except ValueError:
        return told(own, where)
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    wanted = sum(p.kind in kinds for p in required)
    given = ((), (schema,), (settings, schema))[min(wanted, 2)]
    try:
        return told(partial(own, *given), where)
    except UserError as error:
        if not isinstance(own, type) or not given:
            raise
        names = ", ".join(p.name for p in required if p.kind in kinds)
        raise ConfigError(
            f"{own.__name__} wants {names}, and the schema is all that it is made from ({error.__cause__ or error})",
            where=where,
            fix=f"give a module, or a function that makes one: lambda: {own.__name__}(…)",
        ) from error.__cause__


def expert_from_module(make: Callable[[], nn.Module], schema: Schema, name: str = "custom") -> Expert:
    """Any classifier of the user's.

    Of an `nn.Sequential` the last layer with parameters is the head, and all before it is the trunk that experts share.
    Other modules have no trunk.

    Args:
        make: Builds an `nn.Module` from x [B, *shape] to logits [B, L].
        schema: Of the rows.
        name: For messages.

    Returns:
        The expert. Its remarks say so where its outputs are probabilities rather than logits, and where it runs job by
        job.

    Raises:
        ConfigError: The module's output is not one logit for each class.
        UserError: The module cannot be averaged over clients, or draws at random.

    >>> schema = Schema(shape=(4,), n_classes=3, kind="tabular")
    >>> expert_from_module(lambda: nn.Linear(4, 3), schema).size
    15
    >>> expert_from_module(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), schema).trunk
    40
    """
    make = _sized(make, schema)
    module = FlatModule(make)
    logits = _tried(module, make, "forward", schema, "expert")
    if logits.shape != (TRIED, schema.n_outputs):
        raise ConfigError(
            f"the module turns {TRIED} rows into {tuple(logits.shape)}, not ({TRIED}, {schema.n_outputs})",
            where="expert",
            fix=f"end it with {OUTPUTS[schema.task].format(schema.n_outputs)}",
        )
    remarks = (*_looped(module, "expert"), *_frozen(make, "expert"))
    if bool(((logits >= 0) & (logits <= 1)).all()) and schema.n_classes > 1:
        ends = "sum to one, as after a Softmax" if _sums_to_one(logits) else "lie between 0 and 1, as after a Sigmoid"
        what = f"the outputs of the expert {ends}. They are taken as logits, so it would learn badly"
        remarks = (*remarks, f"{what}. Likely fix: leave out that last layer")
    body, head, loop = _split(make, module)
    trunk = body.size if body else 0
    floats = 32 * schema.n_features + 4096

    def outputs(params: Tensor, x: Tensor) -> Tensor:
        with _failures(x, "expert"):
            return module(params, x)

    def features(params: Tensor, x: Tensor) -> Tensor:
        assert body is not None
        with _failures(x, "expert"):
            return body(params[:, :trunk], x).flatten(2)

    def heads(params: Tensor, x: Tensor) -> Tensor:
        with _failures(x, "expert"):
            return each_head(params, x)

    def each_head(params: Tensor, x: Tensor) -> Tensor:
        inner = body(params[:, :trunk], x) if body else x
        upper = params[:, trunk:].reshape(-1, head.size)  # [J·K, H]
        n_heads = len(upper) // len(params)
        repeated = inner[:, None].expand(-1, n_heads, *inner.shape[1:]).flatten(0, 1)
        return head(upper, repeated).view(len(params), n_heads, len(x[0]), -1).transpose(1, 2)

    def gradient(params: Tensor, x: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
        with _failures(x, "expert"):
            write_gradient(body, head, params, x, y, weight, out)

    return Expert(
        name=name,
        size=module.size,
        n_classes=schema.n_outputs,
        init=module.init,
        logits=outputs,
        heads=heads,
        gradient=gradient if loop else None,
        by_job=loop,
        trunk=trunk,
        features=features if body else None,
        floats_per_row=floats,
        layers=module.layout.layers,
        remarks=remarks,
    )


def density_from_module(make: Callable[[], nn.Module], schema: Schema, name: str = "custom") -> Density:
    """Any density of the user's, trained by gradients.

    Args:
        make: Builds an `nn.Module` with `log_prob(x [B, *shape])` → nats [B], and `sample(noise [n, Z])` → rows
            [n, *shape] from standard normal noise. Z is its `noise_size`, or the number of features.
        schema: Of the rows.
        name: For messages.

    Returns:
        The density, taken as exact.

    Raises:
        ConfigError: One of the two functions is missing, or gives another shape.
        UserError: The module cannot be averaged over clients, or draws at random.
    """
    with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
        there = own_copy(make)
    for method in ("log_prob", "sample"):
        if not callable(getattr(there, method, None)):
            what = f"{type(there).__name__} has no function {method}"
            raise ConfigError(what, where="density", fix="give it log_prob(x) and sample(noise)")
    width, module = int(getattr(there, "noise_size", schema.n_features)), FlatModule(make)
    found = _tried(module, make, "log_prob", schema, "density").shape, _drawn(module, width).shape
    for method, shape, wanted in zip(("log_prob", "sample"), found, ((), schema.shape), strict=True):
        if tuple(shape) != (TRIED, *wanted):
            what = f"{method} turns {TRIED} rows into {tuple(shape)}, not {(TRIED, *wanted)}"
            raise ConfigError(
                what, where="density", fix="log_prob gives a number a row, and sample a row for each noise"
            )

    def log_prob(params: Tensor, x: Tensor) -> Tensor:
        with _failures(x, "density"):
            return module.call("log_prob", module.layout.split(params), x)

    @torch.no_grad()
    def scores(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        parts = [x.new_zeros(0, len(params))]
        for rows in torch.split(x, rows_per_chunk(len(params) * (16 * schema.n_features + 1024))):
            parts.append(log_prob(params, rows.expand(len(params), *rows.shape)).mT)
        return torch.cat(parts)

    @torch.no_grad()
    def sample(params: Tensor, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(1, n, width, generator=generator).to(params)
        return module.call("sample", module.layout.split(params[None]), noise)[0]

    def loss(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        return -log_prob(params, x)

    remarks = (*_looped(module, "density"), *_frozen(make, "density"))
    return Density(
        name, True, module.size, 0, module.init, loss, scores, sample, layers=module.layout.layers, remarks=remarks
    )


def _sized(make: Callable[[], nn.Module], schema: Schema) -> Callable[[], nn.Module]:
    """The same, but layers that learn their sizes from the first rows (`nn.LazyLinear`) have met some."""

    def sized() -> nn.Module:
        module = own_copy(make)
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters()):
            with torch.no_grad():
                told(lambda: module(torch.zeros(TRIED, *schema.shape)), "own model")
        return module

    return sized


def _tried(module: FlatModule, make: Callable[[], nn.Module], method: str, schema: Schema, where: str) -> Tensor:
    """What the module makes of three rows in evaluation mode, once it was seen in both modes to treat each by itself,
    and alike when asked again."""
    draws = torch.Generator().manual_seed(0)
    parts = module.layout.split(module.init(draws)[None])
    x = 3 * torch.randn(1, TRIED, *schema.shape, generator=draws)
    _require_constants(make, method, x[0], where)
    trained, asked = (_alike(module, method, parts, x, where, training) for training in (True, False))
    _require_gradient(module, method, parts, x, where)
    if trained.shape != asked.shape:
        raise UserError(
            f"the module turns {TRIED} rows into {tuple(trained.shape)} in training mode, and into "
            f"{tuple(asked.shape)} in evaluation mode",
            where=where,
            fix="return the same shape in both modes",
        )
    return asked


def _alike(module: FlatModule, method: str, parts: dict[str, Tensor], x: Tensor, where: str, training: bool) -> Tensor:
    """What the module makes of the rows in one mode; refused where asking again, or a row alone, gives another."""
    with torch.no_grad():
        first, again, alone = (_call(module, method, parts, rows, where, training) for rows in (x, x, x[:, :1]))
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise _random(where)
    if first.shape[1:2] != (TRIED,):
        return first[0]
    if alone.shape[2:] != first.shape[2:] or not torch.allclose(alone[0], first[0, :1], atol=1e-4, rtol=1e-3):
        raise UserError(
            "what the module makes of a row depends on the other rows of its batch",
            where=where,
            fix="treat each row by itself: nn.LayerNorm or nn.GroupNorm, no mean over the batch, no squeeze()",
        )
    return first[0]


def _require_constants(make: Callable[[], nn.Module], method: str, x: Tensor, where: str) -> None:
    """Refuse buffers that a pass over rows changes. Those that it leaves alone are constants."""
    for training in (True, False):
        with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
            module = in_mode(own_copy(make), training)
            before = {name: buffer.clone() for name, buffer in module.named_buffers()}
            with suppress(Exception), torch.no_grad():  # what fails is told later
                getattr(module, method)(x.clone())
        after = dict(module.named_buffers())
        for name in dict.fromkeys([*before, *after]):
            if name in before and name in after and _same(before[name], after[name]):
                continue
            raise UserError(
                f"the buffer {name!r} changes while the module runs, and would not be trained or sent",
                where=where,
                fix="make it a constant or a parameter; use nn.GroupNorm or nn.LayerNorm instead of batch norms",
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _drawn(module: FlatModule, width: int) -> Tensor:
    """Three rows that a density's module draws."""
    draws = torch.Generator().manual_seed(0)
    parts = module.layout.split(module.init(draws)[None])
    with torch.no_grad():
        return _call(module, "sample", parts, torch.randn(1, TRIED, width, generator=draws), "density")[0]


def _require_gradient(module: FlatModule, method: str, parts: dict[str, Tensor], x: Tensor, where: str) -> None:
    """Refuse what no gradient passes through."""
    leaves = {name: part.detach().clone().requires_grad_() for name, part in parts.items()}
    try:
        output = module.call(method, leaves, x.clone())
        torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
    except Exception as error:
        what = f"no gradient comes from the module to its parameters ({type(error).__name__}: {error})"
        fix = "compute with torch alone, without .detach(), .numpy(), .item() or torch.no_grad() on the way"
        raise UserError(what, where=where, fix=fix) from error


def _call(
    module: FlatModule, method: str, parts: dict[str, Tensor], x: Tensor, where: str, training: bool = False
) -> Tensor:
    """A module's function; what goes wrong inside is told in our words, and torch's. A module that torch.vmap refuses,
    or that changes its input, is marked as not to be packed, and one for which torch.vmap warns, as slow."""
    given = x.clone()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=SLOW)
            output = module.call(method, parts, given, training)
    except Exception as error:
        if SLOW in str(error):
            module.slow = True
            return _call(module, method, parts, x, where, training)
        if "randomness" in str(error):
            raise _random(where) from error
        if not module.packed:
            raise _failed(error, x, where) from error
        output = None
    if module.packed and (output is None or not torch.equal(given, x)):
        module.packed = False
        return _call(module, method, parts, x, where, training)
    if not isinstance(output, Tensor):
        raise UserError(
            f"the module gives a {type(output).__name__}, not a tensor", where=where, fix="return one tensor"
        )
    return output


@contextmanager
def _failures(x: Tensor, where: str) -> Iterator[None]:
    """Tell in our words, and torch's, where a module fails on real rows [J, B, *shape]."""
    try:
        yield
    except FedgmiError:
        raise
    except Exception as error:
        if ran_out(error):  # training then goes on with fewer jobs
            raise
        raise _failed(error, x, where) from error


def _failed(error: Exception, x: Tensor, where: str) -> UserError:
    what = f"the module fails on {x.shape[1]} rows of shape {tuple(x.shape[2:])} ({type(error).__name__}: {error})"
    return UserError(what, where=where, fix="try it on such rows in float32")


def _random(where: str) -> UserError:
    return UserError(
        "the module draws at random (dropout, for example), so a run could not be repeated",
        where=where,
        fix="leave it out; regularise with fewer epochs or smaller layers",
    )


def _looped(module: FlatModule, kind: str) -> tuple[str, ...]:
    """The remark on a module that is not packed."""
    if module.packed:
        return ()
    why = "it branches on values, calls .item(), changes tensors in place, or the like"
    return (
        f"the {kind} does not run under torch.vmap ({why}), so its models are trained one after another, which is "
        "slower. Likely fix: torch.where in place of such code, or leave it so",
    )


def _frozen(make: Callable[[], nn.Module], kind: str) -> tuple[str, ...]:
    """The remark on parameters that were frozen: they are averaged and trained like all others."""
    with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
        frozen = [name for name, parameter in make().named_parameters() if not parameter.requires_grad]
    if not frozen:
        return ()
    return (f"{', '.join(frozen[:3])} of the {kind}: frozen (requires_grad is False), and trained all the same",)


def _sums_to_one(logits: Tensor) -> bool:
    return torch.allclose(logits.sum(-1), torch.ones(len(logits)), atol=1e-4)


def _split(make: Callable[[], nn.Module], whole: FlatModule) -> tuple[FlatModule | None, FlatModule, bool]:
    """The trunk, the head on it, and whether a CPU does better with one job after another."""
    with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
        layers = make()
    body, head = None, whole
    if isinstance(layers, nn.Sequential) and type(layers).forward is nn.Sequential.forward:
        last = max(i for i, layer in enumerate(layers) if any(True for _ in layer.parameters()))
        if any(True for layer in list(layers)[:last] for _ in layer.parameters()):
            lower, upper = (FlatModule(partial(_layers, make, part)) for part in (slice(last), slice(last, None)))
            if lower.size + upper.size == whole.size:  # else they share parameters, or there are more than the layers'
                body, head = lower, upper
                lower.packed = upper.packed = whole.packed
                lower.slow = upper.slow = whole.slow
    return body, head, wants_loop(layers) or not whole.packed


def _layers(make: Callable[[], nn.Module], part: slice) -> nn.Module:
    """Some layers of a Sequential. A slice of a class of one's own would call its constructor."""
    return nn.Sequential(*list(cast(nn.Sequential, make()))[part])
