"""The reader of pickles: what torch writes is read, and nothing else is done."""

import io
import os
import pickle
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bespoke_jax.models.weights_io.contents import Storage
from bespoke_jax.models.weights_io.state_dict import load_arrays
from bespoke_jax.models.weights_io.torch_file import Record, Tensor, read_torch_file
from tests.models.common import FILES
from tests.models.torch_writer import Persistent, pickled


@pytest.mark.parametrize("name", ["torch_zip.pt", "torch_legacy.pt"])
def test_what_torch_saves(name):
    content = read_torch_file(FILES / name)
    state = {key: tensor.numpy() for key, tensor in content["ema_model"].items()}
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    for key, value in dict(weight=table, turned=table.T, part=table[1:3, 2:4]).items():
        np.testing.assert_array_equal(state[key], value)
        assert state[key].dtype == np.float32
    assert state["half"].dtype == np.float16 and state["short"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(state["short"].astype(np.float32), table)
    assert content["step"] == 7 and content["size"] == (4, 6)
    np.testing.assert_array_equal(content["parameter"].numpy(), [1.0, 2.0])


class Call:
    """Pickled, the call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    "call, name",
    [
        (Call(os.system, "touch ran"), r"(posix|nt)\.system"),
        (Call(eval, "open('ran', 'w')"), r"builtins\.eval"),
        (Call(getattr, {}, "clear"), r"builtins\.getattr"),
        (Call(open, "ran", "w"), r"_?io\.open"),
        (Call(__import__, "antigravity"), r"builtins\.__import__"),
        (Call(pickle.loads, pickle.dumps(Call(open, "ran", "w"))), r"_pickle\.loads"),
    ],
)
@pytest.mark.parametrize("where", ["plain", "zip", "in a module's state"])
def test_a_malicious_file_is_refused_by_name_and_nothing_runs(tmp_path, monkeypatch, call, name, where):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pkl"
    if where == "plain":
        path.write_bytes(pickle.dumps({"ema": call}))
    elif where == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(call))
    else:
        path.write_bytes(pickled({"ema": Persistent("EDMPrecond", hook=call)}))
    with pytest.raises(ValueError, match=rf"refused: it asks for {name}.*Nothing was run"):
        read_torch_file(path)
    assert os.listdir() == ["weights.pkl"]


def test_dotted_names_do_not_lead_out(tmp_path):
    """Protocol 4 can name attributes of what it knows: collections.OrderedDict.__init__.__globals__ ..."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__subclasses__\x93)R.")
    with pytest.raises(ValueError, match=r"refused.*__subclasses__"):
        read_torch_file(path)


def test_source_code_in_a_file_stays_text(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickled(Persistent("EDMPrecond", sigma_data=0.5)))  # its module_src raises SystemExit
    record = read_torch_file(path)
    assert isinstance(record, Record) and record.class_name == "EDMPrecond" and record.state == {"sigma_data": 0.5}


@pytest.mark.parametrize(
    "module, name",
    [("torch", "FloatStorage"), ("torch.storage", "_load_from_bytes"), ("torch", "Size")],
)
def test_one_file_cannot_change_what_the_next_one_is_given(tmp_path, module, name):
    """BUILD sets attributes of anything the pickle holds, also of what stands for a name."""

    def text(word):
        return b"\x8c" + bytes([len(word)]) + word.encode()

    path = tmp_path / "weights.pkl"
    known = b"\x80\x04" + text(module) + text(name) + b"\x93"
    path.write_bytes(known + b"N}" + text("class_name") + text("changed") + b"s\x86b.")
    with pytest.raises(ValueError, match=r"changes a function|missing 1 required positional argument"):
        read_torch_file(path)
    path.write_bytes(known + b".")
    assert getattr(read_torch_file(path), "class_name", None) != "changed"


