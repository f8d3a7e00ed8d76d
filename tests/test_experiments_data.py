"""Reading image files: what is accepted, what is said of files that are not; and the batches made of them."""

import contextlib
import dataclasses
import gzip
import io
import json
import struct
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments import data
from experiments.data import folder as images_of_folder
from experiments.data.folder import cropped

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
    images = found.read(np.arange(7))
    assert images.dtype == np.uint8 and found.image_shape == (5, 4, 1) and found.num_classes == 10
    np.testing.assert_array_equal(images, IMAGES[..., None])
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(LABELS[:-1], r"a label for each of 7 images, got labels of shape \(6,\)"), (LABELS + 1, "from 0 to 9, got 10")],
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


def test_a_flipped_bit_of_a_packed_file(tmp_path):
    """No bit of it gives other images: each is an error that names the file, or of no weight (a time, a name)."""
    packed, path = gzip.compress(idx()), tmp_path / "train-images-idx3-ubyte.gz"
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    refused = 0
    for at in range(len(packed)):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x5A]) + packed[at + 1 :])
        try:
            np.testing.assert_array_equal(load("fashion_mnist", tmp_path).read(np.arange(7)), IMAGES[..., None])
        except ValueError as error:
            refused += str(path) in str(error)
    assert refused >= len(packed) - 10


def test_a_missing_file_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist") as caught:
        load("fashion_mnist", tmp_path / "nowhere")
    assert "config.data.folder" in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"config\.data\.name: wanted one of \['cifar10', 'fashion_mnist', .*got 'cifar'"
    ):
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


def planes(count, side=32, seed=0):
    """Images, and the same as rows of their three colour planes, as CIFAR10 and downsampled ImageNet have them."""
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    return images, images.transpose(0, 3, 1, 2).reshape(count, -1)


