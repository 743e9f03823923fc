"""What a coordinator could do about a site's noise, rows and counts, and that it gains nothing by it any more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Hostile
from local_post import LocalPost, Stopped, federation_settings, make_sites

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.site import Site
from fedgmi.errors import UserError
from fedgmi.methods.fedgmi.sketch import raw_words
from fedgmi.mixture.codebook import histogram
from fedgmi.privacy.ledger import BudgetSpent
from fedgmi.protocol.wire import unpack
from fedgmi.tree import Tree

N_WORDS = 6 * 2


def attacked(where: Path, epsilon: float = 1.0, **own: Any) -> Site:
    """A site, and a federation whose words it counts with noise."""
    settings = with_epsilon(epsilon)
    site = make_sites(settings, where)[100]
    return Site(
        site.settings.model_copy(update=own), settings, site.where, site.train, site.held_out, site.digest,
        site.validation,
    )  # fmt: skip


def with_epsilon(epsilon: float | None, preset: str = "default", **changes: Any) -> FederationSettings:
    method = {"n_components": 3, "codewords": 6, "kmeans_rounds": 2, "personal": False, "preset": preset}
    method |= {} if epsilon is None else {"epsilon": epsilon}
    return federation_settings(method=method, **changes)


def codebook(seed: int = 0) -> Tree:
    draws = torch.Generator().manual_seed(seed)
    size = federation_settings().rows.shape[-1]
    return {
        "sketch/mean": torch.zeros(size),
        "sketch/std": torch.ones(size),
        "sketch/centres": 0.5 + 0.1 * torch.randn(6, size, generator=draws),  # among the rows, which lie in [0, 1]
    }


def released(site: Site, server: Tree, index: int = 0) -> torch.Tensor:
    """What the site's program answers to the request for its histogram. [W], float64"""
    method = site.method()
    [step] = [step for step in method.program.prepare if step.name == "histograms"]
    rows = site._rows(site.train, {"id": index})
    _, message = step.client(server, method.program.client_init((index,)), rows, 0)
    return message.replies["histogram"][0].double()


def exact(site: Site, server: Tree) -> torch.Tensor:
    """The counts themselves. [W]"""
    rows = site._rows(site.train, {"id": 0})
    task = site.federation.setup().task()
    return histogram(raw_words(task, server, rows), rows, N_WORDS)[0].double()


def error(answers: Iterable[torch.Tensor], truth: torch.Tensor) -> float:
    """How far the mean of answers is from the counts, in rows a word."""
    return float((torch.stack(list(answers)).mean(0) - truth).abs().mean())


# --- A1: noise cannot be averaged away ------------------------------------------------------------------------------


def test_asking_again_under_other_names_brings_no_other_noise(tmp_path):
    """50 requests under other ids and other seeds: the mean of the answers is the one release."""
    site, server = attacked(tmp_path), codebook()
    truth, one = exact(site, server), released(site, server)
    assert not torch.equal(one, truth)
    answers = [released(site, server, index) for index in range(6)]
    for seed in range(44):
        other = with_epsilon(1.0, seed=seed, name=f"study {seed}")
        renamed = Site(site.settings, other, site.where, site.train, site.held_out, site.digest, site.validation)
        answers.append(released(renamed, server))
    assert error(answers, truth) == error([one], truth)
    assert len(site.ledger().releases()) == 1  # and it is charged once


def test_runs_of_other_names_bring_no_other_noise(tmp_path):
    """Runs over a post up to the histograms: the run's name is the coordinator's, and the codebook is the same."""
    settings, told = with_epsilon(1.0, preset="sketch"), list[torch.Tensor]()
    for attempt in range(2):
        sites = make_sites(settings, tmp_path / "sites")
        post = LocalPost(sites, stop_after=7)  # greeting, features, spread, k-means twice, histograms, fold in
        with pytest.raises(Stopped):
            Coordinator(settings, post, tmp_path / f"out-{attempt}").run()
        answers = [unpack(reply).replies for _, reply in post.replied if "layout" in reply.header]
        told.append(torch.cat([each["histogram"] for each in answers if "histogram" in each]))
        assert [len(site.ledger().releases()) for site in sites.values()] == [1] * 6
    assert told[0].shape == (6, N_WORDS)
    assert torch.equal(*told)


def test_other_codebooks_bring_other_noise_until_the_ledger_is_closed(tmp_path):
    """A centre moved by next to nothing leaves all counts as they are: that is averaging, at its price."""
    site, server = attacked(tmp_path, max_epsilon=3.0), codebook()
    truth, answers = exact(site, server), []
    for n in range(50):
        server["sketch/centres"][0, 0] += 1e-7
        if n < 3:
            answers.append(released(site, server))
            assert torch.equal(exact(site, server), truth)
            continue
        with pytest.raises(BudgetSpent, match="ε = 4 in all, and max_epsilon is 3"):
            released(site, server)
    assert len({tuple(answer.tolist()) for answer in answers}) == 3  # no two alike: their difference is not exact
    assert site.ledger().n_refused() == 47
    assert site.ledger().spent() == (3.0, 0.0)


def test_the_number_of_releases_may_be_limited(tmp_path):
    site = attacked(tmp_path, max_releases=1)
    released(site, codebook(0))
    with pytest.raises(BudgetSpent, match="release 2, and max_releases is 1"):
        released(site, codebook(1))
    released(site, codebook(0))  # the same again is no release


