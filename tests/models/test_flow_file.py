"""Files of save_flow, save_denoiser and save_classifier with headers that nobody wrote with them, and what is shipped."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bespoke_jax as bj
from bespoke_jax.models import ADM, Denoiser, Preconditioning, UNet
from bespoke_jax.models.weights_io.state_dict import variable_shapes

EVENT = (4, 4, 1)
NETS = {
    "UNet": UNet(channels=(8,), num_blocks=(1,), head_channels=4, num_heads=0, num_classes=3),
    "ADM": ADM(channels=(8,), num_blocks=1, heads=(0,), middle_heads=1, time_channels=8, groups=4, out_channels=1),
}


def variables_of(network):
    shapes = variable_shapes(network, EVENT)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, network in NETS.items():
        bj.models.save_flow(folder / f"{name}.safetensors", network, variables_of(network), EVENT, "condot")
    model = Denoiser(NETS["ADM"], variables_of(NETS["ADM"]), EVENT, Preconditioning("edm"))
    bj.models.save_denoiser(folder / "denoiser.safetensors", model)
    return folder


@pytest.fixture
def changed(files, tmp_path):
    """A file whose header is what a function makes of the true one."""

    def write(change, name="UNet"):
        source, path = files / f"{name}.safetensors", tmp_path / "changed.safetensors"
        with safetensors.safe_open(source, "flax") as file:
            header, arrays = file.metadata()["flow"], {key: file.get_tensor(key) for key in file.keys()}
        header = change(json.loads(header))
        text = header if isinstance(header, str) else json.dumps(header)
        safetensors.flax.save_file(arrays, path, {"flow": text})
        return path

    return write


def refused(load, path, message):
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    text = str(error.value)
    assert time.monotonic() - start < 2 and "\n" not in text and len(text) < 600 and str(path) in text


def test_the_files_themselves_are_read(changed):
    for name in ("UNet", "ADM", "denoiser"):
        flow = bj.models.load_flow(changed(lambda header: header, name))
        assert flow.event_shape == EVENT


def field(**fields):
    return lambda header: {**header, "fields": {**header["fields"], **fields}}


def entry(**entries):
    return lambda header: {**header, **entries}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda header: "{", "its header is no JSON"),
        (lambda header: "[" * 10**5, "its header is no JSON"),
        (lambda header: [1, 2], "its header: wanted a dictionary, got list"),
        (lambda header: "null", "its header: wanted a dictionary, got NoneType"),
        (entry(network="Transformer"), r"network: wanted one of \['ADM', 'SongUNet', 'UNet'\], got 'Transformer'"),
        (entry(network=["UNet"]), "network: wanted one of"),
        (entry(network=None), "network: wanted one of"),
        (entry(fields=3), "fields: wanted a dictionary, got int"),
        (field(widths=[8]), "a UNet of this version has no field 'widths'"),
        (field(dtype="float32"), "has no field 'dtype'"),
        (field(num_blocks=[10**6]), "fields: num_blocks: wanted an integer from 0 to"),
        (field(channels=[10**12]), "fields: channels: wanted an integer from 0 to"),
        (field(channels=[8] * 10**4), "fields: channels: wanted a list of at most 32"),
        (field(channels=8), "fields: channels: wanted a list"),
        (field(channels=["8"]), "fields: channels: wanted an integer .*, got '8'"),
        (field(channels=[-8]), "fields: channels: wanted an integer"),
        (field(channels=[8.5]), "fields: channels: wanted an integer"),
        (field(channels=[]), "no UNet can be made"),
        (field(patch_size=0), "no UNet can be made"),
        (field(patch_size=True), "fields: patch_size: wanted an integer"),
        (field(head_channels=None), "fields: head_channels: wanted an integer"),
        (field(num_heads=3), "no UNet can be made"),
        (field(num_classes=4), "variables are not those of the UNet"),
        (entry(event_shape=[4.0, 4, 1]), "event_shape: wanted an integer from 1 to 65536, got 4.0"),
        (entry(event_shape=[4, 4]), "event_shape: wanted a list of three integers"),
        (entry(event_shape="4"), "event_shape: wanted a list"),
        (entry(event_shape=[10**9, 4, 1]), "event_shape: wanted an integer"),
        (entry(event_shape=[5, 4, 1]), "no UNet can be made .*divisible by 2"),
        (entry(scheduler="linear"), "scheduler: .*wanted one of"),
        (entry(scheduler=None), "scheduler: wanted a name"),
        (entry(scheduler=["condot"]), "scheduler: wanted a name"),
        (entry(scheduler={"sigma_min": 1.0}), "scheduler: wanted a name"),
        (
            entry(scheduler={"name": "edm", "sigma_min": "low"}),
            "sigma_min: wanted a finite number > 0, got 'low'",
        ),
        (
            entry(scheduler={"name": "edm", "sigma_min": float("nan")}),
            "its header is no JSON .*NaN, which is no number",
        ),
        (entry(scheduler={"name": "edm", "sigma_min": 100}), "sigma_min: wanted less than sigma_max"),
        (entry(scheduler={"name": "edm", "beta": 1}), "scheduler: .*beta"),
        (entry(scheduler={"name": "condot", "sigma_min": 1}), "scheduler: "),
        (entry(prediction="next"), "prediction: wanted one of"),
        (entry(prediction=["noise"]), "prediction: wanted one of"),
        (entry(preconditioning=3), "preconditioning: wanted a dictionary"),
        (entry(preconditioning={}), "kind"),
        (entry(preconditioning={"kind": "edm", "colour": 1}), "colour"),
        (
            entry(preconditioning={"kind": "edm", "sigma_min": "0"}),
            "Preconditioning: sigma_min: wanted a finite number > 0",
        ),
        (entry(preconditioning={"kind": "edm", "sigma_min": 2, "sigma_max": 1}), "wanted sigma_min < sigma_max"),
        (entry(preconditioning={"kind": ["edm"]}), "kind: wanted one of"),
        (entry(preconditioning={"kind": "ddpm", "betas": []}), "betas: wanted"),
        (entry(preconditioning={"kind": "ddpm", "betas": "0.1"}), "betas: wanted a list"),
        (entry(preconditioning={"kind": "ddpm", "betas": ["0.1"]}), "betas: wanted a number"),
        (entry(preconditioning={"kind": "vp", "steps": 10.5}), "steps: wanted an integer"),
    ],
)
def test_headers_that_describe_no_flow(changed, change, message):
    refused(bj.models.load_flow, changed(change), message)


@pytest.mark.parametrize(
    "change, message",
    [
        (field(time_channels=10**12), "fields: time_channels: wanted an integer"),
        (field(num_blocks=10**6), "fields: num_blocks: wanted an integer"),
        (field(num_blocks=0), "variables are not those of the ADM|no ADM"),
        (field(heads=[]), "no ADM can be made .*heads"),
        (field(heads=[3]), "no ADM can be made .*3 heads"),
        (field(groups=0), "no ADM can be made"),
        (field(groups=3), "no ADM can be made .*3 groups"),
        (field(eps="1e-5"), "fields: eps: wanted a finite number"),
        (field(scale_shift="yes"), "fields: scale_shift: wanted True or False"),
        (field(resampling="bicubic"), "no ADM can be made .*resampling"),
        (field(resampling=["conv"]), "fields: resampling: wanted a string"),
        (field(frequency_shift=4), "no ADM can be made"),
    ],
)
def test_headers_that_describe_no_adm(changed, change, message):
    refused(bj.models.load_flow, changed(change, "ADM"), message)


def test_tensors_of_a_kind_that_jax_has_not(tmp_path):
    head = json.dumps({"w": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "f.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\0\0")
    with pytest.raises(ValueError, match=r"f\.safetensors: (tensors of a kind|truncated|a safetensors file without)"):
        bj.models.load_flow(tmp_path / "f.safetensors")
    for head in (b"[" * 1000, b"{}", b"\xff" * 10, b'{"w": 3}'):
        (tmp_path / "f.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
        with pytest.raises(ValueError, match=r"f\.safetensors: (truncated|a safetensors file without our header)"):
            bj.models.load_flow(tmp_path / "f.safetensors")
    with pytest.raises(TypeError, match="load_flow: wanted a name or a path, got int"):
        bj.models.load_flow(3)


def test_a_file_has_one_class(tmp_path):
    network = NETS["UNet"]
    model = Denoiser(network, variables_of(network), EVENT, Preconditioning("edm"))
    path = tmp_path / "it.safetensors"
    with pytest.raises(ValueError, match="labels: wanted one class"):
        bj.models.save_denoiser(path, model, labels=[0, 1])
    for labels in (2, np.float32([0, 0, 1])):
        bj.models.save_denoiser(path, model, labels=labels)
        np.testing.assert_array_equal(bj.models.load_flow(path).params["condition"]["label"], [0, 0, 1])
    with pytest.raises(TypeError, match="model: wanted a Denoiser, got UNet"):
        bj.models.save_denoiser(path, network)
    with pytest.raises(TypeError, match="event_shape: wanted a tuple of integers"):
        bj.models.save_flow(path, network, variables_of(network), (4.0, 4, 1), "condot")


# --- Classifiers ---


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda header: "{", "its header is no JSON"),
        (lambda header: 3, "its header: wanted a dictionary, got int"),
        (entry(channels=None), "channels: wanted a list"),
        (entry(channels=[4.0]), "channels: wanted an integer"),
        (entry(channels=[4] * 100), "channels: wanted a list"),
        (entry(channels=[3]), "variables are not those of the ConvClassifier"),
        (entry(num_classes="3"), "num_classes: wanted an integer"),
        (entry(num_classes=10**9), "num_classes: wanted an integer"),
        (entry(image_shape=[8, 8]), "image_shape: wanted a list of 3 to 3"),
        (entry(image_shape=[8, 8, 3]), "variables are not those"),
        (entry(count=0), "count: wanted an integer >= 2"),
        (entry(count=9), "mu of the statistics: wanted .* got missing"),
    ],
)
def test_headers_that_describe_no_classifier(tmp_path, change, message):
    network = bj.models.ConvClassifier((4,), 3)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    path = tmp_path / "it.safetensors"
    bj.models.save_classifier(path, bj.models.Classifier(network, variables, (8, 8, 1)))
    assert bj.models.load_classifier(path).image_shape == (8, 8, 1)
    with safetensors.safe_open(path, "flax") as file:
        header, arrays = file.metadata()["classifier"], {key: file.get_tensor(key) for key in file.keys()}
    header = change(json.loads(header))
    text = header if isinstance(header, str) else json.dumps(header)
    safetensors.flax.save_file(arrays, path, {"classifier": text})
    refused(bj.models.load_classifier, path, message)


# --- What is shipped ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("{elsewhere}", "table", 4), "flow: wanted one of .*'fashion_fmot'"),
        (("../elsewhere", "table", 4), "flow: wanted one of"),
        (("fashion_fmot/../fashion_fmot", "table", 4), "flow: wanted one of"),
        ((3, "table", 4), "flow: wanted one of"),
        (("fashion_fmot", "../fashion_fmot/rk2", 5), r"base: wanted one of \['rk1', 'rk2', 'table'\]"),
        (("fashion_fmot", None, 5), "base: wanted one of"),
        (("fashion_fmot", "rk2", "5"), "num_steps: wanted an integer >= 1, got '5'"),
        (("fashion_fmot", "rk2", 5.0), "num_steps: wanted an integer >= 1, got 5.0"),
        (("fashion_fmot", "rk2", "5/../rk2-bespoke-n5"), "num_steps: wanted an integer"),
        (("fashion_fmot", "rk2", 99), "wanted one of rk1.* for 'fashion_fmot', got 'rk2' with 99 steps"),
    ],
)
def test_solvers_come_from_the_package_only(tmp_path, arguments, message):
    bj.save_solver(tmp_path / "table-n4.json", bj.classic.euler(4))
    flow, base, num_steps = arguments
    flow = str(tmp_path) if flow == "{elsewhere}" else flow
    with pytest.raises(ValueError, match=message):
        bj.models.shipped_solver(flow, base, num_steps)


def test_a_shipped_solver_is_found():
    assert bj.models.shipped_solver("fashion_fmot", "rk2", np.int64(5)).nfe == 10