def python2_pickle(rows, labels):
    """A batch as Python 2 wrote it, opcode by opcode: Python 3 has no way to write such strings."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + struct.pack("<cHcH", b"M", rows.shape[0], b"M", rows.shape[1]) + b"\x86" + dtype + b"\x89"
    data = b"U\x04data" + array + state + b"T" + struct.pack("<i", rows.size) + rows.tobytes() + b"tb"
    classes = b"U\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x0bbatch_labelU\x08training" + classes + data + b"u."


def records(rows, labels):
    return np.concatenate([np.array(labels, np.uint8)[:, None], rows], axis=1).tobytes()


class TestCifar10:
    IMAGES, ROWS = planes(10)
    LABELS = tuple(range(10))

    def write(self, folder, version, change=lambda content: content):
        """Five batches of two images; `change` is done to the third."""
        folder.mkdir(parents=True, exist_ok=True)
        pack, suffix = {"python": (python2_pickle, ""), "binary": (records, ".bin")}[version]
        for i in range(5):
            content = pack(self.ROWS[2 * i : 2 * i + 2], self.LABELS[2 * i : 2 * i + 2])
            (folder / f"data_batch_{i + 1}{suffix}").write_bytes(change(content) if i == 2 else content)

    def archive(self, path, folder):
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, "cifar-10-batches")
        return path

    @pytest.mark.parametrize("version", ["python", "binary"])
    @pytest.mark.parametrize("where", ["folder", "parent", "archive"])
    def test_both_versions_wherever_they_are(self, tmp_path, version, where):
        folder = tmp_path / ("cifar-10-batches-py" if version == "python" else "cifar-10-batches-bin")
        self.write(folder, version)
        path = dict(folder=folder, parent=tmp_path).get(where) or self.archive(tmp_path / "cifar.tar.gz", folder)
        found = load("cifar10", path)
        assert (len(found), found.image_shape, found.num_classes) == (10, (32, 32, 3), 10)
        np.testing.assert_array_equal(found.read(np.arange(10)), self.IMAGES)
        np.testing.assert_array_equal(found.labels, self.LABELS)

    @pytest.mark.parametrize(
        ("version", "change", "message"),
        [
            ("python", lambda content: content[:-100], r"data_batch_3: truncated"),
            ("python", lambda content: b"cos\nsystem\n(U\x04truetR.", r"data_batch_3: refused: it asks for os\.system"),
            (
                "python",
                lambda content: python2_pickle(TestCifar10.ROWS[:2, :-3], [0, 1]),
                r"data_batch_3: .*3 x 32 x 32",
            ),
            (
                "python",
                lambda content: python2_pickle(TestCifar10.ROWS[:2], [0]),
                r"a label for each of 10 images, got labels of shape \(9,\)",
            ),
            ("python", lambda content: python2_pickle(TestCifar10.ROWS[:2], [0, 10]), "labels from 0 to 9, got 10"),
            (
                "binary",
                lambda content: content[:-1],
                r"data_batch_3\.bin: truncated; wanted records of 3073 bytes, got 6145",
            ),
            ("binary", lambda content: b"", r"data_batch_3\.bin: truncated"),
        ],
    )
    def test_a_bad_batch_is_named(self, tmp_path, version, change, message):
        self.write(tmp_path, version, change)
        with pytest.raises(ValueError, match=message):
            load("cifar10", tmp_path)

    def test_a_truncated_archive(self, tmp_path):
        self.write(tmp_path / "batches", "binary")
        path = self.archive(tmp_path / "cifar.tar.gz", tmp_path / "batches")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"cifar\.tar\.gz: wanted an archive, got a truncated or another file"):
            load("cifar10", path)

    def test_what_is_missing(self, tmp_path):
        self.write(tmp_path, "python")
        (tmp_path / "data_batch_4").unlink()
        with pytest.raises(FileNotFoundError, match=r"wanted data_batch_1 to 5 .* got \['data_batch_1', .*\ncurl -LO"):
            load("cifar10", tmp_path)
        for folder, state in (("", "is empty"), (tmp_path / "nowhere", "where there is nothing")):
            with pytest.raises(FileNotFoundError, match=f"config.data.folder .*{state}.*\ncurl -LO"):
                load("cifar10", folder)


class TestDownsampledImageNet:
    def write(self, folder, side=64, **changes):
        """Twelve files of one image each, so that names do not sort as numbers do."""
        images, rows = planes(12, side)
        labels = [1, 1000, *range(2, 12)]
        for i in range(12):
            content = dict(data=rows[i : i + 1], labels=labels[i : i + 1], mean=np.zeros(3 * side**2)) | changes
            np.savez(folder / f"train_data_batch_{i + 1}.npz", **content)
        return images, np.array(labels) - 1

    def test_reads_all_files_in_order(self, tmp_path):
        images, labels = self.write(tmp_path)
        found = load("imagenet64", tmp_path)
        assert (found.image_shape, found.num_classes) == ((64, 64, 3), 1000)
        np.testing.assert_array_equal(found.read(np.arange(12)), images)
        np.testing.assert_array_equal(found.labels, labels)

    def test_images_of_another_size(self, tmp_path):
        self.write(tmp_path, side=32)
        with pytest.raises(ValueError, match=r"train_data_batch_1\.npz: wanted 1 images.* 3 x 64 x 64 .*\(1, 3072\)"):
            load("imagenet64", tmp_path)
        assert load("imagenet32", tmp_path).image_shape == (32, 32, 3)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (dict(labels=[0]), "labels from 0 to 999, got -1"),
            (dict(labels=[1001]), "labels from 0 to 999, got 1000"),
            (dict(labels=[1.5]), r"labels: wanted a row of integers, got float64 \(1,\)"),
            (dict(labels=3), r"labels: wanted a row of integers, got int64 \(\)"),
            (dict(labels=[1, 2]), "wanted 2 images, as many as labels"),
            (dict(data=np.zeros((1, 3 * 64**2))), "got float64"),
            (dict(labels=np.array([print])), r"\.npz: truncated, or not an \.npz \(Object arrays cannot be loaded"),
        ],
    )
    def test_a_bad_file(self, tmp_path, changes, message):
        self.write(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            load("imagenet64", tmp_path)

    def test_a_truncated_file_is_named(self, tmp_path):
        self.write(tmp_path)
        path = tmp_path / "train_data_batch_7.npz"
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=r"train_data_batch_7\.npz: truncated"):
            load("imagenet64", tmp_path)

    def test_what_is_missing(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"no train_data_batch_\*\.npz; missing: downsampled ImageNet 64 x 64"
        ):
            load("imagenet64", tmp_path)


class TestFolder:
    def write(self, path, size=(40, 30), colour=(255, 0, 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)

    def test_folders_are_classes(self, tmp_path):
        for name in ("dog/b.png", "cat/a.JPEG", "cat/deep/c.webp"):
            self.write(tmp_path / name)
        (tmp_path / "cat" / "notes.txt").write_text("not an image")
        found = load("folder", tmp_path, image_size=16)
        assert (found.labels.tolist(), found.num_classes, found.image_shape) == ([0, 0, 1], 2, (16, 16, 3))
        images = found.read(np.arange(3))
        assert images.dtype == np.uint8 and images.shape == (3, 16, 16, 3)
        np.testing.assert_allclose(images, np.broadcast_to([255, 0, 0], images.shape), atol=2)

    def test_without_folders_there_are_no_classes(self, tmp_path):
        self.write(tmp_path / "a.png")
        found = load("folder", tmp_path, image_size=8)
        assert found.num_classes == 0 and found.labels.tolist() == [0]

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
    def test_every_kind_of_colour(self, tmp_path, mode):
        Image.new("RGB", (9, 9), (0, 0, 0)).convert(mode).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
        np.testing.assert_allclose(load("folder", tmp_path, image_size=8).read([0]), 0, atol=2)

    @pytest.mark.parametrize("size", [(8, 8), (40, 30), (31, 97), (5, 7), (130, 9)])
    def test_the_middle_is_kept(self, size):
        """A picture that is left-right and top-bottom symmetric stays so, and one of a slope keeps its middle."""
        width, height = size
        rows, columns = np.mgrid[:height, :width]
        slope = np.asarray(cropped(Image.fromarray((columns + 60 + 0 * rows).astype(np.uint8)), 8), float)
        assert slope.shape == (8, 8)
        assert abs(slope.mean() - ((width - 1) / 2 + 60)) <= max(width, height) / min(width, height) + 1

    def test_pixels_of_images_of_that_size_are_kept(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(load("folder", tmp_path, image_size=8).read([0])[0], pixels)

    def test_halving_averages(self):
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
        halved = np.asarray(cropped(Image.fromarray(pixels), 8), float)
        np.testing.assert_allclose(halved, pixels.reshape(8, 2, 8, 2).mean((1, 3)), atol=1)  # it rounds twice

    @pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"GIF89a"])
    def test_an_image_that_cannot_be_read_is_named(self, tmp_path, damage):
        path = tmp_path / "a.png"
        self.write(path)
        path.write_bytes(damage(path.read_bytes()))
        found = load("folder", tmp_path, image_size=8)
        with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image .*replace or delete it"):
            found.read([0])

    def test_what_is_wrong_with_a_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"no images in it \(\.bmp, "):
            load("folder", tmp_path, image_size=8)
        self.write(tmp_path / "a.png")
        self.write(tmp_path / "cat" / "b.png")
        with pytest.raises(ValueError, match=r"wanted all images in class folders, got a\.png beside the folders"):
            load("folder", tmp_path, image_size=8)
        with pytest.raises(FileNotFoundError, match="where there is no folder"):
            load("folder", tmp_path / "nowhere", image_size=8)
        with pytest.raises(ValueError, match=r"config\.data\.image_size: wanted an integer >= 1, got 0"):
            load("folder", tmp_path, image_size=0)
        with pytest.raises(ValueError, match=r"config\.data\.image_size: missing"):
            load("folder", tmp_path)


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
BUCKETED = [f"{i // 2:05}/img{i:08}.png" for i in range(4)]
MISSING = object()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def contents(labels=MISSING, names=BUCKETED):
    """What EDM's tools leave of four images: two a bucket, and dataset.json unless `labels` are missing."""
    found = {name: png(pixels) for name, pixels in zip(names, PIXELS, strict=True)}
    return found if labels is MISSING else found | {"dataset.json": json.dumps(dict(labels=labels)).encode()}


