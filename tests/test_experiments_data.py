"""Reading image files: what is accepted, and what is said of files that are not."""

import gzip
import struct

import numpy as np
import pytest

from experiments import data

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)


def idx(images=IMAGES, magic=b"\x00\x00\x08\x03"):
    return magic + struct.pack(">III", *images.shape) + images.tobytes()


@pytest.mark.parametrize(
    ("name", "pack"), [("train-images-idx3-ubyte.gz", gzip.compress), ("train-images-idx3-ubyte", bytes)]
)
def test_reads_what_was_written(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(idx()))
    images = data.load("fashion_mnist", str(tmp_path))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES[..., None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx()[:-1], r"truncated; the header promises .* = 140 bytes, got 139"),
        (idx() + b"\x00", "got 141"),
        (idx(magic=b"\x00\x00\x0d\x03"), "not an idx file of unsigned bytes"),
        (b"\x89PNG\r\n\x1a\n", "not an idx file"),
        (b"", "not an idx file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("fashion_mnist", str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist") as caught:
        data.load("fashion_mnist", str(tmp_path / "nowhere"))
    assert "config.data.folder" in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"config\.data\.name: got 'cifar', wanted one of \['fashion_mnist'\]"):
        data.load("cifar")


def test_to_model_fills_the_range():
    scaled = data.to_model(np.array([0, 255], np.uint8))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [-1.0, 1.0]


def test_an_epoch_is_a_permutation():
    batches = [data.batch_indices(seed=3, step=step, batch_size=4, num_images=20) for step in range(10)]
    first, second = np.concatenate(batches[:5]), np.concatenate(batches[5:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()


def test_the_remainder_of_an_epoch_is_left_out():
    epoch = np.concatenate([data.batch_indices(seed=0, step=step, batch_size=6, num_images=20) for step in range(3)])
    assert len(set(epoch.tolist())) == 18


def test_batches_depend_on_seed_and_step_alone():
    batch = data.batch_indices(1, 123, 8, 100)
    np.testing.assert_array_equal(batch, data.batch_indices(1, 123, 8, 100))
    assert batch.tolist() != data.batch_indices(2, 123, 8, 100).tolist()
