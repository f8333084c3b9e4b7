"""Files of MNIST's format, written by hand: types, labels, truncation, lies and bombs."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from data_files import DIGITS, IMAGES, both, idx_bytes, peak_of

from isograd.errors import DataError
from isograd.nn import spec as s
from isograd.training.data import load
from isograd.training.idx import read_idx

SOFTMAX = "softmax_cross_entropy"


def idx_split(folder: Path, images: bytes = IMAGES, labels: bytes = DIGITS, **data):
    (folder / "images.idx").write_bytes(images)
    (folder / "labels.idx").write_bytes(labels)
    spec = s.Data("images.idx", labels="labels.idx", standardise=False, **data)
    return load(spec, loss_kind=SOFTMAX, seed=0, base=folder)


def test_magic_numbers_of_mnist():
    assert IMAGES[:4].hex() == "00000803"
    assert DIGITS[:4].hex() == "00000801"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_images_and_labels(tmp_path: Path, pack):
    split = idx_split(tmp_path, pack(IMAGES), pack(DIGITS))
    assert (split.classes, split.features) == (("3", "5"), ("p0", "p1", "p2", "p3", "p4", "p5"))
    assert split.X_train.dtype == np.float32
    rows, labels = both(split)
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.arange(0, 120, 6))
    np.testing.assert_array_equal(rows - rows[:, :1], np.tile(np.arange(6.0), (20, 1)))
    np.testing.assert_array_equal(labels, rows[:, 0] / 6 % 2)


def test_images_in_parts_of_their_own(tmp_path: Path):
    for name, content in (("t-images-idx3-ubyte", IMAGES), ("t-labels-idx1-ubyte.gz", DIGITS)):
        (tmp_path / name).write_bytes(content)
    parts = {"test": "t-images-idx3-ubyte", "test_labels": "t-labels-idx1-ubyte.gz"}
    split = idx_split(tmp_path, gzip.compress(IMAGES), DIGITS, **parts)
    for x, y in ((split.X_train, split.y_train), (split.X_test, split.y_test)):
        np.testing.assert_array_equal(x, np.arange(120.0).reshape(20, 6))
        np.testing.assert_array_equal(y, [0, 1] * 10)


@pytest.mark.parametrize(
    ("code", "form", "values"),
    [
        (0x08, "6B", [0, 1, 2, 127, 128, 255]),
        (0x09, "6b", [-128, -1, 0, 1, 2, 127]),
        (0x0B, "6h", [-32768, -1, 0, 1, 256, 32767]),
        (0x0C, "6i", [-(2**31), -1, 0, 1, 65536, 2**31 - 1]),
        (0x0D, "6f", [-1.5, 0.0, 0.5, 1.0, 2.0**100, -(2.0**-100)]),
        (0x0E, "6d", [-1.5, 0.0, 0.1, 1.0, 1e300, -1e-300]),
    ],
)
def test_every_type_of_idx(tmp_path: Path, code, form, values):
    path = tmp_path / "a.idx"
    path.write_bytes(idx_bytes(code, (3, 2), struct.pack(">" + form, *values)))
    array = read_idx(path)
    np.testing.assert_array_equal(array, np.array(values).reshape(3, 2))
    assert array.dtype.isnative


TORN = gzip.compress(IMAGES)
BROKEN = TORN[:30] + b"\xff\xff" + TORN[32:]


@pytest.mark.parametrize(
    ("content", "must", "came"),
    [
        (b"", "must begin with", "an empty file"),
        (b"\0\0\x08", "must begin with", "0x000008"),
        (b"\1\0\x08\x03" + bytes(99), "must begin with", "0x01000803"),
        (b"\0\0\x07\x03" + bytes(99), "must begin with", "0x00000703"),
        (b"\0\0\x08\x00" + bytes(99), "must begin with", "0x00000800"),
        (b"\0\0\x08\xff" + bytes(9999), "must begin with", "0x000008ff"),
        (b"PK\x03\x04" + bytes(99), "must begin with", "0x504b0304"),
        (IMAGES[:10], "all the values", "6 bytes for 3 dimensions"),
        (IMAGES[:-1], "all the values", "too small for 20 × 2 × 3 values"),
        (IMAGES[:16], "all the values", "too small for 20 × 2 × 3 values"),
        (idx_bytes(0x0E, (2**32 - 1,) * 3, b""), "all the values", "too small for 4294967295 ×"),
        (gzip.compress(idx_bytes(8, (2**32 - 1,) * 64, b"")), "all the values", "too small for"),
        (gzip.compress(IMAGES[:-1]), "all the values", "119 bytes of the 120 of 20 × 2 × 3"),
        (IMAGES + b"\0", "must end where", "more than the 120 bytes"),
        (gzip.compress(IMAGES + b"\0"), "must end where", "more than the 120 bytes"),
        (idx_bytes(8, (0, 28, 28), b""), "must hold values", "0 × 28 × 28"),
        (DIGITS, "two or more dimensions", "1: 20"),
        (TORN[:-9], "can be read", "damaged gzip data: Compressed file ended"),
        (TORN[:-8] + bytes(4) + TORN[-4:], "can be read", "damaged gzip data: CRC check failed"),
        (BROKEN, "can be read", "damaged gzip data"),
        (TORN + b"more", "can be read", "damaged gzip data: Not a gzipped file"),
    ],
)
def test_images_that_cannot_be_used(tmp_path: Path, content, must, came):
    with pytest.raises(DataError) as caught:
        idx_split(tmp_path, content)
    assert must in caught.value.must
    assert came in caught.value.came
    assert caught.value.where == str(tmp_path / "images.idx")
    assert caught.value.fix


def test_labels_that_do_not_fit_the_images(tmp_path: Path):
    with pytest.raises(DataError, match="labels must have one dimension") as caught:
        idx_split(tmp_path, labels=IMAGES)
    assert caught.value.came == "3: 20 × 2 × 3"
    assert caught.value.where == str(tmp_path / "labels.idx")
    with pytest.raises(DataError, match="one target per row") as caught:
        idx_split(tmp_path, labels=idx_bytes(8, (19,), bytes(19)))
    assert caught.value.came == "X of shape (20, 6), y of shape (19,)"
    with pytest.raises(DataError, match="No such file"):
        load(s.Data("no.idx", labels="labels.idx"), loss_kind=SOFTMAX, seed=0, base=tmp_path)


def test_no_more_is_read_than_the_header_claims(tmp_path: Path):
    """A hundred megabytes of zeros behind a header of twenty labels, in a hundred kilobytes."""
    path = tmp_path / "a.idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(8, (20,), bytes(10**8))))

    def read() -> None:
        with pytest.raises(DataError, match="must end where its header says"):
            read_idx(path)

    assert path.stat().st_size < 200_000
    assert peak_of(read) < 3_000_000


def test_nothing_is_allocated_for_what_a_file_cannot_hold(tmp_path: Path):
    """Ten gigabytes claimed by twenty bytes: more than deflate's 1032 to one."""
    path = tmp_path / "a.idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(8, (10**5, 10**5), b"")))

    def read() -> None:
        with pytest.raises(DataError, match="all the values that its header names"):
            read_idx(path)

    assert peak_of(read) < 1_000_000
