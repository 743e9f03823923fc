"""A budget holds over sites as it does in simulation."""

from __future__ import annotations

import pytest
from local_post import LocalPost, Stopped, make_sites
from test_coded_sites import deployed, kept_of, settings_with

from fedgmi import __version__
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings.plan import planned
from fedgmi.deploy.site.memory import Memory
from fedgmi.errors import ConfigError
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.wire import Parcel, request
from fedgmi.storage import folder


@pytest.mark.parametrize(("name", "mb"), [("fedavg", 0.004), ("fedgmi", 0.08)])
def test_no_site_costs_more_than_the_budget(tmp_path, name, mb):
    settings = settings_with(name, {"mb_per_client": mb})
    summary, _ = deployed(settings, tmp_path)
    most = int(Ledger.from_tree(6, kept_of(tmp_path, settings).ledger).by_client().sum(1).max())
    assert 0 < most <= mb * 10**6
    assert summary["budget"]["most_mb"] == pytest.approx(most / 10**6)
    assert summary["budget"]["settings"]["communication.precision"] != "float32"
    assert f"Budget of {name}" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert all(line["sat_out"] == 0 for line in folder.read_records(tmp_path / "out"))
    [run] = (tmp_path / "sites" / "client-03" / "runs").iterdir()
    assert Memory(run).plan() == summary["budget"]["settings"]


@pytest.mark.parametrize("chosen", [{"training.lr": 1.0}, ["communication.top"], {"communication.precision": "4"}])
def test_a_site_takes_no_plan_for_anything_else(chosen):
    limited = {} if chosen == {"communication.precision": "4"} else {"mb_per_client": 1.0}
    with pytest.raises(ConfigError, match="the coordinator's plan would change other settings"):
        planned(settings_with("fedavg", limited), chosen)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"communication.precision": "3"}, "has communication.precision = '3', which no plan chooses"),
        ({"communication.precision": "float64"}, "has communication.precision = 'float64', which no plan chooses"),
        ({"communication.top": 1e-9}, "has communication.top = 1e-09, which no plan chooses"),
        ({"communication.top": True}, "has communication.top = True, which no plan chooses"),
        ({"communication.top": [0.1]}, r"has communication.top = \[0.1\], which no plan chooses"),
        ({"method.judge_turns": 2}, "has method.judge_turns = 2, which no plan chooses"),
    ],
)
def test_a_site_takes_no_plan_that_cannot_be(chosen, said):
    with pytest.raises(ConfigError, match=f"the coordinator's plan {said}"):
        planned(settings_with("fedavg", {"mb_per_client": 1.0}), chosen)


def test_a_plan_of_turns_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="the coordinator's plan has method"):
        planned(settings_with("fedgmi", {"mb_per_client": 1.0}), {"method.judge_turns": -1})


@pytest.mark.parametrize("name", ["judge_turns", "reference_rounds"])
def test_a_plan_only_lowers_what_is_asked_of_a_site(name):
    """20,000 turns in a greeting kept a site busy for ever."""
    settings = settings_with("fedgmi", {"mb_per_client": 1.0})
    own = getattr(settings.method, name)
    for chosen in (own + 1, 20_000, 10**30, 1.5, None, "1"):
        with pytest.raises(ConfigError, match="a plan only lowers it"):
            planned(settings, {f"method.{name}": chosen})
    assert getattr(planned(settings, {f"method.{name}": own - 1}).method, name) == own - 1


@pytest.mark.parametrize(
    ("set_here", "chosen"),
    [
        ({"precision": "8"}, {"communication.precision": "4"}),
        ({"top": 0.3}, {"communication.top": 0.1}),
        ({"mask": 0.5}, {"communication.top": 0.1}),
    ],
)
def test_a_plan_does_not_change_what_all_have_agreed_on(set_here, chosen):
    settings = settings_with("fedavg", {"mb_per_client": 1.0} | set_here)
    with pytest.raises(ConfigError, match=r"which federation\.toml sets to|both say which entries travel"):
        planned(settings, chosen)
    assert planned(settings, None) is settings


def test_a_greeting_without_a_plan_takes_the_last_one_back(tmp_path):
    settings = settings_with("fedavg", {"mb_per_client": 1.0})
    site = make_sites(settings, tmp_path)[103]
    about = {"version": __version__, "federation": settings.digest(), "run": "0123456789abcdef", "attempt": "0"}
    hello = Parcel(request("hello", **about) | {"plan": {"communication.precision": "4"}})
    run = Memory(site.where / "runs" / about["run"])
    for greeting, plan in ((hello, {"communication.precision": "4"}), (Parcel(request("hello", **about)), None)):
        assert site.answer(greeting).header["site"] == "client-03"
        assert run.plan() == plan


def test_a_coordinator_that_starts_again_leaves_nobody_out(tmp_path):
    """What sites hold, and the differences since, are in its checkpoint: no site is sent whole models for a restart."""
    settings = settings_with("fedavg", {"mb_per_client_round": 0.0009}).model_copy(update={"rounds": 5})
    post = LocalPost(make_sites(settings, tmp_path / "sites"), stop_after=4)
    with pytest.raises(Stopped):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    Coordinator(settings, LocalPost(post.sites), tmp_path / "out", echo=lambda line: None).run()
    assert [line["sat_out"] for line in folder.read_records(tmp_path / "out")] == [0] * 7
    costs = [Ledger.from_tree(6, kept_of(tmp_path, settings).ledger).by_client(n).sum(1).max() for n in range(3, 6)]
    assert len({int(cost) for cost in costs}) == 1
