"""Tables, picture and progress, from hand-made records."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedgmi.errors import UserError
from fedgmi.report import numbers, picture, progress, tables, travelled
from fedgmi.runs.records import Summary
from fedgmi.storage import files, folder
from summaries import make_summary


def printed(summary: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=140)
    tables.print_report(summary, Path("runs/here"), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_total_variation_counts_unmatched_mass():
    assert numbers.total_variation([0.4, 0.4, 0.2], [0.5, 0.5]) == pytest.approx(0.2)


def test_own_and_others():
    assert numbers.own_and_others([[0.91, 0.22], [0.33, 0.88]], 0) == (0.91, 0.33)
    assert numbers.own_and_others([[0.91, 0.22]], 1) == (None, None)
    assert numbers.own_and_others(None, 0) == (None, None)
    assert numbers.own_and_others([[0.5]], 0) == (0.5, None)


def test_tables_show_every_client_and_the_headline():
    shown = printed(make_summary())
    for text in (
        "client-3",
        ".95 .05",
        "1.0 .00",
        "91.0",
        "33.0",
        "-140.0",
        "0.034",
        "71.0",
        "2.5 MB",
        "runs/here",
    ):
        assert text in shown
    assert "local" not in shown


def test_a_method_that_knows_nothing_of_newcomers_says_so():
    said = "has no predictor for clients that took no part"
    one = {"clients": ["client-9"], "client_accuracy": None}
    judged = make_summary() | {"metrics": {"accuracy": {"mean": 0.9}}}
    assert said in printed(judged | {"unseen": one})
    known = one | {"client_accuracy": 0.7, "client_accuracy_shared": 0.6, "metrics": {"accuracy": {"mean": 0.7}}}
    shown = printed(judged | {"unseen": known})
    assert said not in shown
    assert "nothing trained on their rows, %" in shown
    assert "60.0" in shown


def test_names_and_folders_with_brackets_are_shown_whole():
    console, summary = Console(file=io.StringIO(), width=140), make_summary()
    summary["clients"][0] = "[bold]north"
    summary["per_class"] = [{"name": "[red]ill", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 4}]
    tables.print_report(summary, Path("runs/[b]"), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in shown for text in ("[bold]north", "[red]ill", "Results: runs/[b]"))


def test_tables_without_truth():
    shown = printed(make_summary(truth=False))
    for text in ("TV", "true one", "expert: own", "oracle"):
        assert text not in shown
    assert "90.0" in shown


def test_missing_numbers_are_dashes():
    summary = make_summary() | {
        "client_accuracy_per_client": [None, float("nan"), 0.5, 0.25],
        "assignment_accuracy": None,
    }
    shown = printed(summary)
    assert "–" in shown
    assert "rows assigned" not in shown
    assert "nan" not in shown


def test_unmatched_component_has_no_true_one():
    assert re.search(r"2 +none", printed(make_summary(extra=True)))


@pytest.mark.parametrize(("truth", "by"), [(True, "proportion error"), (False, "accuracy")])
def test_many_clients_are_cut_to_the_worst_and_best(truth, by):
    shown = printed(make_summary(50, truth=truth))
    assert f"by {by}, the worst first; 20 more clients" in " ".join(shown.split())
    assert len(re.findall(r"client-\d+", shown)) == tables.MOST_CLIENTS


@pytest.mark.parametrize("summary", [make_summary(), make_summary(truth=False), make_summary(70, extra=True)])
def test_picture_is_one_self_contained_page(tmp_path, summary):
    path = tmp_path / "proportions.html"
    picture.write_picture(summary, path)
    page = path.read_text(encoding="utf-8")
    assert "client-3" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert [p.name for p in tmp_path.iterdir()] == ["proportions.html"]


def test_picture_shows_what_the_summary_says():
    summary = make_summary()
    drawn = picture.figure(summary)
    top = next(trace for trace in drawn.data if trace.type == "bar" and trace.showlegend)
    share = dict(zip(top.x, top.y, strict=True))
    assert share == {f"client-{i}": row[0] for i, row in enumerate(summary["proportions"])}
    assert [trace.type for trace in picture.figure(make_summary(truth=False)).data] == ["bar", "bar"]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no run lies there"),
        ({folder.RECORDS: ""}, "the run there is not finished"),
        ({folder.SUMMARY: "{"}, "cannot be read"),
        ({folder.SUMMARY: "[]"}, "not the summary of a run"),
    ],
)
def test_unreadable_results(tmp_path, files, told):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=told):
        Summary.read(tmp_path).to_json()


def test_summary_survives_json(tmp_path):
    (tmp_path / folder.SUMMARY).write_text(json.dumps(make_summary()))
    assert printed(Summary.read(tmp_path).to_json()) == printed(make_summary())


def play(console: Console, rounds: int, **numbers_of_round: float | None) -> None:
    """A run that takes 5 s to prepare, and 2 s for every round and for the end."""
    with progress.listening(console) as listener:
        listener.started("fedgmi", rounds)
        for done in range(rounds + 2):
            listener.round_done({"run": "fedgmi", "round": done, "seconds": 5.0 + 2.0 * done, **numbers_of_round})
        listener.finished("fedgmi")


def test_progress_in_a_pipe_is_a_few_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=False, width=60)
    play(console, 95, bound=-101.234, proportion_tv=0.0316)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 11
    assert lines[0].startswith("fedgmi: prepared")
    assert lines[1] == "fedgmi: round 10/95  bound -101.23 nats/row  proportion error 0.032  2 min 50 s of rounds left"
    assert lines[-1].startswith("fedgmi: done")
    assert lines[-1].endswith("3 min 17 s")


def test_progress_of_a_resumed_run_knows_its_pace():
    console = Console(file=io.StringIO(), force_terminal=False)
    with progress.listening(console) as listener:
        listener.started("fedgmi", 10)
        listener.round_done({"run": "fedgmi", "round": 4, "seconds": 10.0})
    assert console.file.getvalue() == "fedgmi: round 4/10  12 s of rounds left\n"  # type: ignore[attr-defined]


def test_what_follows_the_last_round_is_named_and_no_time_is_promised():
    console = Console(file=io.StringIO(), force_terminal=False)
    with progress.listening(console) as listener:
        listener.started("fedgmi", 1)
        listener.round_done({"run": "fedgmi", "round": 1, "seconds": 3.0, "bound": -1.0})
        listener.doing("fedgmi", "own parts")
    assert console.file.getvalue() == "fedgmi: round 1/1  bound -1.00 nats/row\nfedgmi: own parts\n"  # type: ignore[attr-defined]


def test_progress_on_a_terminal_is_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    play(console, 3, bound=None, proportion_tv=None)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "done" in shown
    assert "nats" not in shown


def test_metrics_stand_beside_the_commonest_class_and_classes_below():
    one = {"mean": 0.8, "worst_tenth": 0.4321, "all_rows": 0.8, "per_client": [0.8] * 4}
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "calibration_error")
    classes = [
        {"name": "well", "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 40},
        {"name": "sick", "precision": None, "recall": 0.0, "f1": 0.0, "support": 2},
    ]
    summary = make_summary() | {
        "metrics": dict.fromkeys(names, one),
        "majority_accuracy": 0.611,
        "majority_accuracy_per_client": [0.611] * 4,
        "per_class": classes,
        "best_round": 4,
        "stopped_round": 7,
    }
    shown = printed(summary)
    for text in ("43.2", "61.1", "macro-F1, %", "log loss, nats", "7 of 10 rounds (the best by accuracy: 4)"):
        assert text in " ".join(shown.split()) or text in shown
    assert shown.index("sick") < shown.index("well")
    assert "the worst by F1 first" in shown


def test_the_chosen_metric_and_the_shared_part_by_it_are_shown():
    auc = {"mean": 0.749, "worst_tenth": 0.558, "all_rows": 0.76, "per_client": [0.7, 0.6, 0.8, 0.9]}
    summary = make_summary(truth=False) | {"metric": "auc", "metrics": {"auc": auc}, "shared_score": 0.742}
    assert re.search(r"… of the shared part alone, % +74.2 +–", printed(summary))
    assert re.search(r"client-1 +70 +\S+ \S+ +60.0", printed(summary))  # of the AUC, by client
    [*_, told] = picture.words(summary)["How good are predictions?"]
    assert told.endswith("AUC, they have 74.9 % (mean over clients). The shared part alone has 74.2 %.")


def test_many_runs_say_how_long_they_will_take():
    now = [0.0]
    left = progress._Left(lambda: now[0])
    before = {"a-0": "done", "b-0": "waiting", "c-0": "waiting"}  # a-0 was there already, and says nothing of the pace
    assert left(before) == []
    now[0] = 2.0
    assert left(before | {"b-0": "round 1/10"}) == []
    now[0] = 10.0
    assert left(before | {"b-0": "round 5/10"}) == ["about 30 s left"]
    assert left(before | {"b-0": "failed"}) == ["about 10 s left"]
    assert left(dict.fromkeys(before, "done")) == []


BUDGET = {
    "mb_per_client": 2.0,
    "mb_per_client_round": None,
    "plan": "Budget of fedgmi: 2 MB a client. Planned: 0.6 MB before round 1 + 0.1 MB in 10 rounds = 0.7 MB.",
    "settings": {"communication.precision": "4"},
    "foreseen_mb": 0.7,
    "most_mb": 0.69,
    "most_mb_round": 0.02,
    "kept": "Budget of fedgmi: most of any client 0.690 MB of 2 MB. 3 times a client was not asked.",
    "sat_out": 3,
}


def test_a_page_says_what_a_client_cost_and_how_the_budget_was_kept(tmp_path):
    summary = make_summary() | {"most_mb": 0.69, "models_travelled": "in 4 bits", "budget": BUDGET}
    summary["fedavg"] |= {"bytes_down": 400_000, "bytes_up": 400_000, "models_travelled": "in 4 bits"}
    picture.write_picture(summary, tmp_path / "page.html")
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8").rpartition("</script>")[2])
    for said in (
        "0.625 MB went to a client and 0.000 MB came from it (mean over 4 clients).",
        "The client that cost most took 0.690 MB, both ways together.",
        "By kind the bytes are 100 % experts.",
        "Models travelled in 4 bits.",
        "Beside it, fedavg took 0.200 MB a client, models in 4 bits; oracle took 0.000 MB a client.",
        "<h2>The budget of fedgmi</h2>",
        "2 MB a client. Planned: 0.6 MB before round 1",
        "Most of any client 0.690 MB of 2 MB. 3 times a client was not asked.",
    ):
        assert said in page, said
    shown = " ".join(printed(summary).split())
    assert "0.625 MB a client (at most 0.690), models in 4 bits" in shown


def test_what_was_not_made_smaller_is_not_said_to_be():
    told = travelled.words(make_summary() | {"models_travelled": "as they are, in float32"})
    assert list(told) == ["What travelled?"]
    assert "models" not in printed(make_summary() | {"models_travelled": "as they are, in float32"})


def test_a_page_fits_a_telephone(tmp_path):
    picture.write_picture(make_summary(), tmp_path / "page.html")
    head = (tmp_path / "page.html").read_text(encoding="utf-8").partition("<body>")[0]
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in head


def test_a_page_has_words_and_keeps_its_labels_apart(tmp_path):
    """Narrow screens move the figure sideways; the heading is text that wraps, and names are no markup."""
    accuracy = {"accuracy": {"mean": 0.87, "worst_tenth": 0.8, "all_rows": 0.912, "per_client": [0.87] * 4}}
    summary = make_summary() | {"scenario": "<b>wards</b>", "majority_accuracy": 0.5, "metrics": accuracy}
    picture.write_picture(summary, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    words = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<h1>What 4 clients are made of: &lt;b&gt;wards&lt;/b&gt;, 2 components, proportion error 0.034" in words
    told = html.unescape(words)
    assert (
        "labels 87.0 % of its held-out rows rightly (mean over clients); of all clients' rows together it is 91.2 %"
        in told
    )
    assert "most frequent class would, of 50.0 % (mean over clients)." in told
    assert f"min-width: {picture.LEAST_WIDTH}px" in words
    assert "overflow-x: auto" in words
