"""Every setting has an effect, or is refused: nothing that a user writes is ignored in silence.

`SWEEP` has a line for every setting. A new setting without one fails `test_every_setting_has_a_line`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from fedgmi import Federation, FedGMI
from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import ConfigError, FedgmiWarning, UserError
from fedgmi.methods import BOUNDS, METHODS
from fedgmi.methods.fedgmi.settings import FedGMISettings, settle
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.runs import config, experiment
from fedgmi.runs.cells import Cell, cell_config
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup, choose_device, losses_of
from fedgmi.settings.base import MethodSettings
from fedgmi.settings.explain import dotted_keys
from fedgmi.storage import folder

BASE = (
    "scenario.name=gaussian",
    "scenario.n_clients=6",
    "scenario.rows_per_client=30",
    "scenario.separation=6.0",
    "rounds=2",
    "density.hidden=8",
    "density.latent=2",
    "expert.hidden=8",
    "training.epochs=1",
    "training.batch_size=10",
)
"""A small run; a line's own overrides come after it."""
FEW = (
    "method.codewords=5",
    "method.kmeans_rounds=2",
    "method.calibration_steps=2",
    "method.judge_turns=2",
    "method.warm_up_rounds=1",
)
"""Of fedgmi."""
DIGITS = ("scenario.name=rotation", "scenario.separation=3.0")
"""Pictures in place of Gaussian rows."""


# --- where an effect shows ------------------------------------------------------------------------------------------


def federation(settings: Config) -> Any:
    """Who holds which rows, and the truth."""
    built = build_scenario(settings.data, settings.scenario, settings.seed)
    groups = built.federation.clients, built.federation.validation, built.federation.held_out
    rows = [(client.name, digest(client.x), digest(client.y)) for group in groups for client in group]
    return built.federation.schema, rows, None if built.truth is None else digest(built.truth.drawn)


def models(settings: Config) -> Any:
    """The models that are trained: how they are made, and what they say of rows."""
    built = build_scenario(settings.data, settings.scenario, settings.seed)
    task = Setup(settings, built.federation.schema, 2).task()
    draws = torch.Generator().manual_seed(0)
    density, x = task.density.init(draws)[None], built.federation.clients[0].x[:5]
    noise = torch.randn(5, 1, task.density.noise_size, generator=torch.Generator().manual_seed(1))
    score, expert = task.density.log_prob(density, x, noise), task.expert.init(draws)[None]
    return digest(score), digest(task.expert.log_prob(expert, x)), task.expert.trunk


def run(settings: Config) -> Any:
    """Where a run ends: the server's state, the clients', and the bytes."""
    built = build_scenario(settings.data, settings.scenario, settings.seed)
    clients, schema = built.federation.clients, built.federation.schema
    k = settings.method.n_components or settings.scenario.n_components
    scale = wants_scale(settings.data, settings.scenario, schema)
    method = Setup(settings, schema, int(k) if METHODS[settings.method.name].has_components else 1, scale).method()
    coding, losses = Setup(settings, schema, 1, scale).coding(), losses_of(settings, method)
    validation = built.federation.validation
    transport = InProcess(clients, method.program, validation=validation, coding=coding, losses=losses)
    end = run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=len(clients),
        rounds=settings.rounds,
        participation=settings.method.participation,
        seed=settings.seed,
    )
    ends = {name: digest(leaf) for name, leaf in (*end.server.items(), *transport.states.items())}
    return ends, end.bytes_down, end.bytes_up


def outcome(settings: Config, out: Path) -> Any:
    """What a whole run leaves in its results folder."""
    summary = experiment.run(settings, out)
    return tiny.without_seconds(summary), len((out / folder.RECORDS).read_text().splitlines())


def digest(value: torch.Tensor | None) -> Any:
    return None if value is None else (tuple(value.shape), value.numpy().tobytes())


