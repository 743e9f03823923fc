"""Commands over files of JSON that are damaged: a word in fedgmi's own words that names the file, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from clinic import federation, post_of, settings_of, write_site
from damage import cheap, damaged, damaged_bytes, text_of

from fedgmi import cli
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.letters import shows
from fedgmi.privacy.ledger import PrivacyLedger

SEEDS = range(60)  # of each of the files


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A run that is over, with what its coordinator and its sites keep."""
    where = tmp_path_factory.mktemp("ran")
    sites = [write_site(where / f"site-{i}", i, federation(rounds=1)) for i in range(3)]
    Coordinator(settings_of(sites[0]), post_of(*sites), where / "out", echo=lambda line: None).run()
    own = where / "site-0" / "site"
    ledger = PrivacyLedger(own / "ledger.json")
    ledger.charge("first", 0.5, 0.0, "a histogram", {"mechanism": "geometric"})
    ledger.refuse("more", "because")
    line = {"time": 1.0, "kind": "step", "run": "ab" * 8, "round": 1, "why": "it is not its turn"}
    (own / "refused.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    return where


OUT, SITE, OWN = "out", "site-0/site.toml", "site-0/site"
CASES: dict[str, tuple[tuple[str, ...], ...]] = {
    f"{OUT}/status.json": (
        ("deploy", "status", OUT),
        ("deploy", "status", OUT, "--strict"),
        ("deploy", "status", OUT, "--prometheus"),
    ),
    f"{OUT}/summary.json": (("report", OUT),),
    f"{OUT}/records.jsonl": (("report", OUT),),
    f"{OUT}/diagnosis/diagnosis.json": (("report", f"{OUT}/diagnosis"),),
    f"{OWN}/guard.json": (("site", "audit", SITE), ("site", "check", SITE)),
    f"{OWN}/ledger.json": (("site", "audit", SITE),),
    f"{OWN}/audit.jsonl": (("site", "audit", SITE),),
    f"{OWN}/refused.jsonl": (("site", "audit", SITE),),
}
PATHS = {OUT, SITE, f"{OUT}/diagnosis"}


def spoilt(name: str, whole: bytes, draws: random.Random) -> bytes:
    """The file with other values, or with other bytes."""
    if draws.random() < 0.25:
        return damaged_bytes(whole, draws)
    if not name.endswith(".jsonl"):
        return text_of(damaged(json.loads(whole), draws)).encode("utf-8", "surrogatepass")
    lines = [json.loads(line) for line in whole.splitlines()]
    at = draws.randrange(len(lines))
    texts = [text_of(damaged(line, draws) if n == at else line) for n, line in enumerate(lines)]
    return "\n".join(texts).encode("utf-8", "surrogatepass") + b"\n"


@pytest.mark.parametrize("name", CASES)
def test_commands_over_a_damaged_file_end_in_a_word(ran, name, capsys):
    path, refused = ran / name, 0
    whole = path.read_bytes()
    with cheap() as case:
        for seed in SEEDS:
            draws = random.Random(seed)
            path.write_bytes(spoilt(name, whole, draws))
            for words in CASES[name]:
                case()
                with pytest.raises(SystemExit) as raised:
                    cli.main([str(ran / word) if word in PATHS else word for word in words])
                shown = capsys.readouterr()
                said = "".join(shown.err.split())
                assert raised.value.code in (None, 0, 1, 2)
                assert all(shows(letter) or letter == "\n" for letter in shown.out + shown.err)
                if raised.value.code == 2:
                    refused += 1
                    assert "".join(str(path).split()) in said, shown.err
    path.write_bytes(whole)
    assert refused > len(SEEDS) / 5 or name.endswith(".jsonl")


HUGE = 10**400


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("out/status.json", "round", HUGE),
        ("out/status.json", "expected", HUGE),
        ("out/summary.json", "bytes_down", HUGE),
        ("out/summary.json", "majority_accuracy_per_client", [0]),
        ("out/diagnosis/diagnosis.json", "purest", []),
        ("out/diagnosis/diagnosis.json", "proportion_intervals", [[[0, 1]]]),
        ("out/diagnosis/diagnosis.json", "unfit_clients", [99]),
    ],
)
def test_what_ended_in_a_traceback_names_its_file(ran, name, key, value, capsys):
    path = ran / name
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {key: value}))
    for words in CASES[name]:
        with pytest.raises(SystemExit) as raised:
            cli.main([str(ran / word) if word in PATHS else word for word in words])
        assert raised.value.code == 2
        assert "".join(str(path).split()) in "".join(capsys.readouterr().err.split())
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"time": 1e300}', '{"time": 1, "bytes": "l"}', '{"time": 1, "leaves": [3]}']
)
def test_lines_of_a_log_that_cannot_be_read_are_counted(ran, line, capsys):
    """They were left out without a word, or ended in a traceback."""
    path = ran / OWN / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + line.encode() + b"\n")
    with pytest.raises(SystemExit):
        cli.main(["site", "audit", str(ran / SITE)])
    said = "".join(capsys.readouterr().out.split())
    assert "".join(f"{path}: 1 line cannot be read, cut short by a crash or changed since".split()) in said
    path.write_bytes(whole)
