"""Files of a results folder: strict, versioned, and described by the schemas in docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedgmi import __version__
from fedgmi.errors import UserError
from fedgmi.runs.records import ALL, VERSION, Status, Summary
from fedgmi.runs.records.schema import schema, write_all
from summaries import make_summary

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
STATUS = {"name": "wards", "round": 1, "rounds": 3, "state": "running", "updated": 1.0, "sites": {}}


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_the_schema_in_docs_is_the_models(model):
    """It is written anew by `python tests/test_records.py`."""
    path = SCHEMAS / f"{Path(model.file).stem}.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == schema(model)


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_every_key_is_described(model):
    found = schema(model)
    for section in [found, *found.get("$defs", {}).values()]:
        assert section["description"]
        assert all(entry["description"] for entry in section.get("properties", {}).values())


def test_no_schema_is_left_over():
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{Path(model.file).stem}.schema.json" for model in ALL}


def test_a_file_says_who_wrote_it_and_reads_back(tmp_path):
    written = Status.write(tmp_path, STATUS)
    assert (written["version"], written["fedgmi"]) == (VERSION, __version__)
    assert Status.read(tmp_path).to_json() == written
    assert json.loads((tmp_path / "status.json").read_text(encoding="utf-8")) == written


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": None, "fedgmi": None}, "an older fedgmi wrote the status of a deployment"),
        ({"version": VERSION + 1, "fedgmi": "9.9"}, f"fedgmi 9.9 wrote .* reads version {VERSION}"),
        ({"rounds": "three"}, "this is not the status of a deployment .rounds"),
        ({"colour": 1}, "this is not the status of a deployment .colour"),
        ({"name": None}, "status.json"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_by_name(tmp_path, change, words):
    found = Status.write(tmp_path, STATUS) | change
    kept = {key: value for key, value in found.items() if value is not None}
    (tmp_path / "status.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        Status.read(tmp_path)


def test_a_key_that_the_model_lacks_is_a_bug_that_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="colour"):
        Status.write(tmp_path, STATUS | {"colour": 1})
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    write_all(SCHEMAS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clients": []}, "clients is empty"),
        ({"rows_per_client": [70]}, "rows_per_client has 1 entries for 4 clients"),
        ({"proportions": [[1.0, 0.0]]}, "proportions has 1 entries for 4 clients"),
        ({"proportions": [[1.0, 0.0]] * 3 + [[1.0]]}, "proportions has rows of 1 and 2 entries"),
        ({"true_proportions": [[]] * 4}, "true_proportions has rows of 0 entries"),
        ({"client_accuracy_per_client": [0.5] * 5}, "client_accuracy_per_client has 5 entries for 4 clients"),
    ],
)
def test_a_summary_with_lists_of_unequal_length_is_damaged(tmp_path, change, said):
    (tmp_path / "summary.json").write_text(json.dumps(make_summary() | change))
    with pytest.raises(UserError, match=f"this is not the summary of a run.*{said}"):
        Summary.read(tmp_path)
