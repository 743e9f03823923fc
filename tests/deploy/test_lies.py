"""A site that lies about itself in single replies: its message is refused, and no other site suffers from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from local_post import log_of, settings_of
from test_coordinator import deployed

from fedgmi.methods.disclosing import wrong_with
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Parcel, pack, unpack

LIES = {
    "its proportions add up to 7, expected 1": ("proportions", lambda leaf: 7 * leaf),
    "one of its proportions is -1, expected 0 or more": ("proportions", lambda leaf: leaf.new_tensor([[2.0, -1, 0]])),
    "it gives its index as 0, and has index 3": ("client", torch.zeros_like),
    "it gives its index as 1000003, and has index 3": ("client", lambda leaf: leaf + 10**6),
    "it says that it is in cluster 7, and ": ("cluster", lambda leaf: 0 * leaf + 7),
    "it says that it is in cluster -9, and ": ("cluster", lambda leaf: 0 * leaf - 9),
    "its update counts for 40000 rows, and the site has 40": ("rows", lambda leaf: 1000 * leaf),
}


def telling(name, change):
    """A site that changes this leaf of its single replies, wherever it is asked for it."""

    def lie(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step" or "layout" not in reply.header:
            return reply
        message = unpack(reply)
        if name not in message.replies:
            return reply
        replies = dict(message.replies) | {name: change(message.replies[name])}
        return pack(replace(message, replies=replies), {"rows": reply.header["rows"]})

    return lie


@pytest.mark.parametrize(
    ("method", "said"),
    [("fedem", said) for said in list(LIES)[:4]]
    + [(name, said) for name in ("cfl", "flhc") for said in list(LIES)[2:]],
)
def test_a_lie_is_refused_and_told(tmp_path, method, said):
    settings = settings_of(method)
    summary, _ = deployed(settings, tmp_path, {"client-03": telling(*LIES[said])})
    assert f"client-03 is absent: {said}" in log_of(tmp_path)
    assert [i for i, n in enumerate(summary["rounds_absent"]) if n] == [3]


def test_others_keep_their_proportions_where_one_names_itself_as_another(tmp_path):
    """The site that lies has no proportions of its own in the summary, so there are none for all; nobody's are its."""
    settings = settings_of("fedem")
    lie = telling(*LIES["it gives its index as 0, and has index 3"])
    summary, _ = deployed(settings, tmp_path, {"client-03": lie})
    assert summary["proportions"] is None
    assert summary["client_accuracy_per_client"][0] is not None


def test_proportions_as_they_should_be():
    """Rounding in float32 is no lie."""
    told = {"client": torch.tensor([1]), "proportions": torch.tensor([[0.3333, 0.3333, 0.3335]])}
    assert wrong_with({}, Message(replies=told), 1, 10) is None
