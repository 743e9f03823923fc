"""What a run will cost a client, by a rehearsal: the program itself over the in-process transport, on made rows.

Bytes follow from shapes, so a few made clients with a step of training each cost what real ones do. Of rounds that are
alike the first two are rehearsed: the second stands for those that follow. What depends on the data is left: how many
words there are, and models that a client does not hold. The run compares, see `protocol.allowance`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Schema, blank_targets
from fedgmi.methods.fedgmi.schedule import MIN_CLIENTS
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.randomness import generator
from fedgmi.runs.setup import Setup, settings_for

ROWS = 2000  # of all made clients together: enough that most words have rows
DETAILS = 0.01  # more than a rehearsed exchange: numbers in headers have more digits in a larger federation


@dataclass(frozen=True)
class Costs:
    """Bytes down and up of one client.

    Attributes:
        prepare: Before the first round.
        rounds: Of each round, for a client that takes part in all.
        finish: After the last round.
        whole: Of models that travel whole, to a client that has missed rounds: at most.
        down: Of a round's models as differences: at least.
    """

    prepare: int
    rounds: tuple[int, ...]
    finish: int
    whole: int = 0
    down: int = 0

    @property
    def total(self) -> int:
        """Of a client that takes part in all rounds."""
        return self.prepare + sum(self.rounds) + self.finish

    def of(self, asked: list[int]) -> int:
        """Of a client that takes part in some rounds; what it misses it is sent later, as differences or whole.

        Args:
            asked: The rounds, in ascending order.

        Returns:
            Bytes.

        Examples:
            >>> Costs(10, (5, 5, 5), 7, whole=4, down=3).of([1, 3])
            31
        """
        missed = [later - earlier - 1 for earlier, later in pairwise([0, *asked, len(self.rounds) + 1])]
        late = sum(min(gap * self.down, self.whole) for gap in missed)
        return self.prepare + sum(self.rounds[number - 1] for number in asked) + self.finish + late


def rehearse(setup: Setup, name: str, *, patient: bool = False) -> Costs:
    """What a run costs a client.

    Args:
        setup: Of the run, with what is planned.
        name: The method's.

    Returns:
        The costs, rounded up a little.
    """
    config = setup.config
    own = settings_for(config, name)
    short = _shortened(own, config.rounds)
    training = config.training.model_copy(update={"epochs": 1, "max_steps": 1, "patience": None})
    method_settings = own.model_copy(update=short.settings)
    if name != config.method.name:  # of a bound, which has the settings of its kind
        method_settings = config.method if not isinstance(config.method, type(own)) else method_settings
    tried = replace(
        setup, config=config.model_copy(update={"rounds": short.rounds, "training": training, "method": method_settings})
    )
    method = tried.method(name)
    clients, components = made_clients(setup.schema, setup.n_components, setup.config.seed)
    held, of_held = made_clients(setup.schema, setup.n_components, setup.config.seed + 1, rows=200)
    transport = InProcess(
        clients,
        method.program,
        components=components if name == "oracle" else None,
        validation=held,
        coding=tried.coding(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what made rows are like is nobody's concern
        run_rounds(
            name,
            method.program,
            transport,
            Progress(method.program.init()),
            n_clients=len(clients),
            rounds=short.rounds,
            seed=config.seed,
        )
    ledger = transport.ledger

    def most(round: int) -> int:
        return int((1 + DETAILS) * int(ledger.by_client(round).sum(1).max())) + 1

    rounds = tuple(most(number) for number in short.stands_for)
    models = [ledger.by_kind(number) for number in range(1, short.rounds + 1)]
    down = [sum(each.get(kind, (0, 0))[0] for kind in ("density", "expert")) // len(clients) for each in models]
    return Costs(most(0), rounds, most(short.rounds + 1), whole=whole_models(method.program.init()), down=down[-1])


def whole_models(server: dict[str, Tensor]) -> int:
    """Bytes of all models in a server's state, in float32."""
    return sum(leaf.nbytes for leaf in server.values() if leaf.dtype == torch.float32 and leaf.ndim == 2)


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


def _shortened(own: object, rounds: int) -> _Short:
    """Of each stretch of rounds that are alike two are kept.

    Examples:
        >>> _shortened(FedGMISettings(warm_up_rounds=5, reference_rounds=7), 10)
        _Short(rounds=6, settings={'warm_up_rounds': 2, 'reference_rounds': 4}, stands_for=(1, 2, 2, 2, 2, 3, 4, 5, 6, 6))
    """
    keys = ("warm_up_rounds", "reference_rounds") if isinstance(own, FedGMISettings) else ()
    ends = {key: min(rounds, int(getattr(own, key) or 0)) for key in keys}
    stands_for: list[int] = []
    settings = dict[str, int]()
    done = 0
    for begin, end in pairwise(sorted({0, rounds, *ends.values()})):
        kept = min(2, end - begin)
        stands_for += [done + min(place + 1, kept) for place in range(end - begin)]
        done += kept
        settings |= {key: done for key, at in ends.items() if at == end}
    settings |= {key: 0 for key, at in ends.items() if at == 0}
    return _Short(done, {key: settings[key] for key in keys}, tuple(stands_for))


def made_clients(
    schema: Schema, n_components: int, seed: int, rows: int = ROWS
) -> tuple[list[Client], list[Tensor]]:
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
