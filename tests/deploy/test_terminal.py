"""Names and texts of others reach a terminal as letters: no order to it, no markup, and no line that they forge."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import typer
from clinic import federation, write_rows, write_site
from hypothesis import given
from hypothesis import strategies as st

from fedgmi import cli
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.prometheus import METRICS
from fedgmi.deploy.settings import FederationSettings, RowSettings, SiteSettings
from fedgmi.errors import ConfigError
from fedgmi.letters import printable, shows
from fedgmi.report.console import OwnConsole
from fedgmi.runs.records import Comparison, DiagnosisRecord, SiteStatus, Status, Summary
from fedgmi.runs.statistics import compared as compare
from fedgmi.settings.explain import checked
from summaries import make_diagnosis, make_summary

EVIL = "[/]\x1b[2J\x1b]0;pwned\x07\u202e\x9b8m\nerror: none"
BRACKETS = "[/] [bold red]x[/bold red] :smile:"
TOML = json.dumps(EVIL)


def site_check(where: Path) -> list[object]:
    rows = f'[rows]\nkind = "tabular"\nfeatures = ["age", {TOML}]\nclasses = ["ill", {TOML}]\n'
    return ["site", "check", write_site(where / "site", 0, federation(rows, name=TOML))]


def site_check_of_columns(where: Path) -> list[object]:
    path = write_site(where / "site", 0, federation())
    rows = path.parent / "rows.csv"
    rows.write_text(rows.read_text().replace("pulse", "pul\x1b[2Jse").replace(",B,", ",\x1b[2J,"))
    return ["site", "check", path]


def site_dry_run(where: Path) -> list[object]:
    path = write_site(where / "site", 0, federation(name=json.dumps(BRACKETS), rounds=1))
    path.write_text(path.read_text().replace('"clinic-0"', json.dumps(BRACKETS)))
    return ["site", "dry-run", path, "--out", where / "[b]", "--rounds", 1]


def site_audit(where: Path) -> list[object]:
    path = write_site(where / "site", 0, federation())
    folder = path.parent / "site"
    folder.mkdir()
    line = {"time": 1.0, "kind": EVIL, "run": EVIL, "round": EVIL, "name": EVIL, "tells": EVIL, "why": EVIL}
    line |= {"bytes": 3, "leaves": [{"name": EVIL, "dtype": EVIL, "shape": [EVIL]}], "data": EVIL}
    for name in ("audit.jsonl", "refused.jsonl"):
        (folder / name).write_text(json.dumps(line) + "\n")
    release = {"key": "a", "epsilon": 1.0, "delta": 0.0, "what": EVIL, "data": EVIL}
    ledger = {"releases": [release], "refusals": [line | {"what": EVIL}], "refused": 1}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    return ["site", "audit", path]


def site_describe(where: Path) -> list[object]:
    rows = write_rows(where, 0)
    rows.write_text(rows.read_text().replace("pressure", "pre\x1b[2J").replace(",A,", ",\x1b[2J,"))
    return ["site", "describe", rows, "--label", "outcome"]


def site_serve(where: Path) -> list[object]:
    path = write_site(where / "site", 0, federation())
    path.write_text(path.read_text().replace('"clinic-0"', TOML))
    return ["site", "serve", path, "--insecure", "--superlink", "localhost:1"]


def deploy_merge(where: Path) -> list[object]:
    for name, feature in (("a", "age"), ("b", EVIL)):
        text = f'[rows]\nkind = "tabular"\nfeatures = ["sex=f", {json.dumps(feature)}]\nclasses = ["ill", {TOML}]\n'
        (where / f"{name}.toml").write_text(text)
    return ["deploy", "merge", where / "a.toml", where / "b.toml"]


def deploy_merge_of_brackets(where: Path) -> list[object]:
    for name, feature in (("a", "age"), ("b", BRACKETS)):
        text = f'[rows]\nkind = "tabular"\nfeatures = ["sex=f", {json.dumps(feature)}]\nclasses = ["ill", "well"]\n'
        (where / f"{name}.toml").write_text(text)
    return ["deploy", "merge", where / "a.toml", where / "b.toml"]


def deploy_status(where: Path) -> list[object]:
    one = SiteStatus(alive=True, last_round=1, last_seen=1.0, rows=3, bytes_down=1, bytes_up=1, absent=1, note=EVIL)
    about = {"name": EVIL, "round": 1, "rounds": 2, "state": "running", "updated": 1.0, "deadline_s": 1.0}
    status.write(where, Status.model_validate(about | {"sites": {EVIL: one}, "note": EVIL, "turned_away": (EVIL,)}))
    return ["deploy", "status", where]


def deploy_status_for_prometheus(where: Path) -> list[object]:
    return [*deploy_status(where), "--prometheus"]


def deploy_init(where: Path) -> list[object]:
    return ["deploy", "init", where / "new", "--name", EVIL]


def deploy_check(where: Path) -> list[object]:
    (where / "pyproject.toml").write_text(f"[tool.flwr.app.config]\nfederation = {TOML}\n{TOML} = 1\n")
    return ["deploy", "check", where]


def predict(where: Path) -> list[object]:
    (where / "model.json").write_text(json.dumps({"fedgmi": EVIL, "version": EVIL, "tensors": EVIL}))
    return ["predict", where, write_rows(where, 0)]


def report(where: Path) -> list[object]:
    numbers = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 4}
    found = make_summary() | {"per_class": [{"name": EVIL, **numbers}, {"name": BRACKETS, **numbers}]}
    Summary.write(where, found | {"clients": [EVIL, BRACKETS, "a", "b"], "method": EVIL, "scenario": EVIL})
    return ["report", where]


def report_of_a_diagnosis(where: Path) -> list[object]:
    names = [EVIL, BRACKETS, "a", "b", "c", "d"]
    said = {
        "clients": names,
        "warnings": [EVIL],
        "scenario": EVIL,
        "unfit_clients": [0, 1],
        "speaks_against": "direction",
    }
    DiagnosisRecord.write(where, make_diagnosis(mixture_supported=False, p_value=1e-9, **said))
    return ["report", where]


def report_of_a_comparison(where: Path) -> list[object]:
    shares, cost = [0.5, 0.75, 0.6, 0.9], {"bytes_down": 1, "bytes_up": 1, "seconds": 2.0, "rounds": 2}
    about = {"client_accuracy": 0.7, "client_accuracy_per_client": shares, "proportion_tv": None}
    cells = [{"method": name, "seed": 1, **about, **cost, "expert_accuracy": None} for name in (EVIL, BRACKETS)]
    cells.append({"method": BRACKETS, "seed": 0, "failed": EVIL})
    Comparison.write(where, compare(EVIL, [EVIL, BRACKETS], [0, 1], cells))
    return ["report", where]


def run(where: Path) -> list[object]:
    return ["run", "--set", f"scenario.name={EVIL}", "--out", where / "out"]


def compared(where: Path) -> list[object]:
    return ["compare", "--methods", EVIL, "--out", where / "out"]


def diagnose(where: Path) -> list[object]:
    (where / "evil.toml").write_text(f"[data]\n{TOML} = {TOML}\n")
    return ["diagnose", where / "evil.toml", "--out", where / "out"]


def list_(where: Path) -> list[object]:
    return ["list"]


CASES: tuple[tuple[Callable[[Path], list[object]], int], ...] = (
    *((site_check, 2), (site_check_of_columns, 0), (site_dry_run, 0), (site_audit, 1), (site_describe, 2)),
    *((site_serve, 2), (deploy_merge, 2), (deploy_merge_of_brackets, 0), (deploy_status, 0)),
    *((deploy_status_for_prometheus, 0), (deploy_init, 2), (deploy_check, 2), (predict, 2), (report, 0)),
    *((report_of_a_diagnosis, 0), (report_of_a_comparison, 0), (run, 2), (compared, 2), (diagnose, 2), (list_, 0)),
)
HARMLESS = {"deploy demo"}
"""Commands that read nothing of anybody's."""


