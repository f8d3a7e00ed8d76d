"""The plots: what the lines, matrices and images hold are the numbers given; no pixels are compared."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import bespoke_jax as bj
from bespoke_jax.plots.pictures import tiled
from bespoke_jax.plots.style import looks_of
from bespoke_jax.run.scores import score

RANDOM = np.random.default_rng(0)


def scores(*nfes, error=0.1):
    """Scores of a solver of order 2 whose samples' errors are half and one and a half of `error` / nfe^2."""
    return {nfe: score("mine", error / nfe**2 * np.array([0.5, 1.5]), 2.0) for nfe in nfes}


class TestLaziness:
    def test_matplotlib_is_imported_by_the_first_plot(self):
        code = (
            "import sys, bespoke_jax as bj; bj.plots; assert 'matplotlib' not in sys.modules;"
            "bj.plots.images; assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_without_matplotlib_the_extra_is_named(self, monkeypatch):
        for name in [name for name in sys.modules if name.startswith(("matplotlib", "bespoke_jax.plots."))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"plots\.images: wanted matplotlib.*'bespoke-jax\[plots\]'"):
            bj.plots.__getattr__("images")

    def test_every_public_name_is_found(self):
        assert all(callable(getattr(bj.plots, name)) for name in bj.plots.__all__)
        with pytest.raises(AttributeError):
            _ = bj.plots.nothing


class TestErrorAgainstCalls:
    def test_bands_are_one_standard_error(self):
        found = scores(4, 8)
        for measure in ("psnr", "mean_psnr", "rmse"):
            axes = bj.plots.error_against_calls({"mine": found}, measure=measure)
            (line,), (band,) = axes.lines, axes.collections
            np.testing.assert_allclose(line.get_xydata()[:, 0], [4, 8])
            middle = np.array([getattr(found[nfe], measure) for nfe in (4, 8)])
            np.testing.assert_allclose(line.get_ydata(), middle)
            corners = band.get_paths()[0].vertices
            at_4 = np.unique(corners[corners[:, 0] == 4, 1])
            one = found[4]
            wanted = {
                "psnr": bj.metrics.psnr(np.array([one.rmse + one.standard_error, one.rmse - one.standard_error])),
                "mean_psnr": one.mean_psnr + one.mean_psnr_standard_error * np.array([-1, 1]),
                "rmse": one.rmse + one.standard_error * np.array([-1, 1]),
            }[measure]
            np.testing.assert_allclose(at_4[[0, -1]], wanted, rtol=1e-5)

    def test_bands_are_names(self):
        found = {"mine": scores(4, 8), "theirs": scores(4, 8)}
        assert len(bj.plots.error_against_calls(found, bands=["theirs"]).collections) == 1
        for bands in (jax.random.key(0), np.array("mine"), "mine", iter(["mine"]), 3, [3]):
            with pytest.raises(TypeError, match=r"^bands: wanted names of solvers, or None, got "):
                bj.plots.error_against_calls(found, bands=bands)

    def test_standard_error_of_the_mean_psnr(self):
        errors = np.exp(RANDOM.normal(size=50))
        found = score("mine", errors, 2.0)
        decibels = np.array([bj.metrics.psnr(error) for error in errors])
        assert found.mean_psnr_standard_error == pytest.approx(decibels.std(ddof=1) / 50**0.5, rel=1e-5)
        assert found.standard_error == pytest.approx(errors.std(ddof=1) / 50**0.5)
        assert score("mine", np.array([1.0, np.nan]), 2.0).mean_psnr_standard_error == np.inf

    def test_a_single_point_has_a_bar(self):
        one = scores(4)
        (bar,) = bj.plots.error_against_calls({"mine": one}, measure="rmse").collections
        wanted = one[4].rmse + one[4].standard_error * np.array([-1, 1])
        np.testing.assert_allclose(bar.get_segments()[0], [[4, wanted[0]], [4, wanted[1]]])

    @pytest.mark.parametrize("measure", ["psnr", "mean_psnr", "rmse"])
    def test_one_sample_has_a_line_without_a_band(self, measure):
        found = {nfe: score("mine", np.array([1 / nfe]), 2.0) for nfe in (4, 8)}
        axes = bj.plots.error_against_calls({"mine": found}, measure=measure)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [getattr(found[nfe], measure) for nfe in (4, 8)])
        axes.figure.canvas.draw()

    def test_a_solver_that_diverged_leaves_a_gap(self):
        found = scores(4, 8) | {6: score("mine", np.array([np.nan, 1.0]), 2.0)}
        (line,) = bj.plots.error_against_calls({"mine": found}).lines
        assert line.get_xdata().tolist() == [4, 6, 8] and np.isnan(line.get_ydata()).tolist() == [False, True, False]

    def test_draws_on_the_axes_given_with_the_looks_given(self):
        figure = Figure()
        axes = figure.subplots()
        drawn = bj.plots.error_against_calls(
            {"rk2": scores(4), "mine": scores(4)}, axes, looks={"mine": dict(color="red")}
        )
        assert drawn is axes and [line.get_color() for line in axes.lines] == [looks_of(["rk2"])["rk2"]["color"], "red"]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({}, "scores: wanted scores by name, got none"),
            ({"mine": {}}, r"scores\['mine'\]: wanted scores by NFE"),
            ({"mine": {8: 0.1}}, r"scores\['mine'\]\[8\]: wanted a score with rmse, psnr and mean_psnr, got float"),
            ({"mine": {8.5: score("mine", np.ones(2), 2.0)}}, "an NFE: wanted an integer"),
            ({3: scores(4)}, "scores: wanted a dict of scores by name"),
        ],
    )
    def test_what_is_refused(self, value, message):
        with pytest.raises((TypeError, ValueError), match=message):
            bj.plots.error_against_calls(value)

    @pytest.mark.parametrize("name", ["euler", "midpoint", "best dedicated"])
    def test_the_checked_solver_has_a_name_of_its_own(self, name):
        with pytest.raises(ValueError, match="name: wanted another than those of the usual solvers"):
            bj.plots.scores_of_checks([], name)


