"""The command line: exit codes, messages, and results that stay untouched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
import typer

import fedgmi.runs
from fedgmi import cli
from fedgmi.errors import DataError
from fedgmi.methods import METHODS
from fedgmi.runs import config
from fedgmi.storage import folder
from summaries import make_summary


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """A stand-in for the experiment that notes how it is called, and the folder that runs go to."""
    noted: list[tuple[config.Config, Path, bool]] = []

    def run(settings, out, *, resume=False, listener=None):
        noted.append((settings, out, resume))
        listener.started("fedgmi", 1)
        listener.round_done({"run": "fedgmi", "round": 1, "bound": -1.0, "proportion_tv": 0.1, "seconds": 0.1})
        listener.finished("fedgmi")
        return make_summary()

    replace_experiment(monkeypatch, run)
    monkeypatch.chdir(tmp_path)
    return noted


def replace_experiment(monkeypatch, run):
    module = types.ModuleType("fedgmi.runs.experiment")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedgmi.runs.experiment", module)
    monkeypatch.setattr(fedgmi.runs, "experiment", module, raising=False)


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main(list(arguments))
    return int(raised.value.code or 0)


def test_run_prints_tables_and_where_the_results_lie(calls, capsys):
    assert code("run", "--set", "seed=5", "--set", "rounds=2") == 0
    settings, out, resume = calls[0]
    assert (settings.seed, settings.rounds, out, resume) == (5, 2, Path("runs/digits-5"), False)
    shown = capsys.readouterr()
    assert "Results: runs/digits-5" in shown.out
    assert "fedgmi: round 1/1" in shown.err


def test_default_folder_is_named_after_the_config(calls, tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 2\n")
    assert code("run", "mine.toml") == 0
    assert calls[0][1] == Path("runs/mine-2")


@pytest.mark.parametrize(("name", "state"), [(folder.SUMMARY, "a finished"), (folder.RECORDS, "an unfinished")])
def test_existing_results_stay_untouched(calls, capsys, tmp_path, name, state):
    kept = tmp_path / "out" / name
    kept.parent.mkdir()
    kept.write_text("precious")
    assert code("run", "--out", "out") == 2
    told = capsys.readouterr().err
    assert f"already holds {state} run" in told
    assert "--resume" in told
    assert "--out" in told
    assert kept.read_text() == "precious"
    assert not calls
    assert code("run", "--out", "out", "--resume") == 2  # with whose settings?
    assert "no run has begun there, and no settings are given" in " ".join(capsys.readouterr().err.split())
    assert code("run", "--out", "out", "--resume", "--set", "seed=0") == 0
    assert calls[0][2] is True


def test_resume_without_settings_keeps_those_of_the_run(calls, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / folder.CONFIG).write_text(config.dump(config.load(None, ["seed=9", "rounds=3"])))
    assert code("run", "--out", "out", "--resume") == 0
    assert (calls[0][0].seed, calls[0][0].rounds) == (9, 3)
    assert code("run", "--out", "out", "--resume", "--set", "seed=1") == 0
    assert calls[1][0].seed == 1


def test_bad_setting_is_one_message_and_code_two(calls, capsys):
    assert code("run", "--set", "scenario.alhpa=1") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "scenario.alhpa" in told
    assert "did you mean scenario.alpha?" in told
    assert "Traceback" not in told
    assert not calls


def test_message_with_brackets_is_shown_as_it_is(calls, capsys):
    assert code("run", "--set", "[bold]x") == 2
    assert "[bold]x" in capsys.readouterr().err


def test_folder_that_cannot_be_written(calls, capsys, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert code("run", "--out", "file/inside") == 2
    assert "results cannot be written there" in capsys.readouterr().err
    assert code("run", "--out", "file") == 2
    assert not calls


def test_data_error_from_the_experiment(calls, monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise DataError("client 3 is empty", where="client_column", fix="drop it")

    replace_experiment(monkeypatch, fail)
    assert code("run") == 2
    assert "client_column: client 3 is empty. Likely fix: drop it." in capsys.readouterr().err


def test_ctrl_c_tells_how_to_go_on(calls, monkeypatch, capsys):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    replace_experiment(monkeypatch, interrupted)
    assert code("run", "--set", "data.path=a b") == 130
    told = capsys.readouterr().err
    assert "interrupted; continue with: fedgmi run --set 'data.path=a b' --out 'runs/a b-0' --resume" in told


def test_bug_keeps_its_traceback(calls, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    replace_experiment(monkeypatch, broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


def test_report_draws_the_picture_again(tmp_path, capsys):
    (tmp_path / folder.SUMMARY).write_text(json.dumps(make_summary()))
    assert code("report", str(tmp_path)) == 0
    assert "client-3" in capsys.readouterr().out
    assert (tmp_path / folder.PICTURE).stat().st_size > 1_000_000


def test_report_of_nothing(tmp_path, capsys):
    assert code("report", str(tmp_path)) == 2
    assert "no run lies there" in capsys.readouterr().err


def test_version(capsys):
    assert code("--version") == 0
    assert capsys.readouterr().out.strip() == f"fedgmi {fedgmi.__version__}"


def test_list_has_a_line_for_every_entry(capsys):
    assert code("list") == 0
    shown = capsys.readouterr().out.splitlines()
    for name in ("fedgmi", "fedavg", "local", "rotation", "by-column", "vae", "gaussian", "mlp"):
        assert any(re.match(rf"  {name} +\S.{{10,}}", line) for line in shown), name
    bound = {line.split()[0] for line in shown if line.endswith("(classification alone)")}
    assert bound == {name for name in METHODS if METHODS[name].tasks == ("classification",)}
    tasks = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    assert f"| methods | all | all but {', '.join(sorted(bound))} | all but {', '.join(sorted(bound))} |" in tasks


@pytest.mark.parametrize(
    ("words", "needed"), [(["--help"], []), (["report", "nowhere"], []), (["run", "--set", "x=1"], ["torch"])]
)
def test_help_and_bad_settings_need_no_heavy_import(words, needed):
    """They are what a user waits for most often. Settings need torch: each method's stand in its own file."""
    script = (
        f"import sys\nfrom fedgmi import cli\ntry: cli.main({words})\nexcept SystemExit as end: pass\n"
        "heavy = ('torch', 'plotly', 'datasets', 'sklearn', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(needed)


def all_commands(command: click.Command, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """The words by which each command is called; groups are commands, too."""
    found = {words: command}
    for name, child in getattr(command, "commands", {}).items():
        found |= all_commands(child, (*words, name))
    return found


@pytest.mark.parametrize("words", all_commands(typer.main.get_command(cli.app)), ids=" ".join)
def test_no_word_of_the_help_vanishes(words, capsys, monkeypatch):
    """A section such as [rows] is no markup."""
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    shown = capsys.readouterr().out.split()
    command = all_commands(typer.main.get_command(cli.app))[words]
    texts = [command.help or "", *(getattr(each, "help", None) or "" for each in command.params)]
    wanted = [word.replace("`", "") for text in texts for word in text.split()]
    assert [word for word in wanted if word not in shown] == []
