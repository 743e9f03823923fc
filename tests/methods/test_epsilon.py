"""`method.epsilon`: what leaves a client, what it keeps, and where there is nothing to add noise to."""

from __future__ import annotations

import pytest
import torch

import tiny
from federations import gaussian_scenario, make_task, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import METHODS, Task
from fedgmi.methods.fedgmi.evidence import raw_words
from fedgmi.methods.fedgmi.sketch import survey_steps
from fedgmi.mixture.codebook import histogram
from fedgmi.mixture.rare_words import merge_words
from fedgmi.runs import cells, config
from fedgmi.runs import diagnose as diagnose_run
from fedgmi.runs.evaluation import proportion_error
from fedgmi.tree import Tree

FEDERATION = gaussian_scenario(10, 60, separation=4.0)
N_WORDS = 5 * 2


def task(epsilon: float | None = 1.0, secret: str | None = None, **settings: object) -> Task:
    made = make_task(FEDERATION.federation.schema, preset="sketch", epsilon=epsilon, **settings)
    return made.replace(secret=secret)


def sent(made: Task) -> torch.Tensor:
    """The histograms that the coordinator receives [C, W]."""
    transport, server = transport_for(METHODS["fedgmi"](made), FEDERATION), {}
    for step in survey_steps(made):
        server = step.server(server, transport.exchange(step, server, range(10), 0), 0)
    return server["sketch/histograms"]


def counted(made: Task, server: Tree) -> torch.Tensor:
    """The histograms as they are [C, W]."""
    rows = pack(FEDERATION.federation.clients)
    return histogram(raw_words(made, server, rows), rows, N_WORDS)


def test_what_leaves_a_client_is_its_histogram_with_noise():
    assert torch.equal(sent(task(None)), sent(task(1000.0)))  # noise of which nothing is left
    exact, noisy = sent(task(None)).double(), sent(task(0.5)).double()
    assert noisy.dtype == exact.dtype
    assert float((noisy - exact).var()) == pytest.approx(7.8, rel=0.6)  # 100 draws of variance 7.8
    assert bool((noisy < 0).any())


def test_without_epsilon_nothing_is_kept_and_nothing_changes():
    server, states, end = run(METHODS["fedgmi"](task(None)), FEDERATION)
    assert "released" not in states
    _, noisy, noisy_end = run(METHODS["fedgmi"](task(1.0)), FEDERATION)
    assert noisy["released"].shape == (10, N_WORDS)
    assert end.bytes_up == noisy_end.bytes_up
    assert server["sketch/topics"].dtype == torch.float64


def test_noise_is_that_of_the_seed_in_simulation():
    assert torch.equal(sent(task()), sent(task()))
    exact, other = sent(task(None, seed=1)), sent(task(seed=1))
    assert not torch.equal(other - exact, sent(task()) - sent(task(None)))


def test_a_site_draws_noise_from_its_secret_and_repeats_itself_only_for_the_same_request():
    noise = {
        name: sent(made) - sent(made.replace(settings=made.settings.model_copy(update={"epsilon": None})))
        for name, made in {
            "seed": task(),
            "mine": task(secret="mine"),
            "mine again": task(secret="mine"),
            "another secret": task(secret="yours"),
            "other words": task(secret="mine", kmeans_rounds=1),
            "another epsilon": task(0.999, secret="mine"),
        }.items()
    }
    assert torch.equal(noise.pop("mine again"), noise["mine"])
    values = list(noise.values())
    assert not any(torch.equal(one, other) for i, one in enumerate(values) for other in values[:i])
    assert "mine" not in repr(task(secret="mine"))