# --- the sweep ------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A setting's line: its other value, where that shows, and what else is set.

    Attributes:
        value: As behind `--set`.
        where: A function (settings) → what can be compared; or text: the message by which it is refused.
        base: Further overrides, of both runs. "{table}" and "{pictures}" stand for folders with data.
    """

    value: str
    where: Callable[..., Any] | str
    base: tuple[str, ...] = ()


TABLE = ("data.path={table}", "scenario.name=by-column", "scenario.client_column=ward", "scenario.separation=3.0")
TABLE = (*TABLE, "scenario.n_clients=", "scenario.rows_per_client=")
PICTURES = ("data.path={pictures}", *TABLE[1:])
PRIVATE = ("method.name=fedavg", "evaluation.local=false")
RANGED = (*TABLE, *PRIVATE, "privacy.clip=1", "privacy.noise_multiplier=0.1", "data.feature_columns=['age']")
SWEEP: dict[str, Line] = {
    "seed": Line("1", federation),
    "rounds": Line("1", run, FEW[:4]),
    "device": Line("cuda", lambda c: (c.device, choose_device(c.device)) if torch.cuda.is_available() else c.device),
    "threads": Line("1", lambda c: c.threads),  # tests/test_experiment.py has what comes of it
    "data.path": Line("{other}", federation, TABLE),
    "data.task": Line("regression", federation, TABLE),
    "data.event_column": Line(
        "label", federation, (*TABLE, "data.task=survival", "data.label_column=days", "data.event_column=late")
    ),
    "data.train_split": Line("test", federation, TABLE),
    "data.test_split": Line("", federation, TABLE),
    "data.image_column": Line("second", federation, PICTURES),
    "data.label_column": Line("other", federation, TABLE),
    "data.feature_columns": Line("['age']", federation, TABLE),
    "data.invert": Line("true", federation, DIGITS),
    "data.crop": Line("1", federation, DIGITS),
    "data.size": Line("6", federation, DIGITS),
    "data.max_rows": Line("150", federation, TABLE),
    "data.ranges": Line("{age=[-9, 9]}", outcome, (*RANGED, "data.ranges={age=[-5, 5]}")),
    "data.standardise": Line("true", run, FEW),
    "data.missing": Line("indicator", federation, ("data.path={table_of_gaps}", *TABLE[1:], "data.missing=mean")),
    "data.missing_values": Line("['']", federation, ("data.path={table_of_gaps}", *TABLE[1:], "data.missing=mean")),
    "scenario.name": Line("label-swap", federation, DIGITS),
    "scenario.n_clients": Line("5", federation),
    "scenario.rows_per_client": Line("20", federation),
    "scenario.alpha": Line("1.0", federation),
    "scenario.n_components": Line("2", federation),
    "scenario.labels_per_component": Line("2", federation, (*DIGITS, "scenario.name=labels")),
    "scenario.size_ratio": Line("4.0", federation),
    "scenario.held_out_rows": Line("7", federation),
    "scenario.client_column": Line("doctor", federation, TABLE),
    "scenario.min_rows": Line(
        "40", lambda c: c.scenario.min_rows, TABLE
    ),  # tests/data/test_scenarios.py has what comes of it
    "scenario.validation_share": Line("0.0", federation, TABLE),
    "scenario.n_features": Line("4", federation),
    "scenario.separation": Line("1.0", federation),
    "method.name": Line("fedem", run),
    "method.n_components": Line("2", run, FEW),
    "method.participation": Line("0.5", run, FEW),
    "density.name": Line("gaussian", models, ("density.hidden=256", "density.latent=16")),
    "density.architecture": Line("conv", models, DIGITS),
    "density.likelihood": Line("gaussian", models, DIGITS),
    "density.shared": Line("none", models),
    "density.hidden": Line("4", models),
    "density.latent": Line("3", models),
    "expert.name": Line("cnn", models, DIGITS),
    "expert.hidden": Line("4", models),
    "expert.shared": Line("none", run, FEW),
    "training.epochs": Line("2", run, ("method.name=fedavg",)),
    "training.batch_size": Line("5", run, ("method.name=fedavg",)),
    "training.lr": Line("1e-2", run, ("method.name=fedavg",)),
    "training.max_steps": Line("1", run, ("method.name=fedavg",)),
    "training.optimizer": Line("sgd", run, ("method.name=fedavg",)),
    "training.stragglers": Line("0.9", run, ("method.name=fedavg", "training.batch_size=5")),
    "training.patience": Line("1", outcome, ("method.name=fedavg", "training.lr=1.0", "rounds=4")),
    "privacy.clip": Line("0.5", outcome, (*PRIVATE, "privacy.clip=1", "privacy.noise_multiplier=0.1")),
    "privacy.noise_multiplier": Line("0.2", outcome, (*PRIVATE, "privacy.clip=1", "privacy.noise_multiplier=0.1")),
    "privacy.epsilon": Line("2", outcome, (*PRIVATE, "privacy.clip=1", "privacy.epsilon=1")),
    "privacy.delta": Line("1e-3", outcome, (*PRIVATE, "privacy.clip=1", "privacy.epsilon=1")),
    "privacy.unit": Line(
        "rows",
        outcome,
        (*PRIVATE, "privacy.clip=1", "privacy.epsilon=1", "training.optimizer=sgd", "training.batch_size=100001"),
    ),
    "communication.lost": Line("0.5", run, FEW),
    "evaluation.fedavg": Line("false", outcome, FEW),
    "evaluation.local": Line("false", outcome, FEW),
    "evaluation.oracle": Line("false", outcome, FEW),
    "evaluation.unseen_clients": Line("0.3", outcome, ("method.name=fedavg",)),
    "communication.precision": Line("4", run, ("method.name=fedavg",)),
    "communication.top": Line("0.5", run, ("method.name=fedavg",)),
    "communication.mask": Line("0.5", run, ("method.name=fedavg",)),
    "communication.layers": Line("0.5", run, ("method.name=fedavg",)),
    "communication.mb_per_client": Line("0.5", outcome, ("method.name=fedavg",)),
    "communication.mb_per_client_round": Line("0.5", outcome, ("method.name=fedavg",)),
    "communication.secure": Line("masks", run, ("method.name=fedavg",)),
    "evaluation.metric": Line("log_loss", outcome, ("method.name=fedavg", "training.lr=[1e-1, 1e-3]")),
    "compare": Line("{ditto={mu=0.1}}", "for `fedgmi compare` alone"),
    "fedgmi.preset": Line("sketch", run, ("method.codewords=5",)),
    "fedgmi.codewords": Line("8", run, FEW),
    "fedgmi.projection": Line("2", run, FEW),
    "fedgmi.judges": Line("density", run, (*FEW[:3], *FEW[4:])),  # without turns
    "fedgmi.judge_turns": Line("2", run, (*FEW, "method.judges=closed", "method.judge_turns=1")),
    "fedgmi.kmeans_rounds": Line("1", run, FEW),
    "fedgmi.calibration_steps": Line("1", run, FEW),
    "fedgmi.warm_up_rounds": Line("2", run, FEW),
    "fedgmi.reference_rounds": Line("1", run, FEW),
    "fedgmi.elbo_samples": Line("3", run, FEW),
    "fedgmi.personal": Line("false", run, FEW),
    "fedgmi.epsilon": Line("1.0", run, FEW),
    "fedavg.personal": Line("true", run),
    "fedprox.personal": Line("true", run),
    "fedprox.mu": Line("1.0", run),
    "fedavg-ft.passes": Line("[1]", run),
    "fedavg-ft.rates": Line("[0.1]", run),
    "fedprox-ft.passes": Line("[1]", run),
    "fedprox-ft.rates": Line("[0.1]", run),
    "fedprox-ft.mu": Line("1.0", run),
    "scaffold.personal": Line("true", run),
    "fedadam.personal": Line("true", run),
    "fedyogi.personal": Line("true", run),
    "fedadagrad.personal": Line("true", run),
    "fedadam.server_lr": Line("0.1", run),
    "fedadam.beta_1": Line("0.5", run),
    "fedadam.beta_2": Line("0.5", run),
    "fedadam.tau": Line("1.0", run),
    "fedyogi.server_lr": Line("0.1", run),
    "fedyogi.beta_1": Line("0.5", run),
    "fedyogi.beta_2": Line("0.5", run),
    "fedyogi.tau": Line("1.0", run),
    "fedadagrad.server_lr": Line("0.01", run),
    "fedadagrad.beta_1": Line("0.5", run),
    "fedadagrad.tau": Line("1.0", run),
    "ditto.mu": Line("0.1", run),
    "apfl.alpha": Line("0.1", run),
    "apfl.alpha_rate": Line("5.0", run),
    "pfedme.strength": Line("1.0", run),
    "pfedme.inner_steps": Line("1", run),
    "pfedme.outer_step": Line("0.5", run),
    "knn-per.neighbours": Line("[3]", run),
    "knn-per.capacity": Line("2", run),
    "fedrep.head_epochs": Line("1", run),
    "ifca.init": Line("farthest", run),
    "ifca.draws": Line("2", run, ("method.init=balanced",)),
    **{f"{name}.shared_trunk": Line("true", run) for name in ("ifca", "fedsoft", "fedem", "fedgmm", "bcfl")},
    "cfl.shared_trunk": Line("true", run, ("rounds=3", "method.mean_below=0.99", "method.largest_above=0.0001")),
    "flhc.shared_trunk": Line("true", run, ("rounds=3", "method.joint_rounds=1")),
    "flux.shared_trunk": Line("true", run, ("rounds=3", "method.joint_rounds=1", "method.reach=0.01")),
    "ifca.warm_rounds": Line("1", run),
    "ifca.warm_spread": Line("0.5", run, ("method.warm_rounds=1",)),
    "bcfl.strength": Line("10.0", run),
    "cfl.mean_below": Line("0.99", run, ("rounds=3", "method.largest_above=0.0001")),
    "cfl.largest_above": Line("0.9999", run, ("rounds=3", "method.mean_below=0.99", "method.largest_above=0.0001")),
    "flhc.joint_rounds": Line("2", run, ("rounds=3", "method.joint_rounds=1")),
    "flhc.distance_threshold": Line("0.01", run, ("rounds=3", "method.joint_rounds=1")),
    "flux.joint_rounds": Line("2", run, ("rounds=3",)),
    "flux.reach": Line("0.01", run),
    "fedsoft.strength": Line("1.0", run),
    "fedsoft.interval": Line("1", run),
    "fedsoft.smoother": Line("0.1", run, ("method.n_components=6",)),
    "fedsparse.strength": Line("100.0", run),
    "fedsparse.sparsity": Line("100.0", run),
    "fedsparse.open_first": Line("0.5", run),
    "fedem.weighting": Line("draw", run),
    "fedgmm.projection": Line("2", run),
    "fedgmm.weighting": Line("draw", run),
}
"""By the setting's name. A method's own settings stand behind the method's name."""


