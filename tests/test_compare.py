"""Methods side by side: the grid, what it writes, and what it says of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from fedgmi.errors import FedgmiWarning
from fedgmi.report import comparison
from fedgmi.runs import cells, config, experiment, reach
from fedgmi.runs import compare as comparing
from fedgmi.runs.statistics import compared, summarise
from tiny import OWN, TINY, exit_code, hashes


def words(out, methods, seeds="0", *more):
    """A command; fedgmi's own settings are in it where it is compared."""
    own = [setting for setting in TINY if "fedgmi" in methods or setting not in OWN]
    settings = [word for setting in own for word in ("--set", setting)]
    return ("compare", "--methods", methods, "--seeds", seeds, "--out", str(out), *settings, *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two methods, the oracle and a preset at two seeds. Runs are in this process; other tests have real ones."""

    def run(children, command, log):
        *_, settings, _, out, _ = command
        experiment.run(config.load(Path(settings)), Path(out), resume=True)
        return 0

    out = tmp_path_factory.mktemp("comparison") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing._Children, "run", run)
        assert exit_code(*words(out, "fedgmi,fedavg,oracle,fedgmi-sketch", "0,1")) == 0
    return out


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "comparison.json").read_text())


def test_a_cell_for_every_method_and_seed(record):
    expected = [(method, seed) for seed in (0, 1) for method in ("fedgmi", "fedavg", "oracle", "fedgmi-sketch")]
    assert [(cell["method"], cell["seed"]) for cell in record["cells"]] == expected
    names = {
        "method", "seed", "client_accuracy", "client_accuracy_per_client", "proportion_tv", "bytes_down", "bytes_up",
        "seconds", "expert_accuracy",
    }  # fmt: skip
    assert all(names <= cell.keys() for cell in record["cells"])


def test_the_summary_is_that_of_the_cells(record):
    for method, found in record["summary"].items():
        cells = [cell for cell in record["cells"] if cell["method"] == method]
        mean = sum(cell["client_accuracy"] for cell in cells) / 2
        assert found["client_accuracy"][0] == pytest.approx(mean)
        assert found["seeds"] == [0, 1]
    assert record["summary"]["fedavg"]["proportion_tv"] is None
    assert record["summary"]["fedgmi"]["proportion_tv"][0] > record["summary"]["oracle"]["proportion_tv"][0]


def test_cells_are_ordinary_runs(finished, record):
    cell = json.loads((finished / "cells" / "fedavg-1" / "summary.json").read_text())
    assert cell["method"] == "fedavg"
    assert cell["client_accuracy"] == next(
        c["client_accuracy"] for c in record["cells"] if (c["method"], c["seed"]) == ("fedavg", 1)
    )
    assert json.loads((finished / "cells" / "fedgmi-sketch-0" / "summary.json").read_text())["preset"] == "sketch"


def test_tables_for_people_and_programs(finished, record):
    lines = list(csv.DictReader((finished / "comparison.csv").read_text().splitlines()))
    assert [(line["method"], int(line["seed"])) for line in lines] == [
        (cell["method"], cell["seed"]) for cell in record["cells"]
    ]
    text = (finished / "comparison.md").read_text()
    assert "## rotation, seeds 0, 1" in text
    assert all(f"| {method} |" in text or f"| **{method}** |" in text for method in record["summary"])
    assert "| p0 |" in text
    for line in lines:
        assert float(line["mb_per_client"]) <= float(line["most_mb"]) * (1 + 1e-9) < 10


def test_the_same_command_again_reads_what_is_there(finished, capsys, monkeypatch):
    """No cell is run again; no process is even started for one."""
    monkeypatch.setattr(comparing.subprocess, "Popen", None)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("checkpoints/*.safetensors")}
    assert exit_code(*words(finished, "fedgmi,fedavg,oracle,fedgmi-sketch", "0,1")) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("checkpoints/*.safetensors")} == before
    assert "Results:" in capsys.readouterr().out


def test_report_prints_it_again(finished, capsys):
    before = hashes(finished)
    assert exit_code("report", str(finished)) == 0
    shown = capsys.readouterr().out
    assert "rotation, seeds 0, 1" in shown
    assert "fedgmi-sketch" in shown
    assert hashes(finished) == before


@pytest.fixture
def unfinished(finished, tmp_path):
    """One cell has not come to its end."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for path in (out / "comparison.json", out / "cells" / "fedavg-1" / "summary.json"):
        path.unlink()
    return out


def test_an_unfinished_comparison_is_told_how_to_go_on(unfinished, capsys):
    assert exit_code("report", str(unfinished)) == 2
    assert "the comparison there is not finished. Likely fix: go on with it by the same fedgmi compare" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("command", [("run",), ("run", "--resume"), ("diagnose",)])
@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_nothing_else_is_written_into_a_comparison(request, which, command, capsys):
    out = request.getfixturevalue(which)
    before = hashes(out)
    assert exit_code(*command, "--out", str(out)) == 2
    assert "already holds a comparison" in " ".join(capsys.readouterr().err.split())
    assert hashes(out) == before


def test_a_cell_that_was_cut_off_alone_is_run_again(unfinished, finished):
    methods = "fedgmi,fedavg,oracle,fedgmi-sketch"
    assert exit_code(*words(unfinished, methods, "0,1")) == 0
    again, first = (json.loads((out / "comparison.json").read_text()) for out in (unfinished, finished))
    assert again["summary"] == first["summary"]


def test_a_comparison_that_is_none(tmp_path, capsys):
    (tmp_path / "comparison.json").write_text('{"methods": []}')
    assert exit_code("report", str(tmp_path)) == 2
    assert "this is not a comparison of fedgmi" in capsys.readouterr().err


def test_a_comparison_of_other_settings_stays_untouched(finished, capsys):
    before = (finished / "comparison.json").read_bytes()
    assert exit_code(*words(finished, "fedgmi"), "--set", "rounds=1") == 2
    assert "other settings" in capsys.readouterr().err
    assert (finished / "comparison.json").read_bytes() == before


def test_two_at_once(finished, capsys):
    from fedgmi.storage import folder

    with folder.alone(finished):
        assert exit_code(*words(finished, "fedgmi")) == 2
    assert "another fedgmi is at work there" in " ".join(capsys.readouterr().err.split())


def test_a_failed_cell_is_told_and_does_not_sink_the_others(tmp_path, capsys):
    out = tmp_path / "out"
    blocked = out / "cells" / "fedavg-0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    assert exit_code(*words(out, "local,fedavg", "0", "--jobs", "2")) == 1
    record = json.loads((out / "comparison.json").read_text())
    assert list(record["summary"]) == ["local"]
    assert "not a folder" in record["cells"][1]["failed"]
    assert "failed: fedavg, seed 0" in capsys.readouterr().out
    assert "fedavg, seed 0" in (out / "comparison.md").read_text()


def test_an_interruption_stops_what_runs_and_starts_nothing_more(tmp_path):
    out, seen = tmp_path / "out", []

    def interrupt(stages):
        seen.append(stages)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        comparing.compare(config.load(None, list(TINY)), out, ["fedgmi"], [0, 1, 2], jobs=2, watch=interrupt)
    assert seen == [{"fedgmi-0": "preparing", "fedgmi-1": "preparing", "fedgmi-2": "waiting"}]
    assert psutil.Process().children() == []
    assert not (out / "comparison.json").exists()
    assert not (out / "cells" / "fedgmi-2.log").exists()


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        ("fedgmi,fedavgg", "0", 'did you mean "fedavg"'),
        ("fedgmi,fedgmi", "0", "fedgmi is named twice"),
        ("fedgmi", "0,1,0", "0 is named twice"),
        ("fedgmi", "one", '"one" is no seed'),
        ("fedgmi", "-1", '"-1" is no seed'),
        ("", "0", "there is none"),
        ("oracle", "0", "beside fedgmi"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, methods, seeds, message):
    out = tmp_path / "out"
    assert exit_code(*words(out, methods, seeds)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_methods_that_cannot_do_the_task_are_refused_before_anything_runs(tmp_path, capsys):
    out = tmp_path / "out"
    assert exit_code(*words(out, "fedavg,knn-per,flux", "0", "--set", "data.task=regression")) == 2
    assert "the task is regression, which knn-per and flux cannot do" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def own_setting(settings, method, key):
    return getattr(cells.cell_config(settings, cells.Cell(method, 0), False, 1).method, key, None)


@pytest.mark.parametrize("base", ["fedgmi", "ifca"])
def test_what_the_command_line_says_of_methods_reaches_all_that_have_it(base):
    words = [f"method.name={base}", "method.shared_trunk=true"]
    settings, told = reach.load_for(None, words, ["ifca", "fedem", "fedavg"])
    assert [own_setting(settings, m, "shared_trunk") for m in ("ifca", "fedem", "fedavg")] == [True, True, None]
    assert told == ["method.shared_trunk = true counts for ifca, fedem, and not for fedavg"]
    words = ["compare.fedem.weighting=weight", f"method.name={base}", "method.weighting=draw"]
    settings, _ = reach.load_for(None, words, ["fedem", "fedgmm"])
    assert [own_setting(settings, m, "weighting") for m in ("fedem", "fedgmm")] == ["weight", "draw"]


def test_the_presets_of_fedgmi_have_what_means_something_to_them():
    _, told = reach.load_for(None, ["method.codewords=5"], ["fedgmi", "fedgmi-plain", "fedgmi-sketch", "oracle"])
    assert told == ["method.codewords = 5 counts for fedgmi, fedgmi-sketch, and not for fedgmi-plain"]


def test_the_file_s_settings_of_a_method_that_is_not_compared_are_told(tmp_path):
    (tmp_path / "mine.toml").write_text("[method]\ncodewords = 5\n")
    with pytest.warns(FedgmiWarning, match=r"method.codewords: settings of fedgmi, which is not compared"):
        reach.load_for(tmp_path / "mine.toml", ["method.shared_trunk=true"], ["ifca"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.shared_trunkk=true", "did you mean method.shared_trunk?"),
        ("method.mu=0.1", "none of the compared methods has it: ifca, fedem. Likely fix: leave it out, or compare one"),
        ("method.shared_trunk=5", "shared_trunk is 5 (a whole number), expected true or false"),
    ],
)
def test_settings_that_no_compared_method_has_are_refused(tmp_path, capsys, setting, message):
    assert exit_code(*words(tmp_path / "out", "ifca,fedem", "0", "--set", setting)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def cell(method, seed, accuracies, **more):
    mean = sum(accuracies) / len(accuracies)
    numbers = {"proportion_tv": None, "bytes_down": 1, "bytes_up": 1, "seconds": 2.0, "rounds": 2}
    found = {"method": method, "seed": seed, "client_accuracy": mean, "client_accuracy_per_client": accuracies}
    return found | numbers | {"expert_accuracy": None} | more


def test_the_best_is_only_called_so_where_the_test_says_so():
    high = [0.90 + 0.001 * i for i in range(12)]
    clear = [value - 0.05 for value in high]
    close = [value + (0.01 if i % 2 else -0.011) for i, value in enumerate(high)]
    told = compared("x", ["a", "b"], [0], [cell("a", 0, high), cell("b", 0, clear)])
    assert told["best"] == "a"
    assert told["paired"]["against"]["b"]["difference"] == pytest.approx(0.05)
    assert "| **a** |" in comparison.to_markdown(told)
    level = compared("x", ["a", "c"], [0], [cell("a", 0, high), cell("c", 0, close)])
    assert level["best"] is None
    assert "level with c" in comparison.to_markdown(level)


def test_of_few_clients_it_is_said_that_nothing_can_be_told():
    """Four hospitals, eleven points apart: that is neither a difference nor a draw."""
    high, low = [0.8, 0.81, 0.82, 0.83], [0.69, 0.71, 0.7, 0.72]
    told = compared("x", ["a", "b", "c"], [0], [cell("a", 0, high), cell("b", 0, low), cell("c", 0, low)])
    said = comparison.verdict(told)
    assert told["paired"]["least_p"] == 0.25
    assert (
        "a has the best mean. With 4 pairs of seed and client, and 2 methods beside it, this test cannot tell" in said
    )
    assert "no p can be below 0.250" in said
    assert "level" not in said


def test_names_of_methods_stay_whole_in_80_columns():
    console = Console(file=io.StringIO(), width=80)
    names, accuracies = ["fedgmi-plain", "fedavg-ft", "fedadagrad"], [0.7, 0.6, 0.8, 0.9]
    cells = [
        cell(name, seed, accuracies, proportion_tv=0.1, bytes_down=123_456_789, bytes_up=123_456_789)
        for name in names
        for seed in (0, 1)
    ]
    comparison.print_comparison(compared("x", names, [0, 1], cells), Path("here"), console)
    shown = console.file.getvalue()
    assert all(f"\n{name} " in shown for name in names)
    assert max(map(len, shown.splitlines())) <= 80


def test_rivals_whose_clients_were_given_a_part_of_their_own_are_marked():
    made = [cell(name, 0, [0.9, 0.8], own_part=name != "local") for name in ("fedgmi", "fedavg", "local")]
    names = {row[0] for row in comparison.rows(compared("x", ["fedgmi", "fedavg", "local"], [0], made))[1:]}
    assert names == {"fedgmi", "fedavg + own part", "local"}


def test_a_comparison_says_what_a_client_cost_and_how_models_travelled():
    budget = {"mb_per_client": 2.0, "sat_out": 3}
    made = [
        cell("fedgmi", 0, [0.9], mb_per_client=1.25, most_mb=1.3, models_travelled="in 4 bits", budget=budget),
        cell("fedavg", 0, [0.8], mb_per_client=0.5, most_mb=0.6, models_travelled="as they are, in float32"),
    ]
    text = comparison.to_markdown(compared("x", ["fedgmi", "fedavg"], [0], made))
    head, ours = (
        next(line for line in text.splitlines() if word in line).split(" | ") for word in ("s a round", "1.25")
    )
    assert ours[head.index("MB a client")] == "1.25"
    told = "- fedgmi: models travelled in 4 bits; most of any client 1.300 MB of 2 MB; clients sat out 3 times."
    assert told in text
    assert "fedavg: models" not in text


def test_pairs_are_of_the_same_seed_and_client():
    a = [cell("a", 0, [0.5, 0.6]), cell("a", 1, [0.7, 0.8])]
    b = [cell("b", 1, [0.6, 0.6])]
    paired = compared("x", ["a", "b"], [0, 1], [*a, *b])["paired"]
    assert paired["best"] == "a"
    assert paired["against"]["b"]["pairs"] == 2
    assert paired["against"]["b"]["difference"] == pytest.approx(0.15)


def test_components_without_an_expert_stay_blank():
    matrices = [[[0.9, None], [0.2, 0.8]], [[0.7, 0.1], [0.4, 0.6]]]
    found = summarise([cell("a", seed, [0.5], expert_accuracy=m) for seed, m in enumerate(matrices)])
    assert found["expert_accuracy"] == [[pytest.approx(0.8), None], [pytest.approx(0.3), pytest.approx(0.7)]]


def test_methods_are_not_given_what_they_cannot_use():
    settings = config.load(None, ["method.n_components=2", "method.epsilon=1.0"])
    made = {m: cells.cell_config(settings, cells.Cell(m, 0), False, 1).method for m in ("fedgmi", "fedem", "fedavg")}
    assert {m: found.n_components for m, found in made.items()} == {"fedgmi": 2, "fedem": 2, "fedavg": None}
    assert {m: getattr(found, "epsilon", None) for m, found in made.items()} == {
        "fedgmi": 1.0,
        "fedem": None,
        "fedavg": None,
    }


def test_threads_are_shared_between_runs_at_a_time(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    made = cells.cell_config(config.load(None), cells.Cell("fedgmi-plain", 3), oracle=True, jobs=4)
    assert (made.seed, made.threads, made.method.preset, made.evaluation.oracle) == (3, 2, "plain", False)


@pytest.mark.parametrize(
    "overrides", [["method.preset=plain"], ["method.name=fedavg", "compare.fedgmi.preset=plain"]], ids=["own", "other"]
)
def test_the_preset_of_the_settings_counts_unless_the_cell_names_another(overrides):
    settings = config.load(None, overrides)
    presets = [
        cells.cell_config(settings, cells.Cell(m, 0), False, 1).method.preset for m in ("fedgmi", "fedgmi-sketch")
    ]
    assert presets == ["plain", "sketch"]


def measured(per_client):
    mean = sum(per_client) / len(per_client)
    return {"mean": mean, "worst_tenth": max(per_client), "all_rows": mean, "per_client": per_client}


def test_another_metric_ranks_in_its_own_direction():
    """A lower log loss is better, whatever the accuracy; the others stay in the record."""
    sharp, dull = [0.30 + 0.01 * i for i in range(12)], [0.60 + 0.02 * i for i in range(12)]
    made = [
        cell("dull", 0, [0.9] * 12, metrics={"log_loss": measured(dull)}, majority_accuracy=0.5),
        cell("sharp", 0, [0.8] * 12, metrics={"log_loss": measured(sharp)}, majority_accuracy=0.5),
    ]
    told = compared("x", ["dull", "sharp"], [0], made, "log_loss")
    assert told["metric"] == "log_loss"
    assert told["paired"]["best"] == told["best"] == "sharp"
    assert told["paired"]["against"]["dull"]["difference"] == pytest.approx(0.355)
    assert "the clients' log loss" in told["test"]
    head, first, second = comparison.rows(told)
    assert head[1] == "log loss, nats"
    assert (first[0], first[1]) == ("**sharp**", "0.355")
    assert (second[0], second[4]) == ("dull", "0.355")
    assert told["summary"]["dull"]["metrics"]["log_loss"]["worst_tenth"][0] == pytest.approx(0.82)
    by_accuracy = compared("x", ["dull", "sharp"], [0], made)
    assert by_accuracy["paired"]["best"] == "dull"
    assert "log_loss" in comparison.to_csv(by_accuracy).splitlines()[0]
