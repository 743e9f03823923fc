"""How often sites are asked is told before the run, and true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from local_post import LocalPost, Stopped, federation_settings, make_sites, settings_of

from federations import gaussian_scenario
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.exchanges import Count, Times
from fedgmi.deploy.settings import FederationSettings

THREE = gaussian_scenario(3, 40, separation=4.0)
FEW = {"n_components": 2, "codewords": 6, "kmeans_rounds": 2, "personal": False}
TURNS = FEW | {"calibration_steps": 2, "judge_turns": 3}
PLAIN = {"n_components": 2, "preset": "plain", "personal": False}
MASKS = {"communication": {"secure": "masks"}}
PRIVATE = {"privacy": {"clip": 2.0, "delta": 1e-3, "noise_multiplier": 1.5}}


def of_three(**changes: Any) -> FederationSettings:
    """Of three sites, as few as `deploy init` has."""
    return federation_settings(THREE, **{"method": FEW} | changes)


WAYS = {
    "default": of_three(method=TURNS),
    "sketch": of_three(method=FEW | {"preset": "sketch"}),
    "plain": of_three(method=PLAIN),
    "own parts": of_three(method=FEW | {"preset": "sketch", "personal": True}),
    "closed judges": of_three(method=TURNS | {"judges": "closed"}),
    "fedavg": of_three(method={"name": "fedavg"}),
    "ditto": of_three(method={"name": "ditto"}),
    "default, masks": of_three(method=TURNS, **MASKS),
    "plain, masks": of_three(method=PLAIN, **MASKS),
    "sketch, masks": of_three(method=FEW | {"preset": "sketch"}, **MASKS),
    "fedavg, masks": of_three(method={"name": "fedavg"}, **MASKS),
    "fedem, masks": of_three(method={"name": "fedem", "n_components": 2}, **MASKS),
    "fedavg, private": of_three(method={"name": "fedavg"}, **PRIVATE),
    "fedavg, private, masks": of_three(method={"name": "fedavg"}, **PRIVATE, **MASKS),
}


def run(settings: FederationSettings, where: Path, out: str = "out", stop: int | None = None) -> tuple[Times, int, str]:
    """→ (how often it said that it would ask, how often it asked its first site, what it said)."""
    post = LocalPost(make_sites(settings, where / "sites", THREE), stop_after=stop)
    said: list[str] = []
    coordinator = Coordinator(settings, post, where / out, echo=said.append)
    try:
        coordinator.run()
    except Stopped:
        assert stop is not None
    [line] = [each for each in said if "exchanges with every site" in each]
    numbers = re.search(r" (\d+)(?: to (\d+))? exchanges with every site", line)
    assert numbers is not None
    told = Times(int(numbers[1]), int(numbers[2] or numbers[1]))
    headers = [request.header for name, request in post.asked if name == THREE.federation.clients[0].name]
    masks = [header["masks"] for header in headers if header["kind"] == "masks"]
    steps = {(header["round"], header.get("number")) for header in headers if header["kind"] in ("step", "finish")}
    return told, len(masks) + len(steps), line  # a step is asked twice for lost blocks


@pytest.mark.parametrize("way", WAYS)
def test_a_run_asks_as_often_as_it_was_told(tmp_path, way):
    told, asked, _ = run(WAYS[way], tmp_path)
    assert told.least <= asked <= told.most
    if way.startswith("fedavg"):
        assert told.least == told.most == asked, "no step of it has a condition"


def test_a_warm_start_is_told_without_a_preparation(tmp_path):
    """It said "8 to 56 before the first round", and left these out."""
    settings = WAYS["sketch"]
    run(settings, tmp_path, "before")
    told, asked, line = run(settings.model_copy(update={"warm_start": str(tmp_path / "before")}), tmp_path)
    assert told.least <= asked <= told.most
    assert "before the first round" not in line


def test_a_run_that_goes_on_tells_what_is_left(tmp_path):
    settings = of_three(method={"name": "fedavg"}, rounds=4)
    whole, _, _ = run(settings, tmp_path, stop=4)  # a greeting, two rounds, and one that is not kept
    left, more, line = run(settings, tmp_path)
    assert left.least == left.most == more < whole.most
    assert re.search(r"in each of [1-3] rounds to come", line)


def test_words_of_a_count():
    program = settings_of("fedavg").setup().method().program
    assert Count(program, 5).total().least == 5 + 1 + len(program.finish)
    assert (
        Count(program, 5).line().startswith(f"{Count(program, 5).total()} exchanges with every site: 1 in each of 5 ")
    )
    masked = Count(program, 40, masked=True)
    assert masked.total() == Times(85, 85), "two for each sum, twice two for keys of 32 sums each, and the results"
    assert masked.line() == "85 exchanges with every site: 2 in each of 40 rounds, 4 for keys of masks, 1 for results"
    assert str(Times(2, 2)) == "2"