def own_settings() -> list[str]:
    common = set(MethodSettings.model_fields)
    return [f"{name}.{key}" for name in METHODS for key in METHODS[name].settings.model_fields if key not in common]


def test_every_setting_has_a_line():
    there = {*dotted_keys(Config), *own_settings()}
    advice = "add Line(another value, where it shows: federation, models, run, outcome, or the words that refuse it)"
    assert not there - SWEEP.keys(), f"no line in SWEEP: {sorted(there - SWEEP.keys())}; {advice}"
    assert not SWEEP.keys() - there, f"no such setting any more: {sorted(SWEEP.keys() - there)}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data of six wards: a table and another one, and small pictures."""
    rng, made = np.random.default_rng(0), {}
    for name, n_rows in (("table", 240), ("other", 180)):
        splits = {}
        for split, rows in (("train", n_rows), ("test", 150)):
            x = rng.normal(size=(rows, 2))
            columns = {
                "age": x[:, 0],
                "dose": x[:, 1],
                "label": (x[:, 0] > 0).astype(int),
                "late": (x[:, 1] > 0).astype(int),
                "days": np.abs(x[:, 1]),
                "other": rng.integers(0, 3, rows),
            }
            ward = {"ward": [f"ward-{i % 6}" for i in range(rows)], "doctor": [f"doctor-{i % 5}" for i in range(rows)]}
            splits[split] = datasets.Dataset.from_dict({k: list(v) for k, v in (columns | ward).items()})
        where = tmp_path_factory.mktemp(name)
        for split, part in splits.items():
            part.to_parquet(where / f"{split}.parquet")
        made[name] = str(where)
    where = tmp_path_factory.mktemp("gaps")
    lines = [f"{'' if i % 7 == 0 else i},{'NA' if i % 5 == 0 else 'red'},ward-{i % 6},{i % 2}" for i in range(180)]
    (where / "train.csv").write_text("\n".join(["age,colour,ward,label", *lines]))
    made["table_of_gaps"] = str(where)
    pictures = {
        name: [Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)) for _ in range(120)]
        for name in ("first", "second")
    }
    kinds = {"first": datasets.Image(), "second": datasets.Image(), "label": datasets.Value("int64")}
    columns = pictures | {"label": [i % 2 for i in range(120)], "ward": [f"ward-{i % 6}" for i in range(120)]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds | {"ward": datasets.Value("string")}))
    folder_of_pictures = tmp_path_factory.mktemp("pictures")
    table.to_parquet(folder_of_pictures / "train.parquet")
    made["pictures"] = str(folder_of_pictures)
    return made


