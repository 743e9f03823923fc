"""Masked sums without a network: they are exact, sites may drop out, and a single message says nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgmi.deploy.masks import shamir
from fedgmi.deploy.masks.keys import SEALED as SEALED_SIZE
from fedgmi.deploy.masks.keys import MaskError, Public, Unsealed, digest_of, pieces, to_bytes, who_is
from fedgmi.deploy.masks.site_keys import SiteKeys
from fedgmi.deploy.masks.unmasking import Agreement, Unopened, unmasked
from fedgmi.errors import DivergedError
from fedgmi.protocol.whole import from_whole, largest, to_whole

RUN, EPOCH, AT = "0" * 16, "e" * 16, (3, 1)
SHAPES = {"sums/x": (5,), "models/expert/total": (2, 3)}


def sites(n: int = 4, slots: int = 3, seed: int = 0) -> list[SiteKeys]:
    draws = torch.Generator().manual_seed(seed)
    master = torch.randint(0, 256, (n, 32), generator=draws)
    return [SiteKeys(RUN, EPOCH, i, bytes(master[i].tolist()), slots, who=who_is(str(i), None)) for i in range(n)]


def agreed(every: list[SiteKeys], secret: str | None = None) -> Agreement:
    members = {one.site: one.public(secret) for one in every}
    found = Agreement(RUN, EPOCH, members)
    for one in every:
        found.sealed[one.site] = {i: to_bytes(text) for i, text in one.agree(members, secret).items()}
    return found


def numbers(i: int) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(100 + i)
    return {name: torch.randint(-(2**40), 2**40, shape, generator=draws) for name, shape in SHAPES.items()}


def sent(every, agreement, among, where):
    """What sites send → by site."""
    return {i: every[i].masked(numbers(i), *every[i].begin(where.slot, where.at, list(among))) for i in among}


def told(every, agreement, where, among, answered, by=None):
    """Shares → by site, by site."""
    return {
        j: {
            i: to_bytes(text)
            for i, text in every[j].tell(where.slot, list(answered), agreement.sealed_for(j, where.slot, among)).items()
        }
        for j in (answered if by is None else by)
    }


def total(messages):
    return {name: sum(message[name] for message in messages.values()) for name in SHAPES}


@pytest.mark.parametrize("gone", [(), (0,), (3,), (0, 2)])
def test_a_sum_is_exact_whoever_drops_out(gone):
    every = sites(5)
    agreement = agreed(every)
    where = agreement.take(AT)
    messages = sent(every, agreement, range(5), where)
    answered = [i for i in range(5) if i not in gone]
    shares = told(every, agreement, where, range(5), answered)
    masked = total({i: messages[i] for i in answered})
    found = unmasked(masked, agreement, where, range(5), shares, answered)
    for name in SHAPES:
        assert torch.equal(found[name], sum(numbers(i)[name] for i in answered))
        assert not torch.equal(masked[name], found[name])


def test_a_site_may_drop_out_after_its_message_too():
    """Its message counts, and others' shares take its masks off: three of five are enough."""
    every = sites(5)
    agreement = agreed(every)
    where = agreement.take(AT)
    messages = sent(every, agreement, range(5), where)
    answered = [0, 1, 2, 4]
    shares = told(every, agreement, where, range(5), answered, by=[1, 2, 4])
    found = unmasked(total({i: messages[i] for i in answered}), agreement, where, range(5), shares, answered)
    assert torch.equal(found["sums/x"], sum(numbers(i)["sums/x"] for i in answered))
    del shares[4]
    with pytest.raises(Unopened, match=r"the masks of site 0 \(.* cannot be taken off: 2 shares .* no 3 of them"):
        unmasked(total({i: messages[i] for i in answered}), agreement, where, range(5), shares, answered)


def test_some_of_those_that_agreed_may_take_part():
    every = sites(5)
    agreement = agreed(every)
    agreement.take(AT)
    where = agreement.take(AT)
    messages = sent(every, agreement, (0, 2, 3, 4), where)
    shares = told(every, agreement, where, (0, 2, 3, 4), (0, 3, 4))
    found = unmasked(total({i: messages[i] for i in (0, 3, 4)}), agreement, where, (0, 2, 3, 4), shares, (0, 3, 4))
    assert torch.equal(found["sums/x"], sum(numbers(i)["sums/x"] for i in (0, 3, 4)))