def test_a_tensor_cannot_be_changed_once_made(tmp_path):
    path = tmp_path / "weights.pkl"
    plain = pickled({"w": np.zeros(3, np.float32)})
    assert plain.endswith(b"s.")  # set the item, stop: before that, change the tensor
    path.write_bytes(plain[:-2] + b"}\x8c\x05shapeK\x07sbs.")
    with pytest.raises(ValueError, match="it changes a tensor"):
        read_torch_file(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -1])
@pytest.mark.parametrize("name", ["torch_zip.pt", "torch_legacy.pt", "edm.pkl"])
def test_truncated_files(tmp_path, name, keep):
    data = (FILES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    try:
        content = read_torch_file(path)
    except ValueError as error:
        assert name in str(error) and "truncated" in str(error)
    else:  # the storages come last, and are looked at when they are wanted
        with pytest.raises(ValueError, match="truncated"):
            [tensor.numpy() for tensor in content["ema_model"].values()] + [content["parameter"].numpy()]


def test_foreign_files(tmp_path):
    path = tmp_path / "weights.pt"
    for data in (b"hello", b"\x89PNG\r\n\x1a\n" * 20):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="no pickle of tensors"):
            read_torch_file(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="no pickle of tensors"):
        read_torch_file(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_torch_file(tmp_path / "nowhere.pt")


def test_tensors_larger_than_their_storage():
    storage = Storage(np.float32, lambda: 16, lambda start, stop: bytes(16)[start:stop])
    for offset, shape, strides in [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (10**12,), (0,)),
        (0, (2, 2), (1,)),
        (-1, (2,), (1,)),
    ]:
        with pytest.raises(ValueError, match="tensor of"):
            Tensor(storage, offset, shape, strides).numpy()
    assert Tensor(storage, 1, (0, 7), (1, 1)).numpy().shape == (0, 7)


# --- Files that would cost more than their size gives reason to ---


def _text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def _name(module, name):
    return f"c{module}\n{name}\n".encode()


_LAUGHS = b"N\x85q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))


@pytest.mark.parametrize(
    "program, message",
    [
        (b"}h\x00", "truncated"),  # what was never kept
        (b"}" + _LAUGHS + b"Ns", "its tuples have .* items in total"),
        (b"}(h\x00", "truncated"),
        (b"}" + b")" + b"\x85" * 10**5 + b"Ns", "it nests tuples more than 100 deep"),
        (b"}" + b")" + b"\x85Nb" * 10**5 + b"Ns", "it nests tuples more than 100 deep"),  # BUILD of None
        (b"Nr\xff\xff\xff\x7f", "it uses memo index 2147483647"),
        (b"Np4000000000\n", "it uses memo index 4000000000"),
        (b"\x8b\xff\xff\xff\x7f", "truncated"),
        (b"\x8b" + struct.pack("<I", 10**6) + b"\x01" * 10**6, "it has an integer of more than 255 bytes"),
        (b"L" + b"9" * 10**6 + b"L\n", "truncated"),
        (b"\x8e" + struct.pack("<Q", 2**60), "truncated"),
        (b"\x95" + struct.pack("<Q", 2**60) + b"N", "truncated"),
        (
            _name("_codecs", "encode") + b"q\x00" + _text("x" * 10**5) + b"q\x01" + b"h\x00h\x01\x85R0" * 10,
            "again and again",
        ),
        (
            _name("builtins", "set") + b"q\x00](" + _text("x") + b"N" * 10 + b"e\x85R",
            "a set of other things than strings",
        ),
        (
            _name("collections", "OrderedDict") + b"q\x00](" + b"NN\x86" * 10**4 + b"eq\x01" + b"h\x00h\x01\x85R0" * 99,
            "again and again",
        ),
        (_name("torch._utils", "_rebuild_parameter") + b")\x85R", "it makes a parameter of a tuple"),
        (_name("torch", "Size") + b"(" + b"N" * 9 + b"t\x85R", "the shape of a tensor that is no tuple of integers"),
        (_name("torch.storage", "_load_from_bytes") + _text("x") + b"\x85R", "truncated"),
        (_name("torch" + "h" * 10**5, "Size"), "it asks for torchhh"),
    ],
)
def test_what_would_cost_more_than_its_size_is_refused_at_once(tmp_path, program, message):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + program + b".")
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        read_torch_file(path)
    assert time.monotonic() - start < 2 and len(str(error.value)) < 500


