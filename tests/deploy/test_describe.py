"""`fedgmi site describe` and `fedgmi deploy merge`: from sites' own files to the federation's `[rows]`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
import pytest
from clinic import MEAN, ROWS, federation, post_of, settings_of, write_rows, write_site
from PIL import Image

from fedgmi import FedGMI, cli
from fedgmi.data.sources.row_numbers import given_out
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import RowSettings, read_rows
from fedgmi.deploy.setup.merge_rows import merge
from fedgmi.deploy.site.describe import describe
from fedgmi.errors import ROWS as COUNTED
from fedgmi.errors import ConfigError, DataError
from fedgmi.storage import files


def fedgmi(*words: object) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main([str(word) for word in words])
    return int(raised.value.code or 0)


def test_from_files_to_a_run_over_sites_with_gaps(tmp_path, capsys):
    """Describe at each site, merge, check, run: missing values are filled by the federation's rule."""
    proposals = []
    for i in range(3):
        rows = write_rows(tmp_path / f"site-{i}", i)
        proposals.append(tmp_path / f"rows-{i}.toml")
        assert fedgmi("site", "describe", rows, "--label", "outcome", "--out", proposals[-1]) == 0
    assert fedgmi("deploy", "merge", *proposals, "--out", tmp_path / "rows.toml") == 0
    assert "pulse: left out" in capsys.readouterr().out
    agreed = federation((tmp_path / "rows.toml").read_text())
    sites = [write_site(tmp_path / f"site-{i}", i, agreed) for i in range(3)]
    for site in sites:
        assert fedgmi("site", "check", site) == 0
    assert "age is missing in 12 of 60 rows (20%)" in " ".join(capsys.readouterr().out.split())
    summary = Coordinator(settings_of(sites[0]), post_of(*sites), tmp_path / "out", echo=lambda line: None).run()
    assert len(summary["proportions"]) == 3
    assert summary["client_accuracy"] > summary["majority_accuracy"]
    told = files.read_json(tmp_path / "site-1" / "site" / "results" / "metrics.json", "metrics", {"metrics"}, "")
    assert {"accuracy", "macro_f1"} <= told["metrics"].keys()
    assert 0 < told["majority_accuracy"] < 1


@pytest.mark.parametrize("rule", ["mean", "indicator"])
def test_a_site_without_any_value_of_a_column_takes_part(tmp_path, rule):
    """The mean is that of the other sites."""
    agreed = federation(ROWS if rule == "indicator" else MEAN, rounds=1)
    sites = [write_site(tmp_path / f"site-{i}", i, agreed) for i in range(3)]
    rows = sites[2].parent / "rows.csv"
    cells = [line.split(",") for line in rows.read_text().splitlines()]
    rows.write_text("\n".join(",".join([*line[:1], line[1] * (not i), *line[2:]]) for i, line in enumerate(cells)))
    assert fedgmi("site", "check", sites[2]) == 0
    summary = Coordinator(settings_of(sites[0]), post_of(*sites), tmp_path / "out", echo=lambda line: None).run()
    assert summary["rounds_absent"] == [0, 0, 0]
    assert FedGMI.load(sites[2].parent / "site" / "results" / "model").predict(
        pandas.read_csv(rows).drop(columns=["patient", "outcome"]), client="clinic-2"
    ).shape == (60,)


def test_what_is_proposed_tells_no_single_row(tmp_path):
    path = tmp_path / "rows.csv"
    lines = [f"P{i},{18 + i},{'rare' if i < 4 else 'usual'},{'lost' if i < 3 else 'well'},7" for i in range(60)]
    path.write_text("patient,age,illness,label,same\n" + "\n".join(lines) + "\n")
    found = describe(path)
    assert found.rows.features == ("illness=usual", "illness=(missing)", "same")
    assert found.rows.classes == ("well",)
    assert found.rows.missing == "indicator"
    assert not found.rows.ranges
    told = "\n".join(found.notes)
    for part in (
        "patient: 60 different texts",
        "age: whole numbers that differ",
        "'rare' is not told",
        "'lost' is not",
    ):
        assert part in told
    assert describe(path, least=1).rows.classes == ("lost", "well")


def numbers(path: Path, values: Sequence[float]) -> tuple[bool, str]:
    """Whether a column of these is a feature, and what is said of it."""
    path.write_text("x,ward\n" + "".join(f"{value:.15g},{'AB'[i % 2]}\n" for i, value in enumerate(values)))
    found = describe(path)
    return "x" in found.rows.features, "\n".join(note for note in found.notes if note.startswith("x:"))


