"""Reading image files: what is accepted, and what is said of files that are not."""

import gzip
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import data

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)


def idx(array=IMAGES, kind=b"\x08"):
    return b"\x00\x00" + kind + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def load(name, folder="", **options):
    return data.load(ConfigDict(dict(name=name, folder=str(folder), flip=False) | options))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), ("", bytes)])
def test_reads_what_was_written(tmp_path, suffix, pack):
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx()))
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    found = load("fashion_mnist", tmp_path)
    assert found.images.dtype == np.uint8 and found.image_shape == (5, 4, 1) and found.num_classes == 10
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"), [(LABELS[:-1], r"7 images, but labels of shape \(6,\)"), (LABELS + 1, "from 0 to 9, got 10")]
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(ValueError, match=message):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx()[:-1], r"truncated; the header promises .* = 140 bytes, got 139"),
        (idx() + b"\x00", "got 141"),
        (idx(kind=b"\x0d"), "not an idx file of unsigned bytes"),
        (b"\x89PNG\r\n\x1a\n", "not an idx file"),
        (b"", "not an idx file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load("fashion_mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist") as caught:
        load("fashion_mnist", tmp_path / "nowhere")
    assert "config.data.folder" in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"config\.data\.name: got 'cifar', wanted one of \['fashion_mnist'\]"):
        load("cifar")


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
