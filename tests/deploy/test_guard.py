"""A site guards itself: steps once and in order, over a state that only steps change, in so many runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hostile import RUN, Hostile, noted
from local_post import LocalPost, as_pictures, federation_settings, make_sites
from test_coordinator import CHOICES, settings_of

from federations import gaussian_scenario
from fedgmi.data.rows import pack
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.guard import Guard
from fedgmi.deploy.site.known_runs import FILE
from fedgmi.deploy.site.site import Site
from fedgmi.errors import StorageError
from fedgmi.mixture.codebook import cell_sums
from fedgmi.protocol.wire import unpack

D = 8  # features of the scenario
SCALE = {"sketch/mean": torch.zeros(D), "sketch/std": torch.ones(D)}


def site_of(where: Path, **own: object) -> Site:
    site = make_sites(federation_settings(), where)[100]
    return replace(site, settings=site.settings.model_copy(update=own))


def centres(seed: int) -> torch.Tensor:
    return torch.rand(6, D, generator=torch.Generator().manual_seed(seed))


def shares(k: int) -> torch.Tensor:
    return torch.full((k,), 1 / k, dtype=torch.float64)


def prepared(hostile: Hostile, run: str = RUN) -> None:
    """Features and spread are asked for."""
    assert hostile.step("features", 0, {}, run=run)
    assert hostile.step("spread", 1, SCALE, run=run)


def k_means(hostile: Hostile, number: int, seed: int, run: str = RUN, id: int = 0) -> bool:
    return hostile.step("k-means", number, SCALE | {"sketch/centres": centres(seed)}, run=run, id=id) is not None


def test_the_scenario_is_as_these_tests_have_it(tmp_path):
    assert site_of(tmp_path).train.x[0].numel() == D


def test_steps_come_once_and_in_the_program_s_order(tmp_path):
    hostile = Hostile(site_of(tmp_path))
    prepared(hostile)
    assert k_means(hostile, 2, 0)
    assert k_means(hostile, 3, 1)
    assert not k_means(hostile, 4, 2), "kmeans_rounds = 2"
    assert "it is not the turn of step 'k-means' after 'k-means'" in hostile.errors[-1]
    assert hostile.step("histograms", 4, SCALE | {"sketch/centres": centres(1)})
    assert not hostile.step("spread", 5, SCALE)
    assert "it is not the turn of step 'spread' after 'histograms'" in hostile.errors[-1]
    assert not k_means(hostile, 3, 7), "an exchange that is answered"
    assert "exchange [0, 3] of the preparation is answered, and this is another request" in hostile.errors[-1]


def test_the_same_request_again_answers_the_same_and_another_process_knows_what_was_answered(tmp_path):
    site = site_of(tmp_path)
    prepared(Hostile(site))
    first, again = Hostile(site), Hostile(site_of(tmp_path))
    assert k_means(first, 2, 0)
    assert k_means(again, 2, 0)
    told, repeated = (unpack(hostile.replies[-1]).sums for hostile in (first, again))
    assert all(torch.equal(told[name], repeated[name]) for name in ("sums", "counts"))
    assert not k_means(again, 2, 1)


def test_the_codebook_changes_by_its_own_steps_alone(tmp_path):
    hostile = Hostile(site_of(tmp_path))
    prepared(hostile)
    assert k_means(hostile, 2, 0)
    assert not hostile.step("k-means", 3, SCALE | {"sketch/std": torch.full((D,), 2.0), "sketch/centres": centres(0)})
    assert "changed 'sketch/std', and no step between rounds 0 and 0 does" in hostile.errors[-1]
    moved = centres(5)
    assert hostile.step("histograms", 4, SCALE | {"sketch/centres": moved}), "k-means moves them"
    fold = {"sketch/word_map": torch.arange(12), "sketch/topics": torch.ones(12, 3, dtype=torch.float64)}
    fold |= {
        "sketch/scatter": torch.zeros((), dtype=torch.float64),
        "calibration/share": shares(3),
    }
    assert not hostile.step("fold in", 5, SCALE | fold | {"sketch/centres": centres(6)})
    assert "changed 'sketch/centres'" in hostile.errors[-1]


def test_a_site_has_one_index_in_a_run(tmp_path):
    hostile = Hostile(site_of(tmp_path))
    prepared(hostile)
    assert not k_means(hostile, 2, 0, id=3)
    assert "is for site 3, and this one is 0" in hostile.errors[-1]


def test_there_are_so_many_runs_for_each_version_of_the_rows(tmp_path):
    site = site_of(tmp_path, max_runs=2)
    hostile = Hostile(site)
    names = [f"{n:016x}" for n in range(3)]
    for name in names[:2]:
        prepared(hostile, name)
    assert not hostile.step("features", 0, {}, run=names[2])
    assert "these rows were in 2 runs, and max_runs is 2" in noted(site)
    assert k_means(hostile, 2, 0, names[0]), "a run that has begun goes on"
    changed = Hostile(replace(site, digest="f" * 32))
    prepared(changed, names[2])
    assert json.loads((site.where / FILE).read_text())["begun"] == {site.digest: 2, "f" * 32: 1}


def test_another_seed_over_the_same_rows_is_a_run_more(tmp_path):
    """It holds other rows out, so that the parts are others and the file's rows the same."""
    site = replace(site_of(tmp_path, max_runs=1), content="a" * 32)
    prepared(Hostile(site), f"{0:016x}")
    reseeded = Hostile(replace(site, digest="f" * 32))
    assert not reseeded.step("features", 0, {}, run=f"{1:016x}")
    assert "these rows were in 1 runs, and max_runs is 1" in noted(site)
    assert site.ledger().data == site.version == "a" * 32


