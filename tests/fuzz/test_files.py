"""Files with random damage, their hashes right all the same: what can be used, or an error in fedgmi's words."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import cheap, damaged, damaged_bytes, text_of
from local_post import LocalPost, federation_settings, make_sites
from tables import table_federation

from fedgmi import FedGMI
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.settings import read as read_settings
from fedgmi.deploy.settings.plan import planned
from fedgmi.deploy.site.memory import Memory
from fedgmi.errors import FedgmiError
from fedgmi.runs.records import DiagnosisRecord, Status, Summary
from fedgmi.storage import checkpoint, folder

SEEDS = range(200)  # of each of ten kinds of files
SETTINGS = federation_settings(
    rounds=1, method={"preset": "sketch", "n_components": 3, "codewords": 6, "personal": False}
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run, with its sites'."""
    where = tmp_path_factory.mktemp("run")
    Coordinator(SETTINGS, LocalPost(make_sites(SETTINGS, where / "sites")), where / "out", echo=lambda line: None).run()
    return where


def checked(meta: dict[str, Any]) -> str:
    """JSON as `storage.tensors` writes it, whose check is right."""
    meta = {key: value for key, value in meta.items() if key != "check"}
    text = text_of(meta)
    try:
        again = json.loads(text)
        sums = hashlib.sha256(json.dumps(again, sort_keys=True).encode()).hexdigest()
        return json.dumps(again | {"check": sums})
    except (ValueError, RecursionError, TypeError, AttributeError):
        return text


def spoil(path: Path, whole: bytes, draws: random.Random) -> None:
    """A file of JSON with other values, or with other bytes."""
    if draws.random() < 0.2:
        path.write_bytes(damaged_bytes(whole, draws))
        return
    value = damaged(json.loads(whole), draws)
    text = checked(value) if isinstance(value, dict) and "tensors" in value else text_of(value)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def spoil_tensors(path: Path, whole: bytes, draws: random.Random) -> None:
    """Tensors with other bytes, and their hash in the JSON beside them."""
    meta = json.loads(path.read_text())
    data = damaged_bytes((path.parent / meta["tensors"]).read_bytes(), draws)
    (path.parent / "other.safetensors").write_bytes(data)
    path.write_text(checked(meta | {"tensors": "other.safetensors", "sha256": hashlib.sha256(data).hexdigest()}))


def holds(read: Callable[[], object], spoiled: Callable[[random.Random], None]) -> None:
    """Every case is read, or refused in fedgmi's own words."""
    refused = []
    with cheap() as case:
        for seed in SEEDS:
            spoiled(random.Random(seed))
            case()
            try:
                read()
            except FedgmiError as error:
                refused.append(str(error))
    assert all(refused)
    assert len(refused) > len(SEEDS) / 10


@pytest.mark.parametrize("change", [spoil, spoil_tensors])
def test_models(run, change):
    path = run / "sites" / "client-00" / "results" / "model" / "model.json"
    whole = path.read_bytes()

    def again(draws: random.Random) -> None:
        path.write_bytes(whole)
        change(path, whole, draws)

    holds(lambda: FedGMI.load(path.parent), again)  # which asks it about a row
    path.write_bytes(whole)


def test_checkpoints(run):
    """A coordinator that goes on from one."""
    path = run / "out" / folder.CHECKPOINTS / "fedgmi.json"
    whole = path.read_bytes()
    coordinator = Coordinator(SETTINGS, LocalPost({}), run / "out", echo=lambda line: None)
    remote = coordinator._remote(SETTINGS.setup(), "00" * 8)

    def read() -> None:
        found = checkpoint.load(path.parent, "fedgmi", digest=SETTINGS.digest())
        assert found is not None
        coordinator.resume(remote, found)

    holds(read, lambda draws: spoil(path, whole, draws))
    path.write_bytes(whole)


def test_records(run):
    """Lines that are none are left out."""
    path, told = run / "out" / folder.RECORDS, 0
    lines = path.read_text().splitlines()
    whole = path.read_bytes()
    with cheap() as case:
        for seed in SEEDS:
            draws = random.Random(seed)
            case()
            texts = [text_of(damaged(json.loads(line), draws)) for line in lines]
            path.write_bytes(damaged_bytes(whole, draws) if seed % 5 == 0 else "\n".join(texts).encode())
            records = folder.read_records(run / "out")
            assert all(type(record["round"]) is int and isinstance(record["run"], str) for record in records)
            folder.warn_of_lost_records(run / "out")
            folder.keep_records(run / "out", lambda record: record["round"] < 2)
            told += len(records)
    assert told > len(SEEDS)
    path.write_bytes(whole)


@pytest.mark.parametrize("kind", [Summary, Status, DiagnosisRecord])
def test_results(run, kind):
    where = run / "out" / ("diagnosis" if kind is DiagnosisRecord else "")
    path = where / kind.file
    whole = path.read_bytes()
    holds(lambda: kind.read(where), lambda draws: spoil(path, whole, draws))
    path.write_bytes(whole)


def test_what_a_site_keeps(run):
    """States, the plan, blocks and when they were needed."""
    [where] = (run / "sites" / "client-01" / "runs").iterdir()
    memory = Memory(where)
    state = where / "000001-0000.json"
    whole = state.read_bytes()

    def again(draws: random.Random) -> None:
        state.write_bytes(whole)
        spoil(state, whole, draws)
        (where / "plan").write_text(text_of(damaged({"communication.top": [0.3]}, draws)))
        rounds = where / "blocks.rounds"
        rounds.write_bytes(damaged_bytes(b'{"ab": 1, "cd": 2}', draws))
        for block in list((where / "blocks").glob("*"))[:1]:
            block.write_bytes(damaged_bytes(block.read_bytes(), draws))

    def read() -> None:
        memory.keep_blocks({}, 1)
        assert all(isinstance(name, str) for name in memory.blocks())
        memory.exchanges()
        planned(SETTINGS, memory.plan())
        kept = memory.load((1, 0))
        assert kept is not None
        memory.save((1, 1), kept)

    holds(read, again)
    state.write_bytes(whole)


@pytest.mark.parametrize("kind", [SiteSettings, FederationSettings])
def test_settings(tmp_path, kind):
    site = 'name = "ward"\nthreads = 1\n[data]\npath = "rows.csv"\nlabel_column = "state"\n'
    text = site if kind is SiteSettings else table_federation()
    path = tmp_path / "some.toml"

    def read() -> None:
        found = read_settings(kind, path)
        if isinstance(found, FederationSettings):
            found.setup()

    def again(draws: random.Random) -> None:
        lines = text.splitlines()
        for _ in range(draws.randrange(1, 4)):
            at = draws.randrange(len(lines))
            value = draws.choice(
                ('""', "-1", "inf", "nan", "[]", "[[1]]", "{}", "1e400", "'x'", "true", "[1,2,3]", "9" * 500)
            )
            key = lines[at].partition("=")[0] or "a "
            lines[at] = draws.choice((f"{key}= {value}", "", lines[at] * 2, key, f"{key}.x = {value}", "[" * 999))
        path.write_bytes(damaged_bytes(text.encode(), draws) if draws.random() < 0.3 else "\n".join(lines).encode())

    holds(read, again)