def test_other_lines_look_different():
    looks = looks_of(["truth", "rk2", "table", "a", "b", "c", "d"])
    assert len({look["color"] for look in looks.values()}) == 7


class TestCoefficients:
    def test_panels_hold_the_table(self):
        m, xi = 3, RANDOM.uniform(-1, 1, (4, 5, 1)).astype(np.float32)
        b = np.tril(RANDOM.normal(size=(m, m))).astype(np.float32)
        table = dataclasses.replace(
            bj.classic.euler(m), b=jnp.asarray(b), first=jnp.float32(0.9), c=jnp.arange(4.0), xi=jnp.asarray(xi)
        )
        times, noise, matrix, image, _ = bj.plots.coefficients(table).axes
        np.testing.assert_array_equal(times.lines[1].get_xydata(), np.stack([np.arange(m), table.t], axis=1))
        np.testing.assert_array_equal(noise.lines[0].get_ydata(), np.float32([0.9, 1, 1, 1]))
        np.testing.assert_array_equal(noise.lines[1].get_ydata(), np.arange(4))
        shown = matrix.images[0].get_array()
        np.testing.assert_array_equal(shown.filled(0), b)
        assert shown.mask.tolist() == np.triu(np.ones((m, m), bool), 1).tolist()
        np.testing.assert_allclose(image.images[0].get_array(), (xi[..., 0] + 1) / 2, rtol=1e-6)

    def test_theta_and_its_table_look_alike(self):
        theta = bj.init_theta("rk2", 2)
        one, other = bj.plots.coefficients(theta), bj.plots.coefficients(bj.to_table(theta))
        np.testing.assert_array_equal(*(figure.axes[2].images[0].get_array() for figure in (one, other)))

    def test_knots(self):
        theta = bj.theta_from_knots("rk1", [0, 0.3, 1], [0.5, 2], [1, 1.5, 0.7], [0.1, -0.2])
        panels = bj.plots.knots({"n = 2": theta}).axes
        for axes, values in zip(panels, ([0, 0.3, 1], [0.5, 2], [1, 1.5, 0.7], [0.1, -0.2]), strict=True):
            r = np.arange(len(values)) / 2
            np.testing.assert_allclose(axes.lines[1].get_xydata(), np.stack([r, values], axis=1), atol=1e-6)