def test_a_scale_of_the_coordinator_s_choosing_brings_other_noise(tmp_path):
    """The same centres on another scale count other rows: with the same noise the difference would be exact."""
    site, server = attacked(tmp_path), codebook()
    moved = server | {"sketch/std": server["sketch/std"] * 1.5}
    noise = [released(site, asked) - exact(site, asked) for asked in (server, moved)]
    assert not torch.equal(*noise)
    assert len(site.ledger().releases()) == 2


def test_rows_that_change_have_noise_of_their_own(tmp_path):
    """The difference of two answers about rows but one is not that row."""
    site, server = attacked(tmp_path), codebook()
    fewer = type(site.train)(site.train.name, site.train.x[1:], site.train.y[1:])
    later = Site(site.settings, site.federation, site.where, fewer, site.held_out, "f" * 32, site.validation)
    row = exact(site, server) - exact(later, server)
    assert float(row.abs().sum()) == 1.0
    assert not torch.equal(released(site, server) - released(later, server), row)
    assert len(site.ledger().releases()) == 2  # both are charged: the rows that stay are in both


def test_a_secret_that_was_replaced_is_charged_as_a_new_release(tmp_path):
    site, server = attacked(tmp_path, max_releases=2), codebook()
    first = released(site, server)
    (site.where / "secret.json").unlink()
    assert not torch.equal(released(site, server), first)
    assert len(site.ledger().releases()) == 2
    (site.where / "secret.json").unlink()
    with pytest.raises(BudgetSpent):
        released(site, server)
    assert (
        json.loads((site.where / "secret.json").read_text())["secret"] not in (site.where / "ledger.json").read_text()
    )


def test_a_ledger_that_is_damaged_releases_nothing(tmp_path):
    site = attacked(tmp_path)
    released(site, codebook())
    (site.where / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match="privacy ledger"):
        released(site, codebook())


# --- A2: what is told of proportions says no more than the released counts ------------------------------------------


def test_proportions_are_those_of_the_released_counts(tmp_path):
    """As many components as words, each topic one word: proportions are then the counts. They are the noisy ones."""
    site, server = attacked(tmp_path, 0.5), codebook()
    method = site.method()
    steps = {step.name: step for step in method.program.prepare}
    rows = site._rows(site.train, {"id": 0})
    state, _ = steps["histograms"].client(server, method.program.client_init((0,)), rows, 0)
    k = N_WORDS
    spy = server | {
        "sketch/word_map": torch.arange(k),
        "sketch/topics": 1e9 * torch.eye(k, dtype=torch.float64),
        "sketch/scatter": torch.zeros((), dtype=torch.float64),
        "calibration/share": torch.full((k,), 1 / k, dtype=torch.float64),
    }
    state, _ = steps["fold in"].client(spy, state, rows, 0)
    [tell] = [step for step in method.program.finish if step.name == "proportions"]
    _, message = tell.client(spy, state, rows, 3)
    told, truth = message.replies["proportions"][0], exact(site, server)
    sent = released(site, server).clamp(min=0)
    assert float((told - sent / sent.sum()).abs().max()) < 0.02  # the one row of the prior
    assert float((told * truth.sum() - truth).abs().mean()) > 0.1  # the secret is drawn: 0.5 would fail once in ten
    changed = 1 - rows.x  # another site altogether, that has released the same
    other = type(rows)(**{**vars(rows), "x": changed, "cache": {}})
    again, _ = steps["fold in"].client(spy, {**state}, other, 0)
    assert torch.equal(tell.client(spy, again, other, 3)[1].replies["proportions"][0], told)
    assert not torch.equal(again["proportions"], state["proportions"])


def test_a_site_that_has_released_nothing_tells_nothing(tmp_path):
    method = attacked(tmp_path).method()
    [tell] = [step for step in method.program.finish if step.name == "proportions"]
    site = attacked(tmp_path)
    state = {"proportions": torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)}
    _, message = tell.client({}, state, site._rows(site.train, {"id": 0}), 3)
    assert message.replies["proportions"].tolist() == [[pytest.approx(1 / 3)] * 3]


def test_without_epsilon_a_site_tells_its_own_proportions(tmp_path):
    settings = with_epsilon(None)
    assert make_sites(settings, tmp_path)[100].method().predictor.told is None


def test_cells_of_another_codebook_are_not_counted_under_the_noise_of_this_one(tmp_path):
    """A request that fails leaves what rows keep, made at centres far away. The difference of its counts and the right
    ones was exact, at one charge."""
    site = replace(
        attacked(tmp_path, epsilon=0.05, max_epsilon=0.05, max_releases=1, max_runs=2),
        federation=with_epsilon(0.05, "sketch"),
    )
    hostile, right = Hostile(site), codebook()
    far = right | {"sketch/centres": right["sketch/centres"] + 1000 * torch.arange(6).clamp(max=1)[:, None]}
    n_words, k = 12, 3
    spoilt = {
        "sketch/word_map": torch.arange(n_words),
        "sketch/topics": -torch.ones(n_words, k, dtype=torch.float64),
        "sketch/scatter": torch.tensor(0.0, dtype=torch.float64),
        "calibration/share": torch.zeros(k, dtype=torch.float64),
    }
    assert not hostile.step("fold in", 5, far | spoilt), "it fails, and cells stay"
    first = hostile.step("histograms", 4, right)
    again = hostile.step("histograms", 4, right, run="fedcba9876543210")
    assert first.header["hash"] == again.header["hash"]
    assert len(site.ledger().releases()) == 1