@pytest.mark.filterwarnings("ignore:.* rows are used")
@pytest.mark.parametrize("key", SWEEP)
def test_a_setting_changes_something_or_is_refused(key, folders, tmp_path):
    line, (section, _, name) = SWEEP[key], key.rpartition(".")
    own = section in METHODS
    base = [*BASE, *([f"method.name={section}"] if own else []), *line.base]
    override = f"{f'method.{name}' if own else key}={line.value}"
    words = [word.format_map(folders) if "{t" in word or "{p" in word else word for word in (*base, override)]
    words[-1] = words[-1].replace("{other}", folders["other"])
    if isinstance(line.where, str):
        with pytest.raises(ConfigError, match=line.where):
            config.refuse_compare(config.load(None, words))
        return
    before, after = config.load(None, words[:-1]), config.load(None, words)
    assert before != after, "the line's value is the one that it has anyway"
    folders_of_runs = ((tmp_path / "a",), (tmp_path / "b",)) if line.where is outcome else ((), ())
    assert line.where(before, *folders_of_runs[0]) != line.where(after, *folders_of_runs[1])


@pytest.mark.parametrize("name", METHODS)
def test_what_all_methods_share_has_an_effect_on_each(name):
    """`density` and `expert` are of use to those that have such models: one file serves many methods."""
    needed = {"fedgmi": FEW}.get(name, ())
    words = [*BASE, f"method.name={name}", *needed]
    before = run(config.load(None, words))
    changes = ["seed=1", "method.participation=0.5", "training.max_steps=1", "expert.hidden=4"]
    changes += ["method.n_components=2"] if METHODS[name].has_components else []
    assert [change for change in changes if run(config.load(None, [*words, change])) == before] == []


