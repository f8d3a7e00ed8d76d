"""InceptionV3 against torch-fidelity's, with weights drawn from the names of its tensors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bespoke_jax import fid
from bespoke_jax.models import inception
from tests.golden.weights import draw_all
from tests.models.common import FILES, nhwc, relative
from tests.models.torch_writer import write_zip


@pytest.fixture(scope="module")
def golden():
    with np.load(FILES / "inception.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def state(golden):
    return draw_all(json.loads(str(golden["shapes"])))


@pytest.fixture(scope="module")
def weights_file(state, tmp_path_factory):
    """As pytorch-fid's: with its classes and counters."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    extra = {"fc.weight": np.zeros((1008, 2048)), "fc.bias": np.zeros(1008)}
    write_zip(path, {**state, **extra, "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(())})
    return path


@pytest.mark.parametrize("convention", ["pytorch-fid", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_features_are_those_of_the_original(golden, weights_file, convention):
    images = nhwc(golden["images"]) / 127.5 - 1
    ours = inception.load(weights_file, convention)(images)
    assert ours.shape == (2, 2048)
    assert relative(ours, golden[f"features/{convention}"]) < 1e-5  # measured: 5.2e-7


def test_resize_is_pytorch_s(golden):
    ours = inception.resize(jnp.asarray(nhwc(golden["images"]) / 255, jnp.float32))
    np.testing.assert_allclose(ours[:, ::23, ::23], nhwc(golden["resized"]), atol=1e-5)


def test_resize_of_tensorflow_reads_at_whole_multiples():
    # Of a picture that is linear in both coordinates: pixel i is the value at i H / 299, as long as that is inside.
    rows, columns = np.mgrid[:13, :23].astype(np.float32)
    found = inception.resize((2 * rows - 3 * columns)[None, :, :, None], "tensorflow")[0, ..., 0]
    i, j = np.mgrid[:299, :299]
    wanted = 2 * np.minimum(i * 13 / 299, 12) - 3 * np.minimum(j * 23 / 299, 22)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_resize_that_shrinks_is_not_smoothed():
    x = np.random.default_rng(0).standard_normal((1, 598, 598, 1)).astype(np.float32)
    np.testing.assert_array_equal(inception.resize(x, "tensorflow")[0], x[0, ::2, ::2])
    np.testing.assert_allclose(
        inception.resize(x)[0, 5, 9, 0], x[0, 10:12, 18:20].mean(), atol=1e-6
    )  # between two pixels each way


@pytest.fixture
def colours(monkeypatch):
    """The network replaced by the mean colour, and all inputs that it sees."""
    monkeypatch.setattr(inception.InceptionV3, "apply", lambda self, variables, x: x.mean((1, 2)))
    inception._features.clear_cache()
    yield
    inception._features.clear_cache()


@pytest.mark.usefixtures("colours")
class TestInput:
    @pytest.mark.parametrize("convention, black, white", [("pytorch-fid", -1, 1), ("tensorflow", -1, 127 / 128)])
    def test_range(self, convention, black, white):
        features = inception.InceptionFeatures({}, convention)
        for value, wanted in [(-1, black), (1, white), (-7, black), (7, white)]:  # what is outside is cut off
            np.testing.assert_allclose(features(np.full((1, 4, 4, 3), value)), wanted, atol=1e-6)

    def test_eight_bits(self):
        features = inception.InceptionFeatures({})
        found = np.unique(np.concatenate([features(np.full((1, 2, 2, 3), v)) for v in np.linspace(0, 0.02, 50)]))
        steps = np.unique(np.round((found + 1) * 127.5, 4))
        assert steps.tolist() == [128, 129, 130]

    def test_smooth_ones_are_the_same_for_8_bits_and_have_a_gradient(self):
        images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)) / np.float32(127.5) - 1
        features = inception.InceptionFeatures({})
        np.testing.assert_allclose(features.smooth(images), features(images), atol=1e-6)
        slopes = [np.asarray(jax.grad(lambda x, f=f: f(x).sum())(images)) for f in (features.smooth, features)]
        assert np.all(slopes[0] >= 0) and slopes[0].sum() > 0 and not np.any(slopes[1])

    def test_grey_is_three_times_the_same(self):
        grey = np.random.default_rng(0).uniform(-1, 1, (2, 5, 5, 1))
        features = inception.InceptionFeatures({})
        np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=-1)))

    def test_features_for_statistics(self):
        images = np.random.default_rng(0).uniform(-1, 1, (40, 4, 4, 3))
        features = inception.InceptionFeatures({})
        same, darker = (fid.statistics_of(np.split(x, 4), features) for x in (images, images * 0.5 - 0.5))
        assert fid.frechet_distance(same, same) < 1e-9 < 0.1 < fid.frechet_distance(same, darker)


def test_a_wrapped_state_dictionary(state, tmp_path):
    write_zip(tmp_path / "plain.pth", state)
    write_zip(tmp_path / "wrapped.pth", {"state_dict": {f"module.{key}": value for key, value in state.items()}})
    one, two = (inception.load(tmp_path / name).variables for name in ("plain.pth", "wrapped.pth"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    with pytest.raises(ValueError, match="convention: wanted one of"):  # before anything is read
        inception.load(tmp_path / "plain.pth", "clean")


def test_refusals(state):
    with pytest.raises(
        ValueError, match=r"Mixed_7c\.branch_pool\.bn\.running_var: wanted shape .*, got none.*pytorch-fid's"
    ):
        inception.variables_from_state({k: v for k, v in state.items() if k != "Mixed_7c.branch_pool.bn.running_var"})
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3\.conv\.weight: wanted shape .*, got \(3, 3, 1, 32\)"):
        inception.variables_from_state({**state, "Conv2d_1a_3x3.conv.weight": np.zeros((32, 1, 3, 3))})
    with pytest.raises(ValueError, match="convention: wanted one of"):
        inception.InceptionFeatures({}, "clean")
    with pytest.raises(ValueError, match=r"images: wanted shape \[B, H, W, 3\] .* got \(2, 3, 8, 8\)"):
        inception.InceptionFeatures({})(np.zeros((2, 3, 8, 8)))
