"""Topics: proportions from word counts alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from federations import dirichlet, draw
from fedgmi.mixture import topics
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.scatter import standardised


def separated_topics(n_words: int = 30, n_topics: int = 3) -> Tensor:
    """p(w | k) [W, K]: each topic has words of its own, and a third of all words is common to all."""
    own = torch.nn.functional.one_hot(torch.arange(n_words) % (n_topics + 1), n_topics + 1)[:, :n_topics].double()
    common = (own.sum(1, keepdim=True) == 0).double()
    table = own + 0.5 * common + 0.02
    return table / table.sum(0)


def counts_of(proportions: Tensor, table: Tensor, n_rows: int, seed: int) -> Tensor:
    """Histograms [C, W] float64 of n_rows words per client."""
    words = torch.multinomial(proportions @ table.T, n_rows, replacement=True, generator=draw(seed))
    return torch.stack([row.bincount(minlength=len(table)) for row in words]).double()


def error(estimated: Tensor, true: Tensor) -> float:
    return float(total_variation(reorder(estimated, match_components(estimated, true)), true).mean())


def assert_simplex(proportions: Tensor) -> None:
    assert bool((proportions > 0).all())
    torch.testing.assert_close(proportions.sum(1), torch.ones(len(proportions), dtype=torch.float64))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_topics", [2, 3])
def test_separated_topics_are_recovered_as_well_as_if_they_were_known(seed, n_topics):
    true, table = dirichlet(30, n_topics, 0.5, seed), separated_topics(n_topics=n_topics)
    histograms = counts_of(true, table, 400, seed)
    fitted = topics.fit_topics(histograms, n_topics, seed)
    known, _ = topics.fold_in(histograms, 1e6 * table, torch.full_like(true, 1 / n_topics), None)
    assert 0.005 < error(known, true) < 0.04  # what 400 rows allow
    assert error(fitted.proportions, true) < 1.4 * error(known, true)
    order = match_components(fitted.proportions, true)
    probs = reorder(topics.word_log_probs(fitted.counts).exp(), order)
    assert float(total_variation(probs.T, table.T).max()) < 0.06


def test_counts_account_for_every_row_and_proportions_for_every_client():
    histograms = counts_of(dirichlet(12, 3), separated_topics(), 100, 0)
    fitted = topics.fit_topics(histograms, 3, seed=0)
    torch.testing.assert_close(fitted.counts.sum(1), histograms.sum(0))
    assert_simplex(fitted.proportions)


def test_the_best_start_wins():
    histograms = counts_of(dirichlet(10, 4, 0.7, 3), separated_topics(n_topics=4), 40, 3)
    starts = [topics.corners(histograms, 4)]
    starts += [topics.corners(histograms, 4, topics.generator(5, "corners", r)) for r in range(4)]
    values = [topics.plsa(histograms, start).log_likelihood for start in starts]
    assert max(values) > min(values)
    assert topics.fit_topics(histograms, 4, 5).log_likelihood == max(values)


def test_words_judged_by_the_rows_of_others_give_better_proportions():
    """200 words and 60 rows a client: a word seen once fits its own client perfectly, and says nothing."""
    without, including = [], []
    for seed in range(4):
        table = torch.rand(200, 3, generator=draw(seed), dtype=torch.float64).pow(4)
        table = table / table.sum(0)
        true = dirichlet(25, 3, seed=seed)
        histograms = counts_of(true, table, 60, seed)
        start = topics.corners(histograms, 3)
        without.append(error(topics.plsa(histograms, start).proportions, true))
        including.append(error(topics.plsa(histograms, start, warm_up=10**6).proportions, true))
    assert sum(without) < 0.85 * sum(including)


def test_leaving_a_client_out_subtracts_its_own_rows():
    counts = torch.tensor([[6.0, 2.0], [4.0, 8.0]])
    own = torch.tensor([[[6.0, 0.0], [1.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    log_probs = topics.word_log_probs(counts, own)
    torch.testing.assert_close(log_probs[0, :, 0].exp(), torch.tensor([0.05, 3.05]) / 3.10)
    torch.testing.assert_close(log_probs[0, :, 1].exp(), torch.tensor([2.05, 5.05]) / 7.10)
    torch.testing.assert_close(log_probs[1], topics.word_log_probs(counts))


def test_corners_of_noiseless_data_are_exact():
    """Three clients are pure: all others are barycentric coordinates between them."""
    table, inner = separated_topics(), dirichlet(9, 3, 2.0, seed=4)
    inner = inner.clamp(min=0.05) / inner.clamp(min=0.05).sum(1, keepdim=True)
    true = torch.cat([inner, torch.eye(3, dtype=torch.float64)])
    found = topics.corners(1000 * true @ table.T, 3)
    order = match_components(found, true)
    expected = true.clamp(min=topics.START_FLOOR)
    torch.testing.assert_close(reorder(found, order), expected / expected.sum(1, keepdim=True), atol=1e-8, rtol=0)


def test_standardised_counts_have_unit_variance_where_clients_are_alike():
    pooled = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    histograms = counts_of(torch.ones(2000, 1, dtype=torch.float64), pooled.T, 50, 0)
    values = standardised(histograms)
    torch.testing.assert_close(values.var(0), (1 - pooled)[0], atol=0.1, rtol=0)
    torch.testing.assert_close(values.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_one_component_has_it_all():
    histograms = counts_of(dirichlet(5, 3), separated_topics(), 50, 0)
    fitted = topics.fit_topics(histograms, 1, seed=0)
    torch.testing.assert_close(fitted.proportions, torch.ones(5, 1, dtype=torch.float64))
    torch.testing.assert_close(fitted.counts[:, 0], histograms.sum(0))


@pytest.mark.parametrize("n_topics", [2, 3, 4])
@pytest.mark.parametrize(
    "histograms",
    [
        torch.tensor([[5, 3, 2, 0, 9]]).expand(6, 5),
        torch.tensor([[7]]).expand(6, 1),
        torch.tensor([[3, 4]]).expand(6, 2),
        torch.eye(6).long(),
        torch.zeros(6, 3).long() + torch.tensor([1, 0, 0]),
    ],
    ids=["alike", "one word", "two words", "one row each", "unseen words"],
)
def test_nothing_to_learn_from_is_no_reason_to_crash(histograms, n_topics):
    fitted = topics.fit_topics(histograms.double(), n_topics, seed=0)
    assert_simplex(fitted.proportions)
    assert bool(fitted.counts.isfinite().all())
    if bool((histograms == histograms[0]).all()):  # clients that hold the same rows get the same proportions
        torch.testing.assert_close(fitted.proportions, fitted.proportions[:1].expand(6, -1))


def test_the_order_of_clients_changes_nothing():
    histograms = counts_of(dirichlet(15, 3, seed=2), separated_topics(), 80, 2)
    order = torch.randperm(15, generator=draw(9))
    one, other = topics.fit_topics(histograms, 3, 0), topics.fit_topics(histograms[order], 3, 0)
    torch.testing.assert_close(other.proportions, one.proportions[order], atol=1e-6, rtol=0)
    for seed in range(10):
        order, jittered = torch.randperm(15, generator=draw(seed)), topics.corners(histograms, 3, draw(seed))
        moved = topics.corners(histograms[order], 3, draw(seed))
        torch.testing.assert_close(moved, jittered[order], atol=1e-9, rtol=0)


def test_folding_in_a_training_client_agrees_with_the_fit():
    histograms = counts_of(dirichlet(20, 3), separated_topics(), 200, 0)
    fitted = topics.fit_topics(histograms, 3, seed=0)
    start = torch.full((20, 3), 1 / 3, dtype=torch.float64)
    _, own = topics.fold_in(histograms, fitted.counts, start, None)
    proportions, own = topics.fold_in(histograms, fitted.counts, start, own)
    torch.testing.assert_close(proportions, fitted.proportions, atol=2e-3, rtol=0)
    torch.testing.assert_close(own.sum(0), fitted.counts, atol=0.5, rtol=0)
    alone, _ = topics.fold_in(histograms[4:5], fitted.counts, start[:1], None)
    together, _ = topics.fold_in(histograms, fitted.counts, start, None)
    torch.testing.assert_close(alone[0], together[4], atol=1e-6, rtol=0)


def test_a_new_client_finds_its_proportions_without_training():
    table = separated_topics()
    first, newcomers = dirichlet(30, 3, 0.5), dirichlet(8, 3, 0.5, seed=77)
    fitted = topics.fit_topics(counts_of(first, table, 400, 0), 3, seed=0)
    proportions, _ = topics.fold_in(
        counts_of(newcomers, table, 2000, 5), fitted.counts, torch.full_like(newcomers, 1 / 3), None
    )
    order = match_components(fitted.proportions, first)
    assert float(total_variation(reorder(proportions, order), newcomers).mean()) < 0.03


def test_an_e_step_leaves_proportions_where_topics_are_all_alike():
    histograms = counts_of(dirichlet(6, 3, 1.0, 0), separated_topics(), 80, 0)
    fitted = topics.alike(histograms, 3)
    torch.testing.assert_close(fitted.counts.sum(1), histograms.sum(0))
    assert_simplex(fitted.proportions)
    _, own = topics.fold_in(histograms, fitted.counts, fitted.proportions, None)
    found, _ = topics.fold_in(histograms, fitted.counts, fitted.proportions, own)
    torch.testing.assert_close(found, torch.full((6, 3), 1 / 3, dtype=torch.float64))
    assert topics.all_alike(fitted.counts)
    assert not topics.all_alike(topics.fit_topics(histograms, 3, 0, restarts=0).counts)