# --- what has no effect where it stands -----------------------------------------------------------------------------

NO_EFFECT: list[tuple[tuple[str, ...], str]] = [
    (("scenario.client_column=ward",), r"scenario\.client_column: .*the scenario is rotation.*by-column"),
    (("scenario.n_features=4",), r"scenario\.n_features: .*scenario\.name to gaussian"),
    (("scenario.labels_per_component=2",), r"scenario\.labels_per_component: .*scenario\.name to labels"),
    (("scenario.name=pathological", "scenario.alpha=1.0"), r"scenario\.alpha: it is 1\.0 and has no effect"),
    ((*TABLE, "scenario.alpha=1.0"), r"scenario\.alpha: .*the scenario is by-column"),
    ((*TABLE, "scenario.size_ratio=2.0"), r"scenario\.size_ratio: .*the scenario is by-column"),
    (
        (*TABLE, "scenario.n_components=2", "method.n_components=4"),
        r"scenario\.n_components: .*method\.n_components is 4",
    ),
    (("scenario.name=gaussian", "data.max_rows=10"), r"data\.max_rows: .*draws its rows itself"),
    (("scenario.name=gaussian", "data.path=elsewhere"), r"data\.path: .*draws its rows itself"),
    (("data.train_split=other",), r"data\.train_split: .*the digits have no splits"),
    (("data.missing=mean",), r"data\.missing: .*pictures"),
    (("data.missing_values=['x']",), r"data\.missing_values: .*pictures"),
    (("data.path={pictures}", *TABLE[1:], "data.missing=mean"), r"data\.missing: .*pictures"),
    (("data.test_split=other",), r"data\.test_split: .*the digits have no splits"),
    ((*TABLE, "data.invert=true"), r"data\.invert: .*a table, not pictures"),
    ((*TABLE, "data.crop=1"), r"data\.crop: .*a table, not pictures"),
    ((*TABLE, "data.size=4"), r"data\.size: .*a table, not pictures"),
    (("density.name=gaussian", "density.latent=4"), r"density\.latent: .*a Gaussian has nothing to set"),
    (("method.preset=plain", "method.codewords=7"), r"method\.codewords: .*the preset is plain"),
    (("method.preset=plain", "method.warm_up_rounds=2"), r"method\.warm_up_rounds: .*the preset is plain"),
    (("method.preset=sketch", "method.calibration_steps=2"), r"method\.calibration_steps: .*the preset is sketch"),
    (("method.name=ifca", "method.draws=3"), r"method\.draws: .*method\.init is random"),
    (("training.lr={fedvag=1e-2}",), r'training\.lr: there is no method "fedvag".*"fedavg"'),
    (("method.name=fedavg", "method.n_components=2"), "has no components"),
]


