"""How numbers and places are written: unbiased, exact where they say so, and of the size that they say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgmi.errors import ConfigError
from fedgmi.protocol.codecs.choices import CHOICES, places_size, read_places, share_of, write_places
from fedgmi.protocol.codecs.codec import Codec
from fedgmi.protocol.codecs.coding import Coding, check_communication, check_fractions
from fedgmi.protocol.codecs.numbers import BLOCK, NUMBERS
from fedgmi.randomness import generator
from fedgmi.runs import config
from fedgmi.settings.communication import CommunicationSettings

LAYERS = {1000: (300, 20, 680)}
RULES = {
    "all": CommunicationSettings(),
    "top": CommunicationSettings(top=0.1),
    "mask": CommunicationSettings(mask=0.1),
    "layers": CommunicationSettings(layers=0.5),
}


def codec(numbers: str, rule: str = "all") -> Codec:
    choice = None if rule == "all" else CHOICES[rule](RULES[rule], LAYERS)
    return Codec(NUMBERS[numbers](), choice)


def rows(m: int = 3, n: int = 1000) -> torch.Tensor:
    """Of very different lengths; some entries are zero."""
    drawn = torch.randn(m, n, generator=generator("rows")) * 10.0 ** torch.arange(-4, m - 4)[:, None]
    return drawn.masked_fill(torch.arange(n) % 7 == 0, 0.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_row_is_of_the_size_that_the_codec_says(numbers, rule):
    way, key = codec(numbers, rule), (0, 1, 2)
    data = way.encode(rows(), key)
    assert data.dtype == torch.uint8
    assert data.shape == (3, way.size(1000, key))
    decoded = way.decode(data, 1000, key)
    assert decoded.shape == (3, 1000)
    assert torch.equal(decoded[1:2], way.decode(data[1:2], 1000, key))  # each row by itself
    assert torch.equal(way.encode(rows(), key), data)
    with pytest.raises(ValueError, match="bytes came of each model"):
        way.decode(data[:, :-1] if data.shape[1] else torch.zeros(3, 1, dtype=torch.uint8), 1000, key)


@pytest.mark.parametrize("rule", ["all", "mask", "layers"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_expectation_is_what_was_sent(numbers, rule):
    """The mean of many readings is as near to the numbers as chance allows."""
    way, sent, n = codec(numbers, rule), rows(1), 400
    read = torch.stack([way.decode(way.encode(sent, (at,)), 1000, (at,))[0] for at in range(n)]).double()
    error = (read.mean(0) - sent[0].double()).square().sum()
    expected = read.var(0).sum() / n  # of a mean of n
    slack = 6 if rule == "layers" else 2  # three draws decide of all entries
    assert float(error) <= slack * float(expected) + 1e-12 * float(sent.square().sum())


@pytest.mark.parametrize("rule", RULES)
def test_float32_is_exact_and_what_is_left_out_is_left(rule):
    way, sent, key = codec("float32", rule), rows(), (5,)
    data = way.encode(sent, key)
    read = way.decode(data, 1000, key)
    if rule == "all":
        assert torch.equal(read, sent)
    if rule == "top":
        assert torch.equal(read + way.left(sent, data, key), sent)
        assert float(read.abs().where(read != 0, math.inf).min(1).values[0]) >= float(
            way.left(sent, data, key)[0].max()
        )
    if rule == "mask":
        assert int((read != 0).sum(1).max()) <= 100


@pytest.mark.parametrize("numbers", ["8", "4", "2"])
@given(st.integers(1, 3 * BLOCK), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_no_number_is_farther_off_than_a_step(numbers, n, seed):
    sent = torch.randn(2, n, generator=generator(seed)) ** 3
    way = codec(numbers)
    read = way.decode(way.encode(sent, (seed,)), n, (seed,))
    step = 1.01 * sent.abs().max() / (2 ** (int(numbers) - 1) - 1)
    assert float((read - sent).abs().max()) <= float(step)
    assert bool((read[sent == 0] == 0).all())


def test_bits_bring_bytes_down():
    sizes = [codec(numbers).size(10_000, ()) for numbers in NUMBERS]
    assert sizes == sorted(sizes, reverse=True)
    assert codec("4").size(10_000, ()) == 5000 + 2 * 40
    assert codec("4", "top").size(10_000, ()) < 10_000 / 8 + 100
    assert Coding(CommunicationSettings(precision="4")).up_bytes(10_000) == 5080
    assert Coding().up_bytes(10_000) == 40_000


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_places_come_back(data):
    n = data.draw(st.integers(1, 300))
    places = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    written = write_places(torch.tensor([places, places]), n)
    assert written.shape == (2, places_size(n, len(places)))
    assert read_places(written, n, len(places)).tolist() == [places, places]


@pytest.mark.parametrize("fill", [0, 255])
def test_places_that_cannot_be_are_refused(fill):
    data = torch.full((1, places_size(1000, 100)), fill, dtype=torch.uint8)
    with pytest.raises(ValueError, match="places of entries"):
        read_places(data, 1000, 100)


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_places_of_whatever_bytes_are_places_or_refused(seed):
    data = torch.randint(0, 256, (1, places_size(100, 50)), generator=generator(seed)).to(torch.uint8)
    try:
        found = read_places(data, 100, 50)
    except ValueError:
        return
    assert bool((found.diff() > 0).all())
    assert 0 <= int(found.min()) <= int(found.max()) < 100


def test_layers_travel_whole_or_not_at_all():
    way, ones = codec("float32", "layers"), torch.ones(1, 1000)
    seen = set()
    for at in range(40):
        parts = way.decode(way.encode(ones, (at,)), 1000, (at,))[0].split(list(LAYERS[1000]))
        assert all(len(part.unique()) == 1 and float(part[0]) in (0.0, 2.0) for part in parts)
        seen.add(tuple(float(part[0]) for part in parts))
    assert len(seen) == 8


def test_shares_are_rounded_up():
    assert [share_of(0.1, n) for n in (1, 10, 11, 1000)] == [1, 1, 2, 100]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("precision=3", 'communication.precision: there is no precision "3". Likely fix: use one of these: 2, 4, 8'),
        (
            "precision=bfloat",
            'communication.precision: there is no precision "bfloat". Likely fix: did you mean "float32" or "bfl',
        ),
        ("top=0", "communication.top is 0, expected greater than 0"),
        ("top=-0.5", "communication.top is -0.5, expected greater than 0"),
        ("top=nan", "communication.top is NaN, expected"),
        ("mask=1.5", "communication.mask is 1.5, expected 1 or less"),
        ("layers=nan", "communication.layers is NaN, expected"),
        ("tpo=0.5", "unknown key communication.tpo. Likely fix: did you mean communication.top"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, said):
    with pytest.raises(ConfigError) as caught:
        config.load(None, [f"communication.{setting}"])
    assert said in str(caught.value)


def test_two_rules_for_the_same_entries_are_refused():
    with pytest.raises(ConfigError, match="top and mask both say which entries travel"):
        check_communication(CommunicationSettings(top=0.5, mask=0.5))


def test_whole_numbers_of_bits_need_no_quotes():
    assert config.load(None, ["communication.precision=4"]).communication.precision == "4"
    assert config.loads('[communication]\nprecision = "8"', "here").communication.precision == "8"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize(("m", "n"), [(0, 1000), (0, 1), (2, 0), (0, 0)])
def test_no_rows_and_no_entries_are_coded_as_such(numbers, rule, m, n):
    way, sent, key = codec(numbers, rule), torch.zeros(m, n), (3,)
    data = way.encode(sent, key)
    assert data.shape == (m, way.size(n, key))
    assert way.decode(data, n, key).shape == (m, n)
    if way.keeps:
        assert way.left(sent, data, key).shape == (m, n)


@pytest.mark.parametrize("numbers", ["bfloat16", "8", "4", "2"])
def test_the_largest_numbers_that_there_are_stay_finite_and_infinite_ones_do_not(numbers):
    most = torch.finfo(torch.float32).max
    sent = torch.tensor([[most, -most, 3.39e38, 0.0]])
    read = codec(numbers).decode(codec(numbers).encode(sent, (0,)), 4, (0,))
    torch.testing.assert_close(read, sent, rtol=0.01, atol=0)
    for value in (math.inf, math.nan):
        spoilt = torch.tensor([[value, 1.0]])
        assert not bool(codec(numbers).decode(codec(numbers).encode(spoilt, (0,)), 2, (0,)).isfinite().all())


@pytest.mark.parametrize("key", ["top", "mask", "layers"])
@pytest.mark.parametrize("fraction", [1e-9, 1e-320])
def test_a_fraction_by_which_nothing_would_travel_is_refused_with_the_least_that_works(key, fraction):
    layers, rounds = {1000: (300, 20, 680), 10: (10,)}, 2
    with pytest.raises(ConfigError, match=rf"communication\.{key}: .*set it to") as caught:
        check_fractions(CommunicationSettings(**{key: fraction}), layers, rounds)
    least = float(str(caught.value).split("set it to ")[1].split()[0])
    check_fractions(CommunicationSettings(**{key: least}), layers, rounds)
    with pytest.raises(ConfigError, match="set it to"):
        check_fractions(CommunicationSettings(**{key: 0.9 * least}), layers, rounds)