def in_folder(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def in_zip(path, contents, top="", pack=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path / "set.zip", "w", pack) as archive:
        for name, content in contents.items():
            archive.writestr(top + name, content)
    return path / "set.zip"


PACKED = dict(
    folder=in_folder,
    zip=in_zip,
    deflated=lambda path, contents: in_zip(path, contents, pack=zipfile.ZIP_DEFLATED),
    zip_of_a_folder=lambda path, contents: in_zip(path, contents, top="cifar/"),
)


LABELLED = [[name, label] for name, label in zip(BUCKETED, (6, 0, 9, 6), strict=True)]


@pytest.mark.parametrize("pack", PACKED)
class TestDataSetOfEDM:
    def test_labels_are_those_of_the_file(self, tmp_path, pack):
        shuffled = [LABELLED[i] for i in (2, 0, 3, 1)]
        found = load("folder", PACKED[pack](tmp_path, contents(shuffled)), image_size=8)
        assert (found.labels.tolist(), found.num_classes, found.image_shape) == ([6, 0, 9, 6], 10, (8, 8, 3))
        np.testing.assert_array_equal(found.read(np.arange(4)), PIXELS)

    def test_without_labels_there_are_no_classes(self, tmp_path, pack):
        found = load("folder", PACKED[pack](tmp_path, contents(None)), image_size=8)
        assert (found.labels.tolist(), found.num_classes) == ([0, 0, 0, 0], 0)
        np.testing.assert_array_equal(found.read(np.array([3, 1])), PIXELS[[3, 1]])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (LABELLED[:3], "wanted a label for every image, got none for 1, such as 00001/img00000003.png"),
            ([*LABELLED, ["00002/a.png", 1]], "wanted labels of existing images, got 1 others, such as 00002/a.png"),
            ([*LABELLED[:3], LABELLED[0]], "wanted each image once, got 00000/img00000000.png twice"),
            ([*LABELLED[:3], [BUCKETED[3], -1]], r"a class from 0, got \['00001/img00000003.png', -1\]"),
            ([*LABELLED[:3], [BUCKETED[3], [0.0, 1.0]]], "wanted pairs like"),
            ([*LABELLED[:3], [BUCKETED[3], True]], "wanted pairs like"),
            (["a"], "wanted pairs like"),
            (3, "to be a list or null, got int"),
        ],
    )
    def test_labels_that_do_not_fit(self, tmp_path, pack, labels, message):
        with pytest.raises(ValueError, match=rf"dataset\.json: .*{message}"):
            load("folder", PACKED[pack](tmp_path, contents(labels)), image_size=8)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000])
    def test_a_file_that_is_none(self, tmp_path, pack, content):
        with pytest.raises(ValueError, match=r"dataset\.json: wanted "):
            load("folder", PACKED[pack](tmp_path, contents() | {"dataset.json": content}), image_size=8)