@pytest.mark.parametrize("more", [{"n_components": 12}, {"secret": "x"}, {"epsilon": 9.0}])
def test_a_request_brings_no_settings(tmp_path, more):
    """A2 of the deployment that was attacked: K came with the request."""
    hostile = Hostile(site_of(tmp_path))
    place = {"round": 0, "number": 0, "step": 0, "id": 0, "base": None}
    assert hostile.ask(hostile.header("step", **place) | more) is None
    assert f"says {next(iter(more))!r}, which no request of kind 'step' does" in hostile.errors[-1]


def test_topics_are_as_many_as_the_federation_has_components(tmp_path):
    """A topic a word would give the exact histogram back as proportions."""
    hostile = Hostile(site_of(tmp_path))
    prepared(hostile)
    leaves = SCALE | {"sketch/centres": centres(0), "sketch/word_map": torch.arange(12)}
    leaves |= {
        "sketch/scatter": torch.zeros((), dtype=torch.float64),
        "calibration/share": torch.full((12,), 1 / 12, dtype=torch.float64),
    }
    assert not hostile.step("fold in", 5, leaves | {"sketch/topics": torch.eye(12, dtype=torch.float64)})
    leaves["calibration/share"] = shares(3)
    assert not hostile.step("fold in", 5, leaves | {"sketch/topics": torch.eye(12, dtype=torch.float64)})
    assert "'sketch/topics'" in hostile.errors[-1]
    assert not any("proportions" in json.dumps(reply.header) for reply in hostile.replies)


def swept(n: int) -> list[torch.Tensor]:
    """Centres whose cells are cut at thresholds on the first axis, which rise from request to request."""
    cuts = torch.linspace(0.02, 0.98, n)
    middle, far = torch.full((D - 1,), 0.5), torch.full((4, D), 9.0)
    sides = [[torch.cat([torch.tensor([cut + side]), middle]) for side in (-1.0, 1.0)] for cut in cuts.tolist()]
    return [torch.cat([torch.stack(pair), far]) for pair in sides]


def exact_rows(found: list[tuple[torch.Tensor, torch.Tensor]], rows: torch.Tensor) -> int:
    """How many rows are the difference of two cells' sums that differ by a row."""
    cells = [(float(n), s) for sums, counts in found for n, s in zip(counts, sums, strict=True) if n]
    taken = {
        int(place)
        for n, left in cells
        for m, right in cells
        if n - m == 1
        for place in ((rows - (left - right)).abs().amax(1) < 1e-5).nonzero().flatten()
    }
    return len(taken)


