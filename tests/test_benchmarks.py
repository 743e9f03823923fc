"""The benchmarks run, at a tiny size: their tables must not rot. What they find is in benchmarks/README.md."""

import contextlib
import importlib
import io
import json
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from summaries import make_diagnosis

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--clients", "10", "--rows", "20", "--side", "4", "--threads", "1", "--repeats", "1")


def called(script: str, *options: str) -> tuple[int, str, str]:
    """→ (exit code, what it prints, what it says beside it), in this process: importing torch takes seconds."""
    printed, said, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", [script, *options])
        patch.syspath_prepend(str(FOLDER))
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            try:
                runpy.run_path(str(FOLDER / script), run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return code, printed.getvalue(), said.getvalue()


def output(script: str, *options: str, size: tuple[str, ...] = TINY) -> str:
    """What the script prints; it has to succeed."""
    code, printed, said = called(script, *size, *options)
    assert code == 0, said
    return printed


def test_packed_training_compares_with_the_loop():
    lines = output("packed_training.py").splitlines()
    assert re.match(r"\d+ jobs, \d+ job-steps", lines[0])
    compared = [
        re.match(r"(\w+): packed [\d.]+ s, loop [\d.]+ s, ratio [\d.]+; (\S+) apart", line) for line in lines[1:]
    ]
    assert [match and match[1] for match in compared] == ["vae", "expert"]
    assert all(match and float(match[2]) < 1e-3 for match in compared)


def test_peers_stand_beside_ours():
    """Own loops and ours in one table; ours is the line that ratios are of."""
    text = output("peers.py", size=("--clients", "2", "--rows", "60", "--repeats", "1", "--model", "cnn"))
    first, second, third = text.strip().split("\n\n")
    ratios = re.findall(r"^\| ([^|]+) \| [\d.]+ \| ([\d.]+) \| [\d.]+ to [\d.]+ \|$", first, re.MULTILINE)
    assert [name for name, _ in ratios][:2] == ["fedgmi's FedAvg", "bare, fused Adam"]
    assert len(ratios) == 7
    assert ratios[0][1] == "1.00"
    assert all("FedEM's form" in part for part in (second, third))


def test_scale_has_a_line_for_each_size():
    text = output("scale.py", size=("--sizes", "6"))
    assert re.search(r"^\| 6 \|( [\d.]+ \|){5}$", text, re.MULTILINE)


def test_device_does_without_a_gpu_or_compares_with_it():
    text = output("device.py", size=("--clients", "2", "--rows", "60", "--repeats", "1"))
    assert "| packed, one core |" in text
    assert "no GPU is here" in text or "of their length apart" in text


def test_round_cost_tells_the_steps_apart():
    text = output("round_cost.py", "--epochs", "1", "--no-target")
    table = re.findall(r"^ *([\w-]+) +[\d.]+ +[\d.]+ +[\d.]+$", text, re.MULTILINE)
    assert table == ["E-step", "evidence", "calibration", "M-step", "round"]
    assert "10 clients of 20 rows" in text
    assert "1 local epochs" in text
    few, many = (int(jobs) for jobs in re.findall(r"^K=\d: (\d+) jobs of \d+ pairs", text, re.MULTILINE))
    assert few <= many < 90


def test_tables_with_and_without_one_scale():
    text = output("tables.py", size=("--units", "1e-6 … 1e6", "--rates", "3e-3", "--rounds", "1"))
    _, _, standardised, raw = text.splitlines()
    assert re.fullmatch(r"\| 1e-6 … 1e6 \| yes \| 0.003 \| 0 of 1 \| 0\.[01]\d+ \| -\d+\.\d \|", standardised)
    found = re.fullmatch(r"\| 1e-6 … 1e6 \| no \| 0.003 \| 0 of 1 \| 0\.\d+ \| (-\d+\.\d) \|", raw)
    assert found, raw
    assert float(found[1]) < -1e6  # far values no longer end the run; the bound tells what it is worth


@pytest.mark.parametrize("options", [(), ("--config", "configs/digits.toml", "--set", "rounds=1")])
def test_drift_prints_false_alarms_and_delays(options):
    text = output("drift.py", *options, size=("--runs", "2", "--nominal", "10", "--batch", "50", "--reference", "60"))
    false, delay = (part.splitlines() for part in text.strip().split("\n\n"))
    assert "run length / nominal" in false[0]
    assert len(false) == 3
    kinds = re.findall(r"\| (π moves by [\d.]+|\d+% [^|]+) \|", "\n".join(delay[2:]))
    assert len(kinds) == len(delay) - 2 >= 6
    assert all(line.count("|") == delay[0].count("|") for line in delay)


def test_diagnosis_tells_how_often_it_is_right(tmp_path):
    few = ("--seeds-k", "1", "--seeds", "1", "--seeds-hard", "1", "--scenarios", "gaussian", "--out", str(tmp_path))
    size = ("--clients", "8", "--rows", "60", "--tables", "components", "whole")
    text = output("diagnosis.py", *few, size=size)
    assert re.search(r"^Right: \d of 6\.$", text, re.MULTILINE)
    assert re.search(r"^\| gaussian \| 1 \| [01] \| \d+\.\d \| 0\.\d{3} \|", text, re.MULTILINE)
    assert len(list(tmp_path.glob("*.json"))) == 7
    assert "done" not in output("diagnosis.py", *few, size=size)


def test_scatter_has_a_share_for_each_kind_of_federation():
    few = ("--draws", "1", "--shapes", "8x60x9", "--clients", "8", "--tables", "one", "several")
    one, several = output("scatter.py", size=few).strip().split("\n\n")
    assert re.search(r"^\| 8 × 60, 9 words \|( [01]\.00 \|){4}$", one, re.MULTILINE)
    assert len(re.findall(r"^\| 8 clients, φ = [\d.]+ \|( [01]\.00 \|){6}$", several, re.MULTILINE)) == 3


def test_mixture_or_not_has_a_line_with_figures_and_a_sentence(tmp_path):
    few = ("--set", "scenario.n_clients=6", "--set", "scenario.rows_per_client=30", "--out", str(tmp_path))
    size = ("--names", "digits", "wisdm", "--data", str(tmp_path), "--seeds", "0", "1")  # wisdm is not there
    text = output("mixture_or_not.py", *few, size=size)
    row = re.search(r"^\| digits \| 6 \| 180 \| ([\d ]+) \| [^|]+ \| [^|]+ \| [\d.]+ \[.*\] \| (.+\.) \|$", text, re.M)
    assert row is not None
    assert row[2].startswith(f"{row[1][0]} component" if row[1][0] != "1" else "One component")
    assert "wisdm" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"digits-0", "digits-1"}
    assert "done" not in output("mixture_or_not.py", *few, size=size)