@pytest.mark.parametrize("pack", ["folder", "deflated"])
class TestFolderOrZip:
    def test_folders_are_classes(self, tmp_path, pack):
        names = ["dog/a.png", "cat/b.PNG", "dog/deep/c.png", "cat/d.png"]
        rubbish = {
            "__MACOSX/cat/._b.png": b"",
            "cat/._b.png": b"",
            ".git/x.png": b"",
            "cat/Thumbs.db": b"",
            ".DS_Store": b"",
        }
        found = load("folder", PACKED[pack](tmp_path, contents(names=names) | rubbish), image_size=8)
        assert (found.labels.tolist(), found.num_classes) == ([0, 0, 1, 1], 2)
        np.testing.assert_array_equal(found.read(np.arange(4)), PIXELS[[1, 3, 0, 2]])

    def test_buckets_are_no_classes(self, tmp_path, pack):
        assert load("folder", PACKED[pack](tmp_path, contents()), image_size=8).num_classes == 0

    def test_labels_of_other_folders(self, tmp_path, pack):
        both = {f"{part}/{name}": content for part in "ab" for name, content in contents(None).items()}
        with pytest.raises(
            ValueError, match=r"wanted dataset\.json beside the folders of its images, got a/dataset\.json"
        ):
            load("folder", PACKED[pack](tmp_path, both), image_size=8)

    def test_an_image_that_is_damaged_is_named(self, tmp_path, pack):
        broken = contents(None) | {BUCKETED[2]: contents()[BUCKETED[2]][:-40]}
        found = load("folder", PACKED[pack](tmp_path, broken), image_size=8)
        np.testing.assert_array_equal(found.read([3]), PIXELS[[3]])
        with pytest.raises(ValueError, match=r"img00000002\.png: cannot be read as an image"):
            found.read([2])


def test_a_class_without_images_is_refused(tmp_path):
    in_folder(tmp_path, contents(names=["a/1.png", "a/2.png", "c/3.png", "c/4.png"]))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="wanted images in every class folder, got none in b; add some, or delete it"):
        load("folder", tmp_path, image_size=8)


class TestZip:
    def test_damage_is_found_where_it_is(self, tmp_path):
        path = in_zip(tmp_path, contents(None))
        content = bytearray(path.read_bytes())
        at = content.index(contents()[BUCKETED[1]]) + 60
        content[at] ^= 1
        path.write_bytes(content)
        found = load("folder", path, image_size=8)
        np.testing.assert_array_equal(found.read([0, 2, 3]), PIXELS[[0, 2, 3]])
        with pytest.raises(ValueError, match=r"set\.zip: 00000/img00000001\.png: cannot be read as an image \(Bad CRC"):
            found.read([1])

    @pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
    def test_truncated(self, tmp_path, kept):
        path = in_zip(tmp_path, contents(None))
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        with pytest.raises(ValueError, match=r"set\.zip: wanted a folder or a \.zip, got a truncated or another file"):
            load("folder", path, image_size=8)

    def test_a_file_that_claims_too_much_is_not_unpacked(self, tmp_path, monkeypatch):
        monkeypatch.setattr(images_of_folder, "_LARGEST", 1000)
        bomb = contents() | {BUCKETED[0]: b"\0" * 100_000}
        found = load("folder", in_zip(tmp_path, bomb, pack=zipfile.ZIP_DEFLATED), image_size=8)
        with pytest.raises(ValueError, match="wanted at most 1000 bytes, got 100000"):
            found.read([0])
        np.testing.assert_array_equal(found.read([1]), PIXELS[[1]])

    def test_names_that_lead_elsewhere_are_passed_over(self, tmp_path):
        names = ["../../etc/a.png", "cat/../../a.png", "c.png", "d.png"]
        found = load("folder", in_zip(tmp_path, contents(names=names)), image_size=8)
        np.testing.assert_array_equal(found.read([0, 1]), PIXELS[[2, 3]])

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_name_twice(self, tmp_path):
        path = in_zip(tmp_path, contents())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(BUCKETED[0], png(PIXELS[1]))
        with pytest.raises(ValueError, match=r"wanted each image once, got 00000/img00000000\.png twice"):
            load("folder", path, image_size=8)