def test_a_thousand_requests_at_chosen_centres_give_no_row_away(tmp_path):
    """A3: k-means sums at rising thresholds, differenced. Unguarded they give most rows; here few are answered."""
    scenario = gaussian_scenario(6, 200, separation=4.0)
    site = make_sites(federation_settings(scenario), tmp_path, scenario)[100]
    rows, asked = site.train.x.flatten(1).double(), swept(1000)
    packed = pack([as_pictures(scenario.federation.clients[0])], (0,))
    unguarded = [cell_sums(packed.x.flatten(1), at, packed) for at in asked]
    assert exact_rows([(sums["sums"], sums["counts"]) for sums in unguarded], rows) > 50
    hostile, answered = Hostile(site), []
    for n, at in enumerate(asked):
        run = f"{n // 2:016x}"
        if n % 2 == 0 and hostile.step("features", 0, {}, run=run):
            hostile.step("spread", 1, SCALE, run=run)
        reply = hostile.step("k-means", 2 + n % 2, SCALE | {"sketch/centres": at}, run=run)
        answered += [] if reply is None else [unpack(reply).sums]
    assert len(answered) == 2 * site.settings.max_runs
    assert exact_rows([(sums["sums"], sums["counts"]) for sums in answered], rows) == 0
    assert sum(1 for _ in site.audit().refusals()) == len(hostile.errors) > 900


def test_other_runs_do_not_make_a_site_forget_one_that_goes_on(tmp_path):
    site = site_of(tmp_path)
    hostile = Hostile(site)
    prepared(hostile)
    for n in range(1, 5):
        prepared(hostile, f"{n:016x}")
    for n in range(5, 30):
        assert not hostile.step("features", 0, {}, run=f"{n:016x}")
    assert (site.where / "runs" / RUN).exists()
    assert len(list((site.where / "runs").iterdir())) <= site.settings.max_runs
    assert k_means(hostile, 2, 0)


def test_a_damaged_file_of_what_was_answered_is_told(tmp_path):
    site = site_of(tmp_path)
    prepared(Hostile(site))
    for text in ("{", '{"runs": {"x": 1}, "begun": {}}', '{"runs": 3, "begun": 4}', "[" * 100_000):
        (site.where / FILE).write_text(text)
        again = Hostile(site)
        assert not k_means(again, 2, 0)
        assert "guard.json" in noted(site)
        assert "guard.json" not in again.errors[-1], "a path is the site's own affair"


def test_a_coordinator_that_goes_back_to_its_checkpoint_pays_where_it_asks_something_else(tmp_path):
    settings = settings_of("fedavg", **CHOICES["fedavg"])
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    site = post.sites[100]
    rounds = [request for name, request in post.asked if name == "client-00" and request.header["kind"] == "step"]
    assert site.guard().used() == 1
    assert "error" not in site.answer(rounds[0]).header, "the same again is free"
    assert site.guard().used() == 1
    hostile = Hostile(site)
    header = {key: value for key, value in rounds[0].header.items() if key not in ("layout", "sent", "sizes")}
    for n in range(4):
        assert hostile.ask(header, {"expert": torch.ones(1, 90) + n})
        assert site.guard().used() == 2 + n
    assert not hostile.ask(header, {"expert": torch.zeros(1, 90)})
    assert "max_runs is 5" in noted(site)


def test_a_limit_on_noisy_releases_needs_noise(tmp_path):
    """A site that believes itself protected would send exact counts."""
    exact = site_of(tmp_path, max_epsilon=1.0)
    assert not Hostile(exact).step("features", 0, {})
    assert "max_epsilon limits releases with noise, and neither method.epsilon nor [privacy] is set" in noted(exact)
    site = make_sites(settings_of("fedgmi", epsilon=1.0), tmp_path / "noisy")[100]
    limited = replace(site, settings=site.settings.model_copy(update={"max_epsilon": 1.0}))
    assert Hostile(limited).step("features", 0, {})


def test_a_predictor_is_judged_once_a_run(tmp_path):
    """Labels of rows held out could be asked for, one by one, by predictors of the coordinator's choosing."""
    settings = settings_of("fedavg")
    site = make_sites(settings, tmp_path)[100]
    hostile = Hostile(replace(site, settings=site.settings.model_copy(update={"max_runs": 2})))

    header = hostile.header("finish", round=3, id=0, base=None, diagnosis=None)
    assert hostile.ask(header, {"expert": torch.ones(1, 90)}) is None
    assert "no step of this run was answered here" in hostile.errors[-1]
    assert hostile.step("train", 0, {"expert": torch.zeros(1, 90)}, round=2)

    def judged(value: float, round: int) -> bool:
        header = hostile.header("finish", round=round, id=0, base=None, diagnosis=None)
        return hostile.ask(header, {"expert": torch.full((1, 90), value)}) is not None

    assert not judged(0.1, 1)
    assert "results are handed out in round 3, at the end, and not in 1" in hostile.errors[-1]
    assert judged(0.1, 3)
    assert "accuracy" in unpack(hostile.replies[-1]).replies
    assert judged(0.1, 3), "the same again"
    assert judged(0.2, 3), "a run more"
    assert not judged(0.3, 3)


