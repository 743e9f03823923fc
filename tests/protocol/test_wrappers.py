"""Every wrapper of the table around every method: the same result, or a refusal before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import gaussian_scenario, make_task
from fedgmi.errors import ConfigError, DivergedError
from fedgmi.methods import METHODS, Method
from fedgmi.protocol.compress import lossless
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.noise import gaussian_noise
from fedgmi.protocol.robust import require_robust, robust
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.secure_sum import masked_sum
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wrapper import Place, Wrapper, check_wrappers
from fedgmi.protocol.wrappers import WRAPPERS
from fedgmi.settings.robust import RobustSettings
from fedgmi.tree import Tree

ROOMY = gaussian_scenario(8, 40, separation=4.0)
N = len(ROOMY.federation.clients)
PLACE = Place(client=1, clients=(0, 1, 2), round=3, number=0, seed=0)


def run(method: Method, *wrappers: Wrapper, rounds: int = 2) -> tuple[Tree, InProcess]:
    transport = InProcess(ROOMY.federation.clients, method.program, wrappers=wrappers)
    start = Progress(method.program.init())
    end = run_rounds(method.name, method.program, transport, start, n_clients=N, rounds=rounds, seed=0)
    return end.server, transport


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """Each method's run without a wrapper, made once."""
    return {}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_wrapped_run_is_the_plain_run(name, wrapper, plain):
    method = METHODS[name](make_task(ROOMY.federation.schema, method=name))
    chosen = WRAPPERS[wrapper]()
    refused = [step.name for step in method.program.all_steps if chosen.refuses(step)]
    assert wrapper != "masked-sum" or refused == [step.name for step in method.program.all_steps if step.single]
    if refused:
        with pytest.raises(ConfigError, match=f"{chosen.name} cannot wrap the step '{refused[0]}' of {name}"):
            run(method, chosen)
        return
    if name not in plain:
        plain[name] = run(method)
    server, transport = run(method, chosen)
    expected, other = plain[name]
    assert server.keys() == expected.keys()
    for leaf, value in expected.items():
        torch.testing.assert_close(server[leaf], value, atol=2e-3, rtol=2e-3, msg=lambda m, n=leaf: f"{n}: {m}")
    for leaf, value in other.states.items():
        torch.testing.assert_close(transport.states[leaf], value, atol=2e-3, rtol=2e-3)


def test_wrappers_go_around_one_another():
    method = METHODS["fedavg"](make_task(ROOMY.federation.schema, method="fedavg"))
    server, transport = run(method, masked_sum(), lossless())
    expected, _ = run(method)
    torch.testing.assert_close(server["expert"], expected["expert"], atol=1e-5, rtol=1e-5)
    assert transport.ledger.totals()[1] > 0


MEDIAN = RobustSettings(aggregation="median")


@pytest.mark.parametrize(
    ("wrappers", "said"),
    [
        ((lossless(), masked_sum()), "masked-sum works on numbers, and what lossless sends"),
        ((lossless(), gaussian_noise(0.5)), "noise works on numbers, and what lossless sends"),
        ((masked_sum(), gaussian_noise(0.5)), "noise works on numbers, and what masked-sum sends"),
        ((masked_sum(), masked_sum()), "masked-sum works on numbers, and what masked-sum sends"),
        ((masked_sum(), robust(MEDIAN)), "robust needs every client's message, and masked-sum shows their sum alone"),
        ((robust(MEDIAN), masked_sum()), "robust needs every client's message, and masked-sum shows their sum alone"),
        ((robust(MEDIAN), robust(MEDIAN)), "both reduce messages"),
    ],
)
def test_wrappers_that_cannot_go_together_are_refused_at_the_start(wrappers, said):
    method = METHODS["fedavg"](make_task(ROOMY.federation.schema, method="fedavg"))
    with pytest.raises(ConfigError, match=said):
        run(method, *wrappers)


def test_robust_means_around_compressed_messages_are_those_of_plain_ones():
    method = METHODS["fedavg"](make_task(ROOMY.federation.schema, method="fedavg"))
    expected, _ = run(method, robust(MEDIAN))
    for wrappers in ((lossless(), robust(MEDIAN)), (robust(MEDIAN), lossless())):
        assert torch.equal(run(method, *wrappers)[0]["expert"], expected["expert"])


@pytest.mark.parametrize("name", ["cfl", "fedgmi"])
def test_noise_refuses_single_replies(name):
    """An index that noise has moved is another client's."""
    method = METHODS[name](make_task(ROOMY.federation.schema, method=name))
    with pytest.raises(ConfigError, match=r"noise cannot wrap the step .* its single replies hold whole numbers"):
        run(method, gaussian_noise(0.01))


