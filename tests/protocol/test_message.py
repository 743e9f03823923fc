"""Messages add up, and travel as they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedgmi.protocol.blocks import cut, still_held
from fedgmi.protocol.message import Message, Models, flatten, mean_by_mass, unflatten
from fedgmi.protocol.opening import join
from fedgmi.protocol.wire import DTYPES, Parcel, WireError, pack, unpack


def models(total: list[list[float]], mass: list[float]) -> Models:
    masses = torch.tensor(mass, dtype=torch.float64)
    return Models(torch.tensor(total), masses, (masses != 0)[None])


def a_message(scale: float = 1.0) -> Message:
    return Message(
        {"expert": models([[scale, 2.0], [0.0, 0.0], [3.0, 4.0]], [2.0, 0.0, 5.0])},
        {"bound": torch.tensor(-3.5, dtype=torch.float64), "rows": torch.tensor(7)},
        {"histogram": torch.tensor([[1, 2, 3]], dtype=torch.int32)},
    )


def assert_equal(left: Message, right: Message) -> None:
    one, other = flatten(left), flatten(right)
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        assert leaf.dtype == other[name].dtype
        assert torch.equal(leaf, other[name]), name
    for name, part in left.models.items():
        assert torch.equal(part.holders, right.models[name].holders)


def test_an_empty_message_is_the_identity():
    assert_equal(a_message() + Message(), a_message())
    assert_equal(Message() + a_message(), a_message())


def test_models_and_sums_add_up_and_replies_are_joined():
    both = a_message() + a_message(10.0)
    assert both.models["expert"].total.tolist() == [[11.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
    assert both.models["expert"].mass.tolist() == [4.0, 0.0, 10.0]
    assert both.models["expert"].holders.tolist() == [[True, False, True]] * 2
    assert float(both.sums["bound"]) == -7.0
    assert both.replies["histogram"].tolist() == [[1, 2, 3]] * 2


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_addition_is_associative(scales):
    a, b, c = (a_message(float(scale)) for scale in scales)
    assert_equal((a + b) + c, a + (b + c))


def test_a_model_without_mass_stays_as_it_was():
    old = torch.tensor([[1.0, 1.0], [7.0, 8.0], [1.0, 1.0]])
    assert a_message().models["expert"].mean(old).tolist()[1] == [7.0, 8.0]
    part = a_message().models["expert"]
    assert torch.equal(part.mean(old), mean_by_mass(old, part.total, part.mass))


def test_flat_and_back():
    assert_equal(unflatten(flatten(a_message())), a_message())


@pytest.mark.parametrize("name", ["models/expert/mass", "models/expert/other", "elsewhere/x", "x"])
def test_leaves_of_no_message_are_refused(name):
    with pytest.raises(KeyError):
        unflatten({name: torch.ones(1)})


def test_a_message_travels_as_it_is_without_the_models_that_nobody_holds():
    parcel = pack(a_message(), {"rows": 7})
    assert_equal(unpack(parcel), a_message())
    assert parcel.header["rows"] == 7
    whole = pack(Message({"expert": models([[1.0, 2.0]] * 3, [1.0, 1.0, 1.0])}), {})
    part = pack(Message({"expert": models([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], [1.0, 0.0, 0.0])}), {})
    assert len(whole.payload) - len(part.payload) == 2 * 2 * 4


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_every_kind_of_number_travels_both_ways(dtype):
    leaf = torch.tensor([0, 1, 1], dtype=dtype)
    assert torch.equal(unpack(pack(Message(sums={"x": leaf}), {})).sums["x"], leaf)
    assert torch.equal(join(cut({"x": leaf}).parcel({}), {})["x"], leaf)


def test_numbers_of_another_kind_are_refused():
    with pytest.raises(WireError, match="tensors of complex64 do not travel"):
        pack(Message(sums={"x": torch.zeros(1, dtype=torch.complex64)}), {})


def damaged(parcel: Parcel, how: str) -> Parcel:
    header, payload = dict(parcel.header), parcel.payload.clone()
    if how == "a byte":
        payload[0] += 1
    elif how == "cut short":
        payload = payload[:-1]
    elif how == "no layout":
        del header["layout"]
    elif how == "other shape":
        header["layout"] = [entry | {"shape": [99]} for entry in header["layout"]]
    elif how == "other rows":
        header["layout"] = [entry | ({"rows": [0, 9]} if "rows" in entry else {}) for entry in header["layout"]]
    elif how == "no number":
        header["layout"] = [entry | {"dtype": "object"} for entry in header["layout"]]
    return Parcel(header, payload)


@pytest.mark.parametrize("how", ["a byte", "cut short", "no layout", "other shape", "other rows", "no number"])
def test_a_damaged_message_is_refused(how):
    with pytest.raises(WireError):
        unpack(damaged(pack(a_message(), {}), how))


def test_blocks_are_kept_for_a_round_more():
    held = still_held({}, ["a", "b"], 1)
    held = still_held(held, ["b", "c"], 2)
    assert held == {"a": 1, "b": 2, "c": 2}
    assert still_held(held, ["c"], 3) == {"b": 2, "c": 3}