@pytest.mark.parametrize("case", ["in a row", "in any order", "by year", "in tens", "some of a series", "of a day"])
def test_patients_numbers_stay_out_though_one_stands_twice(tmp_path, case):
    draws = np.random.default_rng(1000)
    values = {
        "in a row": np.arange(250) + 7000,
        "in any order": draws.permutation(250) + 7000,
        "by year": np.concatenate([np.arange(50) + 10_000 * year for year in range(2019, 2024)]),
        "in tens": np.arange(250) * 10 + 3,
        "some of a series": draws.choice(1000, 250, replace=False),
        "of a day": np.arange(250) + 2_026_113_000_000,
    }[case]
    kept, note = numbers(tmp_path / "rows.csv", values)
    assert not kept
    assert note.startswith("x: whole numbers that differ in all rows, such as patients' numbers: left out; where it is")
    values[17] = values[203]
    kept, note = numbers(tmp_path / "rows.csv", values)
    assert not kept
    assert "249 of 250 differ, and that follow one another, such as patients' numbers: left out; where it" in note
    assert "add 'x' to features" in note


def test_what_may_be_patients_numbers_is_left_out_and_told(tmp_path):
    """Far apart they look like counts of cells; with several visits each, like anything that repeats."""
    draws = np.random.default_rng(1000)
    far = draws.choice(10**8, 250, replace=False)
    far[17] = far[203]
    kept, note = numbers(tmp_path / "rows.csv", far)
    assert not kept
    assert (
        note == "x: whole numbers of which 249 of 250 differ, such as patients' numbers: left out; "
        "where it is measured, add 'x' to features in the file"
    )
    kept, note = numbers(tmp_path / "rows.csv", draws.permutation(np.repeat(np.arange(200), 1 + np.arange(200) % 2)))
    assert not kept
    assert "200 of 300 differ, and that follow one another, such as patients' numbers: left out; where" in note


def test_what_may_be_patients_numbers_has_no_range(tmp_path, capsys):
    """It was kept with one, and its own advice led to a file that no merge took."""
    path, out = tmp_path / "rows.csv", tmp_path / "rows.toml"
    far = np.random.default_rng(1000).choice(10**8, 250, replace=False)
    far[17] = far[203]
    path.write_text("patient,age\n" + "".join(f"{n},{18 + i % 7}.5\n" for i, n in enumerate(far)))
    found = describe(path, ranges=True)
    assert found.rows.features == ("age",)
    assert found.rows.ranges.keys() == {"age"}
    assert any("add 'patient' to features and its [least, greatest] to ranges in the file" in n for n in found.notes)
    assert fedgmi("site", "describe", path, "--ranges", "--out", out) == 0
    assert fedgmi("deploy", "merge", out) == 0
    out.write_text(out.read_text().replace('"age",', '"pulse",'))
    assert fedgmi("deploy", "merge", out) == 2
    told = "".join(capsys.readouterr().err.split("\n"))
    assert f"{out}: rows.ranges: 'age' is no feature" in told


def test_measurements_are_kept_and_nothing_is_said(tmp_path):
    draws = np.random.default_rng(1000)
    measured = {
        "age": draws.normal(60, 12, 250).round(),
        "cholesterol": draws.normal(240, 50, 250).round(),
        "pressure in tens": draws.normal(14, 2, 250).round() * 10,
        "creatine kinase": np.exp(draws.normal(5.5, 1.1, 250)).round(),
        "days": draws.exponential(1000, 1000).round(),
        "cells": draws.normal(7, 1.5, 1000).round(1) * 1000,
        "temperature": draws.normal(37, 0.5, 250),
        "one value": np.full(250, 3.0),
        "beyond whole numbers": np.repeat(draws.normal(size=50) * 1e300, 5),
        "few rows": np.arange(49),
    }
    assert {name: numbers(tmp_path / "rows.csv", values) for name, values in measured.items()} == dict.fromkeys(
        measured, (True, "")
    )


def test_values_that_do_not_depend_on_each_other_are_no_numbers_given_out():
    """Whatever their distribution: here of powers, over many values or few. One in a thousand may be."""
    draws = np.random.default_rng(1000)
    wrong = 0
    for _ in range(500):
        width, skew = int(draws.integers(1, 1000)), draws.choice([0.0, 0.5, 1.0, 3.0])
        chances = np.arange(1, width + 1.0) ** -skew
        wrong += given_out(draws.choice(width, draws.integers(50, 500), p=chances / chances.sum()))
    assert wrong <= 1