def test_noise_leaves_counts_as_they_are():
    counts = Message(sums={"n": torch.tensor([5, 0])})
    assert gaussian_noise(3.0).send(counts, PLACE).sums["n"].tolist() == [5, 0]


def test_the_ledger_holds_what_travels_not_what_was_meant():
    """Zeros compress well: the experts of a model that was never trained."""

    def tell(server: Tree, states: Tree, rows: Any, round: int) -> tuple[Tree, Message]:
        return states, Message(sums={"zeros": torch.zeros(10_000)})

    program = Program(dict, lambda ids: {}, (Step("tell", tell),))
    sizes = []
    for wrappers in ((), (lossless(),)):
        transport = InProcess(ROOMY.federation.clients, program, wrappers=wrappers)
        transport.exchange(program.round[0], {}, range(N), 1)
        sizes.append(transport.ledger.totals()[1])
    assert sizes[0] > N * 40_000 > 100 * N > sizes[1] / 10


def test_noise_that_is_not_zero_shows():
    method = METHODS["fedavg"](make_task(ROOMY.federation.schema, method="fedavg"))
    noisy, _ = run(method, gaussian_noise(50.0), rounds=1)
    again, _ = run(method, gaussian_noise(50.0), rounds=1)
    expected, _ = run(method, rounds=1)
    assert torch.equal(noisy["expert"], again["expert"])
    assert float((noisy["expert"] - expected["expert"]).abs().max()) > 0.01


def test_a_single_masked_message_says_nothing():
    """The same numbers under other masks have nothing in common but their sum."""
    message = Message(sums={"x": torch.full((1000,), 3.0)})
    hidden = masked_sum().send(message, PLACE).sums["x"].double()
    assert float(hidden.abs().median()) > 2.0**60
    other = masked_sum().send(message, Place(1, (0, 1, 2), 4, 0, 0)).sums["x"]
    assert not bool((hidden == other).any())
    whole = sum((masked_sum().send(message, Place(i, (0, 1, 2), 3, 0, 0)) for i in range(3)), Message())
    assert masked_sum().finish(whole, message).sums["x"].tolist() == [9.0] * 1000


def test_numbers_beyond_a_masked_sum_are_told():
    with pytest.raises(DivergedError, match="does not fit into a masked sum"):
        masked_sum().send(Message(sums={"x": torch.tensor(1e12)}), PLACE)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("local", "cfl", "flhc")])
def test_a_median_holds_against_one_that_lies(name):
    """Whatever a method averages, its models stay near those of the honest clients.

    A server whose step is of bounded length shows in its momentum what it was told, and one whose experts are a
    quotient of two means, in the lower one: a factor that both have cancels.
    """
    settings = {"init": "random"} if name == "ifca" else {}
    method = METHODS[name](make_task(ROOMY.federation.schema, 1, method=name, **settings))
    expected, _ = run(method, robust(RobustSettings(aggregation="median")), rounds=1)
    lying = Wrapper("liar", "", send=lambda message, place: _times(message, 1e4) if place.client == 3 else message)
    server, _ = run(method, robust(RobustSettings(aggregation="median")), lying, rounds=1)
    leaf = next((name for name in ("momentum", "gates", "precision") if name in expected), "expert")
    moved = max(float((server[name] - expected[name]).abs().max()) for name in {"expert", leaf})
    assert moved < 0.5
    try:
        fooled, _ = run(method, lying, rounds=1)
    except DivergedError:
        return  # without the median nothing is left
    assert float((fooled[leaf] - expected[leaf]).abs().max()) > 100 * max(moved, 0.01)


def _times(message: Message, factor: float) -> Message:
    from dataclasses import replace

    return replace(
        message, models={name: replace(part, total=factor * part.total) for name, part in message.models.items()}
    )


@pytest.mark.parametrize("name", ["local", "cfl", "flhc"])
def test_methods_that_average_no_sums_refuse_robust_means(name):
    method = METHODS[name](make_task(ROOMY.federation.schema, method=name))
    with pytest.raises(ConfigError, match=f"{name} averages no models"):
        require_robust(method.program, name, RobustSettings(aggregation="median"))


def test_two_rules_for_one_sum_are_refused():
    method = METHODS["fedavg"](make_task(ROOMY.federation.schema, method="fedavg"))
    twice = [robust(RobustSettings(max_norm=1.0))] * 2
    with pytest.raises(ConfigError, match="both reduce messages"):
        check_wrappers("fedavg", method.program, twice)
