"""`fedgmi diagnose` and `n_components = "auto"`, from the command line to the files, on a handful of rows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedgmi import cli
from fedgmi.errors import FedgmiWarning
from fedgmi.protocol.in_process import InProcess
from fedgmi.runs import components, config, experiment
from fedgmi.runs import diagnose as diagnose_run
from fedgmi.storage import folder
from summaries import make_diagnosis
from test_bad_input import assert_one_message, federation, offer
from tiny import TINY, Killer, arguments, exit_code, hashes, run, settings, without_seconds

PROMISED = {
    "n_components", "singular_values", "noise", "threshold", "explained", "explained_interval", "own_scatter",
    "mixture_supported", "p_value",
    "client_misfit", "client_p_value", "unfit_clients", "proportions", "proportion_intervals", "purest", "anchor_mass",
    "interval_width", "warnings", "clients", "scenario", "seed", "bytes_down", "bytes_up", "seconds",
    "true_n_components", "proportion_tv",
}  # fmt: skip
AUTO = "method.n_components=auto"
TOLD_APART = ("scenario.name=gaussian", "scenario.separation=8.0", "scenario.n_clients=12", "method.codewords=10")
"""Three Gaussians so far apart that K̂ = 3 from 12 clients of 60 rows."""


def words(out: Path, *overrides: str) -> list[str]:
    """The command line of a tiny diagnosis."""
    return ["diagnose", *arguments(out, *overrides)[1:]]


def diagnose(out: Path, *overrides: str) -> dict[str, Any]:
    return diagnose_run.run(settings(*overrides), out)


def read(out: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found: dict[str, Any] = json.loads((out / folder.DIAGNOSIS).read_text(), parse_constant=refuse)
    return found


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("diagnosed") / "new" / "out"
    assert exit_code(*words(out, *TOLD_APART)) == 0
    return out


def test_folder_holds_diagnosis_config_and_picture(diagnosed):
    assert {path.name for path in diagnosed.iterdir()} == {folder.DIAGNOSIS, folder.DIAGNOSIS_PICTURE, folder.CONFIG}
    assert config.load(diagnosed / folder.CONFIG) == settings(*TOLD_APART)
    assert "client-11" in (diagnosed / folder.DIAGNOSIS_PICTURE).read_text(encoding="utf-8")


def test_diagnosis_has_what_was_promised(diagnosed):
    found = read(diagnosed)
    assert found.keys() >= PROMISED
    assert (found["n_components"], found["true_n_components"]) == (3, 3)
    assert found["n_components_estimated"] is True
    assert found["mixture_supported"] is True
    assert found["unfit_clients"] == []
    assert 0 <= found["proportion_tv"] < 0.1
    assert min(found["bytes_down"], found["bytes_up"], found["seconds"]) > 0
    assert found["clients"] == [f"client-{i:02}" for i in range(12)]
    for shares, intervals in zip(found["proportions"], found["proportion_intervals"], strict=True):
        assert sum(shares) == pytest.approx(1.0)
        assert all(0 <= low <= high <= 1 for low, high in intervals)


def test_terminal_tells_it_and_report_tells_it_again(tmp_path, capsys):
    out = tmp_path / "out"
    assert exit_code(*words(out, *TOLD_APART)) == 0
    shown = capsys.readouterr()
    for part in (
        "3 components explain",
        "The scenario was made of 3.",
        "Nothing speaks against it",
        "client-11",
        str(out),
    ):
        assert part in " ".join(shown.out.split())
    assert "\x1b" not in shown.out + shown.err
    before, picture = hashes(out), out / folder.DIAGNOSIS_PICTURE
    picture.unlink()
    assert exit_code("report", str(out)) == 0
    assert capsys.readouterr().out == shown.out
    assert picture.exists()
    assert {name: value for name, value in hashes(out).items() if name != picture.name} == {
        name: value for name, value in before.items() if name != picture.name
    }


def test_same_seed_same_diagnosis_and_nothing_is_trained(tmp_path, diagnosed):
    again = diagnose(tmp_path / "again", *TOLD_APART, "training.lr=1e-9", "rounds=7")
    assert without_seconds(again) == without_seconds(read(diagnosed))
    other = diagnose(tmp_path / "other", *TOLD_APART, "seed=1")
    assert other["proportions"] != again["proportions"]


@pytest.mark.parametrize("asked", [1, 2, 4])
def test_number_of_components_that_is_asked_for(tmp_path, diagnosed, asked):
    found = diagnose(tmp_path / "out", *TOLD_APART, f"method.n_components={asked}")
    assert found["n_components"] == asked
    assert found["n_components_estimated"] is False
    assert {len(shares) for shares in found["proportions"]} == {asked}
    assert found["singular_values"] == read(diagnosed)["singular_values"]
    assert found["mixture_supported"] == (asked >= 3)
    assert any("invented" in warning for warning in found["warnings"]) == (asked > 3)


def test_clients_that_are_alike_are_one_component(tmp_path, capsys):
    assert exit_code(*words(tmp_path / "out", "scenario.n_components=1")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert read(tmp_path / "out")["n_components"] == 1
    assert "One component. All clients look alike" in shown


def test_without_truth_and_without_labels(tmp_path, monkeypatch):
    overrides = offer(monkeypatch, federation([40, 1, 25, 30]))
    found = diagnose(tmp_path / "out", *overrides)
    assert found["true_n_components"] is found["proportion_tv"] is None
    assert found["rows_per_client"] == [40, 1, 25, 30]


def test_single_client(tmp_path, monkeypatch, capsys):
    overrides = offer(monkeypatch, federation([40]))
    assert exit_code(*words(tmp_path / "out", *overrides)) == 0
    assert "There is a single client" in " ".join(capsys.readouterr().out.split())


MISTAKES = [
    ("scenario.alhpa=1", "settings: unknown key scenario.alhpa"),
    ("scenario.name=rotatoin", 'scenario.name: there is no scenario "rotatoin"'),
    ("method.n_components=7", "method.n_components: 7 components cannot be told apart from 6"),
    ("method.n_components=some", "expected a whole number or 'auto'"),
    ("data.path=/no/such/folder", "no such folder"),
]


@pytest.mark.parametrize(("override", "told"), MISTAKES, ids=lambda text: text[:24])
def test_mistakes_are_one_message_and_leave_nothing(tmp_path, capsys, override, told):
    assert exit_code(*words(tmp_path / "out", override)) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert len(shown[shown.index("error: ") :].splitlines()) == 1
    assert not (tmp_path / "out").exists() or hashes(tmp_path / "out") == {}


def test_more_components_than_the_data_have_clients(tmp_path, monkeypatch, capsys):
    overrides = offer(monkeypatch, federation([30, 30]))
    assert exit_code(*words(tmp_path / "out", *overrides, "method.n_components=3")) == 2
    assert_one_message(
        capsys.readouterr().err, "3 components cannot be told apart from 2 clients", "ask for 2 or fewer"
    )


def test_folder_that_cannot_be_written(capsys):
    assert exit_code(*words(Path(__file__))) == 2
    assert_one_message(capsys.readouterr().err, "results cannot be written there (", "--out")


def test_existing_results_stay_untouched(tmp_path, diagnosed, capsys):
    """A diagnosis is never overwritten, nor taken for a run; a run is never overwritten by a diagnosis."""
    run(tmp_path / "run")
    for out, command, told in (
        (diagnosed, words(diagnosed), "already holds a diagnosis"),
        (diagnosed, arguments(diagnosed), "already holds a diagnosis"),
        (diagnosed, arguments(diagnosed, *TOLD_APART, resume=True), "already holds a diagnosis"),
        (tmp_path / "run", words(tmp_path / "run"), "already holds a finished run"),
    ):
        before = hashes(out)
        assert exit_code(*command) == 2
        assert_one_message(capsys.readouterr().err, f"{out}: the folder {told}", "give another folder with --out")
        assert hashes(out) == before


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_report_of_a_file_that_is_no_diagnosis(tmp_path, capsys, text):
    (tmp_path / folder.DIAGNOSIS).write_text(text)
    assert exit_code("report", str(tmp_path)) == 2
    assert_one_message(capsys.readouterr().err, str(tmp_path / folder.DIAGNOSIS), "fedgmi diagnose")


def test_default_folder_is_named_after_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("seed = 2\n")
    taken: list[Path] = []

    def note(settings: config.Config, out: Path) -> dict[str, Any]:
        taken.append(out)
        return make_diagnosis()

    monkeypatch.setattr(diagnose_run, "run", note)
    assert exit_code("diagnose", "mine.toml") == exit_code("diagnose", "--set", "seed=5") == 0
    assert taken == [Path("runs/mine-2-diagnosis"), Path("runs/digits-5-diagnosis")]


def interrupt(*_args: Any, **_kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing_and_the_folder_can_be_used_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(diagnose_run, "diagnose", interrupt)
        assert exit_code(*words(out)) == 130
    shown = capsys.readouterr().err
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert hashes(out) == {}
    assert exit_code(*words(out)) == 0


def test_help_of_the_command(capsys):
    assert exit_code("diagnose", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "how many components" in shown
    assert "--set method.n_components=K" in shown


def test_a_run_with_auto_is_the_run_with_that_number(tmp_path, diagnosed):
    """K̂ is that of the diagnosis; all else is as if it had been asked for: clients are asked nothing twice."""
    auto = run(tmp_path / "auto", *TOLD_APART, AUTO)
    asked = run(tmp_path / "asked", *TOLD_APART, "method.n_components=3")
    assert (auto["n_components"], auto["n_components_estimated"]) == (read(diagnosed)["n_components"], True)
    assert asked["n_components_estimated"] is False
    assert without_seconds(auto | {"n_components_estimated": False}) == without_seconds(asked)
    assert auto["bytes"]["sketch"][0] > 0
    assert auto["bytes_up"] > read(diagnosed)["bytes_up"]


@pytest.mark.parametrize("setting", ["method.name=ifca", "method.preset=plain"])
def test_a_method_without_a_sketch_pays_for_the_estimate_besides(tmp_path, setting):
    auto = run(tmp_path / "auto", *TOLD_APART[:-1], AUTO, setting)
    asked = run(tmp_path / "asked", *TOLD_APART[:-1], f"method.n_components={auto['n_components']}", setting)
    estimate = json.loads((tmp_path / "auto" / folder.ESTIMATE).read_text())
    for place, key in enumerate(("bytes_down", "bytes_up")):
        cost = sum(both[place] for both in estimate["bytes"].values())
        assert auto[key] - asked[key] == cost > 0
        assert auto[key] == sum(both[place] for both in auto["bytes"].values())
    cost = {"bytes", "bytes_down", "bytes_up", "most_mb", "n_components_estimated"}
    assert without_seconds({key: value for key, value in auto.items() if key not in cost}) == without_seconds(
        {key: value for key, value in asked.items() if key not in cost}
    )


def test_auto_on_rows_that_are_standardised_and_with_several_rates(tmp_path):
    """The estimate's exchanges count in each rate's run, and its scale is that of the run."""
    overrides = (*TOLD_APART, "data.standardise=true", "training.lr=[1e-3, 1e-2]")
    auto, asked = (run(tmp_path / name, *overrides, f"method.n_components={name}") for name in ("auto", "3"))
    assert without_seconds(auto | {"n_components_estimated": False}) == without_seconds(asked)


def test_auto_with_noise_on_the_counts(tmp_path):
    auto = run(tmp_path / "auto", *TOLD_APART, AUTO, "method.epsilon=4.0")
    asked = run(tmp_path / "k", *TOLD_APART, f"method.n_components={auto['n_components']}", "method.epsilon=4.0")
    assert without_seconds(auto | {"n_components_estimated": False}) == without_seconds(asked)


def test_estimated_components_that_are_wrong_count_as_error(tmp_path):
    """Fewer than there are: the proportions of the missing ones are missing mass."""
    with pytest.warns(FedgmiWarning, match="one component was estimated"):
        got = run(tmp_path / "out", "scenario.name=gaussian", "scenario.separation=0.01", AUTO)
    assert got["n_components"] == 1
    missing = [1 - max(shares) for shares in got["true_proportions"]]
    assert got["proportion_tv"] >= sum(missing) / len(missing) - 1e-9


@pytest.mark.filterwarnings("always::fedgmi.errors.FedgmiWarning")
def test_one_component_is_told_on_the_terminal(tmp_path, capsys):
    """As a plain line, without the place in the source that Python would give."""
    alike = ("scenario.name=gaussian", "scenario.separation=0.01", AUTO)
    assert exit_code(*arguments(tmp_path / "out", *alike)) == 0
    shown = capsys.readouterr()
    assert re.search(r"^warning: one component was estimated: clients are alike", shown.err, re.MULTILINE)
    assert ".py" not in shown.err
    assert "1 components (estimated)" in " ".join(shown.out.split())


@pytest.mark.parametrize("killed", [("fedgmi", 0), ("fedgmi", 2), ("local", 1)], ids=str)
def test_resumed_run_keeps_its_estimate(tmp_path, monkeypatch, killed):
    overrides = (*TOLD_APART, AUTO, "evaluation.local=true")
    whole = run(tmp_path / "whole", *overrides)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(*overrides), tmp_path / "out", listener=Killer(*killed))
    monkeypatch.setattr(components, "estimate_components", interrupt)
    resumed = run(tmp_path / "out", *overrides, resume=True)
    assert without_seconds(resumed) == without_seconds(whole)
    monkeypatch.setattr(InProcess, "exchange", interrupt)
    assert run(tmp_path / "out", *overrides, resume=True) == resumed


def test_ctrl_c_during_the_estimate_can_be_resumed(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(components, "estimate_components", interrupt)
        assert exit_code(*arguments(out, *TOLD_APART, AUTO)) == 130
    assert "continue with: fedgmi run" in capsys.readouterr().err
    assert exit_code(*arguments(out, *TOLD_APART, AUTO, resume=True)) == 0
    assert json.loads((out / folder.SUMMARY).read_text())["n_components"] == 3


def test_damaged_estimate(tmp_path, capsys):
    run(tmp_path, *TOLD_APART, AUTO)
    (tmp_path / folder.ESTIMATE).write_text("{}")
    assert exit_code(*arguments(tmp_path, *TOLD_APART, AUTO, resume=True)) == 2
    assert_one_message(capsys.readouterr().err, str(tmp_path / folder.ESTIMATE), "remove it and resume")


def test_auto_is_a_setting_like_others(tmp_path):
    (tmp_path / "mine.toml").write_text('[method]\nn_components = "auto"\n')
    assert config.load(tmp_path / "mine.toml").method.n_components == "auto"
    assert config.load(None, [AUTO]).method.n_components == "auto"
    assert config.load(None, [*TINY, AUTO]).digest() != config.load(None, TINY).digest()


def test_other_warnings_keep_their_place(monkeypatch, capsys):
    """Only our own are shown as plain lines."""
    shown: list[str] = []
    cli.show_warning(
        lambda message, *place, **more: shown.append(str(message)), UserWarning("theirs"), UserWarning, "x.py", 1
    )
    assert shown == ["theirs"]
    cli.show_warning(lambda *args, **more: shown.append("wrong"), FedgmiWarning("[ours]"), FedgmiWarning, "x.py", 1)
    assert shown == ["theirs"]
    assert capsys.readouterr().err == "warning: [ours]\n"


@pytest.mark.parametrize("truth", [True, False])
def test_components_have_the_numbers_that_a_run_gives_them(tmp_path, monkeypatch, truth):
    """The truth's order where it is known, and else the sketch's: it is the same in both."""
    build = experiment.build_scenario

    def built(*args):
        return build(*args) if truth else replace(build(*args), truth=None)

    for module in (experiment, diagnose_run):
        monkeypatch.setattr(module, "build_scenario", built)
    words = (*TOLD_APART, "method.n_components=3")
    found, ran = diagnose(tmp_path / "diagnosis", *words), run(tmp_path / "run", *words)
    mine, theirs = torch.tensor(found["proportions"]), torch.tensor(ran["proportions"])
    cost = (mine[:, :, None] - theirs[:, None, :]).abs().mean(0)
    assert cost.argmin(1).tolist() == [0, 1, 2]
    assert found["purest"] == pytest.approx(mine.max(0).values.tolist(), abs=1e-6)
    lows, highs = torch.tensor(found["proportion_intervals"]).unbind(-1)
    assert bool(((lows <= mine + 1e-6) & (mine <= highs + 1e-6)).all())