@pytest.mark.parametrize(("words", "told"), NO_EFFECT, ids=lambda value: str(value)[:60])
def test_what_has_no_effect_is_refused(words, told, folders, tmp_path):
    words = [
        word.format_map(folders) if "={" in word and "lr" not in word else word
        for word in words
        if "separation" not in word
    ]
    with pytest.raises(UserError, match=told):
        tiny.run(tmp_path, *words)
    assert not (tmp_path / folder.CONFIG).exists()  # and the folder is free for the same command, mended


def unlabelled() -> Federation:
    rng = np.random.default_rng(0)
    return Federation.from_arrays([rng.normal(size=(30, 2)) + 3 * (i % 2) for i in range(6)])


FITTED: list[tuple[dict[str, Any], str]] = [
    ({"density.name": "gaussian", "method.elbo_samples": 3}, r"method\.elbo_samples: .*gaussian is no bound"),
    ({"training.lr": {"fedgim": 1e-2}}, r"there is no method \"fedgim\""),
    ({"scenario.alpha": 1.0}, r"scenario\.alpha: .*FedGMI is given a federation"),
    ({"data.max_rows": 10}, r"data\.max_rows: .*FedGMI is given a federation"),
    ({"evaluation.oracle": False}, r"evaluation\.oracle: .*FedGMI is given a federation"),
]


@pytest.mark.parametrize(("settings", "told"), FITTED, ids=lambda value: str(value)[:40])
def test_the_estimator_refuses_them_too(settings, told):
    with pytest.raises(ConfigError, match=told):
        FedGMI(2, rounds=1, settings=settings).fit(unlabelled())


def test_a_comparison_leaves_out_what_a_preset_has_no_use_for():
    asked = config.load(None, ["method.codewords=7", "method.calibration_steps=2"])
    for preset, kept in (("plain", (20, 8)), ("sketch", (7, 8))):
        own = cell_config(asked, Cell(f"fedgmi-{preset}", 0), False, 1).method
        config.check_method(own, 10)
        assert (own.codewords, own.calibration_steps) == kept


# --- the demonstration's settings, and defaults ---------------------------------------------------------------------


def test_settings_of_the_digits_are_for_the_digits(folders):
    mine = config.load(
        None, [f"data.path={folders['table']}", "scenario.name=by-column", "scenario.client_column=ward"]
    )
    assert (mine.scenario.n_clients, mine.scenario.rows_per_client) == (None, None)
    assert mine.training.lr == Config().training.lr
    assert config.loads(config.dump(mine), "here") == mine
    digits = config.load(None, ["scenario.alpha=1.0"])
    assert (digits.scenario.n_clients, digits.training.lr) == (20, 3e-2)


def test_by_column_has_all_clients_and_all_rows_unless_it_is_told(folders, recwarn):
    where = (f"data.path={folders['table']}", "scenario.name=by-column", "scenario.client_column=ward")
    whole = built(*where).federation
    assert [len(c) for c in whole.clients] == [36] * 6  # 40 of the train split, of which a tenth is for validation
    assert [len(c) for c in whole.held_out] == [25] * 6  # its rows of the test split
    assert not recwarn.list
    with pytest.warns(FedgmiWarning, match=r"270 of 390 rows are used, of 6 clients.* beyond rows_per_client .*: 120"):
        cut = built(*where, "scenario.rows_per_client=16").federation
    assert [len(c) for c in cut.clients] == [16] * 6
    with pytest.warns(FedgmiWarning, match=r"clients beyond scenario\.n_clients: 2"):
        assert len(built(*where, "scenario.n_clients=4").federation.clients) == 4


def built(*words: str) -> Any:
    settings = config.load(None, list(words))
    return build_scenario(settings.data, settings.scenario, settings.seed)


