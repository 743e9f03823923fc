"""What one site sends, and the coordinator's own part fails on: that site is absent, and the run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_post import LocalPost, make_sites, settings_of
from test_bend import saying
from test_coordinator import deployed, log_of
from test_masked_sites import SCENARIO, masked

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.errors import DivergedError, UserError
from fedgmi.protocol import rounds
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import checkpoint

AVERAGE = settings_of("fedavg")
ROWS = 40


def counting(part: float):
    """A site whose models count by a part of its rows only: nothing that a check could see."""

    def less(message: Message) -> Message:
        models = {name: replace(of, total=part * of.total, mass=part * of.mass) for name, of in message.models.items()}
        return replace(message, models=models)

    return saying(less)


@pytest.fixture
def fails(monkeypatch):
    """A server part that fails unless all sites behind a message count by all of their rows."""
    whole = rounds._taken

    def failing(error: Exception | float):
        def taken(name, step, server, number, message):
            after = whole(name, step, server, number, message)
            if float(message.models["expert"].mass.sum()) % ROWS == 0:
                return after
            if isinstance(error, Exception):
                raise error
            return whole(
                name, replace(step, server=lambda *_: {"expert": torch.tensor(error)}), server, number, message
            )

        monkeypatch.setattr(rounds, "_taken", taken)

    return failing


def silent(request: Parcel, reply: Parcel) -> Parcel | None:
    return None if request.header["kind"] == "step" and request.header["round"] <= AVERAGE.rounds else reply


def expert(where: Path, settings=AVERAGE) -> torch.Tensor:
    return checkpoint.load(where / "out" / "checkpoints", "fedavg", digest=settings.digest()).server["expert"]


SINGULAR = torch.linalg.LinAlgError("solver failed:\n\x1b[2Jthe matrix is singular")
CASES = {
    "singular": (SINGULAR, r"(LinAlgError: solver failed: \x1b[2Jthe matrix is singular)"),
    "no number": (float("nan"), "('expert' is NaN or infinite: training has diverged)"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("liars", [["client-03"], ["client-01", "client-04"]], ids=["one", "two"])
def test_who_the_server_part_fails_on_is_as_absent_as_who_is_silent(tmp_path, fails, case, liars):
    error, said = CASES[case]
    deployed(AVERAGE, tmp_path / "silent", dict.fromkeys(liars, silent))
    fails(error)
    faults = dict(zip(liars, (counting(0.5), counting(0.75)), strict=False))
    summary, _ = deployed(AVERAGE, tmp_path, faults)
    assert torch.equal(expert(tmp_path), expert(tmp_path / "silent"))
    assert [f"client-0{i}" for i, n in enumerate(summary["rounds_absent"]) if n] == liars
    assert sum(summary["answers_refused"]) == AVERAGE.rounds * len(liars)
    for name in liars:
        assert f"round 2: {name} is absent: 'train' fails on what it sent {said}" in log_of(tmp_path)
    assert all(line.isprintable() for line in log_of(tmp_path).splitlines())


def test_what_fails_whoever_is_left_out_ends_the_run_with_a_line(tmp_path, fails):
    fails(SINGULAR)
    sites = {f"client-0{i}": counting(0.5 ** (i + 1)) for i in range(3)}
    with pytest.raises(
        UserError, match=r"'train' fails on 6 sites' answers, whoever is left out \(LinAlgError: solver"
    ):
        deployed(AVERAGE, tmp_path, sites)
    assert log_of(tmp_path).splitlines()[-1][20:].startswith("stopped: wards: round 1: 'train' fails on 6 sites'")


@pytest.mark.parametrize("case", CASES)
def test_under_masks_nobody_is_named_and_a_line_says_so(tmp_path, fails, case):
    settings = masked(AVERAGE)
    post = LocalPost(make_sites(settings, tmp_path / "sites", SCENARIO))
    error, _ = CASES[case]
    fails(error)
    whole = rounds._taken

    def taken(name, step, server, number, message):
        models = {"expert": replace(message.models["expert"], mass=message.models["expert"].mass + 1)}
        return whole(name, step, server, number, replace(message, models=models) if number == 2 else message)

    rounds._taken = taken  # the fixture puts it back
    kind = UserError if isinstance(error, Exception) else DivergedError
    with pytest.raises(
        kind, match=r"round 2: 'train' fails on the sum\. One of the sites may .*, and masks hide which"
    ):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert "stopped: " in log_of(tmp_path)
    assert float(expert(tmp_path, settings).abs().max()) < 100  # of round 1, which is kept
