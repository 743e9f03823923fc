"""What a run will cost a client, by a rehearsal: the program itself over the in-process transport, on made rows.

Bytes follow from shapes, so a few made clients with a step of training each cost what real ones do. Of rounds that are
alike the first two are rehearsed: the second stands for those that follow. Methods that make clusters are rehearsed for
longer, and each round counts as the dearest. Whatever a step makes anew counts as new,
even where made rows leave it as it was, and no exchange of the preparation is left out on a condition. Turns of judges
that may be left out are not rehearsed. What depends on the data is left: how many words there are, and models that a
client does not hold. The run looks for itself, see `protocol.allowance`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Schema, blank_targets
from fedgmi.methods import Method
from fedgmi.methods.fedgmi.conditions import MIN_CLIENTS, NEEDED_TURNS
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.protocol.allowance import Costs
from fedgmi.protocol.blocks import LINK_HEADER
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Kind, Step, changed, select
from fedgmi.randomness import generator
from fedgmi.runs.setup import Setup, settings_for
from fedgmi.settings.base import MethodSettings
from fedgmi.tree import Tree

ROWS = 2000  # of all made clients together: enough that most words have rows
MODELS: tuple[Kind, ...] = ("density", "expert")
NUDGE = 1e-6  # of a number, so that it is another one
ALIKE = 2  # rounds of those that are alike
GROWING = 8  # rounds of a method that makes clusters, for it makes them in some rounds and in others not
DETAILS = 0.01  # more than a rehearsed exchange: numbers in headers have more digits in a larger federation


def rehearse(setup: Setup, name: str, *, spare: bool = False) -> Costs:
    """What a run costs a client.

    Args:
        setup: Of the run, with what is planned.
        name: The method's.
        spare: Whether what may be left out of the preparation counts, too.

    Returns:
        The costs, rounded up a little.
    """
    own = settings_for(setup.config, name)
    grows = bool(setup.method(name).program.grows)
    short = _shortened(own, setup.config.rounds, spare=spare, kept=GROWING if grows else ALIKE)
    method, transport, server = _run(_short_setup(setup, own, short), name, short.rounds)
    ledger, n_clients = transport.ledger, transport.ledger.n_clients

    def most(round: int) -> int:
        real = int(ledger.by_client(round).sum(1).max())
        # which models clients hold differs more from rows to rows with other methods: all of them are reckoned with
        bound = 0 if isinstance(own, FedGMISettings) or not 1 <= round <= short.rounds else transport.prices[round]
        return int((1 + DETAILS) * max(real, bound)) + 1

    headers = LINK_HEADER * transport.links

    def down(round: int) -> int:
        kinds = ledger.by_kind(round)
        models = sum(kinds.get(kind, (0, 0))[0] for kind in MODELS)
        return int((1 + DETAILS) * models) // n_clients + (headers if models else 0)

    program = method.program

    def up(round: int) -> int:
        return int(ledger.by_client(round)[:, 1].min())

    def read(steps: Sequence[Step]) -> Tree:
        return select(server, [entry for step in steps for entry in step.reads])

    def whole(steps: Sequence[Step]) -> int:
        models = {leaf: value for leaf, value in read(steps).items() if program.kind_of(leaf, "statistics") in MODELS}
        return transport.requests.whole(models)

    rounds = [most(number) for number in short.stands_for]
    return Costs(
        most(0),
        tuple([max(rounds)] * len(rounds) if grows else rounds),  # when clusters are made anew depends on rows
        most(short.rounds + 1),
        down=tuple(down(number) for number in short.stands_for),
        whole=whole(program.round),
        whole_end=whole(program.finish),
        up=tuple(up(number) for number in short.stands_for),
        anew=transport.requests.whole(read(program.round)),
        anew_end=transport.requests.whole(read(program.finish)),
    )


def _short_setup(setup: Setup, own: MethodSettings, short: _Short) -> Setup:
    """The same with few rounds and hardly any training."""
    config = setup.config
    training = config.training.model_copy(update={"epochs": 1, "max_steps": 1, "patience": None})
    update: dict[str, Any] = {"rounds": short.rounds, "training": training}
    if isinstance(config.method, type(own)):
        update["method"] = config.method.model_copy(update=short.settings)
    return replace(setup, config=config.model_copy(update=update))


def _run(setup: Setup, name: str, rounds: int) -> tuple[Method, _Rehearsed, Tree]:
    """All rounds on made rows."""
    method, seed = _always_prepared(setup.method(name)), setup.config.seed
    clients, components = made_clients(setup.schema, setup.n_components, seed)
    held, _ = made_clients(setup.schema, setup.n_components, seed + 1, rows=ROWS // 10)
    true = components if name == "oracle" else None
    transport = _Rehearsed(clients, method.program, components=true, validation=held, coding=setup.coding())
    # components' moves have much in common, which is coded once; spread by itself each would seem too dear
    many = isinstance(settings_for(setup.config, name), FedGMISettings) and setup.n_components > 1
    transport.spread = setup.config.communication.top < 1 and not many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what made rows are like is nobody's concern
        start = Progress(method.program.init())
        end = run_rounds(name, method.program, transport, start, n_clients=len(clients), rounds=rounds, seed=seed)
    return method, transport, end.server


class _Rehearsed(InProcess):
    """What a step makes anew is other bits than before. On real rows it mostly is."""

    _times = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prices = Counter[int]()  # by round, of the dearest client
        self.spread = False  # whether models move in all their entries, for the largest alone travel

    @property
    def links(self) -> int:
        """How many differences a round has at most: a client that missed it is told the name of each."""
        by_round = Counter(link.round for link in (self._chain.links if self._chain else {}).values())
        return max(by_round.values(), default=0)

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """See `Transport.exchange`. What it costs at most is noted before, as the guard asks for it."""
        self.prices[round] += max(self.price(step, server, ids, round).values(), default=0)
        return super().exchange(step, server, ids, round)

    def settle(self, before: Tree, after: Tree, round: int, name: str) -> Tree:
        """See `Transport.settle`."""
        self._times += 1
        made = [leaf for leaf in (changed(before, after) if before else ()) if after[leaf].is_floating_point()]
        models = {leaf for leaf in made if self._program.kind_of(leaf, "statistics") in MODELS}
        new = {leaf: after[leaf] * (1 + NUDGE * self._times) for leaf in made if leaf not in models}
        if self.spread:
            new |= {leaf: self._everywhere(before.get(leaf), after[leaf]) for leaf in models}
        return super().settle(before, dict(after) | new, round, name)

    def _everywhere(self, before: Tensor | None, after: Tensor) -> Tensor:
        """A model that moved as far as it did, in all its entries: on made rows the largest may stand in few blocks."""
        if before is None or before.shape != after.shape:
            return after
        moved = after - before
        draws = torch.randn(after.shape[-1], generator=generator(self._times, "rehearsal"), dtype=torch.float64)
        spread = draws.to(after) * moved.pow(2).mean(-1, keepdim=True).sqrt()
        return before + spread


def _always_prepared(method: Method) -> Method:
    """The method with all exchanges of its preparation, whatever made rows are like."""
    always = {id(step): replace(step, when=None) for step in method.program.prepare}
    prepare = tuple(always[id(step)] for step in method.program.prepare)
    return replace(method, program=replace(method.program, prepare=prepare))


@dataclass(frozen=True)
class _Short:
    """A short run that has rounds of every sort.

    Attributes:
        rounds: How many.
        settings: What its method's settings have in place of theirs.
        stands_for: By round of the long run, the round of the short one that is like it.
    """

    rounds: int
    settings: dict[str, int]
    stands_for: tuple[int, ...]


def _shortened(own: object, rounds: int, *, spare: bool = True, kept: int = ALIKE) -> _Short:
    """Of each stretch of rounds that are alike so many are kept, and of turns of judges those that are needed.

    Examples:
        >>> _shortened(FedGMISettings(warm_up_rounds=4, reference_rounds=5), 7)
        _Short(rounds=5, settings={'warm_up_rounds': 2, 'reference_rounds': 3}, stands_for=(1, 2, 2, 2, 3, 4, 5))
    """
    keys = ("warm_up_rounds", "reference_rounds") if isinstance(own, FedGMISettings) else ()
    ends = {key: min(rounds, int(getattr(own, key) or 0)) for key in keys}
    stands_for: list[int] = []
    settings = dict[str, int]()
    done = 0
    for begin, end in pairwise(sorted({0, rounds, *ends.values()})):
        here = min(kept, end - begin)
        stands_for += [done + min(place + 1, here) for place in range(end - begin)]
        done += here
        settings |= {key: done for key, at in ends.items() if at == end}
    settings |= {key: 0 for key, at in ends.items() if at == 0}
    turns = {"judge_turns": NEEDED_TURNS} if isinstance(own, FedGMISettings) and own.judge_turns > NEEDED_TURNS else {}
    return _Short(done, {key: settings[key] for key in keys} | ({} if spare else turns), tuple(stands_for))


def made_clients(schema: Schema, n_components: int, seed: int, rows: int = ROWS) -> tuple[list[Client], list[Tensor]]:
    """Clients of a mixture of such rows: enough of them for every exchange, with proportions that differ.

    Args:
        schema: What rows look like.
        n_components: K.
        seed: Of the draws.
        rows: Of all together.

    Returns:
        The clients, and the component of each row.
    """
    draws, n_clients = generator(seed, "rehearsal"), max(MIN_CLIENTS, n_components) + 1
    centres = torch.randn(n_components, max(1, schema.n_classes), schema.n_features, generator=draws)
    clients, components = list[Client](), list[Tensor]()
    for i in range(n_clients):
        share = torch.rand(n_components, generator=draws).pow(3) + 0.05
        component = torch.multinomial(share, rows // n_clients, True, generator=draws)
        y = blank_targets(schema, len(component))
        label = torch.randint(0, max(1, schema.n_classes), (len(component),), generator=draws)
        x = centres[component, label] + 0.5 * torch.randn(len(component), schema.n_features, generator=draws)
        if y is not None:
            noise = torch.randn(len(component), generator=draws)
            number = x[:, 0] * (1 - 2 * (component % 2)) + noise
            y = label if schema.task == "classification" else number if schema.task == "regression" else _times(number)
        x = x.sigmoid() if schema.kind == "image" else x
        clients.append(Client(f"made-{i}", x.view(-1, *schema.shape), y))
        components.append(component)
    return clients, components


def _times(number: Tensor) -> Tensor:
    """Times, most of them of events. [n, 2]"""
    return torch.stack([number.clamp(-3, 3).exp(), (torch.arange(len(number)) % 3 > 0).float()], 1)