def test_mixture_or_not_tells_how_answers_vary_by_seed(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("mixture_or_not")
    found = [make_diagnosis(k, p_value=p) for k, p in ((1, 0.004), (3, 0.5))]
    assert benchmark.line("wards", found)[:6] == ["wards", "6", "3,000", "1 3", ".004 .50", "–"]
    assert benchmark.line("wards", found[1:])[3:6] == ["3", ".50", ".84 [.79, .88]"]


def test_identifiability_has_tables_and_a_picture(tmp_path):
    few = ("--clients", "5", "--rows", "30", "--seeds", "0", "--presets", "sketch", "--out", str(tmp_path))
    cells = ("--purest", "0.9", "1", "--separations", "3", "--picture", str(tmp_path / "page.html"))
    text = output("identifiability.py", size=(*few, *cells))
    heads = re.findall(r"^\| sketch: ([^|]+) \| 3σ", text, re.MULTILINE)
    assert heads == ["TV", "width of the intervals", "coverage %", "identified %"]
    assert re.search(r"^\| 0\.9 \| 0\.\d{3} \(0\.\d{3}, 0\.\d{3}\) \| 0\.\d{3} \|$", text, re.MULTILINE)
    assert "TV of a mixture of all rows" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("*.json"))) == 4  # two of fedgmi, two of the mixture of all rows
    assert "done" not in output("identifiability.py", size=(*few, *cells))