def test_held_out_rows_of_by_column_are_the_test_splits(tmp_path):
    """Each row says which split it is of. A client without test rows has a fifth of its others, and that is said."""
    for split, wards in (("train", "ab"), ("test", "ac")):
        rows = {"kind": [float(split == "test")] * 60, "ward": [wards[i % 2] for i in range(60)], "label": [0, 1] * 30}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    where = (f"data.path={tmp_path}", "scenario.name=by-column", "scenario.client_column=ward", "method.n_components=2")
    with pytest.warns(FedgmiWarning) as told:
        made = built(*where).federation
    said = " ".join(str(warning.message) for warning in told)
    assert "clients in the test split alone: 1" in said
    assert "no test rows for 1 clients (b)" in said
    assert made.names == ("a", "b")
    assert [(len(c), set(c.x.flatten().tolist())) for c in made.held_out] == [(30, {1.0}), (6, {0.0})]
    assert all(set(c.x.flatten().tolist()) == {0.0} for c in (*made.clients, *made.validation))
    with pytest.warns(FedgmiWarning):
        few = built(*where, "scenario.held_out_rows=9").federation
    assert [len(c) for c in few.held_out] == [9, 9]


def test_there_is_one_default_for_one_thing():
    own = {name: parameter.default for name, parameter in inspect.signature(FedGMI).parameters.items()}
    default = Config()
    training = default.training
    assert (own["rounds"], own["learning_rate"]) == (default.rounds, training.lr)
    assert (own["epochs"], own["batch_size"]) == (training.epochs, training.batch_size)
    assert (own["participation"], own["preset"]) == (default.method.participation, default.method.preset)
    assert (own["seed"], own["device"], own["n_components"]) == (
        default.seed,
        default.device,
        default.scenario.n_components,
    )
    fields = FederationSettings.model_fields
    assert (fields["rounds"].default, fields["training"].default) == (default.rounds, training)


# --- short runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
def test_a_short_run_trains_more_than_one_model(rounds):
    words = [*BASE, *FEW[:3], f"rounds={rounds}", "evaluation.oracle=false"]
    settings = config.load(None, words)
    scenario = build_scenario(settings.data, settings.scenario, settings.seed)
    method = Setup(settings, scenario.federation.schema, 3).method()
    transport, start = InProcess(scenario.federation.clients, method.program), Progress(method.program.init())
    experts = run_rounds("fedgmi", method.program, transport, start, n_clients=6, rounds=rounds, seed=0).server[
        "expert"
    ]
    assert not torch.equal(experts[0], experts[1])


def test_long_runs_have_the_warm_up_that_they_had():
    assert {settle(FedGMISettings(), rounds).warm_up for rounds in range(10, 200)} == {5}
    assert settle(FedGMISettings(warm_up_rounds=7), 3).warm_up == 7
    assert BOUNDS["oracle"].settle(FedGMISettings(), 4).warm_up == 2


def test_a_run_that_is_all_warm_up_says_so(tmp_path):
    with pytest.warns(FedgmiWarning, match="all 2 rounds belong to the warm-up of fedgmi.*Run 4 rounds or more"):
        tiny.run(tmp_path, "method.warm_up_rounds=3")


# --- a run that died early ------------------------------------------------------------------------------------------


def test_settings_are_on_disk_before_anything_else_and_a_resumed_run_has_them(tmp_path, monkeypatch, capsys):
    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build_scenario", killed)
        assert tiny.exit_code(*tiny.arguments(tmp_path, "seed=3")) == 130
    capsys.readouterr()
    assert tiny.exit_code("run", "--out", str(tmp_path), "--resume") == 0
    summary = json.loads((tmp_path / folder.SUMMARY).read_text())
    assert (summary["seed"], len(summary["clients"])) == (3, 6)


def test_a_resume_without_a_run_and_without_settings_is_refused(tmp_path, capsys):
    assert tiny.exit_code("run", "--out", str(tmp_path / "new"), "--resume") == 2
    assert "no run has begun there, and no settings are given" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_a_mistake_in_the_data_leaves_the_folder_free(tmp_path):
    with pytest.raises(UserError):
        tiny.run(tmp_path, "data.path=/nowhere/at-all")
    assert not (tmp_path / folder.CONFIG).exists()