def test_attributes_that_a_pickle_gives_away_many_times_are_not_copied(tmp_path):
    """BUILD would copy the dictionary into each of the objects."""
    attributes = b"}q\x01(" + b"".join(_text(str(i)) + b"N" for i in range(2000)) + b"u0"
    made = _name("dnnlib.util", "EasyDict") + b"q\x00" + b"h\x00)\x81h\x01b0" * 2000
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + attributes + made + b"h\x00)\x81h\x01b.")
    content = read_torch_file(path)
    assert content == {} and not hasattr(content, "0")


def test_sets_of_names_are_harmless(tmp_path):
    path = tmp_path / "weights.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"names": {"a", "b"}, "none": frozenset()}, protocol))
        content = read_torch_file(path)
        assert content["names"] == {"a", "b"} and content["none"] == set()


def _zip_of_one_tensor(path, numbers, shape, compression=zipfile.ZIP_DEFLATED):
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"t"
    storage = b"(" + _text("storage") + _name("torch", "FloatStorage") + _text("0") + _text("cpu") + b"K\x05tQ"
    tensor = _name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\x00" + sizes + b"(K\x01t\x89}tR"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + _text("w") + tensor + b"s.")
        archive.writestr("a/data/0", numbers)


def test_a_file_that_was_zipped_again_is_read(tmp_path):
    numbers = np.arange(1000, dtype=np.float32)
    _zip_of_one_tensor(tmp_path / "w.pt", numbers.tobytes(), (4,))
    np.testing.assert_array_equal(read_torch_file(tmp_path / "w.pt")["w"].numpy(), [0, 1, 2, 3])
    _zip_of_one_tensor(tmp_path / "w.pt", numbers.tobytes(), (1000,))
    np.testing.assert_array_equal(read_torch_file(tmp_path / "w.pt")["w"].numpy(), numbers)
    _zip_of_one_tensor(tmp_path / "w.pt", numbers.tobytes(), (1001,))
    with pytest.raises(ValueError, match=r"shape \(1001,\) in a storage of 1000 numbers"):
        read_torch_file(tmp_path / "w.pt")["w"].numpy()


def test_a_zip_file_that_inflates_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.pt"
    _zip_of_one_tensor(path, bytes(2**25), (4,))
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"bytes unpack to 33554\d\d\d"):
        read_torch_file(path)


def test_tensors_that_ask_for_the_same_numbers_again_and_again():
    """Each of them is as large as the file; together they would be a thousand times as large."""
    read = []
    storage = Storage(np.float32, lambda: 4 * 10**6, lambda start, stop: read.append(stop) or bytes(stop - start))
    state = {f"layer{i}.weight": Tensor(storage, 0, (10**6,), (1,)) for i in range(1000)}
    with pytest.raises(
        ValueError, match=r"'layer4\.weight' is no tensor .*20000000 bytes from storages that have 4000000"
    ):
        load_arrays(state, "it")
    assert len(read) == 4
    tied = load_arrays(
        {"a": state["layer0.weight"], "b": state["layer1.weight"]}, "it"
    )  # weights that two layers share
    assert tied["b"].shape == (10**6,)
    with pytest.raises(ValueError, match="'a' is no tensor that can be read"):
        load_arrays({"a": Tensor(storage, 0, (-(10**12), 1), (1, 1)), "b": state["layer0.weight"]}, "it")
    laughs = [1.0]
    for _ in range(60):
        laughs = [laughs, laughs]
    with pytest.raises(ValueError, match=r"'a' is no tensor that can be read \(a list\)"):
        load_arrays({"a": laughs}, "it")