def test_intervals_tells_how_often_they_cover():
    names = ("12 × 200, K = 2, purest .8", "12 × 200, K = 2, purest .6, own words")
    text = output("intervals.py", "--cases", *names, size=("--draws", "1")).splitlines()
    assert [
        re.match(r"\| ([^|]+) \| 1 \| \d+\.\d ± 0\.0 \| 0\.\d{3} \| 0\.\d{3} \|", line)[1] for line in text[2:]
    ] == [*names]


def test_privacy_prints_the_error_by_epsilon():
    size = ("--clients", "8", "--rows", "60", "--seeds", "0", "1", "--codewords", "4")
    text = output("privacy.py", "--scenarios", "label-swap", "--epsilons", "inf", "1", "0.001", size=size).splitlines()
    assert text[0] == "| scenario, clients × rows | no noise | ε = 1 | ε = 0.001 | mean of all |"
    spread = r"0\.\d{3} ± 0\.\d{3}( \([123], [123]\))?"
    assert re.fullmatch(rf"\| label-swap, 8 × 60 \|( {spread} \|){{4}}", text[2])
    assert "(1, 1)" in text[2]


def made_up_fault(name, **changes):
    """What benchmarks/faults.py keeps of a run that went well."""
    found = {"name": name, "ended": True, "resumed": False, "why": "", "missing": [], "left": 0, "seconds": 100.0}
    found |= {"proportions": [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], "absent": [0, 0, 0], "line": "round 1 of 6 is done"}
    found |= {"experts": [[3.0, 0.0], [0.0, 4.0]]}
    return found | changes


def table_of_faults(out, *results):
    """→ (exit code, rows by what went wrong); --only one that is there already, so nothing is started."""
    out.mkdir(exist_ok=True)
    for result in results:
        (out / f"{result['name']}.json").write_text(json.dumps(result))
    code, printed, said = called("faults.py", "--out", str(out), "--only", "none")
    assert "done" not in said, said
    cells = [re.split(r" ?\| ?", line)[1:-1] for line in printed.splitlines()]
    assert all(len(line) == 7 for line in cells), said
    return code, {line[0]: line[1:] for line in cells[2:]}


def test_faults_tells_what_came_of_each(tmp_path):
    apart = [[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]]  # the components in the other order, one site 0.1 away
    said = "round 1: site-2 is absent: NaN. Likely fix: none"
    nan = made_up_fault("nan", proportions=apart, absent=[0, 0, 1], line=said, experts=[[0.0, 4.0], [3.0, 0.5]])
    code, rows = table_of_faults(tmp_path, nan, made_up_fault("link-killed", resumed=True), made_up_fault("none"))
    assert code == 0
    killed = "coordinator and SuperLink killed, restarted"
    assert list(rows) == ["nothing", "a site sends NaN", killed]
    line = "`round 1: site-2 is absent: NaN. …`"
    assert rows["a site sends NaN"] == ["went on; site-2 absent in 1 of 7", "nothing", "0.033", "0.100", line, "100"]
    assert rows[killed][:4] == ["resumed", "nothing", "0", "0"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"line": None}, "nothing in the log"),
        ({"missing": ["site-1: states"]}, "missing site-1: states"),
        ({"ended": False, "why": "not within 480 s", "proportions": None}, r"it did not end \(not within 480 s\)"),
        ({"left": 2}, "2 processes left"),
        ({"proportions": [[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]]}, "another result"),
        ({"experts": [[3.0, 0.0], [0.1, 4.0]]}, "another result"),
    ],
)
def test_faults_fails_where_a_run_did_not_end_as_it_should(tmp_path, changes, told):
    code, rows = table_of_faults(tmp_path, made_up_fault("none"), made_up_fault("disk-full", **changes))
    assert code == 1
    assert re.fullmatch(f"FAILED: {told}", rows["coordinator's disk full at a checkpoint"][0])
    assert not rows["nothing"][0].startswith("FAILED")


