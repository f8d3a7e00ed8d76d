"""Sampler files: the samples of `solve` in a process that has JAX alone; damaged and foreign files are refused."""

import collections
import hashlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.files import sampler_file

KEY = jax.random.key(0)


def velocity(params, t, x):
    return jnp.tanh(x @ params["w"] + t * params["b"]).astype(x.dtype)


@pytest.fixture(scope="module")
def flow():
    w, b = jax.random.normal(KEY, (2, 3, 3))
    return bj.Flow(velocity, {"w": w, "b": b[0]}, (3,), bj.schedulers.EDM())


@pytest.fixture(scope="module")
def theta():
    theta = bj.init_theta("rk2", 3)
    return theta.with_raw(0.1 * jax.random.normal(KEY, theta.raw.shape))


@pytest.fixture(scope="module")
def path(flow, theta, tmp_path_factory):
    path = tmp_path_factory.mktemp("samplers") / "rk2"
    bj.save_sampler(path, flow, theta)
    return path


@pytest.mark.parametrize(
    ("family", "options"),
    [("rk2", {}), ("table", {"batch_size": 4}), ("learned table", {"bake_params": True, "dtype": jnp.bfloat16})],
)
def test_it_samples_as_solve_does(flow, theta, family, options, tmp_path):
    table = bj.to_table(theta)
    solver = {"rk2": theta, "table": table, "learned table": bj.LearnedTable.of(table)}[family]
    bj.save_sampler(tmp_path / "s", flow, solver, **options)
    sampler = bj.load_sampler(tmp_path / "s")
    assert (sampler.nfe, sampler.event_shape, sampler.batch_size) == (6, (3,), options.get("batch_size"))
    assert sampler.noise_std == flow.scheduler.sigma(jnp.float32(0))
    x0 = jax.random.normal(KEY, (4, 3), options.get("dtype", jnp.float32))
    found = sampler(x0) if "bake_params" in options else sampler(flow.params, x0)
    wanted = bj.solve(flow, solver, x0)
    assert found.dtype == wanted.dtype and [p.name for p in tmp_path.iterdir()] == ["s"]
    exact = 16 * float(jnp.finfo(x0.dtype).eps)
    np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32), rtol=exact)
    if sampler.batch_size is None and sampler.params is not None:  # other numbers of samples, other weights
        other = jax.tree.map(lambda leaf: 0.5 * leaf, flow.params)
        x0 = jax.random.normal(KEY, (7, 3))
        wanted = bj.solve(bj.Flow(velocity, other, (3,)), solver, x0)
        np.testing.assert_allclose(sampler(other, x0), wanted, rtol=2e-6)