@pytest.mark.parametrize(("case", "ends"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_nothing_but_letters_reaches_a_terminal(tmp_path, capsys, monkeypatch, case, ends):
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True), stderr=sys.stderr)
    monkeypatch.setattr("fedgmi.report.console.sys", terminal)  # where data are handed out, and nothing has colours
    monkeypatch.setenv("COLUMNS", "1000")  # what is longer than a line breaks anywhere
    words = [str(word) for word in case(tmp_path)]
    with pytest.raises(SystemExit) as raised:
        cli.main(words)
    told = capsys.readouterr()
    assert int(raised.value.code or 0) == ends, told
    assert told.out + told.err
    assert {letter for letter in told.out + told.err if not shows(letter)} <= {"\n"}
    assert not any(line.startswith("error: none") for line in (told.out + told.err).splitlines())


def test_metrics_in_a_file_are_letters_too(tmp_path):
    deploy_status(tmp_path)
    text = (tmp_path / METRICS).read_text()
    assert r'site="[/]\\x1b[2J' in text
    assert {letter for letter in text if not shows(letter)} == {"\n"}
    assert all(line.startswith(("#", "fedgmi_")) for line in text.splitlines())


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """All that have no commands below them."""
    below = getattr(command, "commands", {})
    for name, child in below.items():
        yield from commands(child, (*words, name))
    if not below:
        yield " ".join(words)