def test_a_client_judges_its_exact_counts_by_topics_without_what_it_sent():
    made = task(0.5)
    method = METHODS["fedgmi"](made)
    transport, server = transport_for(method, FEDERATION), method.program.init()
    for step in method.program.prepare:
        server = step.server(server, transport.exchange(step, server, range(10), 0), 0)
    states, exact = transport.states, counted(made, server)
    assert not torch.equal(states["released"], exact)
    assert torch.equal(states["released"], sent(made))  # a survey of the same words is no second release
    released = merge_words(states["released"].clamp(min=0).double(), server["sketch/word_map"])
    torch.testing.assert_close(states["own_words"].sum(2), released)
    torch.testing.assert_close(server["sketch/topics"].sum(1), released.sum(0))


@pytest.mark.parametrize("preset", ["default", "sketch"])
def test_a_mild_epsilon_costs_next_to_nothing(preset):
    errors = []
    for epsilon in (None, 3.0):
        method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, preset=preset, epsilon=epsilon))
        _, states, _ = run(method, FEDERATION)
        errors.append(proportion_error(method.predictor, states, FEDERATION))
    assert errors[1] == pytest.approx(errors[0], abs=0.03)


def test_noise_that_drowns_the_counts_is_survived_and_told(tmp_path):
    with pytest.warns(FedgmiWarning, match="every client has the pooled proportions"):
        summary = tiny.run(tmp_path / "out", "method.epsilon=1e-6", "method.preset=sketch")
    assert not any(summary["identified"])
    assert len({tuple(each) for each in summary["proportions"]}) == 1
    assert summary["epsilon"] == 1e-6


def test_how_many_components_is_estimated_from_noisy_counts(tmp_path):
    with pytest.warns(FedgmiWarning, match="one component was estimated"):
        summary = tiny.run(tmp_path / "out", "method.epsilon=0.001", "method.n_components=auto")
    assert summary["n_components"] == 1


def test_where_no_histogram_is_sent_epsilon_is_refused():
    with pytest.raises(ConfigError, match=r"method\.epsilon: the preset plain sends no histogram"):
        config.load(None, ["method.preset=plain", "method.epsilon=1"])
    with pytest.raises(ConfigError, match="sends no histogram"):
        METHODS["fedgmi"](make_task(FEDERATION.federation.schema, preset="plain", epsilon=1.0))


@pytest.mark.parametrize("name", ["fedavg", "local"])
def test_epsilon_is_a_setting_of_fedgmi_alone(name):
    with pytest.raises(ConfigError, match=rf"method\.epsilon.* is a setting of fedgmi, and method\.name is {name}"):
        config.load(None, [f"method.name={name}", "method.epsilon=1"])


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "strong"])
def test_epsilon_is_a_positive_number(value):
    with pytest.raises(ConfigError, match=r"method\.epsilon is"):
        config.load(None, [f"method.epsilon={value}"])
    assert config.load(None, ["method.epsilon=1"]).method.epsilon == 1.0
    assert config.load(None, ["method.epsilon="]).method.epsilon is None


def test_a_diagnosis_of_noisy_counts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"method\.epsilon: .*exact counts"):
        diagnose_run.run(tiny.settings("method.epsilon=1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_comparison_keeps_epsilon_for_those_who_send_histograms():
    settings = config.load(None, ["method.epsilon=1"])
    names = ("fedgmi", "fedgmi-sketch", "fedgmi-plain", "fedavg")
    made = {name: cells.cell_config(settings, cells.Cell(name, 0), oracle=False, jobs=1) for name in names}
    kept = {name: cell.method.model_dump().get("epsilon") for name, cell in made.items()}
    assert kept == {"fedgmi": 1.0, "fedgmi-sketch": 1.0, "fedgmi-plain": None, "fedavg": None}


def test_a_noisy_run_is_repeatable_and_says_so(tmp_path):
    first, again = (tiny.run(tmp_path / name, "method.epsilon=3", "rounds=1") for name in ("one", "two"))
    assert tiny.without_seconds(first) == tiny.without_seconds(again)
    assert first["epsilon"] == 3.0
    assert config.load(tmp_path / "one" / "config.toml").method.epsilon == 3.0
