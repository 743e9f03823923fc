"""One site cannot end or bend the run: whatever it sends makes that site absent, and a line of the log says why.

Nor does an outage of all sites, as long as it is shorter than `wait_s`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
import torch
from local_post import FOUR, SCENARIO, LocalPost, federation_settings, log_of, make_sites, settings_of
from test_coordinator import deployed, in_process, reach

from fedgmi.data.scenarios.truth import Scenario
from fedgmi.deploy.coordinator import roster as roster_module
from fedgmi.deploy.coordinator.bounds import within_ranges
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.status import read as read_status
from fedgmi.deploy.settings import RowSettings
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Parcel, pack, unpack
from fedgmi.settings.robust import RobustSettings
from fedgmi.storage import checkpoint, folder

SKETCH = {
    "name": "fedgmi",
    "preset": "sketch",
    "n_components": 3,
    "codewords": 6,
    "kmeans_rounds": 2,
    "personal": False,
}
Change = Callable[[torch.Tensor], torch.Tensor]


def sketch(scenario: Scenario = SCENARIO, **changes: object):
    """Few exchanges, and all sums of the codebook among them."""
    return federation_settings(scenario, method=SKETCH, rounds=1, **changes)


def saying(change: Callable[[Message], Message], *, rows: int | None = None):
    """A site that sends other messages, well packed."""

    def fault(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step" or "layout" not in reply.header:
            return reply
        return pack(change(unpack(reply)), {"rows": reply.header["rows"] if rows is None else rows})

    return fault


def in_sums(where: str, change: Change):
    """Another leaf of the message in which sums of this name stand."""

    def changed(message: Message) -> Message:
        if where not in message.sums:
            return message
        return replace(message, sums=dict(message.sums) | {where: change(message.sums[where])})

    return saying(changed)


def whole(change: Callable[[Parcel], Parcel | None]):
    """A site that answers each step otherwise."""
    return lambda request, reply: change(reply) if request.header["kind"] == "step" else reply


def with_header(**said: object):
    """A site whose headers say something else."""
    return whole(lambda reply: replace(reply, header=reply.header | said))


def failing(words: str):
    """A site that answers with an error."""
    return whole(lambda reply: Parcel({"error": words}))


DEEP = json.loads("[" * 20 + "]" * 20)
FORGED = "bad\n2026-01-01 00:00:00 all is well\x1b[2J"
OF_SUMS: dict[str, tuple[str, Change, str]] = {
    "features of other rows": ("count", lambda leaf: leaf + 1, "its features are of 41 rows, and the site has 40"),
    "features below zero": ("squares", lambda leaf: -leaf, "its features have "),
    "features beyond pictures": ("sum", lambda leaf: leaf * 100, "its features have "),
    "features of another shape": ("squares", lambda leaf: leaf[:-1], "'sums/squares' is float64 [7], expected"),
    "features that are none": ("sum", lambda leaf: leaf * float("nan"), "'sums/sum' is NaN or infinite"),
    "features without squares": ("squares", lambda leaf: leaf + 1e200, "sums of such are no numbers any more"),
    "products of no rows": ("outer", lambda leaf: leaf.flip(0), "its projected features have "),
    "sums of cells": ("sums", lambda leaf: leaf * 1e9, "its sums of cells are outside the features' range"),
    "cells of others": ("sums", lambda leaf: -leaf, "its sums of cells belong to other cells"),
    "counts of cells": ("counts", lambda leaf: leaf + 100, "its counts of cells are of "),
}
WRONG = {name: (in_sums(leaf, change), said) for name, (leaf, change, said) in OF_SUMS.items()} | {
    "full disk": (failing("client-03: cannot be written (No space left)"), "No space left"),
    "deep header": (with_header(layout=DEEP), "its header has more than 16 tables in one another"),
    "endless": (with_header(sizes=[float("inf")], rows=float("inf")), "it says that it has inf rows"),
    "rows of 400 digits": (with_header(rows=10**400), "it says that it has 1000"),
    "a leaf 20,000 times": (with_header(layout=[{"name": "sums/sum"}] * 20_000), "is missing, expected float64"),
    "20,000 letters": (with_header(layout=[{"name": "\x1b[31m" * 4000}]), "absent: '\\x1b[31m"),
    "lone surrogate": (failing("bad \ud800 news"), "bad \\ud800 news"),
    "lines of its own": (failing(FORGED), "bad 2026-01-01 00:00:00 all is well\\x1b[2J"),
}


@pytest.mark.parametrize("case", WRONG)
def test_that_site_is_absent_and_the_others_go_on(tmp_path, case):
    fault, said = WRONG[case]
    summary, _ = deployed(sketch(FOUR), tmp_path, {"client-03": fault}, FOUR)
    log = log_of(tmp_path)
    assert "round 0: client-03 is absent: " in log
    assert said in next(line for line in log.splitlines() if "client-03 is absent" in line)
    assert [i for i, n in enumerate(summary["rounds_absent"]) if n] == [3]
    assert all(line[:2] == "20" and line.isprintable() for line in log.splitlines())
    assert not any(line.startswith("2026-01-01") for line in log.splitlines())
    read_status(tmp_path / "out")


BENT = {
    "a million rows in each word": saying(
        lambda message: (
            replace(message, replies={"histogram": torch.full_like(message.replies["histogram"], 10**6)})
            if "histogram" in message.replies
            else message
        )
    ),
    "sums of cells of 1e9": in_sums("sums", lambda leaf: torch.full_like(leaf, 1e9)),
    "features of 1e9": in_sums("sum", lambda leaf: torch.full_like(leaf, 1e9)),
    "a negative share": in_sums("cells", lambda leaf: -leaf),
}


@pytest.mark.parametrize("case", BENT)
def test_a_lie_does_no_more_than_silence_in_its_place(tmp_path, case):
    """To the last bit, for the proportions and the models of all."""

    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return reply if BENT[case](request, reply).header == reply.header else None

    found = []
    for name, fault in (("lies", BENT[case]), ("silent", silent)):
        deployed(sketch(), tmp_path / name, {"client-03": fault})
        kept = checkpoint.load(tmp_path / name / "out" / folder.CHECKPOINTS, "fedgmi", digest=sketch().digest())
        own = [tmp_path / name / "sites" / f"client-0{i}" / "results" / "proportions.json" for i in range(6)]
        found.append((kept.server, [json.loads(path.read_text())["proportions"] for path in own]))
    assert "client-03 is absent: " in log_of(tmp_path / "lies")
    (server, own), (other, expected) = found
    assert own == expected
    assert all(torch.equal(leaf, other[name]) for name, leaf in server.items())


def reversed_models(request: Parcel, reply: Parcel) -> Parcel:
    """A site that says it has 10⁹ rows, and sends the negative of what it has learnt with as much mass."""
    if request.header["kind"] == "hello":
        return replace(reply, header=reply.header | {"rows": 10**9})
    if request.header["kind"] != "step" or "layout" not in reply.header:
        return reply
    message = unpack(reply)
    more = 10**9 / 40
    models = {name: replace(of, total=-more * of.total, mass=more * of.mass) for name, of in message.models.items()}
    return pack(replace(message, models=models), {"rows": 10**9})


AVERAGE = settings_of("fedavg")


def test_where_robust_rules_are_on_a_claim_of_rows_weighs_no_more_than_twice_the_median(tmp_path):
    once = AVERAGE.model_copy(update={"rounds": 1})
    settings = once.model_copy(update={"robust": RobustSettings(max_norm="median")})
    server, _ = in_process(once)
    deployed(settings, tmp_path, {"client-03": reversed_models})
    assert "client-03 is bounded: its expert counts as 80 rows, twice the median, not 1e+09" in log_of(tmp_path)
    assert reach(settings, tmp_path, server) < 0.2
    assert "client-03 says that it has 1000000000 rows, more than all others together" in log_of(tmp_path)
    deployed(once, tmp_path / "unbounded", {"client-03": reversed_models})
    assert reach(once, tmp_path / "unbounded", server) > 1.0


def test_more_rows_than_federation_toml_allows_are_not_let_in(tmp_path):
    settings = AVERAGE.model_copy(update={"max_rows": 100, "min_sites": 5})
    assert settings.digest() == AVERAGE.digest()  # it is the coordinator's own guard
    summary, _ = deployed(settings, tmp_path, {"client-03": reversed_models})
    assert "client-03" not in summary["clients"]
    assert "client-03 says that it has 1000000000 rows, and max_rows is 100" in log_of(tmp_path)


def test_rows_do_not_change_in_a_run(tmp_path):
    """A site that comes back under another node with other rows is told why it has no place."""
    settings = AVERAGE.model_copy(update={"rounds": 3, "wait_s": 0.2})
    post = LocalPost(make_sites(settings, tmp_path / "sites"))

    def moved(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == 1:
            post.sites[200] = post.sites.pop(103)
        more = {"rows": 45} if request.header["kind"] == "hello" and 200 in post.sites else {}
        return replace(reply, header=reply.header | more)

    post.faults["client-03"] = moved
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert "client-03 comes back with 45 rows, where it had 40: a run is over the same rows" in log_of(tmp_path)
    assert summary["rows_per_client"] == [40] * 6
    assert summary["rounds_absent"][3] >= 2


@dataclass
class Outage(LocalPost):
    """From a round on nobody is there, for some looks; and the first try of that round takes a while."""

    round: int = 2
    looks: int = 3
    takes_s: float = 0.0

    def nodes(self) -> Iterable[int]:
        if self.round < 0 and self.looks > 0:
            self.looks -= 1
            return []
        return super().nodes()

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        if any(request.header.get("round") == self.round for request in requests.values()):
            self.round = -1
            time.sleep(self.takes_s)
            return {}
        return super().ask(requests, deadline_s)


@pytest.mark.parametrize("outage", [{"looks": 3}, {"looks": 0, "takes_s": 0.5}])
def test_an_outage_of_all_sites_is_waited_out_and_changes_nothing(tmp_path, outage):
    """`wait_s` counts from the first failed try, however long that took."""
    settings = AVERAGE.model_copy(update={"wait_s": 0.4})
    post = Outage(make_sites(settings, tmp_path / "sites"), **outage)
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    expected, _ = deployed(AVERAGE, tmp_path / "other")
    assert summary["client_accuracy_per_client"] == expected["client_accuracy_per_client"]
    assert summary["rounds_absent"] == [0] * 6
    log = log_of(tmp_path)
    assert "round 2: nobody answered; sites are waited for, 0.4 s" in log
    assert log.count("client-03 is absent: no answer") == 1


def test_who_was_not_let_in_is_asked_again_while_all_wait(tmp_path, monkeypatch):
    """A full disk at the greeting, or a federation.toml that was copied since, is no reason to stay away for good."""
    monkeypatch.setattr(roster_module, "AGAIN_S", 0.0)
    asked = []

    def mended(request: Parcel, reply: Parcel) -> Parcel:
        asked.append(request.header["kind"])
        return Parcel({"error": "client-03: the disk is full"}) if len(asked) < 3 else reply

    summary, _ = deployed(AVERAGE, tmp_path, {"client-03": mended})
    assert summary["rounds_absent"] == [0] * 6
    assert log_of(tmp_path).count("the disk is full") == 1


def test_proportions_that_are_none_make_their_site_absent(tmp_path):
    def none(message: Message) -> Message:
        if "proportions" not in message.replies:
            return message
        return replace(
            message, replies=dict(message.replies) | {"proportions": message.replies["proportions"] * float("nan")}
        )

    summary, _ = deployed(settings_of("fedem"), tmp_path, {"client-03": saying(none)})
    assert "client-03 is absent: 'replies/proportions' is NaN or infinite" in log_of(tmp_path)
    assert [i for i, n in enumerate(summary["rounds_absent"]) if n] == [3]


def test_a_name_that_cannot_be_printed_has_no_place(tmp_path):
    def named(request: Parcel, reply: Parcel) -> Parcel:
        name = {"site": "\x1b[2Jward\ud800"} if request.header["kind"] == "hello" else {}
        return replace(reply, header=reply.header | name)

    settings = AVERAGE.model_copy(update={"min_sites": 5})
    deployed(settings, tmp_path, {"client-03": named})
    assert "its name is no line of at most 200 letters" in log_of(tmp_path)
    assert log_of(tmp_path).isascii()


def test_noisy_counts_are_held_to_what_noise_can_be(tmp_path):
    settings = sketch().model_copy(update={"method": sketch().method.model_copy(update={"epsilon": 1.0})})
    summary, _ = deployed(settings, tmp_path, {"client-03": BENT["a million rows in each word"]})
    assert "its histogram has a count of 1000000, and noise of ε = 1 makes at most 90 of 40 rows" in log_of(tmp_path)
    assert [i for i, n in enumerate(summary["rounds_absent"]) if n] == [3]


def test_rows_within_ranges_have_sums_within_them():
    """rows.ranges say more than what a column can be in general."""
    rows = RowSettings(kind="tabular", features=("age", "pulse"), ranges={"age": [0, 120]})
    sums = {"sum": torch.tensor([4000.0, 1e9]), "squares": torch.tensor([5e5, 1e18]), "count": torch.tensor(40.0)}
    check = within_ranges(rows)
    assert check is not None
    assert check({}, Message(sums=sums), 0, 40) is None
    far = sums | {"sum": torch.tensor([40_000.0, 0.0]), "squares": torch.tensor([4e7, 1.0])}
    assert "its values of 'age' have Σx = 40000" in check({}, Message(sums=far), 0, 40)


def of_no_mass(mass: float, value: Change):
    """A site that sends models of other values with this mass, all of them."""

    def fault(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step" or "layout" not in reply.header:
            return reply
        message = unpack(reply)
        if not message.models:
            return reply
        models = {
            name: replace(
                of,
                total=value(of.total),
                mass=torch.full_like(of.mass, mass),
                holders=torch.ones_like(of.holders),
            )
            for name, of in message.models.items()
        }
        return pack(replace(message, models=models), {"rows": reply.header["rows"]})

    return fault


@pytest.mark.parametrize(
    ("settings", "mass"),
    [(AVERAGE, 0.0), (AVERAGE, -9e-4), (federation_settings(), 0.0)],
    ids=["fedavg", "below zero", "fedgmi"],
)
def test_models_without_mass_are_zero_or_their_site_is_absent(tmp_path, settings, mass):
    """Their sum would be added, and neither norms nor masses show what it does."""
    settings = settings.model_copy(update={"rounds": 1})
    deployed(settings, tmp_path, {"client-03": of_no_mass(mass, lambda leaf: torch.full_like(leaf, 3e4))})
    said = "has no mass in place 0, and a sum that is not 0" if mass == 0 else "the mass of '"
    assert said in next(line for line in log_of(tmp_path).splitlines() if "client-03 is absent: " in line)
    kept = checkpoint.load(tmp_path / "out" / folder.CHECKPOINTS, settings.method.name, digest=settings.digest())
    assert float(kept.server["expert"].abs().max()) < 100.0


def test_slopes_that_no_rows_have_make_their_site_absent(tmp_path):
    settings = federation_settings(rounds=1)
    deployed(settings, tmp_path, {"client-03": in_sums("fisher", lambda leaf: torch.full_like(leaf, 1e18))})
    assert "client-03 is absent: its slopes have a square of 1e+18, which is more than 40 rows have" in log_of(tmp_path)