def test_every_command_has_a_case(tmp_path):
    every = set(commands(typer.main.get_command(cli.app))) - HARMLESS
    made = []
    for place, (case, _) in enumerate(CASES):
        (tmp_path / str(place)).mkdir()
        made.append(" ".join(map(str, case(tmp_path / str(place)))))
    assert {name for name in every if not any(words.startswith(name) for words in made)} == set()


@pytest.mark.parametrize("letter", ["\x1b", "\n", "\r", "\x07", "\x9b", "\u2028", "\u202e", "\ud800", "\x7f", "\u200b"])
@pytest.mark.parametrize(
    ("model", "key", "rest"),
    [
        (FederationSettings, "name", {"sites": 3}),
        (SiteSettings, "name", {}),
        (RowSettings, "features", {"kind": "tabular"}),
        (RowSettings, "classes", {"kind": "tabular", "features": ["age"]}),
        (RowSettings, "ranges", {"kind": "tabular", "features": ["age"]}),
    ],
)
def test_names_that_cannot_be_seen_are_refused(model, key, rest, letter):
    name = f"a{letter}b"
    value = {"features": [name], "classes": ["ill", name], "ranges": {name: [0, 1]}}.get(key, name)
    with pytest.raises(ConfigError) as raised:
        checked(model, rest | {key: value}, "some.toml")
    assert "letters that can be seen" in str(raised.value)
    assert key in str(raised.value)


def test_names_in_any_writing_are_fine():
    names = ["sex = ♀", "größe", "年齢", "a b", "\u00a0", "العمر", "[/]"]
    assert RowSettings(kind="tabular", features=tuple(names)).features == tuple(names)


@given(st.text())
def test_what_is_printable_can_be_seen_and_is_left_alone(text):
    shown = printable(text)
    assert all(shows(letter) or letter == "\n" for letter in shown)
    assert printable(shown) == shown
    assert len(shown.split("\n")) == len(text.split("\n"))
    if all(map(shows, text)):
        assert shown == text


def test_a_console_keeps_its_own_colours(capsys):
    from rich.text import Text

    OwnConsole(force_terminal=True, color_system="standard", width=80).print(Text(EVIL, style="red"))
    shown = capsys.readouterr().out
    assert shown.startswith("\x1b[31m")
    assert "\x1b[2J" not in shown
    assert "[/]\\x1b[2J" in shown