def bytes_of(seed: int, value: int) -> torch.Tensor:
    """A masked message's bytes, of equal numbers, with fresh keys."""
    every = sites(3, 1, seed=seed)
    agreement = agreed(every)
    where = agreement.take(AT)
    begun = every[1].begin(0, where.at, [0, 1, 2])
    return every[1].masked({"sums/x": torch.full((64,), value)}, *begun)["sums/x"].view(torch.uint8)


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_a_single_message_is_uniform_whatever_it_says():
    """χ² of 256 values of a byte, 255 degrees of freedom, mean 255 and deviation 22.6: within five deviations.

    Over fresh keys, for each place in a number, and for zeros as for others. By hand: unmasked zeros give 255·n.
    """
    zeros, others = (torch.stack([bytes_of(value + s, value) for s in range(40)]) for value in (0, 123_456_789))
    low, high = 255 - 5 * 22.6, 255 + 5 * 22.6
    for found in (zeros, others):
        counts = found.flatten().long().bincount(minlength=256).double()
        assert low < chi_square(counts, counts.sum() / 256 * torch.ones(256).double()) < high
        for place in range(8):
            counts = found.view(-1, 8)[:, place].long().bincount(minlength=256).double()
            assert chi_square(counts, counts.sum() / 256 * torch.ones(256).double()) < high
    both = zeros.flatten().long().bincount(minlength=256) + others.flatten().long().bincount(minlength=256)
    apart = chi_square(zeros.flatten().long().bincount(minlength=256).double(), both.double() / 2)
    assert 2 * apart < high  # the same law for either input: no test on bytes tells which it was
    plain = torch.zeros(64 * 40, dtype=torch.long).bincount(minlength=256).double()
    assert chi_square(plain, plain.sum() / 256 * torch.ones(256).double()) > 1e5


def test_two_messages_of_one_input_have_nothing_in_common():
    """The difference of two messages of the same numbers is as uniform as either."""
    pairs = [bytes_of(s, 7).view(torch.int64) - bytes_of(s + 500, 7).view(torch.int64) for s in range(40)]
    counts = torch.cat(pairs).view(torch.uint8).long().bincount(minlength=256).double()
    assert chi_square(counts, counts.sum() / 256 * torch.ones(256).double()) < 255 + 5 * 22.6


def test_without_its_self_mask_a_message_shows_nothing_even_if_its_key_is_known():
    """A late message of a site that was said to have dropped out: its key is known then, its seed is not."""
    every = sites(4)
    agreement = agreed(every)
    where = agreement.take(AT)
    messages = sent(every, agreement, range(4), where)
    shares = told(every, agreement, where, range(4), (0, 1, 2))
    unmasked(total({i: messages[i] for i in (0, 1, 2)}), agreement, where, range(4), shares, (0, 1, 2))
    with pytest.raises(Unopened, match="site 3"):  # what is known of it are shares of its key
        unmasked(messages[3], agreement, where, (3,), shares, (3,))


def test_both_kinds_of_shares_are_refused():
    every = sites(4)
    agreement = agreed(every)
    where = agreement.take(AT)
    sent(every, agreement, range(4), where)
    first = told(every, agreement, where, range(4), (0, 1, 2))
    assert told(every, agreement, where, range(4), (0, 1, 2)) == first  # asked twice, told the same
    with pytest.raises(MaskError, match="both kinds of shares of one site"):
        told(every, agreement, where, range(4), (0, 1, 2, 3), by=[0])


@pytest.mark.parametrize(
    ("slot", "answered", "said"),
    [
        (1, [0, 1, 2], "this site has sent nothing to"),
        (0, [1, 2, 3], "in which this site's message is not counted"),
        (0, [0, 1], r"a sum of 2 sites, expected 3 or more"),
        (0, [0, 1, 9], "names a site without keys"),
        (0, [2, 1, 0], "in ascending order"),
        (0, "all", "in ascending order"),
        ("0", [0, 1, 2], "this site has sent nothing to"),
    ],
)
def test_shares_stay_where_the_question_is_wrong(slot, answered, said):
    every = sites(4)
    agreement = agreed(every)
    sent(every, agreement, range(4), agreement.take(AT))
    with pytest.raises(MaskError, match=said):
        every[0].tell(slot, answered, {})


@pytest.mark.parametrize(
    ("slot", "among", "said"),
    [
        (3, [0, 1, 2], "there are keys for 3 sums"),
        (True, [0, 1, 2], "there are keys for 3 sums"),
        (0, [0, 1], "a sum of 2 sites, expected 3 or more"),
        (0, [1, 2, 3], "with this one"),
        (0, [0, 1, 2, 7], "a site without keys"),
        (0, {"0": 1}, "in ascending order"),
    ],
)
def test_nothing_is_masked_for_a_sum_that_cannot_be(slot, among, said):
    every = sites(4)
    agreed(every)
    with pytest.raises(MaskError, match=said):
        every[0].begin(slot, AT, among)


def test_keys_serve_once():
    every = sites(4)
    agreed(every)
    every[0].begin(0, AT, [0, 1, 2, 3])
    with pytest.raises(MaskError, match="masks never serve twice"):
        every[0].begin(0, AT, [0, 1, 2, 3])
    with pytest.raises(MaskError, match="no keys were agreed on"):
        sites(4)[0].begin(0, AT, [0, 1, 2, 3])


def test_other_keys_are_refused():
    every = sites(4)
    agreed(every)
    members = {one.site: one.public() for one in every}
    other = sites(4, seed=9)
    with pytest.raises(MaskError, match="other keys than those that were agreed on"):
        every[0].agree(members | {1: other[1].public()})
    with pytest.raises(MaskError, match="other keys of this site than the site has"):
        sites(4)[0].agree(members | {0: other[0].public()})
    with pytest.raises(MaskError, match="2 sites have keys"):
        sites(4)[0].agree({i: members[i] for i in (0, 1)})
    with pytest.raises(MaskError, match="two sites have the same key"):
        sites(4)[0].agree(members | {2: members[1]})
    with pytest.raises(MaskError, match="different numbers of sums"):
        sites(4)[0].agree(members | {2: sites(4, slots=2)[2].public()})


