"""What a site's numbers are is not told by a refusal either, where masks or noise are to hide them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hostile import Hostile
from local_post import LocalPost, make_sites
from spying import Spy
from test_masked_attacks import ALL, SCALE, SCENARIO, SECRET, D, federation, spied
from test_private_sites import BY_ROWS, private

from fedgmi.data.rows import Client
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.errors import DivergedError
from fedgmi.models.clipped import clipped
from fedgmi.models.training import Batch, Objective
from fedgmi.protocol import whole
from fedgmi.protocol.wire import unpack


def spread_at(spy: Spy, std: float, run: str) -> dict[str, torch.Tensor]:
    """The sum of squares of one feature over its deviation, which the coordinator chooses."""
    agreement = spy.agree(ALL, run)
    spy.sum("features", 0, {}, ALL, agreement, run=run)
    scale = SCALE | {"sketch/std": torch.full((D,), 1e30).index_fill(0, torch.tensor([0]), std)}
    return spy.sum("spread", 1, scale, ALL, agreement, run=run)


@pytest.mark.parametrize("std", [1e-12, 1e-30, 1e-45])
def test_numbers_that_do_not_fit_a_masked_sum_are_masked_all_the_same(tmp_path, std):
    """A refusal compared the site's own sum with a bound of the coordinator's choosing."""
    spy = spied(tmp_path)
    total = spread_at(spy, std, f"{1:016x}")
    assert any(leaf.abs().max() > 2.0**50 for leaf in total.values())
    for site in spy.sites.values():
        log = (site.where / "log.txt").read_text()
        assert "round 0, exchange 1: numbers of" in log
        assert "nobody was told" in log
        assert not (site.where / "refused.jsonl").exists()


def test_a_site_whose_numbers_do_not_fit_answers_as_the_others_do(tmp_path):
    spy = spied(tmp_path)
    large = spy.sites[2]
    x = large.train.x.clone()
    x[0] = 1e30
    spy.sites[2] = replace(large, train=Client(large.train.name, x, large.train.y), digest="e" * 32)
    agreement = spy.agree(ALL, "a" * 16)
    spy.sum("features", 0, {}, ALL, agreement, run="a" * 16)
    assert not (spy.sites[0].where / "log.txt").exists()
    assert "do not fit" in (large.where / "log.txt").read_text()


def test_a_sum_that_was_cut_ends_the_run_in_words(tmp_path):
    """Nobody says that its training ran away, so the sum has to show it."""
    settings = federation(None, wait_s=0.5)
    sites = make_sites(settings, tmp_path / "sites", SCENARIO)
    sites = {n: replace(s, settings=s.settings.model_copy(update={"mask_secret": SECRET})) for n, s in sites.items()}
    one = sites[102]
    sites[102] = replace(one, train=Client(one.train.name, one.train.x * 1e30, one.train.y))
    run = Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None)
    with pytest.raises(DivergedError, match=r"the sum of 'features'.*as large as masked sums take.*lower training\.lr"):
        run.run()


def test_what_fits_is_left_as_it_is_and_what_does_not_is_cut_to_what_does():
    for leaf in (torch.tensor([1.5, float("nan"), float("-inf"), 1e38]), torch.tensor([3, 2**62])):
        leaves = {"sums/x": leaf, "sums/y": torch.ones(2)}
        found, cut = whole.fitted(whole.unflatten(leaves), 3)
        assert cut == ["sums/x"]
        assert found.sums["x"][0] == leaf[0]
        assert found.sums["x"].dtype == leaf.dtype
        total = {name: 3 * numbers for name, numbers in whole.encoded(found, 3).items()}
        back = whole.decoded(total, {name: leaf.dtype for name, leaf in leaves.items()})
        assert whole.at_the_limit(back, 3) == "sums/x"
        assert whole.at_the_limit(whole.unflatten({"sums/y": torch.ones(2)}), 3) is None


@pytest.mark.parametrize("unit", ["rows", "clients"])
def test_with_privacy_a_row_that_makes_training_run_away_is_told_by_nothing(tmp_path, unit):
    """A model of the coordinator's choosing overflows for rows above a threshold alone."""
    settings = private(unit=unit, **({"changes": BY_ROWS} if unit == "rows" else {}))
    site = make_sites(settings, tmp_path)[100]
    x = site.train.x.clone()
    x[0] = 1e30
    wild = replace(site, train=Client(site.train.name, x, site.train.y), digest="e" * 32, where=tmp_path / "wild")
    start = torch.full((1, site.method().program.init()["expert"].shape[1]), 1e10)
    told = []
    for own in (site, wild):
        hostile = Hostile(own)
        reply = hostile.step("train", 0, {"expert": start}, round=1)
        assert reply is not None, hostile.errors
        told.append(unpack(reply).models["expert"].total)
    assert all(bool(leaf.isfinite().all()) for leaf in told)


def test_a_row_whose_gradient_is_no_number_adds_nothing():
    def gradient(params: torch.Tensor, batch: Batch, out: torch.Tensor) -> None:
        out.copy_(batch.x[:, :, 0])

    base = Objective(loss=lambda params, batch: batch.x[:, :, 0] * params, gradient=gradient)
    x = torch.tensor([[[3.0], [float("nan")], [float("inf")], [0.5]]])
    batch = Batch(torch.arange(4)[None], x, None, torch.zeros(1, 4, 1))
    out = torch.empty(1, 1)
    own = clipped(base, 1.0)
    own.write_gradient(torch.zeros(1, 1), batch, out)
    assert float(out) == pytest.approx((1.0 + 0.5) / 4)