class TestColours:
    def read(self, tmp_path, image):
        image.save(tmp_path / "a.png")
        return load("folder", tmp_path, image_size=8).read([0])[0]

    def test_greys_of_16_bits_keep_their_upper_half(self, tmp_path):
        grey = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
        found = self.read(tmp_path, Image.fromarray(grey))
        np.testing.assert_array_equal(found, np.repeat((grey >> 8)[..., None], 3, axis=2))

    def test_what_is_transparent_is_on_white(self, tmp_path):
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[:4, :, 3] = 255
        found = self.read(tmp_path, Image.fromarray(pixels))
        assert np.all(found[:4] == 0) and np.all(found[4:] == 255)

    def test_a_palette_with_a_transparent_colour(self, tmp_path):
        image = Image.new("P", (8, 8), 0)
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.paste(1, (0, 4, 8, 8))
        image.info["transparency"] = 1
        found = self.read(tmp_path, image)
        assert np.all(found[:4] == [10, 20, 30]) and np.all(found[4:] == 255)


class TestLoader:
    IMAGES, _ = planes(20, side=2)
    DATASET = data.DataSet.in_memory(IMAGES, np.arange(20) % 3, num_classes=3, source="test")

    @pytest.mark.parametrize("num_threads", [1, 4])
    @pytest.mark.parametrize("flip", [False, True])
    def test_threads_change_nothing(self, num_threads, flip):
        found = list(data.batches(self.DATASET, 5, range(3, 15), 4, flip, num_threads))
        assert len(found) == 12
        for step, (images, labels) in enumerate(found, start=3):
            wanted = data.batch(self.DATASET, 5, step, 4, flip)
            np.testing.assert_array_equal(images, wanted[0])
            np.testing.assert_array_equal(labels, wanted[1])

    def test_labels_go_with_their_images(self):
        images, labels = data.batch(self.DATASET, 0, 0, 20)
        for image, label in zip(images, labels, strict=True):
            (index,) = (i for i, other in enumerate(self.IMAGES) if np.array_equal(image, other))
            assert label == index % 3

    def test_flips_are_of_some_and_of_columns(self):
        plain, flipped = (data.batch(self.DATASET, 0, 1, 20, flip)[0] for flip in (False, True))
        mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, plain, strict=True)]
        kept = [np.array_equal(a, b) for a, b in zip(flipped, plain, strict=True)]
        assert 3 < sum(mirrored) < 17 and sum(mirrored) + sum(kept) == 20

    def test_threads_end_with_their_user(self):
        before = threading.active_count()
        with contextlib.closing(data.batches(self.DATASET, 0, range(1000), 4, num_threads=3)) as batches:
            next(batches)
            assert threading.active_count() > before
        assert threading.active_count() == before

    def test_batches_are_made_ahead_but_not_all(self):
        made = []
        read = dataclasses.replace(self.DATASET, read=lambda indices: made.append(1) or self.IMAGES[indices])
        with contextlib.closing(data.batches(read, 0, range(1000), 4, num_threads=2)) as batches:
            for _ in range(5):
                next(batches)
        assert 5 <= len(made) <= 5 + 2 + 2

    def test_an_error_comes_in_its_turn(self):
        def read(indices):
            if 7 in indices:
                raise ValueError("seven")
            return self.IMAGES[indices]

        broken = dataclasses.replace(self.DATASET, read=read)
        (turn,) = (s for s in range(5) if 7 in data.batch_indices(0, s, 4, 20))
        seen = []
        with pytest.raises(ValueError, match="seven"):
            for batch in data.batches(broken, 0, range(5), 4, num_threads=2):
                seen.append(batch)
        assert len(seen) == turn
