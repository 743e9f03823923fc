"""Compression of messages. Lossless: what arrives is what was sent, bit for bit."""

from __future__ import annotations

import zlib

import numpy as np
import safetensors.torch
import torch

from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.protocol.wrapper import Place, Wrapper

LEAF = "compressed"


def lossless(level: int = 6) -> Wrapper:
    """Each client's message as one zlib stream.

    Args:
        level: From 1, the fastest, to 9, the smallest.

    Returns:
        The wrapper. What travels is a single leaf of bytes, laid out as safetensors.
    """

    def send(message: Message, place: Place) -> Message:
        leaves = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in flatten(message).items()}
        packed = zlib.compress(safetensors.torch.save(leaves), level)
        return Message(sums={LEAF: torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())})

    def receive(message: Message, place: Place) -> Message:
        packed = message.sums[LEAF].cpu().numpy().tobytes()
        return unflatten(safetensors.torch.load(zlib.decompress(packed)))

    return Wrapper(
        "lossless",
        "messages travel compressed, and arrive as they were",
        send,
        receive,
        takes="anything",
        sends="bytes",
    )
