"""No whole number of the settings alone keeps a machine busy or fills its memory: they come from others."""

from __future__ import annotations

import signal
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.runs import config
from fedgmi.settings.base import Section

sys.path.append(str(Path(__file__).parent / "deploy"))
from local_post import settings_of

from fedgmi.deploy.settings import FederationSettings

HUGE = 10**9
MOST_S = 2  # of CPU: how long it takes on a busy machine says nothing


def whole_numbers(kind: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Keys of settings that are whole numbers, and whether they are lists of some."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from whole_numbers(inner, (*key, name))
        elif _takes(inner, int):
            yield (*key, name), _takes(inner, list) or _takes(inner, tuple)


def _takes(kind: Any, wanted: type) -> bool:
    return wanted in (kind, typing.get_origin(kind)) or any(_takes(one, wanted) for one in typing.get_args(kind))


COMMON = [("fedgmi", *found) for found in whole_numbers(FederationSettings)]
OWN = [(name, ("method", *key), several) for name in METHODS for key, several in whole_numbers(METHODS[name].settings)]


@pytest.fixture
def quick() -> Iterator[None]:
    """It interrupts loops that do not end."""

    def late(*_: object) -> None:
        raise AssertionError(f"it takes more than {MOST_S} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def test_all_kinds_of_keys_are_found():
    assert {("fedgmi", ("method", "judge_turns"), False), ("knn-per", ("method", "neighbours"), True)} <= set(OWN)
    assert ("fedgmi", ("training", "epochs"), False) in COMMON


@pytest.mark.parametrize(("name", "key", "several"), COMMON + OWN, ids=lambda part: str(part))
@pytest.mark.parametrize("huge", [HUGE, 10**18, 10**30], ids=["1e9", "1e18", "1e30"])
def test_a_federation_with_a_huge_number_is_refused_or_costs_nothing(name, key, several, huge, quick):
    table = settings_of(name).model_dump()
    holder = table
    for part in key[:-1]:
        holder = holder[part]
    told = ""
    holder[key[-1]] = [1, 1, huge] if key == ("rows", "shape") else [huge] if several else huge
    try:
        settings = FederationSettings.model_validate(table)
        method = settings.running(settings.setup().method())
        settings.digest()
        assert len(method.program.all_steps) < 1000
    except (ConfigError, ValidationError) as error:
        told = str(error)
    assert not told or key[-1] in told or "parameters" in told


LAID_OUT = {"judge_turns": 100, "calibration_steps": 100, "kmeans_rounds": 1000}


def test_the_most_that_is_taken_is_laid_out_at_once(quick):
    settings = settings_of(**LAID_OUT)
    assert len(settings.setup().method().program.all_steps) > 20_000


@pytest.mark.parametrize("key", [*LAID_OUT, "codewords", "projection", "elbo_samples", "n_components"])
def test_a_bound_is_told_in_plain_words(key):
    with pytest.raises(ConfigError, match=rf"method\.{key} is {HUGE}, expected \d+ or less"):
        config.from_table({"method": {key: HUGE}}, "model.json")
