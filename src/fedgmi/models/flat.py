"""Models as flat vectors: the parameters of one model are one tensor [P], those of J models one tensor [J, P].

Messages, the server's mean and the optimiser want a flat vector. A model wants views into it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from itertools import groupby
from threading import RLock
from typing import TypeVar

import torch
from torch import Tensor, nn

from fedgmi.errors import FedgmiError, UserError

T = TypeVar("T")
NORMS = nn.modules.batchnorm._NormBase
GLOBAL_DRAWS = RLock()
"""Modules begin by the generator of the whole process. Fits in other threads have to wait while it is borrowed."""
SLOW = "There is a performance drop because we have not yet implemented the batching rule"
"""How torch.vmap's own warning begins. It asks for a report to torch, which is nothing for our users."""


class Layout:
    """Where each named tensor lies in a flat vector.

    Attributes:
        shapes: Shape of each tensor, by name, in order.
        size: P, the length of the vector.

    >>> layout = Layout({"weight": (2, 3), "bias": (2,)})
    >>> layout.size, layout.split(torch.zeros(5, 8))["weight"].shape
    (8, torch.Size([5, 2, 3]))
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    @property
    def layers(self) -> tuple[int, ...]:
        """The lengths of layers: tensors that follow one another and differ by the last part of their names alone.

        Examples:
            >>> Layout({"in.weight": (2, 3), "in.bias": (3,), "out.weight": (3, 1)}).layers
            (9, 3)
        """
        owners = [name.rpartition(".")[0] or name for name in self.shapes]
        by_owner = groupby(zip(owners, self._sizes, strict=True), key=lambda entry: entry[0])
        return tuple(sum(size for _, size in entries) for _, entries in by_owner)

    def split(self, params: Tensor) -> dict[str, Tensor]:
        """Views into flat vectors, by name. Split once a loss: each split costs its gradient a copy.

        Args:
            params: [J, P]

        Returns:
            Tensors [J, *shape], which share their memory with `params`.
        """
        parts = torch.split(params, self._sizes, dim=-1)
        return {
            name: part.view(*params.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The flat vector of one model.

        Args:
            tensors: By name.

        Returns:
            [P]
        """
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """J linear layers at once.

    Weights lie the other way round than in `nn.Linear`, so that their gradient comes out contiguous, without a copy.

    Args:
        x: [J, B, I]
        weight: [J, I, O]
        bias: [J, O]

    Returns:
        [J, B, O]
    """
    return torch.baddbmm(bias.unsqueeze(1), x, weight)


def init_linear(n_in: int, n_out: int, generator: torch.Generator, gain: float = 1.0) -> Tensor:
    """Uniform weights with variance gain²/I (LeCun et al. 1998; gain √2 before ReLU: He et al. 2015).

    Args:
        n_in: I.
        n_out: O.
        generator: Where the draws come from.
        gain: Factor of the standard deviation.

    Returns:
        [I, O]
    """
    bound = gain * math.sqrt(3.0 / n_in)
    return torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator)


class _Call(nn.Module):
    """Lets `functional_call`, which only knows `forward`, reach any method of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, x: Tensor) -> object:
        return getattr(self.module, method)(x)


class FlatModule:
    """An ordinary `nn.Module`, lifted over a leading axis of J jobs and with flat parameters.

    `module(params [J, P], x [J, B, …])` equals calling J copies of the module one after another, each with its own row
    of `params` and of the inputs. Tied parameters count once. Buffers are constants, the same for all jobs. The module
    is in training mode while gradients of its parameters are taken, and in evaluation mode otherwise.

    Attributes:
        layout: Where each parameter of the module lies.
        size: P, the number of parameters.
        packed: Whether `torch.vmap` takes all jobs at once. One that it refuses runs job by job, on copies of its
            inputs, which it may change.
        slow: Whether `torch.vmap` warns that it is slow, which is not shown.

    >>> model = FlatModule(lambda: nn.Linear(4, 2))
    >>> params = torch.stack([model.init(torch.Generator().manual_seed(job)) for job in range(3)])
    >>> model(params, torch.zeros(3, 7, 4)).shape
    torch.Size([3, 7, 2])
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        """Take a module apart.

        Args:
            make: Builds the module, or returns one that is there. It is copied, and stays as it is.

        Raises:
            UserError: The module has running statistics that go on running, or dropout, or it has no parameters.
        """
        self._make: Callable[[], nn.Module] = lambda: own_copy(make)
        with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
            module = self._make()
        _check(module)
        self._templates = {training: _template(module, training) for training in (True, False)}
        self._buffers = {torch.device("cpu"): {name: b.detach() for name, b in _Call(module).named_buffers()}}
        self.layout = Layout({name: tuple(p.shape) for name, p in self._templates[True].named_parameters()})
        self.size = self.layout.size
        self.packed, self.slow = True, False

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh parameters, by the module's own initialisation.

        Args:
            generator: Where the seed comes from. PyTorch's global generator stays as it was.

        Returns:
            [P]
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        with GLOBAL_DRAWS, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.layout.join(dict(_Call(self._make()).named_parameters()))

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """The module's `forward`.

        Args:
            params: [J, P]
            x: [J, B, …]

        Returns:
            [J, B, …]
        """
        return self.call("forward", self.layout.split(params), x)

    def one(
        self, parts: Mapping[str, Tensor], x: Tensor, method: str = "forward", training: bool | None = None
    ) -> Tensor:
        """The module's `forward`, or another method, for one job, without packing.

        Args:
            parts: Its parameters, split.
            x: [B, …]
            method: Its name.
            training: The module's mode. None: training where gradients of the parameters are taken.

        Returns:
            [B, …]
        """
        given = x if self.packed else x.clone()
        template = self._templates[_trains(parts) if training is None else training]
        output: Tensor = torch.func.functional_call(template, self._constants(x.device) | dict(parts), (method, given))
        return output

    def call(self, method: str, parts: Mapping[str, Tensor], x: Tensor, training: bool | None = None) -> Tensor:
        """Any method of the module.

        Args:
            method: Its name.
            parts: Parameters that `layout.split` has split already.
            x: [J, B, …]
            training: As for `one`.

        Returns:
            [J, B, …]
        """
        training = _trains(parts) if training is None else training
        if not self.packed:
            by_job = [{name: part[j] for name, part in parts.items()} for j in range(len(x))]
            return torch.stack([self.one(own, x[j], method, training) for j, own in enumerate(by_job)])
        packed = torch.vmap(lambda own, rows: self.one(own, rows, method, training))
        if not self.slow:
            return packed(dict(parts), x)
        with warnings.catch_warnings():  # not for all modules: what a user's own warns of once would then be repeated
            warnings.filterwarnings("ignore", message=SLOW)
            return packed(dict(parts), x)

    def _constants(self, device: torch.device) -> dict[str, Tensor]:
        """The buffers there, copied once."""
        if device not in self._buffers:
            ours = next(iter(self._buffers.values()))
            self._buffers[device] = {name: buffer.to(device) for name, buffer in ours.items()}
        return self._buffers[device]


