"""Encoded pictures → one tensor [n, channels, height, width] of float32 in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fedgmi.errors import DataError

Pixels = npt.NDArray[np.uint8]

UNKNOWN_RANGE = {"F": "real numbers", "I": "whole numbers of 32 bits"}
"""Modes of Pillow."""
STACKS = ("GIF", "TIFF", "PNG", "WEBP")
"""Formats whose files may hold several pictures to be seen one after the other."""


def decode_images(batches: Iterable[list[dict[str, Any] | None]], *, crop: int, size: int | None, where: str) -> Tensor:
    """Decode, crop and resize batch by batch, so that only the finished size is ever held for all rows.

    Args:
        batches: Lists of `{"bytes": …, "path": …}`, which is how `datasets` stores a picture.
        crop: How many pixels to take off each edge.
        size: The side to bring pictures to, in pixels; None leaves them as they are.
        where: Where the pictures come from, for messages.

    Returns:
        The pictures with values in [0, 1], turned as their cameras say (EXIF), transparent ones over white. Grey ones
            among coloured ones become coloured. [n, channels, height, width]

    Raises:
        DataError: For a picture that is missing or cannot be read, whose range of values is not known, or that is a
            stack of several; and for pictures of different sizes.
    """
    parts: list[Tensor] = []
    sizes: set[tuple[int, int]] = set()
    row = 0
    for batch in batches:
        pixels = [_decode(cell, f"{where}, row {row + i}") for i, cell in enumerate(batch)]
        row += len(batch)
        sizes |= {image.shape[:2] for image in pixels}
        if size is None and len(sizes) > 1:
            shown = ", ".join(f"{h}×{w}" for h, w in sorted(sizes)[:3])
            raise DataError(
                f"pictures of different sizes ({shown})", where=where, fix="set data.size to bring them to one size"
            )
        parts.append(_finish(pixels, crop, size))
    if not parts:
        raise DataError("no rows", where=where, fix="check the split's name and data.max_rows")
    channels = max(part.shape[1] for part in parts)
    return torch.cat([part.expand(-1, channels, -1, -1) for part in parts])


def crop_and_resize(x: Tensor, *, crop: int, size: int | None) -> Tensor:
    """Take pixels off each edge, then bring pictures to a square (bilinear, antialiased).

    Args:
        x: Pictures. [n, c, h, w]
        crop: How many pixels to take off each edge.
        size: The side of the square, in pixels; None leaves them as they are.

    Returns:
        The pictures. [n, c, size, size]

    Raises:
        DataError: Where nothing would be left.

    Examples:
        >>> crop_and_resize(torch.rand(2, 1, 28, 28), crop=4, size=10).shape
        torch.Size([2, 1, 10, 10])
    """
    height, width = x.shape[-2:]
    if 2 * crop >= min(height, width):
        raise DataError(
            f"taking {crop} pixels off each edge leaves nothing of a picture of {height}×{width}",
            where="data.crop",
            fix=f"set it to {(min(height, width) - 1) // 2} or less",
        )
    x = x[..., crop : height - crop, crop : width - crop]
    if size is None or x.shape[-2:] == (size, size):
        return x
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)


def _decode(cell: dict[str, Any] | None, where: str) -> Pixels:
    """One picture as [h, w] (grey) or [h, w, 3] bytes."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise DataError("the picture is missing", where=where, fix="drop the row")
    try:
        with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]) as image:
            return _pixels(image, where)
    except DataError:  # a ValueError too
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises on damaged files
        raise DataError(f"the picture cannot be read ({error})", where=where, fix="replace or drop the row") from error


def _pixels(image: Image.Image, where: str) -> Pixels:
    """One picture as a viewer shows it: turned as its camera says, and laid over white where it is transparent."""
    if image.format in STACKS and getattr(image, "n_frames", 1) > 1:
        what = f"it is a stack of {getattr(image, 'n_frames', 1)} pictures, of which only the first would be read"
        raise DataError(what, where=where, fix="save each as a picture of its own")
    if image.mode in UNKNOWN_RANGE:
        what = f"the picture's numbers are {UNKNOWN_RANGE[image.mode]}, and what is white is not known"
        raise DataError(what, where=where, fix="save it with 8 or 16 bits, from black 0 to white 255 or 65535")
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):  # which Pillow would clip rather than scale
        return (np.asarray(turned, dtype=np.int64).clip(0, 65535) // 257).astype(np.uint8)
    if turned.has_transparency_data or turned.mode in ("LA", "La"):
        return _over_white(turned, where)
    if turned.mode == "L":
        return np.asarray(turned)
    return np.asarray(turned.convert("L" if turned.mode == "1" else "RGB"))


def _over_white(image: Image.Image, where: str) -> Pixels:
    """A transparent picture on white paper."""
    grey = image.mode in ("1", "L", "LA", "La")
    full = image.convert("RGBA")
    paper = Image.new("RGBA", full.size, "white")
    laid = Image.alpha_composite(paper, full).convert("L" if grey else "RGB")
    pixels, alpha = np.asarray(laid), np.asarray(full.getchannel("A"))
    if pixels.min() == pixels.max() and alpha.min() != alpha.max():
        what = "the picture is white, or one colour, once it is laid over white: what it shows is in its transparency"
        raise DataError(what, where=where, fix="save it without transparency, over the background that you want")
    return pixels


def _finish(pixels: list[Pixels], crop: int, size: int | None) -> Tensor:
    """Stack the pictures of each shape, finish them together, and put them back in their order."""
    channels = 3 if any(image.ndim == 3 for image in pixels) else 1
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(pixels):
        shapes.setdefault(image.shape, []).append(i)
    out: Tensor | None = None
    for shape, index in shapes.items():
        x = torch.from_numpy(np.stack([pixels[i] for i in index]))
        x = x.unsqueeze(1) if len(shape) == 2 else x.movedim(-1, 1)
        done = crop_and_resize(x.float() / 255, crop=crop, size=size).expand(-1, channels, -1, -1)
        out = done.new_empty((len(pixels), *done.shape[1:])) if out is None else out
        out[torch.tensor(index)] = done
    assert out is not None  # a batch is never empty
    return out