def test_faults_tells_what_chance_alone_does():
    done = subprocess.run([sys.executable, str(FOLDER / "faults.py"), "--noise", "1"], capture_output=True, text=True)
    assert re.fullmatch(r"1 other seeds to seed 0: TV median (\S+), \1 to \1; experts median .*\n", done.stdout), (
        done.stderr
    )


def test_rivals_puts_comparisons_side_by_side(tmp_path):
    from fedgmi.runs.records import Comparison

    def found(accuracy, error=None):
        summary = {"client_accuracy": [accuracy, 0.01], "worst_decile": [accuracy - 0.1, 0.0], "seeds": [0, 1]}
        summary |= {"proportion_tv": error and [error, 0.002], "bytes_down": [2e6, 0.0], "bytes_up": [1e6, 0.0]}
        return summary | {"seconds_per_round": [0.1, 0.0], "expert_accuracy": None}

    frame = {"scenario": "x", "methods": [], "seeds": [0, 1], "cells": [], "paired": None, "best": None}
    frame |= {"test": "a test", "significant": 0.05}
    both = {"fedgmi": found(0.92, 0.01), "fedavg": found(0.91)}
    Comparison.write(tmp_path / "rotation", frame | {"summary": both})
    Comparison.write(tmp_path / "rotation-a03", frame | {"summary": {"fedavg": found(0.88)}})
    text = output("rivals.py", size=("--tables", "--out", str(tmp_path)))
    assert "| method | rotation | rotation, α = 0.3 |" in text
    assert "| fedgmi | 92.0 ± 1.0 (82.0) | – |" in text
    assert "| fedavg | 91.0 ± 1.0 (81.0) | 88.0 ± 1.0 (78.0) |" in text
    assert "| fedgmi | 0.010 ± 0.002 | – |" in text
    assert "| fedavg | 3 | 3 |" in text


def test_rivals_are_all_methods_and_every_cell_of_the_series_can_be(monkeypatch, tmp_path):
    from fedgmi.methods import METHODS
    from fedgmi.runs.cells import cell_config, check_oracle, grid
    from fedgmi.runs.tuning import runs_of

    monkeypatch.syspath_prepend(str(FOLDER))
    rivals = importlib.import_module("rivals")
    found = {}

    def compare(settings, out, methods, seeds, jobs):
        check_oracle(settings, methods)
        cells = runs_of(settings, grid(methods, seeds), False)
        found[out.name] = [cell_config(settings, cell, "oracle" in methods, jobs) for cell in cells]

    monkeypatch.setattr(rivals, "compare", compare)
    monkeypatch.setattr(rivals, "write_comparison", lambda record, out: None)
    for comparison in (*rivals.SERIES, rivals.SMALL):
        rivals.run(comparison, tmp_path, {}, jobs=1)
    assert len(found) == len(rivals.SERIES) + 1
    for configs in found.values():
        assert {each.method.name for each in configs} == set(METHODS)
    assert {each.rounds for each in found["small"]} == {4}


def made_up_table(folder, features, names):
    """Four clients of ten training and five test rows, whose label is the sign of the first feature."""
    import datasets
    import numpy as np

    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 20)):
        x = rng.normal(size=(n, len(features)))
        columns = {name: x[:, i] for i, name in enumerate(features)}
        columns |= {"label": (x[:, 0] > 0).astype(int), names: [f"client-{i % 4}" for i in range(n)]}
        columns |= {name: rng.integers(0, 3, n) for name in features if name in ("cp", "restecg")}
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({k: list(v) for k, v in columns.items()}).to_parquet(folder / f"{split}.parquet")


def test_published_figures_stand_beside_ours_and_cells_are_read_again(tmp_path, monkeypatch):
    numbers = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
    made_up_table(tmp_path / "fed-heart-disease", [*numbers, "cp", "restecg"], "center")
    scaled = [*numbers, "cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2"]
    made_up_table(tmp_path / "fed-heart-disease-flamby", scaled, "center")
    monkeypatch.syspath_prepend(str(FOLDER))
    published = importlib.import_module("published")
    out = tmp_path / "out"
    command = ["published.py", "--data", str(tmp_path), "--out", str(out), "--quick"]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "flamby-heart", "wisdm"])
    published.main()
    text = (out / "published.md").read_text()
    [fedavg] = [line for line in text.splitlines() if line.startswith("| fedavg |")]
    assert re.match(r"\| fedavg \| \.685 ± \.028 \| (\.\d{3}|1\.000|0\.000) \| [+-]\.\d{3} \|", fedavg), fedavg
    assert "wisdm" not in text  # its folder is not there
    kept = out / "fed-heart-disease-flamby" / "fedavg-42.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"value": 0.125}))
    published.main()
    assert "| fedavg | .685 ± .028 | .125 | -.560 |" in (out / "published.md").read_text()


