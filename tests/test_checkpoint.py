"""Checkpoints that are not what they should be are told as such, and nothing is written over."""

from __future__ import annotations

import ast
import errno
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fedgmi
from fedgmi.errors import CheckpointError, UserError
from fedgmi.runs import experiment
from fedgmi.storage import checkpoint, folder
from fedgmi.storage import tensors as store
from fedgmi.storage.checkpoint import Checkpoint
from tiny import Killer, arguments, exit_code, hashes, settings

META = {"digest": "d", "threads": 1, "validation": [], "bytes_down": 0, "bytes_up": 0, "seconds": 0.0}
SOURCES = sorted(Path(fedgmi.__file__).parent.rglob("*.py"))


def made(round: int) -> Checkpoint:
    value = torch.full((3,), float(round))
    return Checkpoint({"w": value}, {"proportions": value[None]}, META | {"round": round})


@pytest.fixture
def killed(tmp_path) -> Path:
    """A run that was killed after its first round."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(), out, listener=Killer("fedgmi", 1))
    return out


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


FOREIGN = safetensors.torch.save({"other": torch.zeros(2)})
DAMAGE = {
    "truncated tensors": ("safetensors", truncate, "truncated or was changed"),
    "empty tensors": ("safetensors", lambda path: path.write_bytes(b""), "truncated or was changed"),
    "foreign tensors": ("safetensors", lambda path: path.write_bytes(FOREIGN), "truncated or was changed"),
    "pickled tensors": ("safetensors", lambda path: path.write_bytes(pickle.dumps({})), "truncated or was changed"),
    "no tensors": ("safetensors", lambda path: path.unlink(), "cannot be read (No such file"),
    "truncated JSON": ("json", truncate, "not JSON, or it is truncated"),
    "garbage JSON": ("json", lambda path: path.write_bytes(b"\xff\x00"), "not JSON, or it is truncated"),
    "pickled JSON": ("json", lambda path: path.write_bytes(pickle.dumps({})), "not JSON, or it is truncated"),
    "other JSON": ("json", lambda path: path.write_text('{"a": 1}'), "this is no checkpoint of fedgmi"),
    "JSON list": ("json", lambda path: path.write_text("[1]"), "this is no checkpoint of fedgmi"),
    "other format": ("json", lambda path: change_json(path, format=99), "(format 99, and this one reads format 3)"),
    "other settings": ("json", lambda path: change_json(path, digest="0"), "belongs to another configuration"),
    "other path": ("json", lambda path: change_json(path, tensors="../../etc"), "its check differs"),
    "other threads": ("json", lambda path: change_json(path, threads="many"), "its check differs"),
    "deep JSON": ("json", lambda path: path.write_text("[" * 10**5), "not JSON, or it is truncated"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoint(killed, capsys, name):
    kind, damage, told = DAMAGE[name]
    file = next((killed / "checkpoints").glob(f"fedgmi*.{kind}"))
    damage(file)
    before = hashes(killed)
    capsys.readouterr()
    assert exit_code(*arguments(killed, resume=True)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {file}: ")
    assert told in shown
    assert "Likely fix: " in shown
    assert len(shown.splitlines()) == 1
    assert hashes(killed) == before


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    for name in ("fedavg", "fedgmi"):
        checkpoint.save(tmp_path, name, made(1))
    (tmp_path / "fedavg.json").replace(tmp_path / "fedgmi.json")
    with pytest.raises(CheckpointError, match="it is of the run 'fedavg', not of 'fedgmi'"):
        checkpoint.load(tmp_path, "fedgmi", digest="d")


def test_the_fix_that_the_message_names_works(killed):
    """Without its checkpoints a run starts afresh, and its old records do not stay beside the new."""
    for file in (killed / "checkpoints").iterdir():
        file.unlink()
    experiment.run(settings(), killed, resume=True)
    assert [record["round"] for record in folder.read_records(killed)] == [0, 1, 2, 3]


def test_checkpoints_of_other_settings_without_their_config(killed, capsys):
    (killed / folder.CONFIG).unlink()
    before = hashes(killed)
    assert exit_code(*arguments(killed, "seed=7", resume=True)) == 2
    assert "belongs to another configuration" in capsys.readouterr().err
    assert hashes(killed) == before


def test_round_trip_keeps_bits_and_types(tmp_path):
    server = {"a": torch.randn(2, 3, dtype=torch.float64), "n": torch.tensor(3), "flag": torch.tensor([True])}
    checkpoint.save(tmp_path, "x", Checkpoint(server, {}, META | {"round": 2}))
    found = checkpoint.load(tmp_path, "x", digest="d")
    assert found is not None
    assert found.meta["round"] == 2
    for name, leaf in server.items():
        assert torch.equal(found.server[name], leaf)
        assert found.server[name].dtype == leaf.dtype
    assert checkpoint.load(tmp_path, "y", digest="d") is None


def test_a_ledger_is_kept_beside_the_states(tmp_path):
    bytes_up = torch.tensor([2**53 + 1, 0])
    checkpoint.save(tmp_path, "x", Checkpoint({}, {}, META | {"round": 1}, {"up/expert": bytes_up}))
    found = checkpoint.load(tmp_path, "x", digest="d")
    assert found is not None
    assert torch.equal(found.ledger["up/expert"], bytes_up)
    assert (found.server, found.clients) == ({}, {})
    checkpoint.save(tmp_path, "y", made(1))
    bare = checkpoint.load(tmp_path, "y", digest="d")
    assert bare is not None
    assert bare.ledger == {}


def test_an_older_format_says_who_wrote_it_and_what_to_do(tmp_path):
    checkpoint.save(tmp_path, "x", made(1))
    path = tmp_path / "x.json"
    change_json(path, format=1, version="0.0.7")
    with pytest.raises(CheckpointError, match=r"\(format 1, and this one reads format 3\)\. It was version 0\.0\.7\."):
        checkpoint.load(tmp_path, "x", digest="d")
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "version"}
    path.write_text(json.dumps(older))
    with pytest.raises(CheckpointError, match=r"format 3\)\. Likely fix: resume with the fedgmi that wrote it"):
        checkpoint.check_all(tmp_path, digest="another")


@pytest.mark.parametrize("failing", ["write_bytes", "write_json"])
def test_crash_leaves_the_checkpoint_before(tmp_path, monkeypatch, failing):
    checkpoint.save(tmp_path, "x", made(1))

    def crash(*_args):
        raise RuntimeError("the machine stops here")

    with monkeypatch.context() as patch:
        patch.setattr(store, failing, crash)
        with pytest.raises(RuntimeError):
            checkpoint.save(tmp_path, "x", made(2))
    found = checkpoint.load(tmp_path, "x", digest="d")
    assert found is not None
    assert found.meta["round"] == found.server["w"][0] == 1
    checkpoint.save(tmp_path, "x", made(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.3.safetensors", "x.json"]


def test_full_disk_leaves_the_checkpoint_before(killed, monkeypatch, capsys):
    before = {name: value for name, value in hashes(killed).items() if name.startswith("checkpoints")}
    capsys.readouterr()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        keep = folder.keep_records
        patch.setattr(folder, "keep_records", lambda *args: (keep(*args), patch.setattr("os.fsync", full)))
        assert exit_code(*arguments(killed, resume=True)) == 2
    told = capsys.readouterr().err
    error = told[told.index("error: ") :]
    assert "fedgmi.2.safetensors: cannot be written (No space left on device). Likely fix: make room" in error
    assert len(error.splitlines()) == 1
    assert {name: value for name, value in hashes(killed).items() if name.startswith("checkpoints")} == before
    assert exit_code(*arguments(killed, resume=True)) == 0


def test_folder_that_vanished_or_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file", "x", made(1))


def test_other_runs_checkpoints_stay(tmp_path):
    for name in ("a-lr1.5", "a-lr1", "a"):
        checkpoint.save(tmp_path, name, made(1))
    checkpoint.save(tmp_path, "a-lr1", made(2))
    for name, round in (("a-lr1.5", 1), ("a-lr1", 2), ("a", 1)):
        found = checkpoint.load(tmp_path, name, digest="d")
        assert found is not None
        assert found.meta["round"] == round


def test_error_is_one_of_ours(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, "x", digest="d")


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_nothing_is_pickled(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {str(node.module).partition(".")[0]} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules = {f"{node.value.id}.{node.attr}"}
        else:
            continue
        banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch.load", "torch.save"}
        assert not modules & banned, f"{file}:{node.lineno}"
