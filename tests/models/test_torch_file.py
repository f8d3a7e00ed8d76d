"""The reader of pickles: what torch writes is read, and nothing else is done."""

import io
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bespoke_jax.models.safe_pickle import Storage
from bespoke_jax.models.torch_file import Record, Tensor, read_torch_file
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
        (Call(open, "ran", "w"), r"io\.open"),
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
    assert read_torch_file(path).class_name == "changed"
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
    storage = Storage(np.float32, lambda: bytes(16))
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