def after_a_run(tmp_path):
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    hostile = Hostile(site)
    assert hostile.step("train", 0, {"expert": torch.zeros(1, 90)}, round=2)
    header = hostile.header("finish", round=3, id=0, base=None, diagnosis=None)
    assert hostile.ask(header, {"expert": torch.full((1, 90), 0.1)})
    return site, hostile, {path: path.read_bytes() for path in (site.where / "results").rglob("*") if path.is_file()}


@pytest.mark.parametrize("diagnosis", ["x", [1], 0, True])
def test_results_are_not_replaced_by_a_request_that_fails(tmp_path, diagnosis):
    _, hostile, before = after_a_run(tmp_path)
    header = hostile.header("finish", round=3, id=0, base=None, diagnosis=diagnosis)
    assert not hostile.ask(header, {"expert": torch.full((1, 90), 5.0)})
    assert f"diagnosis = {diagnosis!r}, expected a table" in hostile.errors[-1]
    assert all(path.read_bytes() == old for path, old in before.items())


@pytest.mark.parametrize("failing", [(Audit, "left"), (Guard, "keep")])
def test_results_are_not_replaced_before_that_is_counted(tmp_path, monkeypatch, failing):
    site, hostile, before = after_a_run(tmp_path)
    header = hostile.header("finish", round=3, id=0, base=None, diagnosis={"run": "another", "misfit": 1.0})

    def full(*given, **named):
        raise StorageError("cannot be written", where="x", fix="y")

    with monkeypatch.context() as patch:
        patch.setattr(*failing, full)
        assert not hostile.ask(header, {"expert": torch.full((1, 90), 5.0)})
    assert all(path.read_bytes() == old for path, old in before.items())
    used = site.guard().used()
    assert hostile.ask(header, {"expert": torch.full((1, 90), 5.0)})
    assert site.guard().used() == used + 1
    assert any(path.read_bytes() != old for path, old in before.items())
    written = json.loads((site.where / "results" / "diagnosis.json").read_text())
    assert (written["run"], written["misfit"]) == (RUN, 1.0)
    lines = [line["name"] for line in site.audit().lines()]
    assert lines.count("finish") == 2, "the line of the answer that did not leave is that of the one that did"


def test_greetings_do_not_make_a_site_forget_a_run_that_is_over(tmp_path):
    site, hostile, _ = after_a_run(tmp_path)
    for n in range(5):
        assert hostile.ask(hostile.header("hello", run=f"{n:016x}"))
    assert (site.where / "runs" / RUN).exists()
    assert len(list((site.where / "runs").iterdir())) < 5


def test_an_answer_from_the_disk_has_the_bytes_of_the_first_and_one_line(tmp_path, monkeypatch):
    site = site_of(tmp_path)
    hostile = Hostile(site)

    def full(*given, **named):
        raise StorageError("cannot be written", where="x", fix="y")

    with monkeypatch.context() as patch:
        patch.setattr(Guard, "keep", full)
        assert not hostile.step("features", 0, {})
    assert all(hostile.step("features", 0, {}) for _ in range(8))
    assert len({reply.header["hash"] for reply in hostile.replies}) == 1
    assert [line["hash"] for line in site.audit().lines()] == [hostile.replies[0].header["hash"]]


@pytest.mark.parametrize("kept", [4, 5])
def test_what_an_older_fedgmi_wrote_of_answers_is_read(tmp_path, kept):
    """It did not count tries under masks, or did not say since when."""
    site = site_of(tmp_path)
    prepared(Hostile(site))
    path = site.where / "guard.json"
    found = json.loads(path.read_text())
    for run in found["runs"].values():
        assert {answer[4] for answer in run["answers"]} == {1}
        run["answers"] = [answer[:kept] for answer in run["answers"]]
    path.write_text(json.dumps(found))
    assert site.guard().runs() == set(found["runs"])
    assert Hostile(site).step("features", 0, {}), "the same again"