def test_ranges_are_wider_and_round(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("age,offset,same\n" + "".join(f"{18 + i * i % 70},{i % 9 / 10 - 0.37:.2f},5\n" for i in range(200)))
    found = describe(path, ranges=True).rows.ranges
    assert found == {"age": [10.0, 90.0], "offset": [-0.5, 0.6]}
    assert all(limit not in (18, 82, 83, -0.37, 0.43) for limits in found.values() for limit in limits)


@pytest.mark.parametrize("task", ["classification", "regression", "survival"])
def test_rows_without_a_label_are_counted_for_every_task(tmp_path, task):
    """For numbers to predict nothing was said of them."""
    path = tmp_path / "rows.csv"
    lines = [f"{30.5 + i},{'' if i < 3 else i % 2},{i % 2}" for i in range(60)]
    path.write_text("age,outcome,died\n" + "\n".join(lines) + "\n")
    found = describe(path, label="outcome", event="died" if task == "survival" else None, task=task)
    assert "outcome: 3 rows without a label, which cannot be trained on" in found.notes


def test_tasks_are_asked_for_and_never_guessed(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("age,days,died\n" + "".join(f"{30 + i % 9},{i * 1.5},{i % 2}\n" for i in range(40)))
    with pytest.raises(DataError, match=r"40 different numbers, which are hardly classes.*--task regression"):
        describe(path, label="days")
    found = describe(path, label="days", task="regression").rows
    assert (found.task, found.classes, found.features) == ("regression", (), ("age", "died"))
    found = describe(path, label="days", event="died", task="survival").rows
    assert (found.task, found.features) == ("survival", ("age",))
    assert describe(path, label="died").rows.classes == (0, 1)


def test_what_makes_a_proposal_another_than_it_should_be_is_said(tmp_path):
    """A bad cell among numbers, labels that nobody named, few rows, texts where a number is to be predicted."""
    path = tmp_path / "rows.csv"
    lines = [f"{'abc' if i == 17 else 18 + i / 7},{'ill' if i % 2 else 'well'}" for i in range(60)]
    path.write_text("age,outcome\n" + "\n".join(lines) + "\n")
    told = describe(path, label="outcome").notes
    [line] = [line for line in told if "are numbers" in line]
    assert line.startswith("age: all but 1 cell of 60 are numbers; row 17 has 'abc': mend it")
    assert line.endswith(COUNTED)
    assert not any("no column is called like labels" in line or "few to tell" in line for line in told)
    assert not any("abc" in feature for feature in describe(path, label="outcome").rows.features)
    told = describe(path).notes
    assert any("so that all are features: --label COLUMN" in line for line in told)
    with pytest.raises(DataError, match="it holds texts, and regression predicts a number"):
        describe(path, label="outcome", task="regression")
    path.write_text("patient,age,label\n" + "".join(f"{i},{30.5 + i},well\n" for i in range(3)))
    assert any("3 rows are few to tell patients' numbers" in line for line in describe(path).notes)


@pytest.mark.parametrize("names", [("one", "two"), ("one",)])
def test_pictures_by_folder(tmp_path, names):
    for name in names:
        (tmp_path / "rows" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 6), 20 * i).save(tmp_path / "rows" / name / f"{i}.png")
    found = describe(tmp_path / "rows").rows
    assert (found.kind, found.shape, found.classes) == ("image", (1, 6, 8), names)


def table(*features: str, **more: object) -> RowSettings:
    return RowSettings.model_validate({"kind": "tabular", "features": features} | more)


def test_sites_are_merged_to_what_all_have():
    three = {"north": table("age", "pulse"), "south": table("age"), "east": table("age")}
    assert "pulse: left out, for south, east do not have it" in merge(three).notes
    north = table("age", "sex=f", "ward=A", classes=["ill"], ranges={"age": [0, 90], "ward=A": [0, 1]})
    south = table("sex=m", "sex=(missing)", "age", "age=(missing)", missing="indicator", classes=["well"],
                  ranges={"age": [-5, 80]})  # fmt: skip
    found = merge({"north": north, "south": south})
    assert found.rows is not None
    assert found.rows.features == ("age", "sex=f", "sex=m", "sex=(missing)", "age=(missing)")
    assert found.rows.classes == ("ill", "well")
    assert found.rows.ranges == {"age": [-5, 90]}
    assert found.rows.missing == "indicator"
    for note in ("ward: left out, for south does not have it", "class 'ill': not at south", "sex=f: not at south"):
        assert note in found.notes


def test_who_widens_a_range_is_told():
    """A value that one site mistyped became every site's range, and nothing was said."""
    ranges = {"north": [0, 100], "south": [0, 90_000], "east": [0, 90]}
    found = merge({name: table("age", ranges={"age": own}) for name, own in ranges.items()})
    assert found.rows is not None
    assert found.rows.ranges == {"age": [0, 90_000]}
    what = "age: south widens the range from [0, 100], which holds the other sites', to [0, 90000], 900 times as wide"
    assert found.notes == (what,)
    alike = merge({name: table("age", ranges={"age": [0, 90]}) for name in ranges})
    assert not alike.notes
    open_end = merge(
        {"north": table("age", ranges={"age": [0, math.inf]}), "south": table("age", ranges=alike.rows.ranges)}
    )
    assert open_end.notes == ("age: north widens the range from [0, 90], which holds the other sites', to [0, inf]",)


def test_a_rule_that_privacy_refuses_is_told(tmp_path):
    (tmp_path / "rows.csv").write_text("age,sex\n" + "".join(f"{'' if i < 9 else i / 7},f\n" for i in range(60)))
    found = describe(tmp_path / "rows.csv")
    for notes in (found.notes, merge({"north": found.rows}).notes):
        assert any(line.startswith('missing = "indicator": a federation with [privacy] refuses') for line in notes)


def test_columns_that_no_two_sites_share_are_a_conflict():
    found = merge({"north": table("age"), "south": table("pulse")})
    assert found.rows is None
    assert found.conflicts == (
        "features: there is no column that all sites have. Likely fix: the same names at all sites",
    )


@pytest.mark.parametrize("kind", ["columns", "texts", "classes"])
def test_work_grows_as_names_do_and_not_as_their_square(kind):
    """Each was looked for in a list of all: 20,000 took a minute."""

    def seconds(n: int) -> float:
        names = {"columns": "c{}", "texts": "c=t{}", "classes": "k{}"}[kind]
        many = [names.format(i) for i in range(n)]
        own = {"features": ["age"], "classes": many} if kind == "classes" else {"features": many}
        own |= {"ranges": {name: [0, 1] for name in many}} if kind == "columns" else {}
        started = time.process_time()
        for _ in range(2):
            merge({site: RowSettings.model_validate({"kind": "tabular"} | own) for site in ("north", "south")})
        return time.process_time() - started

    assert seconds(16_000) < 32 * seconds(2_000)  # eight times as many; their square is 64 times as much


def test_a_range_that_one_site_does_not_tell_is_left_out():
    found = merge({"north": table("age", ranges={"age": [0, 90]}), "south": table("age")})
    assert found.rows is not None
    assert not found.rows.ranges
    assert found.notes == ("age: without a range, for south tells no range",)


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (table("age"), table("age=old"), "age: numbers at north, and texts at south"),
        (table("age", classes=["0"]), table("age", classes=[0]), "classes: texts at north; whole numbers at south"),
        (table("age", classes=[1]), table("age"), "classes: south has no labels"),
        (table("age"), table("age", task="regression"), "task: classification at north; regression at south"),
        (RowSettings(kind="image", shape=(1, 8, 8)), RowSettings(kind="image", shape=(1, 9, 8)), "shape: 1×8×8 at"),
        (table("age"), RowSettings(kind="image", shape=(1, 9, 8)), "kind: tabular at north; image at south"),
    ],
)
def test_conflicts_are_told(one, other, conflict):
    found = merge({"north": one, "south": other})
    assert found.rows is None
    assert any(line.startswith(conflict) for line in found.conflicts), found.conflicts


