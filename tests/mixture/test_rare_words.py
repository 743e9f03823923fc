"""Where rare words go: to their cell, to their label, or where neither is common, to one last word."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgmi.mixture import rare_words
from fedgmi.mixture.rare_words import MIN_WORD_ROWS, MUCH_LOST, back_off, merge_words, share_lost

few = settings(max_examples=30, deadline=None)


@few
@given(pooled=st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_without_labels_rare_words_become_one_and_no_row_is_lost(pooled):
    counts = torch.tensor(pooled)
    where = back_off(counts)
    frequent = [w for w, n in enumerate(pooled) if n >= MIN_WORD_ROWS]
    assert [int(where[w]) for w in frequent] == list(range(len(frequent)))
    assert {int(where[w]) for w in range(len(pooled)) if w not in frequent} <= {len(frequent)}
    merged = merge_words(counts[None].double(), where)
    assert float(merged.sum()) == sum(pooled)
    assert merged[0, : len(frequent)].tolist() == [pooled[w] for w in frequent]


@few
@given(
    pooled=st.lists(st.integers(0, 30), min_size=12, max_size=12),
    n_values=st.sampled_from([2, 3, 4, 6]),
    deviation=st.sampled_from([0.0, 5.0, 15.0]),
)
def test_every_word_but_the_last_is_common_and_has_one_cell_or_one_label(pooled, n_values, deviation):
    counts = torch.tensor(pooled)
    where = back_off(counts, n_values, deviation)
    groups = [[w for w in range(12) if int(where[w]) == group] for group in range(int(where.max()) + 1)]
    assert sorted(word for group in groups for word in group) == list(range(12))
    for group in groups[:-1]:
        rows = sum(pooled[w] for w in group)
        assert rows >= max(MIN_WORD_ROWS, 2 * deviation * len(group) ** 0.5)
        assert len({w // n_values for w in group}) == 1 or len({w % n_values for w in group}) == 1


def test_a_rare_word_takes_what_tells_more_of_it():
    counts = torch.tensor([[12, 3, 3, 3, 3], [11, 9, 9, 9, 9]])  # two cells, five labels
    where = back_off(counts.flatten(), n_values=5).reshape(2, 5)
    assert where[0, 0] == where[1, 0]  # 23 rows of that label, against 24 and 47 of the cells
    assert len(set(where[1, 1:].tolist())) == 1  # 36 rows of the second cell with other labels
    assert where[1, 1] != where[0, 0]


def test_of_a_thousand_classes_no_row_is_lost():
    draws = torch.Generator().manual_seed(0)
    words = torch.randint(0, 20_000, (6_000,), generator=draws)  # 20 cells; a third of a row in each word
    counts = words.bincount(minlength=20_000)
    where = back_off(counts, n_values=1_000)
    assert share_lost(counts, where, 1_000) < MUCH_LOST
    assert int(where.max()) + 1 >= 20


def test_labels_that_tell_nothing_do_not_take_the_cells_of_rare_words():
    """62 labels drawn by chance: a label has fewer rows than a cell, and rare words used to keep that."""
    draw = torch.Generator().manual_seed(0)
    cells = torch.multinomial(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(3, 1), 400, True, generator=draw)
    labels = torch.randint(62, cells.shape, generator=draw)
    counts = torch.stack([torch.bincount(row, minlength=2 * 62) for row in cells * 62 + labels])
    assert rare_words.telling(counts, 62) == "cell"
    where = back_off(counts.sum(0), 62, telling="cell")
    assert not set(where[:62].tolist()) & set(where[62:].tolist())  # no word of one cell joins the other's
    plain = back_off(counts.sum(0), 62)
    assert set(plain[:62].tolist()) & set(plain[62:].tolist())
    assert rare_words.telling(counts.reshape(6, 2, 62).transpose(1, 2).reshape(6, -1), 2) == "label"
    same = counts.sum(0, keepdim=True).expand(6, -1)
    assert rare_words.telling(same, 62) is None