def test_a_secret_of_the_sites_keeps_the_coordinator_out():
    """Without it the coordinator could send keys of its own making in the others' names."""
    agreed(sites(3), "between us")
    every = sites(3)
    members = {one.site: one.public("between us") for one in every}
    forged = replace(sites(3, seed=5)[1].public(), tag=members[1].tag)
    for wrong in (forged, sites(3)[1].public(), sites(3)[1].public("another")):
        with pytest.raises(MaskError, match=r"the keys of site 1 \(counted from 0\) lack the tag of the sites' secret"):
            every[0].agree(members | {1: wrong}, "between us")


def test_shares_of_another_sum_or_another_site_do_not_open_and_nothing_is_told():
    every = sites(4)
    agreement = agreed(every)
    where = agreement.take(AT)
    sent(every, agreement, range(4), where)
    right = agreement.sealed_for(0, 0, range(4))
    replayed = right | {1: agreement.sealed_for(0, 1, range(4))[1], 2: right[3], 3: b"nonsense"}
    with pytest.raises(Unsealed) as refused:
        every[0].tell(0, [0, 1, 2, 3], replayed)
    assert refused.value.unopened == [1, 2, 3]


@pytest.mark.parametrize("n_wrong", [1, 2, 3])
def test_wrong_shares_are_found_out(n_wrong):
    """What is public of a secret tells whether it is right; up to two lie, where there are as many to spare."""
    every = sites(5)
    agreement = agreed(every)
    where = agreement.take(AT)
    messages = sent(every, agreement, range(5), where)
    shares = told(every, agreement, where, range(5), range(5))
    for liar in range(n_wrong):
        shares[liar] = {i: bytes([0, 7 * liar + 1]) + share[2:] for i, share in shares[liar].items()}
    if n_wrong < 3:
        found = unmasked(total(messages), agreement, where, range(5), shares, range(5))
        assert torch.equal(found["sums/x"], sum(numbers(i)["sums/x"] for i in range(5)))
        return
    with pytest.raises(Unopened, match="cannot be taken off"):
        unmasked(total(messages), agreement, where, range(5), shares, range(5))


def test_keys_come_back_from_disk():
    every = sites(4)
    agreement = agreed(every)
    where = agreement.take(AT)
    sent(every, agreement, range(4), where)
    told(every, agreement, where, range(4), (0, 1, 2))
    assert [SiteKeys.from_json(one.to_json()) for one in every] == every


@pytest.mark.parametrize("found", [None, [], {}, {"box": "", "slots": "", "seals": ""}, {"box": 3}, {"box": "§"}])
def test_what_is_no_key_is_told(found):
    with pytest.raises(MaskError):
        Public.from_json(found)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, 5),
    st.integers(0, 4),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_any_t_shares_give_the_secret(secret, t, more, data):
    drawn = [data.draw(st.binary(min_size=40, max_size=40)) for _ in range(t - 1)]
    cut = shamir.shares(secret, drawn, range(1, t + more + 1))
    chosen = data.draw(st.permutations(range(1, t + more + 1)))[:t]
    assert shamir.secret_of({place: cut[place] for place in chosen}) == secret


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_statistics_in_whole_numbers_are_exact_to_the_fixed_point(values, n):
    leaf = torch.tensor(values, dtype=torch.float64)
    found = from_whole("sums/x", sum(to_whole("sums/x", leaf, n) for _ in range(n)), torch.float64)
    torch.testing.assert_close(found, n * leaf, rtol=2.0**-50, atol=n * 2.0**-33)


def test_numbers_that_do_not_fit_are_told():
    for dtype, name in product((torch.float32, torch.float64), ("sums/x", "models/expert/total")):
        two = dtype == torch.float64 and name == "sums/x"
        most = largest(str(dtype).removeprefix("torch."), 3, two=two)
        to_whole(name, torch.tensor([0.99 * most], dtype=dtype), 3)
        for wrong in (1.01 * most, float("nan"), float("-inf")):
            with pytest.raises(DivergedError, match="does not fit into a masked sum"):
                to_whole(name, torch.tensor([wrong], dtype=dtype), 3)


def test_a_digest_goes_by_every_key():
    every = sites(3)
    members = {one.site: one.public() for one in every}
    every[0].agree(members)
    assert digest_of(EPOCH, members) == every[0].digest
    assert digest_of(EPOCH, members) != digest_of("f" * 16, members)
    assert digest_of(EPOCH, members) != digest_of(EPOCH, members | {1: sites(3, seed=4)[1].public()})
    assert [len(piece) for piece in pieces(bytes(2 * SEALED_SIZE), SEALED_SIZE)] == [SEALED_SIZE, SEALED_SIZE]
