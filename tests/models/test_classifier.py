"""The classifier that is shipped, and its file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file

import bespoke_jax as bj
from bespoke_jax.models import ConvClassifier, load_classifier, save_classifier
from experiments import data, train_classifier
from experiments.configs import fashion_classifier
from experiments.data import fashion
from experiments.pretraining.classifier import images_of
from experiments.run import stopping


@pytest.fixture(scope="module")
def classifier():
    return load_classifier("fashion_classifier")


@pytest.fixture(scope="module")
def clothes():
    """Samples of the shipped flow, [96, 28, 28, 1]: a few classes of clothes, and no image that anything was trained with."""
    flow, solver = bj.models.load_flow("fashion_fmot"), bj.models.shipped_solver("fashion_fmot", "table", 6)
    return np.asarray(bj.adjoint.end_points(flow, solver, flow.noise(jax.random.key(0), (96,)), batch_size=32))


@pytest.mark.slow
def test_features_of_a_sample_do_not_depend_on_the_others(classifier, clothes):
    together = classifier.features(clothes[:8])
    assert together.shape == (8, 64)
    for i in (0, 5):
        np.testing.assert_allclose(classifier.features(clothes[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-5)


def test_images_are_rounded_to_8_bits(classifier, clothes):
    grey = np.round((np.clip(clothes[:8], -1, 1) + 1) * 127.5)
    as_read = data.to_model(grey.astype(np.uint8))
    np.testing.assert_allclose(classifier.features(clothes[:8]), classifier.features(as_read), atol=1e-5)
    assert not np.allclose(
        classifier.features(clothes[:8]), classifier.network.apply(classifier.variables, clothes[:8])[0]
    )


@pytest.mark.filterwarnings("ignore::bespoke_jax.fid.TooFewSamplesWarning")
def test_distances_from_the_statistics_are_in_the_order_of_what_one_sees(classifier, clothes):
    """So the statistics are those of clothes in these features: noisy clothes lie farther off, pure noise farther still."""

    def distance(images):
        return bj.fid.frechet_distance(bj.fid.FeatureStatistics.of(classifier.features(images)), classifier.statistics)

    noise = np.random.default_rng(0).standard_normal(clothes.shape, np.float32)
    near, far, farthest = (distance(images) for images in (clothes, clothes + 0.4 * noise, noise))
    assert near < 0.5 * far and far < 0.5 * farthest


def test_it_knows_the_classes_of_images_that_it_was_not_trained_with(classifier):
    try:
        test = fashion.load("", "t10k")
    except FileNotFoundError:
        pytest.skip("Fashion-MNIST is not on this machine")
    images = data.to_model(test.read(np.arange(500)))
    assert np.mean(classifier.classes(images) == test.labels[:500]) > 0.85
    found = bj.fid.statistics_of(images_of(test, len(test)), classifier.features)
    np.testing.assert_allclose(found.mean, classifier.statistics.mean, atol=1e-4)
    np.testing.assert_allclose(found.covariance, classifier.statistics.covariance, atol=1e-3)
    assert bj.fid.frechet_distance(found, classifier.statistics) < 1e-3


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 28, 28), (2, 28, 28, 3), (2, 32, 32, 1)])
def test_images_of_another_shape(classifier, shape):
    with pytest.raises(ValueError, match=r"images: wanted shape \[B, 28, 28, 1\], got \("):
        classifier.features(np.zeros(shape))


def test_a_file_keeps_the_rounded_weights_and_the_statistics(tmp_path):
    network = ConvClassifier((4, 6), 3)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    images = np.random.default_rng(0).uniform(-1, 1, (50, 8, 8, 1))
    path = tmp_path / "it.safetensors"
    save_classifier(path, bj.models.Classifier(network, variables, (8, 8, 1)))
    rounded = load_classifier(path)
    assert rounded.statistics is None and rounded.network == network and rounded.image_shape == (8, 8, 1)
    statistics = bj.fid.statistics_of([images], rounded.features)
    save_classifier(path, dataclasses.replace(rounded, statistics=statistics))
    again = load_classifier(path)
    np.testing.assert_array_equal(again.features(images), rounded.features(images))
    assert again.statistics.count == 50
    np.testing.assert_allclose(again.statistics.mean, statistics.mean, rtol=1e-6)
    np.testing.assert_allclose(again.statistics.covariance, statistics.covariance, rtol=1e-5, atol=1e-9)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_classifier(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"wanted one of \['fashion_classifier'\] .*, got 'fashion_fmot'"):
        load_classifier("fashion_fmot")
    save_file({"a": jnp.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not of a classifier"):
        load_classifier(tmp_path / "other.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="truncated"):
        load_classifier(tmp_path / "short.safetensors")


class TestTraining:
    @pytest.fixture
    def config(self, monkeypatch):
        """Twenty steps on dark and bright images, which these tell apart."""
        labels = np.arange(64) % 2
        grey = np.random.default_rng(0).integers(0, 60, (64, 8, 8, 1)) + 190 * labels[:, None, None, None]
        dataset = data.DataSet.in_memory(grey.astype(np.uint8), labels, 2, "here")
        monkeypatch.setattr(fashion, "load", lambda *_: dataset)
        config = fashion_classifier.get_config()
        config.update(channels=(4, 6), num_steps=20, batch_size=16, learning_rate=3e-2)
        return config

    def test_what_it_writes_can_be_loaded_and_is_a_function_of_the_seed(self, config, tmp_path, capsys):
        features = []
        for name in ("one", "same"):
            train_classifier.main(config, tmp_path / name)
            found = load_classifier(tmp_path / name / "classifier.safetensors")
            features.append(found.features(np.zeros((1, 8, 8, 1))))
        assert found.statistics.count == 64 and np.array_equal(*features)
        assert "100.00 %" in capsys.readouterr().out

    def test_stopped_and_started_again_it_ends_with_the_same_bits(self, config, tmp_path, monkeypatch):
        train_classifier.main(config, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(stopping, "asked", lambda: True)
            with pytest.raises(SystemExit) as stopped:
                train_classifier.main(config, tmp_path / "stopped")
        assert stopped.value.code == stopping.RESUME
        assert not (tmp_path / "stopped" / "classifier.safetensors").exists()
        train_classifier.main(config, tmp_path / "stopped")
        found = [load_classifier(tmp_path / name / "classifier.safetensors") for name in ("whole", "stopped")]
        assert jax.tree.all(jax.tree.map(np.array_equal, *(one.variables for one in found)))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(channels=()), r"config.channels: wanted a tuple of widths .* got \(\)"),
            (dict(channels=(4, 0)), "config.channels: wanted an integer .* got 0"),
            (dict(batch_size=65), "config.batch_size: wanted an integer from 1 to 64, got 65"),
            (dict(learning_rate=-1.0), "config.learning_rate: wanted .* got -1.0"),
            (dict(learning_rate=1e30), "the loss is .*lower config.learning_rate"),
        ],
    )
    def test_bad_configs_are_refused_in_a_line(self, config, tmp_path, change, message):
        config.update(change)
        with pytest.raises(SystemExit, match=message):
            train_classifier.main(config, tmp_path / "run")
