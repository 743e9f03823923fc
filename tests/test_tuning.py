"""`compare --tune`: validation rows choose each method's own settings, and what that cost is told."""

from __future__ import annotations

import json

import pytest

from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.report import comparison
from fedgmi.runs import cells, config, tuning
from fedgmi.runs.setup import settings_for
from tiny import OWN, TINY, exit_code

SETTINGS = [word for setting in TINY if setting not in OWN for word in ("--set", setting)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "out"
    words = ("compare", "--methods", "fedsoft", "--seeds", "0", "--out", str(out), "--tune", "--jobs", "2")
    assert exit_code(*words, *SETTINGS) == 0
    return out


def test_the_result_is_that_of_the_candidate_that_does_best_on_validation_rows(finished):
    record = json.loads((finished / "comparison.json").read_text())
    (chosen,) = record["cells"]
    runs = {path.parent.name: json.loads(path.read_text()) for path in finished.glob("cells/fedsoft*/summary.json")}
    assert runs.keys() == {"fedsoft-0-strength=0.01", "fedsoft-0-strength=0.1"}
    best = max(runs.values(), key=lambda run: run["validation_score"])
    assert chosen["client_accuracy_per_client"] == best["client_accuracy_per_client"]
    assert best is runs[f"fedsoft-0-strength={chosen['tuned']['settings']['strength']}"]
    assert chosen["tuned"]["bytes_up"] == sum(run["bytes_up"] for run in runs.values())
    assert chosen["tuned"]["candidates"] == 2


def test_tables_tell_the_choice_and_its_cost(finished, capsys):
    assert exit_code("report", str(finished)) == 0
    for told in (capsys.readouterr().out, (finished / "comparison.md").read_text()):
        assert "fedsoft: validation rows chose strength = " in " ".join(told.split())
        assert "2 runs" in told


def test_a_candidate_that_fails_is_out_of_the_running(finished):
    settings, where = config.load(None, TINY), finished / "cells"
    cell = cells.Cell("fedsoft", 0)
    found = tuning.tuned(settings, cell, where, {"fedsoft-0-strength=0.1": "it ran away"})
    assert found["tuned"]["settings"] == {"strength": 0.01}
    assert found["tuned"]["failed"] == 1
    assert "1 of them failed" in comparison.choices({"methods": ["fedsoft"], "cells": [found]})[0]
    runs = [json.loads((where / f"fedsoft-0-strength={value}/summary.json").read_text()) for value in (0.01, 0.1)]
    assert found["tuned"]["bytes_up"] == sum(run["bytes_up"] for run in runs)  # what it had cost until it failed
    everything = {f"fedsoft-0-strength={value}": "it ran away" for value in (0.01, 0.1)}
    assert tuning.tuned(settings, cell, where, everything)["failed"] == "it ran away"


def test_without_validation_rows_the_cell_says_why(finished, monkeypatch):
    monkeypatch.setattr(tuning.Summary, "read", lambda run: tuning.Summary.model_construct(validation_score=None))
    monkeypatch.setattr(tuning.Summary, "to_json", lambda self: {"validation_score": None})
    found = tuning.tuned(config.load(None, TINY), cells.Cell("fedsoft", 0), finished / "cells", {})
    assert "there are none: leave out --tune" in found["failed"]


def test_without_validation_rows_nothing_is_run(tmp_path, capsys):
    table = tmp_path / "wards.csv"
    lines = [f"ward-{i % 2},{i % 7},{'yn'[i % 3 == 0]}" for i in range(80)]
    table.write_text("\n".join(["ward,age,label", *lines]))
    data = [
        f"data.path={table}",
        "scenario.name=by-column",
        "scenario.client_column=ward",
        "scenario.validation_share=0",
    ]
    sets = [word for setting in data for word in ("--set", setting)]
    words = ("compare", *sets, "--seeds", "0", "--out", str(tmp_path / "out"), "--tune", "--methods")
    assert exit_code(*words, "fedavg,fedsoft") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "validation rows choose methods' own settings, and there are none" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_has_chosen_settings_or_given_ones(finished, capsys, tmp_path):
    before = (finished / "comparison.json").read_bytes()
    words = ("compare", "--methods", "fedsoft", "--seeds", "0", *SETTINGS, "--out")
    assert exit_code(*words, str(finished)) == 2
    assert "chosen by validation rows (--tune)" in " ".join(capsys.readouterr().err.split())
    assert (finished / "comparison.json").read_bytes() == before
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "fedavg-0.toml").touch()
    tuning.check_folder(config.load(None, TINY), tmp_path, tune=True)  # nothing is to choose for it
    (tmp_path / "cells" / "fedsoft-0.toml").touch()
    with pytest.raises(ConfigError, match=r"settings as they are given.*compare without --tune"):
        tuning.check_folder(config.load(None, TINY), tmp_path, tune=True)


def test_a_method_without_such_settings_has_one_run():
    assert tuning.candidates(config.load(None), cells.Cell("fedavg", 0)) == [cells.Cell("fedavg", 0)]


@pytest.mark.parametrize(
    "overrides", [["method.name=ditto", "method.mu=0.5"], ["compare.ditto.mu=0.5"]], ids=["method", "compare"]
)
def test_what_the_settings_say_is_not_chosen(overrides):
    assert tuning.candidates(config.load(None, overrides), cells.Cell("ditto", 0)) == [cells.Cell("ditto", 0)]


@pytest.mark.parametrize(("rounds", "left"), [(30, (1, 5, 10)), (6, (1, 5)), (4, ())])
def test_values_that_a_short_run_cannot_have_are_left_out(rounds, left):
    settings = config.load(None, [f"rounds={rounds}"])
    found = tuning.candidates(settings, cells.Cell("flhc", 0))
    assert found == ([cells.Cell("flhc", 0, (("joint_rounds", n),)) for n in left] or [cells.Cell("flhc", 0)])
    assert settings_for(cells.cell_config(settings, found[0], False, 1), "flhc").joint_rounds < rounds


@pytest.mark.parametrize("name", METHODS)
def test_every_value_is_one_that_its_method_takes(name):
    entry = METHODS[name]
    for cell in tuning.candidates(config.load(None), cells.Cell(name, 0)):
        entry.check(entry.settings.model_validate({"name": name, **dict(cell.settings)}), 30)
    assert all(len(set(map(str, values))) == len(values) > 1 for values in entry.tune.values())


def test_methods_are_tuned_evenly():
    """Who has settings of its own has values for them, but for those that choose as they run."""
    without = {name for name, entry in METHODS.items() if not entry.tune}
    assert without == {"fedgmi", "fedavg", "fedavg-ft", "fedper", "scaffold", "local"}
    assert METHODS["fedprox-ft"].tune == METHODS["fedprox"].tune


def test_tables_name_those_that_had_nothing_to_choose():
    chosen = {"settings": {"mu": 0.1}, "candidates": 3, "failed": 0, "seconds": 1.0, "bytes_down": 1, "bytes_up": 1}
    cells_ = [{"method": "ditto", "tuned": chosen}, {"method": "local"}, {"method": "cfl", "failed": "it ran away"}]
    found = comparison.choices({"methods": ["local", "ditto", "cfl"], "cells": cells_})
    assert found[-1] == "Nothing to choose: local."
    assert comparison.choices({"methods": ["local"], "cells": cells_[1:2]}) == []
