"""Pictures are decoded once, and nobody can tell but by the time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, features

from fedgmi.data.sources.picture_cache import cache_folder
from fedgmi.data.sources.sources import load_source, read_images
from fedgmi.data.sources.tables import open_splits
from fedgmi.errors import DataError, FedgmiWarning
from fedgmi.settings.run import DataSettings

Write = Callable[..., str]
PICTURES = {"image": datasets.Image()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded pictures, which is not there yet."""
    monkeypatch.setenv("FEDGMI_CACHE", str(tmp_path / "decoded"))
    return tmp_path / "decoded"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pictures that Pillow was given since."""
    given: list[Any] = []
    decode = Image.open

    def counted(file: Any) -> Any:
        given.append(file)
        return decode(file)

    monkeypatch.setattr(Image, "open", counted)
    return given


def encoded(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def noise(n: int, mode: str = "L", side: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(n)
    shape = (side, side) if mode == "L" else (side, side, len(mode))
    return [encoded(Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)) for _ in range(n)]


def load(path: str, **settings: Any) -> torch.Tensor:
    return load_source(DataSettings(path=path, **settings)).train.x


def uncached(path: str, **settings: Any) -> torch.Tensor:
    data = DataSettings(path=path, **settings)
    return read_images(data, open_splits(data), "image")[0]


# --- the same pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"crop": 1}, {"size": 4}, {"invert": True}, {"max_rows": 2}], ids=str)
def test_a_warm_cache_gives_the_same_bits_without_decoding(settings, write_table: Write, cache, decoded):
    path = write_table({"image": [*noise(3), *noise(1, "RGB")]}, features=PICTURES)
    cold = load(path, **settings)
    n_rows = settings.get("max_rows", 4)
    assert len(decoded) == n_rows == len(cold)
    warm = load(path, **settings)
    assert len(decoded) == n_rows
    assert torch.equal(cold, warm)
    assert torch.equal(cold, uncached(path, **settings))
    assert warm.is_contiguous()


def test_whole_numbers_take_a_byte_each(write_table: Write, cache):
    load(write_table({"image": noise(5, side=40)}, features=PICTURES))
    [file] = cache.glob("*.safetensors")
    assert 5 * 40 * 40 <= file.stat().st_size < 2 * 5 * 40 * 40


def test_each_split_and_setting_is_kept_apart(write_table: Write, cache, decoded):
    write_table({"image": noise(3)}, features=PICTURES)
    path = write_table({"image": noise(2)}, split="test", features=PICTURES)
    for settings in ({}, {"size": 3}, {"crop": 1}):
        whole = load_source(DataSettings(path=path, **settings))
        again = load_source(DataSettings(path=path, **settings))
        assert whole.test is not None
        assert again.test is not None
        assert torch.equal(whole.train.x, again.train.x)
        assert torch.equal(whole.test.x, again.test.x)
    assert len(decoded) == 3 * 5


def test_a_changed_picture_is_seen_though_nothing_else_changes(tmp_path: Path, write_table: Write, cache):
    folder = tmp_path / "pets" / "train" / "cat"
    folder.mkdir(parents=True)
    times = (1_700_000_000, 1_700_000_000)
    for fill, expected in ((51, 0.2), (102, 0.4), (51, 0.2)):
        Image.new("L", (4, 4), fill).save(folder / "1.bmp")  # of the same size, whatever it shows
        os.utime(folder / "1.bmp", times)
        assert load(str(tmp_path / "pets"))[0, 0, 0, 0] == pytest.approx(expected)
    assert len(list(cache.glob("*.json"))) == 2


# --- the same words ---------------------------------------------------------------------------------------------------


def test_errors_and_warnings_come_again(write_table: Write, cache, decoded):
    dark = write_table({"image": [encoded(Image.new("L", (4, 4), 1))] * 2}, features=PICTURES)
    for _ in range(2):
        with pytest.warns(FedgmiWarning, match="no pixel is brighter"):
            load(dark)
    assert len(decoded) == 2
    damaged = write_table({"image": [*noise(1), None]}, split="test", features=PICTURES)
    for _ in range(2):
        with pytest.raises(DataError, match="row 1: the picture is missing"):
            load(damaged, train_split="test")


def test_pictures_of_which_pillow_warns_are_decoded_each_time(write_table: Write, cache, decoded, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    path = write_table({"image": noise(2)}, features=PICTURES)
    for _ in range(2):
        with pytest.warns(Image.DecompressionBombWarning, match="could be decompression bomb"):
            load(path)
    assert len(decoded) == 4
    assert not cache.exists()
    with pytest.raises(Image.DecompressionBombWarning):  # as errors, which is how these tests run
        load(path)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_another_jpeg_library_decodes_anew(write_table: Write, cache, decoded, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "JPEG", quality=75)
    path = write_table({"image": [{"bytes": buffer.getvalue(), "path": None}] * 3}, features=PICTURES)
    first, before = load(path), len(decoded)
    assert torch.equal(load(path), first)
    assert len(decoded) == before
    monkeypatch.setattr(features, "version", lambda name: "another")
    load(path)
    assert len(decoded) > before


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDGMI_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("FEDGMI_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "fedgmi"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fedgmi"
    monkeypatch.setenv("FEDGMI_CACHE", "none")
    assert cache_folder() is None


def test_it_can_be_forbidden(write_table: Write, cache, decoded, monkeypatch):
    monkeypatch.setenv("FEDGMI_CACHE", "none")
    path = write_table({"image": noise(2)}, features=PICTURES)
    assert torch.equal(load(path), load(path))
    assert len(decoded) == 4
    assert not cache.exists()


def test_nobody_else_may_look_into_it(write_table: Write, cache):
    load(write_table({"image": noise(1)}, features=PICTURES))
    assert cache.stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_is_no_failure(write_table: Write, cache):
    cache.write_text("a file, no folder")
    path = write_table({"image": noise(2)}, features=PICTURES)
    for _ in range(2):
        with pytest.warns(FedgmiWarning, match=r"cannot be kept in .*decoded.*FEDGMI_CACHE.*'none'"):
            assert len(load(path)) == 2


def test_a_full_disk_is_no_failure(write_table: Write, cache, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = write_table({"image": noise(2)}, features=PICTURES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(FedgmiWarning, match="No space left"):
            assert len(load(path)) == 2
    assert not list(cache.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path)  # once there is room


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "gone"])
def test_a_damaged_file_is_made_anew(suffix, harm, write_table: Write, cache, decoded):
    path = write_table({"image": noise(3)}, features=PICTURES)
    good = load(path)
    [file] = cache.glob(f"*{suffix}")
    content = file.read_bytes()
    changed = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    file.write_bytes({"cut": content[:-7], "changed": changed, "empty": b"", "gone": b""}[harm])
    if harm == "gone":
        file.unlink()
    assert torch.equal(load(path), good)
    assert len(decoded) == 6
    assert torch.equal(load(path), good)
    assert len(decoded) == 6


def test_two_processes_at_once(write_table: Write, cache, decoded):
    path = write_table({"image": noise(30)}, features=PICTURES)
    code = "import sys; from fedgmi.data.sources.sources import load_source; "
    code += "from fedgmi.settings.run import DataSettings; load_source(DataSettings(path=sys.argv[1]))"
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache.parent / "cache")}
    both = [subprocess.Popen([sys.executable, "-c", code, path], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert torch.equal(load(path), uncached(path))
    assert len(decoded) == 30  # all of them by `uncached`
    assert {file.suffix for file in cache.iterdir()} == {".json", ".safetensors"}