def _trains(parts: Mapping[str, Tensor]) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in parts.values())


def _template(module: nn.Module, training: bool) -> _Call:
    """A module without memory for its parameters. Those that were one, tied, are one still: `.to("meta")` would part
    them."""
    empty = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in module.parameters()}
    copied: nn.Module = copy.deepcopy(module, dict(empty))
    return _Call(in_mode(copied, training))


def in_mode(module: nn.Module, training: bool) -> nn.Module:
    """A module brought to one mode. Norms that were given in evaluation mode stay in it: their statistics are
    constants.

    Args:
        module: It is changed.
        training: The mode.

    Returns:
        The same module.
    """
    kept = [part for part in module.modules() if isinstance(part, NORMS) and not part.training]
    module.train(training)
    for part in kept:
        part.eval()
    return module


def told(make: Callable[[], T], where: str) -> T:
    """What a user's function makes. What goes wrong inside is told in our words, and in its own.

    Raises:
        UserError: It raised something, which is the error's cause.
    """
    try:
        return make()
    except FedgmiError:
        raise
    except Exception as error:
        what = f"the function that makes it raised {type(error).__name__}: {error}"
        raise UserError(what, where=where, fix="call it by itself, and mend it there") from error


def own_copy(make: Callable[[], nn.Module]) -> nn.Module:
    """A module's copy in float32, in which models are trained and travel.

    Raises:
        UserError: It is none, cannot be made, or cannot be copied.
    """
    made = told(make, "own model")
    if not isinstance(made, nn.Module):
        raise UserError(f"a {type(made).__name__} is no nn.Module", where="own model", fix="return the module itself")
    if isinstance(made, torch.jit.ScriptModule):
        fix = "give the nn.Module that it was compiled from"
        raise UserError("it is a TorchScript module, whose parameters cannot be exchanged", where="own model", fix=fix)
    empty = [name for name, tensor in (*made.named_parameters(), *made.named_buffers()) if tensor.is_meta]
    if empty:
        what = f"{empty[0]} lies on the device meta, and so has a shape but no values"
        raise UserError(what, where="own model", fix='build the module on the CPU, or call .to_empty(device="cpu")')
    try:
        return copy.deepcopy(made).float()
    except Exception as error:
        what = f"{type(made).__name__} cannot be copied ({type(error).__name__}: {error})"
        raise UserError(what, where="own model", fix="give a function that makes it anew") from error


def _check(module: nn.Module) -> None:
    """Refuse what cannot be averaged over clients or packed over jobs."""
    for name, part in module.named_modules():
        where = f"{type(module).__name__}.{name}" if name else type(module).__name__
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
            raise UserError(
                f"{type(part).__name__} keeps running statistics, which clients with different data do not share",
                where=where,
                fix="use nn.GroupNorm or nn.LayerNorm instead, or call its .eval() to hold its statistics constant",
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise UserError(
                f"{type(part).__name__} draws at random inside the model, so a run could not be repeated",
                where=where,
                fix="remove it or set p=0; regularise with fewer epochs or smaller layers",
            )
    lazy = [name for name, p in module.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise UserError(
            f"the parameter {lazy[0]!r} has no size yet",
            where=type(module).__name__,
            fix="use nn.Linear, nn.Conv2d and the like in place of nn.LazyLinear and others",
        )
    if not any(True for _ in module.parameters()):
        raise UserError("the module has no parameters", where=type(module).__name__, fix="give it layers to train")