def test_a_process_with_jax_alone_runs_it(flow, theta, path, tmp_path):
    x0 = jax.random.normal(KEY, (5, 3))
    np.savez(tmp_path / "in.npz", x0=x0, **flow.params)
    code = f"""
import sys, numpy as np, jax, jax.export
loaded = dict(np.load({str(tmp_path / "in.npz")!r}))
x0 = loaded.pop("x0")
sampler = jax.export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
np.save({str(tmp_path / "out.npy")!r}, jax.jit(sampler.call)(loaded, x0))
assert "bespoke_jax" not in sys.modules and "diffrax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), bj.solve(flow, theta, x0), rtol=2e-6)


def test_a_flow_on_many_devices_is_written_for_one(flow, theta, path, tmp_path):
    bj.save_sampler(tmp_path / "s", bj.sharding.replicate(flow), theta)
    x0 = jax.random.normal(KEY, (5, 3))
    found = bj.load_sampler(tmp_path / "s")(flow.params, x0)
    np.testing.assert_array_equal(found, bj.load_sampler(path)(flow.params, x0))


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_file_is_refused(path, tmp_path, damage):
    content = path.read_bytes()
    middle = len(content) // 2
    (tmp_path / "s").write_bytes(
        {
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "foreign": b"PK\x03\x04" + 100 * b"x",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(ValueError, match="s: not a whole sampler file; write it again"):
        bj.load_sampler(tmp_path / "s")


def signed(program, about):
    """A file with this content and a valid digest."""
    content = program + about + len(program).to_bytes(8, "little") + sampler_file._FORMAT
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (b"[1, 2]", "wanted a JSON object after the program, got list"),
        (b"{}", "nfe: wanted an integer >= 1, got None"),
        (b'{"nfe": 6.0, "noise_std": 1.0, "baked": false}', r"nfe: wanted an integer >= 1, got 6\.0"),
        (b'{"nfe": 6, "noise_std": "1", "baked": false}', "noise_std: wanted a finite number >= 0, got '1'"),
        (b'{"nfe": 6, "noise_std": NaN, "baked": false}', r"not a complete JSON file \(NaN is no JSON number\)"),
        (b'{"nfe": 6, "noise_std": 1.0, "baked": 0}', "baked: wanted True or False, got 0"),
        (b'{"nfe": 6, "noise_std": 1.0, "baked": true}', r"its program is no sampler \(it takes 2 arguments\)"),
        (b"no json", "not a complete JSON file"),
        (b"\xff\xfe", "not a complete JSON file"),
    ],
)
def test_a_file_made_up_by_hand(path, tmp_path, about, message):
    content = path.read_bytes()[: -32 - len(sampler_file._FORMAT)]
    program = content[: int.from_bytes(content[-8:], "little")]
    (tmp_path / "s").write_bytes(signed(program, about))
    with pytest.raises(ValueError, match=rf"s: {message}"):
        bj.load_sampler(tmp_path / "s")


def test_a_program_longer_than_its_file(tmp_path):
    content = b"program" + (2**63).to_bytes(8, "little") + sampler_file._FORMAT
    (tmp_path / "s").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(ValueError, match=r"s: wanted a program of 9223372036854775808 bytes, got 7"):
        bj.load_sampler(tmp_path / "s")
    for content in (b"", b"\0\0\0"):
        content = content + sampler_file._FORMAT
        (tmp_path / "s").write_bytes(content + hashlib.sha256(content).digest())
        with pytest.raises(ValueError, match="s: "):
            bj.load_sampler(tmp_path / "s")


def test_a_program_of_something_else(tmp_path):
    about = b'{"nfe": 6, "noise_std": 1.0, "baked": true}'
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    for function, arguments in (
        (lambda x, y: x + y, ({"x": shape}, shape)),
        (lambda x: x, (jax.ShapeDtypeStruct((), jnp.int32),)),
    ):
        flat = (lambda x, y: x["x"] + y) if len(arguments) == 2 else function
        program = bytes(jax.export.export(jax.jit(flat))(*arguments).serialize())
        (tmp_path / "s").write_bytes(signed(program, about))
        with pytest.raises(ValueError, match="s: its program is no sampler"):
            bj.load_sampler(tmp_path / "s")
    (tmp_path / "s").write_bytes(signed(b"no program", about))
    with pytest.raises(ValueError, match=r"s: JAX .* cannot read it"):
        bj.load_sampler(tmp_path / "s")


def test_where_no_file_can_be(flow, theta, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        bj.save_sampler(tmp_path, flow, theta)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*; make it first"):
        bj.save_sampler(tmp_path / "missing" / "s", flow, theta)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="load_sampler: no file nowhere"):
        bj.load_sampler("nowhere")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p, x: (x,), TypeError, r"wanted the arguments \(params, x0\), got 1"),
        (lambda p, x: (p, x[0]), ValueError, r"x0: wanted shape \[B, 3\], got \(3,\)"),
        (lambda p, x: (p, x[:0]), ValueError, r"x0: wanted shape \[B, 3\], got \(0, 3\)"),
        (lambda p, x: (p, x[:, :2]), ValueError, r"got \(4, 2\)"),
        (lambda p, x: (p, x.astype(jnp.bfloat16)), TypeError, "x0: wanted dtype float32, got bfloat16"),
        (lambda p, x: ({"w": p["w"]}, x), ValueError, r"params\['b'\]: missing"),
        (lambda p, x: (p | {"c": x}, x), ValueError, r"params\['c'\]: not a parameter of this sampler"),
        (lambda p, x: (p | {"b": p["w"]}, x), ValueError, r"params\['b'\]: wanted float32\[3\], got float32\[3, 3\]"),
    ],
)
def test_arguments_that_are_not_those_are_named(flow, path, change, error, match):
    with pytest.raises(error, match=match):
        bj.load_sampler(path)(*change(flow.params, jnp.ones((4, 3))))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"flow": 1}, TypeError, "flow: wanted a bespoke_jax.Flow"),
        ({"solver": 1}, TypeError, "solver: wanted a learned solver"),
        ({"batch_size": 0}, ValueError, "batch_size: wanted an integer >= 1, got 0"),
        (
            {"platforms": ("gpu",)},
            ValueError,
            r"platforms: wanted some of \('cpu', 'cuda', 'rocm', 'tpu'\), got \('gpu',\)",
        ),
        ({"platforms": "cpu"}, ValueError, "platforms"),
        ({"platforms": 3}, ValueError, "platforms"),
        ({"platforms": (["cpu"],)}, ValueError, "platforms"),
        ({"dtype": jnp.int32}, TypeError, "dtype: wanted a floating dtype"),
        ({"bake_params": "yes"}, ValueError, "bake_params: wanted True or False, got 'yes'"),
        (
            {"solver": bj.init_theta("rk1", 2).with_raw(jnp.zeros(8))},
            ValueError,
            r"solver\.raw: wanted shape \[7\], got \[8\]",
        ),
        (
            {"dtype": np.float64},
            ValueError,
            r"dtype: wanted one that JAX computes in, got float64 while jax_enable_x64 is off",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_before_tracing(flow, theta, tmp_path, options, error, match):
    def untraceable(params, t, x):
        raise AssertionError

    arguments = dict(flow=bj.Flow(untraceable, None, (3,)), solver=theta) | options
    with pytest.raises(error, match=match):
        bj.save_sampler(tmp_path / "s", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_network_that_wants_one_batch_size_says_so(theta, tmp_path):
    flow = bj.Flow(lambda params, t, x: x @ jnp.eye(3) * (1.0 if int(x.shape[0]) > 2 else 2.0), None, (3,))
    with pytest.raises(
        ValueError,
        match=r"wanted a velocity that JAX can trace with a symbolic batch size, got .*give a size, such as batch_size=64",
    ):
        bj.save_sampler(tmp_path / "s", flow, theta)
    by_len = bj.Flow(lambda params, t, x: x * len(x), None, (3,))
    with pytest.raises(ValueError, match=r"with a symbolic batch size, got .*write x\.shape\[0\] for len\(x\)"):
        bj.save_sampler(tmp_path / "s", by_len, theta)
    bj.save_sampler(tmp_path / "s", bj.Flow(lambda params, t, x: x * x.shape[0], None, (3,)), theta)
    np.testing.assert_allclose(
        bj.load_sampler(tmp_path / "s")(jnp.ones((2, 3))), bj.solve(by_len, theta, jnp.ones((2, 3))), rtol=1e-6
    )
    wrong = bj.Flow(lambda params, t, x: x @ jnp.eye(4), None, (3,))
    with pytest.raises(TypeError, match="contracting dimensions"):  # which no batch size mends
        bj.save_sampler(tmp_path / "s", wrong, theta)
    bj.save_sampler(tmp_path / "s", flow, theta, batch_size=4)
    assert bj.load_sampler(tmp_path / "s")(jnp.ones((4, 3))).shape == (4, 3)


Pair = collections.namedtuple("Pair", "w b")


UNWRITABLE = {
    "a tuple with names": (lambda params: Pair(**params), lambda params: params._asdict()),
    "keys that are numbers": (lambda params: {0: params}, lambda params: params[0]),  # nnx.to_pure_dict has such
}


@pytest.mark.parametrize("to, back", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_tree_that_cannot_be_written_says_so(flow, theta, tmp_path, to, back):
    odd = bj.Flow(lambda params, t, x: velocity(back(params), t, x), to(flow.params), (3,))
    with pytest.raises(TypeError, match="cannot write the tree of its parameters"):
        bj.save_sampler(tmp_path / "s", odd, theta)
    bj.save_sampler(tmp_path / "s", odd, theta, bake_params=True)
    assert bj.load_sampler(tmp_path / "s").params is None


def test_conditions_are_parameters(tmp_path, theta):
    one = bj.Flow(lambda params, t, x: params["condition"] - jnp.sin(x), {"condition": jnp.zeros(3)}, (3,))
    flow, other = (bj.given(one, jax.random.normal(jax.random.key(i), (4, 3))) for i in range(2))
    bj.save_sampler(tmp_path / "s", flow, theta)
    sampler, x0 = bj.load_sampler(tmp_path / "s"), jax.random.normal(KEY, (4, 3))
    assert sampler.batch_size == 4
    np.testing.assert_allclose(sampler(other.params, x0), bj.solve(other, theta, x0), rtol=2e-6, atol=2e-6)
    with pytest.raises(ValueError, match=r"batch_size: .* conditions, 4, got 3"):
        bj.save_sampler(tmp_path / "s", flow, theta, batch_size=3)
    with pytest.raises(
        ValueError, match=r"x0: wanted shape \[4, 3\] \(the file is for so many samples: .* got \(5, 3\)"
    ):
        sampler(other.params, jnp.zeros((5, 3)))
    with pytest.raises(TypeError, match="x0: wanted an array, got list"):
        sampler(other.params, x0.tolist())


@pytest.mark.parametrize(
    "size", [3, 2**18], ids=["small", "large"]
)  # large ones are kept once, with an index of each sample
@pytest.mark.parametrize("scales", [None, jnp.array([0.0, 1.0, 2.5])], ids=["plain", "guided"])
def test_containers_of_the_librarys_own_are_written(tmp_path, theta, size, scales):
    one = bj.Flow(lambda p, t, x: p["condition"][:3] - jnp.sin(x), {"condition": jnp.zeros(size)}, (3,))
    rows = jnp.arange(2.0)[:, None] * jnp.ones(size)
    flow = bj.given(one, jax.tree.map(lambda row: row[jnp.array([0, 1, 1])], rows))
    flow = flow if scales is None else bj.guided(flow, scales)
    bj.save_sampler(tmp_path / "s", flow, theta)
    x0 = jax.random.normal(KEY, (3, 3))
    found = bj.load_sampler(tmp_path / "s")(flow.params, x0)
    np.testing.assert_allclose(found, bj.solve(flow, theta, x0), rtol=2e-6, atol=2e-6)