class TestPlane:
    def test_it_keeps_what_lies_in_a_plane(self):
        axes = np.linalg.qr(RANDOM.normal(size=(10, 2)))[0].T
        points, others = RANDOM.normal(size=(5, 2)), RANDOM.normal(size=(7, 2))
        flat = bj.plots.principal_plane(points @ axes, others @ axes)
        for here, there in zip(flat, (points, others), strict=True):
            distances = np.linalg.norm(here[:, None] - here[None], axis=-1)
            np.testing.assert_allclose(distances, np.linalg.norm(there[:, None] - there[None], axis=-1), atol=1e-12)

    def test_paths_of_two_numbers_are_drawn_as_they_are(self):
        states = {"truth": RANDOM.normal(size=(9, 3, 2)), "mine": RANDOM.normal(size=(5, 3, 2))}
        axes = bj.plots.paths(states)
        for k in range(3):
            np.testing.assert_array_equal(axes.lines[k].get_xydata(), states["truth"][:, k])
            np.testing.assert_array_equal(axes.lines[3 + k].get_xydata(), states["mine"][:, k])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["truth", "mine", "noise"]

    def test_paths_of_images_are_drawn_in_the_principal_plane(self):
        states = {"truth": RANDOM.normal(size=(9, 2, 4, 4, 1)), "mine": RANDOM.normal(size=(5, 2, 4, 4, 1))}
        flat = bj.plots.principal_plane(*(x.reshape(-1, 16) for x in states.values()))
        axes = bj.plots.paths(states)
        np.testing.assert_allclose(axes.lines[3].get_xydata(), flat[1].reshape(5, 2, 2)[:, 1])

    def test_the_ends_of_a_path_are_named_outside_the_picture(self):
        rising = np.linspace([0.0, 0.0], [1.0, 1.0], 5)[:, None]
        noise, data = (text for text in bj.plots.paths({"truth": rising}).texts if text.get_text())
        assert (noise.get_text(), noise.xyann[1] < 0, data.get_text(), data.xyann[1] > 0) == (
            "noise",
            True,
            "data",
            True,
        )

    def test_a_solver_that_diverged_does_not_move_the_plane(self):
        points, broken = RANDOM.normal(size=(5, 3)), np.full((2, 3), np.nan)
        alone, (beside, nothing) = bj.plots.principal_plane(points)[0], bj.plots.principal_plane(points, broken)
        np.testing.assert_array_equal(alone, beside)
        assert np.isnan(nothing).all()

    def test_points_of_one_number_stand_over_the_true_ones(self):
        true, found = RANDOM.normal(size=(6, 1)), RANDOM.normal(size=(6, 1))
        (axes,) = bj.plots.points({"mine": found}, true).axes
        np.testing.assert_array_equal(axes.collections[1].get_offsets(), np.concatenate([true, found], axis=1))
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.concatenate([true, true], axis=1))

    def test_what_is_refused(self):
        states = np.zeros((5, 3, 2))
        with pytest.raises(
            ValueError, match=r"states\['b'\]: wanted the last axes of the others, \(3, 2\), got \(4, 2\)"
        ):
            bj.plots.paths({"a": states, "b": np.zeros((5, 4, 2))})
        with pytest.raises(ValueError, match=r"states: wanted events of 2 numbers or more, got shape \(\)"):
            bj.plots.paths({"a": states[..., 0]})
        with pytest.raises(TypeError, match="axes: wanted matplotlib Axes, got Figure"):
            bj.plots.paths({"a": states}, Figure())


class TestImages:
    def test_tiles(self):
        rows = [RANDOM.uniform(size=(3, 4, 5, 1)) for _ in range(2)]
        whole = tiled(rows)
        assert whole.shape == (2 * 4 + 1, 3 * 5 + 2)
        np.testing.assert_array_equal(whole[5:9, 6:11], rows[1][1, ..., 0])
        assert np.isnan(whole[4]).all() and np.isnan(whole[:, 5]).all()
        assert tiled([np.zeros((2, 4, 5, 3))]).shape == (4, 11, 3)

    def test_errors_have_one_scale(self):
        true = RANDOM.uniform(-1, 1, (2, 8, 8, 3))
        rows = {"near": true + 0.01, "far": true - 0.1}
        left, right, _ = bj.plots.image_errors(rows, true, limit=0.1).axes
        (shown,) = right.images
        assert (shown.norm.vmin, shown.norm.vmax) == (-0.1, 0.1)
        np.testing.assert_allclose(shown.get_array()[9:17, :8], 0.01)
        np.testing.assert_allclose(shown.get_array()[18:, 9:], -0.1)
        assert [label.get_text() for label in right.get_yticklabels()] == ["46.0 dB", "26.0 dB"]
        assert [label.get_text() for label in left.get_yticklabels()] == ["truth", "near", "far"]

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"rows\['a'\]: wanted images .* got shape \(2, 8, 8\)"):
            bj.plots.images({"a": np.zeros((2, 8, 8))})
        with pytest.raises(
            ValueError, match=r"truth: wanted the shape of the samples, \(2, 8, 8, 1\), got \(3, 8, 8, 1\)"
        ):
            bj.plots.image_errors({"a": np.zeros((2, 8, 8, 1))}, np.zeros((3, 8, 8, 1)))


class TestAnimation:
    def test_points_move_straight_from_state_to_state(self, tmp_path):
        states = {"truth": RANDOM.normal(size=(9, 4, 2)), "mine": RANDOM.normal(size=(3, 4, 2))}
        film = bj.plots.animation(states, seconds=0.4)
        film.save(tmp_path / "solve.gif", writer="pillow", dpi=40)
        with Image.open(tmp_path / "solve.gif") as gif:
            assert gif.n_frames > 1
        axes = film._fig.axes[1]
        np.testing.assert_array_equal(axes.collections[-1].get_offsets(), states["mine"][-1])
        film._func(0.25)
        np.testing.assert_allclose(axes.collections[-1].get_offsets(), states["mine"][:2].mean(axis=0))
        assert axes.get_title() == "mine, step 0 of 2"

    def test_images_stay_until_the_next(self):
        states = RANDOM.uniform(-1, 1, (3, 1, 8, 8, 1))
        film = bj.plots.animation({"mine": states})
        film._func(0.75)
        np.testing.assert_allclose(film._fig.axes[0].images[0].get_array(), (states[1, 0, ..., 0] + 1) / 2)
        film._draw_was_started = True  # matplotlib warns of a film that nobody has seen