def test_flambys_model_is_one_logit_from_its_own_start(monkeypatch):
    import torch

    monkeypatch.syspath_prepend(str(FOLDER))
    published = importlib.import_module("published")
    model = published.flamby_start(13, 42)
    torch.manual_seed(42)
    theirs, x = torch.nn.Linear(13, 1), torch.randn(5, 13)
    torch.testing.assert_close(model(x).softmax(1)[:, 1:], torch.sigmoid(theirs(x)))


@pytest.fixture
def numbers(monkeypatch):
    """benchmarks/before_after_numbers.py: the comparing part of before_after.py."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("before_after_numbers")


def test_before_after_compares_bit_for_bit(numbers):
    before = {"a": 0.3, "b[0]": 0.0, "b[1]": None, "c": "word", "d": 1, "e": float("nan"), "f": True}
    after = {"a": 0.1 + 0.2, "b[0]": -0.0, "b[1]": 0.5, "c": "other", "d": 1.0, "e": float("nan"), "f": 1}
    found = numbers.compare(before, after)
    assert list(found.differ) == ["a", "b[0]", "b[1]", "f"]
    assert found.differ["a"] == (0.3, 0.30000000000000004)
    assert found.words == {"c": ("word", "other")}
    assert found.numbers == 6
    assert numbers.compare(before, dict(before)).differ == {}


def test_before_after_lists_keys_that_one_side_has(numbers):
    found = numbers.compare({"a": 1, "gone": 2, "bytes_up": 3}, {"a": 1, "format": 1, "bytes_up.models": 3})
    assert (found.only_before, found.only_after) == (["gone", "bytes_up"], ["format", "bytes_up.models"])
    assert found.differ == {}


def test_before_after_sees_lists_that_grew_and_values_that_became_lists(numbers):
    before = dict(numbers.leaves({"a": [1, 2], "b": None, "c": [], "d": [0.5]}))
    after = dict(numbers.leaves({"a": [1, 2, 3], "b": [4], "c": [], "d": None}))
    assert list(numbers.compare(before, after).differ) == ["a.length", "b", "d"]


def test_before_after_lets_bytes_and_seconds_differ(numbers):
    before = {"seconds": 1.0, "bytes_down": 7, "oracle.bytes_up": 8, "n": 1}
    found = numbers.compare(before, {"seconds": 2.0, "bytes_down": 9, "oracle.bytes_up": 9, "n": 1})
    assert found == numbers.Comparison(1, {}, {}, [], [])


def made_up_side(out, summary, records=(), error=None):
    """What before_after.py keeps of the case `digits`."""

    from fedgmi.storage.files import write_json

    results = out / "digits" / "results"
    results.mkdir(parents=True)
    write_json(results / "summary.json", {"bytes_down": 1e6, "bytes_up": 2e6} | summary)
    (results / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_json(out / "digits" / "case.json", {"seconds": 9.0, "error": error, "stamp": {}})
    return out


def table_of_before_and_after(before, after):
    """→ (exit code, cells of the case, notes); no side is given, so nothing is run."""
    sides = ["--before-results", str(before), "--after-results", str(after)]
    code, printed, _ = called("before_after.py", *sides, "--only", "digits")
    _, _, row, *notes = printed.splitlines()
    return code, row.split(" | ")[1:], [line for line in notes if line]


def test_before_after_prints_that_a_case_is_equal(tmp_path):
    records = [{"run": "fedgmi", "round": number, "bound": -0.5, "seconds": 1.0} for number in (0, 1)]
    before = made_up_side(tmp_path / "a", {"accuracy": [0.1, 0.2]}, records)
    after = made_up_side(tmp_path / "b", {"accuracy": [0.1, 0.2], "bytes_up": 5e6, "format": 1}, records)
    code, cells, notes = table_of_before_and_after(before, after)
    assert code == 0
    assert cells == ["equal", "6", "1.00 + 2.00", "1.00 + 5.00", "9", "9 |"]  # two lengths, two values, two bounds
    assert notes == ["- only after: summary.json: format (1 of 1 cases)"]


def test_before_after_fails_where_a_number_differs(tmp_path):
    record = {"run": "fedgmi", "round": 3, "bound": -0.5, "tv": 0.25}
    before = made_up_side(tmp_path / "a", {"accuracy": 0.1}, [record])
    after = made_up_side(tmp_path / "b", {"accuracy": 0.1}, [record | {"bound": -0.25, "tv": 0.125}])
    code, cells, _ = table_of_before_and_after(before, after)
    assert code == 1
    told = "records.jsonl: fedgmi.round 3.bound was -0.5, is -0.25 (2 numbers in all)"
    assert cells[0] == f"DIFFERS: {told}"


@pytest.mark.parametrize(
    ("error", "told"), [("error: no such key", "error: no such key"), (None, "there are no results")]
)
def test_before_after_fails_where_a_side_did_not_run(tmp_path, error, told):
    before = made_up_side(tmp_path / "a", {"accuracy": 0.1})
    after = made_up_side(tmp_path / "b", {}, error=error) if error else tmp_path / "b"
    code, cells, _ = table_of_before_and_after(before, after)
    assert (code, cells[0]) == (1, f"FAILED: after: {told}")


def test_before_after_compares_the_tensors_of_checkpoints_under_todays_names(numbers, tmp_path):
    import torch
    from safetensors.torch import save_file

    states = {"server/expert": torch.ones(3), "server/gate_bias": torch.zeros(2)}
    now = {"server/expert": torch.ones(3), "server/gate/bias": torch.tensor([0.0, -0.0])}
    for side, kept in (("a", states), ("b", now)):
        (tmp_path / side).mkdir()
        save_file(kept, tmp_path / side / "fedgmi.3.safetensors")
    found = numbers.compare(numbers.read(tmp_path / "a"), numbers.read(tmp_path / "b"))
    assert (found.numbers, list(found.differ)) == (2, ["fedgmi.3.safetensors: server/gate/bias"])
    assert found.only_before == found.only_after == []


def test_communication_has_a_point_for_each_way(tmp_path):
    size = ("--small", "--out", str(tmp_path / "out"), "--ways", "fedavg", "fedavg-budget")
    text = output("communication.py", "--picture", str(tmp_path / "a.svg"), size=size)
    found = re.findall(r"^\| FedAvg[^|]*, ([^|]+) \| ([\d.]+) MB: [\d.]+ \|$", text, re.MULTILINE)
    mb = {point.strip(): float(value) for point, value in found}
    assert mb["4 bits"] < mb["float32"]
    assert mb["0.3 MB"] <= 0.3
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").count("<circle") == 6


@pytest.mark.filterwarnings("ignore:3 components were asked for")  # so few rows show fewer
def test_one_vae_stands_beside_one_for_each_and_finished_cells_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = importlib.import_module("one_vae")
    monkeypatch.setattr(sys, "argv", ["one_vae.py", "--small", "--judges", "closed", "--out", str(tmp_path / "cells")])
    benchmark.main()
    text = capsys.readouterr().out
    rows = re.findall(r"^\| (digits|gaussian) \| (.+) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == ["digits", "gaussian"]
    pairs = [re.findall(r"(-?[\d.]+) → (-?[\d.]+) \([+-][\d.]+\)", cells) for _, cells in rows]
    assert all(len(measures) == 5 for measures in pairs)
    assert all(float(one) < float(apart) for *_, (apart, one), _ in pairs)  # megabytes
    assert text.count("done") == 4
    benchmark.main()
    assert capsys.readouterr().out == text[text.index("Rows judged") :]