def test_conflicts_end_with_code_one_and_files_stay(tmp_path, capsys):
    paths = []
    for name, text in {"north": 'features = ["age"]', "south": 'features = ["age=old"]'}.items():
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_text(f'[rows]\nkind = "tabular"\n{text}\n')
    assert fedgmi("deploy", "merge", *paths) == 1
    assert "conflict: age: numbers" in capsys.readouterr().err
    assert fedgmi("deploy", "merge", paths[0], "--out", paths[0]) == 2
    assert "stays untouched" in capsys.readouterr().err
    assert fedgmi("deploy", "merge", paths[0]) == 0
    assert capsys.readouterr().out.startswith("# What 1 site has in common")


def test_files_without_rows_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"no section \[rows\]"):
        read_rows(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('[rows]\nkind = "tabular"\nfeature = ["age"]\n')
    with pytest.raises(ConfigError, match="unknown key feature"):
        read_rows(Path(tmp_path / "a.toml"))
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge({})


def test_a_column_of_names_is_no_column_of_labels(tmp_path):
    """It made a federation without labels, whose true label was a feature."""
    lines = [f"p-{i},{i % 7},{'yes' if i % 3 else 'no'}" for i in range(80)]
    (tmp_path / "rows.csv").write_text("\n".join(["patient,days,died", *lines]) + "\n")
    with pytest.raises(DataError, match="column 'patient': it holds 80 different texts, none in 5 rows"):
        describe(tmp_path / "rows.csv", label="patient")


def test_an_empty_file_is_called_empty(tmp_path):
    """It was said in the words of a library: no columns to parse."""
    (tmp_path / "rows.csv").write_text("")
    with pytest.raises(DataError, match=r"rows\.csv': the file is empty\. Likely fix: give a file with rows in it"):
        describe(tmp_path / "rows.csv")
