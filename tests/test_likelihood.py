"""Inverting solvers, and the log-density of what they draw: against closed forms, linear algebra, and integrals of 1."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.run import invert, krylov, likelihood
from tests import zoo

KEY = jax.random.key(0)
FLOW = bj.analytic.mixture([[-1.0, 0.5], [1.0, 0.0], [0.0, -1.0]], std=[0.5, 0.4, 0.6], weights=[1.0, 2.0, 1.0])
EIGHT = bj.analytic.mixture(jax.random.normal(KEY, (3, 8)), std=0.4)


def log_density(flow, x):
    """The closed form of a mixture's density, in float64."""
    means, std, log_weights = (np.asarray(flow.params[name], np.float64) for name in ("means", "std", "log_weights"))
    x, size = np.asarray(x, np.float64), means.shape[1]
    squares = np.sum((x[:, None] - means) ** 2, axis=-1) / std**2
    return np.logaddexp.reduce(log_weights - 0.5 * squares - size * np.log(np.sqrt(2 * np.pi) * std), axis=1)


def samples_of(flow, num):
    """Exact samples of a mixture."""
    rng = np.random.default_rng(0)
    which = np.arange(num) % len(flow.params["std"])
    means, std = np.asarray(flow.params["means"])[which], np.asarray(flow.params["std"])[which, None]
    return jnp.asarray(means + std * rng.standard_normal(means.shape), jnp.float32)


# --- Linear algebra. ---


@pytest.fixture(scope="module")
def matrices():
    rng = np.random.default_rng(1)
    return (0.6 * np.eye(4) + 0.2 * rng.standard_normal((5, 4, 4))).astype(np.float32)


def product(matrices):
    return lambda v: jnp.einsum("bij,bj->bi", matrices, v)


def test_arnoldi_spans_an_invariant_space(matrices):
    start = jax.random.normal(KEY, (5, 4))
    for size in (2, 4):
        vectors, h = krylov.arnoldi(product(matrices), start, size)
        image = jnp.stack([product(matrices)(v) for v in vectors[:-1]])
        np.testing.assert_allclose(image, jnp.einsum("kbd,bkj->jbd", vectors, h), atol=1e-5)
        gram = jnp.einsum("kbd,lbd->bkl", vectors[:size], vectors[:size])
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(size), gram.shape), atol=1e-5)


def test_gmres_of_the_whole_space_solves(matrices):
    target = jax.random.normal(KEY, (5, 4))
    found = krylov.solution(product(matrices), target, 4)
    np.testing.assert_allclose(found, np.linalg.solve(matrices, target[..., None])[..., 0], atol=1e-4)


def test_gmres_ends_where_the_space_does():
    scaled = krylov.solution(lambda v: 0.25 * v, jnp.ones((2, 6)), 4)
    np.testing.assert_allclose(scaled, 4.0, rtol=1e-6)
    assert np.all(np.isfinite(krylov.solution(lambda v: 0 * v, jnp.ones((2, 6)), 4)))
    np.testing.assert_array_equal(krylov.solution(lambda v: v, jnp.zeros((2, 6)), 4), 0)


def test_the_mean_over_all_signs_is_the_log_determinant(matrices):
    signs = [jnp.broadcast_to(jnp.array(s, jnp.float32), (5, 4)) for s in itertools.product((-1, 1), repeat=4)]
    arnoldi = jax.jit(lambda s: krylov.arnoldi(product(matrices), s, 4)[1])
    found = np.mean([krylov.log_trace(np.asarray(arnoldi(s)), 4) for s in signs], axis=0)
    np.testing.assert_allclose(found, np.linalg.slogdet(matrices.astype(np.float64))[1], rtol=1e-4, atol=1e-4)


# --- Inversion. ---

SOLVERS = {
    "rk1": lambda: bj.init_theta("rk1", 8),
    "rk2": lambda: bj.init_theta("rk2", 4),
    "table": lambda: bj.init_theta("table", 6),
    "times": lambda: bj.init_theta("times", 6),
    "curve": lambda: bj.init_theta("curve", 6),
    "multistep": lambda: bj.classic.ipndm(8),
    "no table": lambda: bj.classic.genie(8, FLOW.scheduler),
}
FEW = ("table", "multistep", "no table")


@pytest.mark.parametrize("family", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in SOLVERS])
def test_a_solver_inverted_gives_its_noise(family):
    solver, x0 = SOLVERS[family](), FLOW.noise(KEY, (6,))
    found = bj.invert(FLOW, solver, zoo.solve(FLOW, solver, x0))
    assert np.all(found.converged) and found.evaluations > solver.nfe
    np.testing.assert_allclose(found.x0, x0, atol=1e-3)
    again = zoo.solve(FLOW, solver, found.x0)
    np.testing.assert_allclose(bj.metrics.rmse(again, zoo.solve(FLOW, solver, x0), 1), found.residual, atol=1e-6)


def test_the_flow_inverted_gives_its_noise_whatever_the_shape():
    flow = zoo.PROBLEMS["mixture image"].flow
    x0 = flow.noise(KEY, (2, 3))
    found = bj.invert(flow, None, bj.ground_truth(flow, x0, 1e-6).x1, 1e-6)
    assert found.residual is None and found.converged is None and found.x0.shape == x0.shape
    np.testing.assert_allclose(found.x0, x0, atol=1e-3)


@pytest.mark.slow
def test_batches_of_any_size_give_the_same():
    x1, solver = samples_of(FLOW, 6), bj.init_theta("rk2", 4)
    whole, parts = (bj.invert(FLOW, solver, x1, batch_size=size) for size in (None, 3))
    np.testing.assert_allclose(whole.x0, parts.x0, atol=1e-3)


@pytest.mark.slow
def test_samples_larger_than_the_krylov_space(monkeypatch):
    monkeypatch.setattr(invert, "_KRYLOV", 3)  # of 8 numbers
    x1, solver = samples_of(EIGHT, 6), bj.classic.ipndm(6)
    found = bj.invert(EIGHT, solver, x1)
    assert np.all(found.converged)
    np.testing.assert_allclose(zoo.solve(EIGHT, solver, found.x0), x1, atol=1e-4)


def test_each_sample_has_its_condition():
    def velocity(params, t, x):
        return params["weight"] * x + params["condition"]

    flow = bj.Flow(velocity, {"weight": jnp.float32(-1.0), "condition": jnp.zeros(2)}, (2,))
    flow = bj.guided(bj.given(flow, jnp.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.0]])), 0.5)
    x0, solver = flow.noise(KEY, (3,)), bj.init_theta("rk2", 2)
    for one in (solver, None):
        x1 = bj.solve(flow, solver, x0) if one else bj.ground_truth(flow, x0, 1e-6).x1
        found = bj.log_likelihood(flow, one, x1)
        np.testing.assert_allclose(found.x0, x0, atol=1e-3)
        # x' = -x + c: the map is linear, with the same factor for every condition.
        factor = (1 - 0.5 + 0.5**2 / 2) ** 2 if one else np.exp(-1)
        np.testing.assert_allclose(found.log_det, 2 * np.log(factor), atol=1e-3)
    with pytest.raises(ValueError, match=r"^x1: wanted as many samples as the flow has conditions, 3, got 2"):
        bj.invert(flow, solver, x0[:2])


def collapsing(params, t, x):
    return -x


def test_samples_out_of_reach_are_named():
    flow, euler = bj.Flow(collapsing, None, (2,)), bj.classic.euler(1)  # x1 = x0 - x0
    unmet = r"^invert: 2 of 3 samples did not converge; the largest residual is 1\.2 of the RMS"
    with pytest.warns(UserWarning, match="^log_likelihood: .* at 1 of 3"), pytest.warns(UserWarning, match=unmet):
        found = bj.log_likelihood(flow, euler, jnp.array([[1.0, 1.0], [0.0, 0.0], [-1.0, 1.0]]))
    assert np.isnan(found.log_p).tolist() == [True, False, True] or np.isinf(found.log_det[1])


def folding(params, t, x):
    return -3 * x


def test_a_fold_is_said():
    flow, euler = bj.Flow(folding, None, ()), bj.classic.euler(1)  # x1 = -2 x0
    with pytest.warns(UserWarning, match=r"^log_likelihood: the solver folds space at 2 of 2 samples"):
        found = bj.log_likelihood(flow, euler, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found.log_det, np.log(2), rtol=1e-5)


@pytest.mark.parametrize("num_probes", [None, 2])
def test_a_singular_map_is_said(num_probes):
    flow, euler = bj.Flow(lambda p, t, x: jnp.stack([-2 * x[:, 0], 0 * x[:, 1]], 1), None, (2,)), bj.classic.euler(2)
    with pytest.warns(UserWarning, match=r"^log_likelihood: the solver folds space at 2 of 2 samples .* negative or 0"):
        found = bj.log_likelihood(flow, euler, jnp.array([[0.0, 1.0], [0.0, 2.0]]), KEY, num_probes=num_probes)
    assert np.all(found.log_det == -np.inf) and np.all(found.log_p == np.inf)
    assert num_probes is None or np.all(np.isnan(found.standard_error))


def test_probes_tell_singular_maps_from_those_of_another_scale(matrices):
    of_rank_3 = matrices - matrices.mean(axis=2, keepdims=True)  # takes (1, 1, 1, 1) to 0
    signs = jax.random.rademacher(KEY, (5, 4), jnp.float32)
    for singular, cases in ((False, (matrices, 1e-9 * matrices, 1e9 * matrices)), (True, (of_rank_3, 0 * matrices))):
        for case in cases:
            h = krylov.arnoldi(product(case), signs, 4)[1]
            assert np.all(likelihood._is_singular(np.asarray(h)) == singular)
    for factor in (-1e-9, 1e9):  # whose spaces end at once
        h = krylov.arnoldi(lambda v, factor=factor: factor * v, signs, 4)[1]
        assert not np.any(likelihood._is_singular(np.asarray(h)))


# --- The density. ---


@pytest.mark.parametrize("num_probes", [None, 2])
def test_the_density_is_of_all_numbers_whatever_their_weights(num_probes):
    flow = bj.Flow(lambda p, t, x: jnp.stack([0 * x[:, 0], jnp.tanh(3 * x[:, 1])], 1), None, (2,))
    euler = bj.classic.euler(3)
    x0 = jnp.array([[0.1, 0.5], [0.3, -1.0]])
    x1 = bj.solve(flow, euler, x0)
    plain, found = (
        bj.log_likelihood(one, euler, x1, KEY, num_probes=num_probes)
        for one in (flow, flow.replace(weights=[1.0, 0.0]))
    )
    np.testing.assert_allclose(found.x0, x0, atol=1e-5)
    np.testing.assert_allclose(found.log_p, plain.log_p, atol=1e-5)
    np.testing.assert_allclose(found.residual, plain.residual, atol=1e-6)


@pytest.mark.parametrize("num_probes", [None, 1])
def test_one_sample_of_one_number(num_probes):
    flow, euler = bj.Flow(lambda p, t, x: 2 * x, None, ()), bj.classic.euler(1)  # x1 = 3 x0
    found = bj.log_likelihood(flow, euler, jnp.asarray(1.5), KEY, num_probes=num_probes)
    assert found.x0.shape == found.log_p.shape == found.residual.shape == found.bits_per_dimension.shape == ()
    wanted = -0.5 * 0.5**2 - 0.5 * np.log(2 * np.pi) - np.log(3)
    np.testing.assert_allclose([found.log_p, -found.bits_per_dimension * np.log(2)], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "scheduler", ["CondOT", *(pytest.param(n, marks=pytest.mark.slow) for n in ("EDM", "Cosine", "VariancePreserving"))]
)
def test_gaussian_data_has_a_gaussian_density(scheduler):
    flow = bj.analytic.gaussian([0.5, -1.0, 0.0], 0.4, zoo.SCHEDULERS[scheduler])
    x1, (alpha, sigma, *_) = samples_of(flow, 4), flow.scheduler.at(jnp.zeros(()))
    # Its paths are linear in the noise, N(0, sigma_0^2): see `analytic.gaussian`.
    for solver in (None, bj.init_theta("rk2", 3)):
        if solver is None:
            last = flow.scheduler.at(jnp.ones(()))
            factor = np.sqrt((last.alpha**2 * 0.16 + last.sigma**2) / (alpha**2 * 0.16 + sigma**2))
            mean = last.alpha * flow.params["means"][0] - factor * alpha * flow.params["means"][0]
        else:
            ends = zoo.solve(flow, solver, jnp.array([[0.0] * 3, [1.0] * 3]))
            mean, factor = ends[0], (ends[1] - ends[0])[0]
        std = abs(np.float64(factor)) * np.float64(sigma)
        wanted = -0.5 * np.sum(((x1 - mean) / std) ** 2, axis=1) - 3 * np.log(np.sqrt(2 * np.pi) * std)
        found = bj.log_likelihood(flow, solver, x1)
        np.testing.assert_allclose(found.log_p, wanted, atol=3e-3)
        np.testing.assert_allclose(found.bits_per_dimension, -found.log_p / 3 / np.log(2))


@pytest.mark.slow
def test_the_density_of_a_mixture():
    x1 = samples_of(EIGHT, 16)
    wanted = log_density(EIGHT, x1)
    errors = []
    for solver in (bj.init_theta("rk2", 4), bj.init_theta("rk2", 16), None):
        errors.append(np.sqrt(np.mean((bj.log_likelihood(EIGHT, solver, x1).log_p - wanted) ** 2)))
    assert errors[2] < 1e-3 < 10 * errors[1] < errors[0]  # order 2: a sixteenth


@pytest.mark.slow
def test_the_density_of_a_crude_solver_integrates_to_one():
    flow = bj.analytic.mixture([-1.0, 1.0], std=0.5)
    solver = bj.init_theta("rk2", 3)
    grid = jnp.linspace(-4.0, 4.0, 257)
    log_p = bj.log_likelihood(flow, solver, grid).log_p
    assert abs(np.trapezoid(np.exp(log_p), grid) - 1) < 1e-3
    truth = bj.log_likelihood(flow, None, grid).log_p
    assert np.max(np.abs(np.exp(log_p) - np.exp(truth))) > 1e-2  # it is the solver's density, not the flow's


@pytest.mark.parametrize(
    "solver", [bj.classic.ipndm(8), pytest.param(None, marks=pytest.mark.slow)], ids=["solver", "flow"]
)
def test_probes_agree_with_the_exact_determinant(solver):
    x1 = samples_of(EIGHT, 8)
    exact = bj.log_likelihood(EIGHT, solver, x1)
    found = bj.log_likelihood(EIGHT, solver, x1, KEY, num_probes=16)
    assert exact.standard_error is None and found.standard_error.shape == (8,)
    away = (found.log_p - exact.log_p) / found.standard_error
    assert np.abs(away).max() < 4 and 0.3 < np.sqrt(np.mean(away**2)) < 2
    np.testing.assert_allclose(found.x0, exact.x0, atol=1e-3)


# --- What is refused. ---


def test_what_is_refused():
    x1, solver = samples_of(FLOW, 2), bj.init_theta("rk2", 2)
    large = bj.Flow(collapsing, None, (1025,))
    for call, message in (
        (lambda: bj.invert(FLOW, "rk2", x1), "solver: wanted a learned solver"),
        (lambda: bj.invert(FLOW, solver, x1.astype(jnp.bfloat16)), "x1: wanted float32 or float64, got bfloat16"),
        (lambda: bj.invert(FLOW, solver, jnp.full((2, 2), jnp.nan)), "x1: wanted finite numbers"),
        (lambda: bj.invert(FLOW, solver, x1[:0]), "x1: wanted at least one sample"),
        (lambda: jax.jit(lambda x: bj.invert(FLOW, solver, x).x0)(x1), "x1: wanted concrete arrays"),
        (lambda: bj.log_likelihood(FLOW, solver, x1, num_probes=2), "key: wanted one JAX random key"),
        (lambda: bj.log_likelihood(large, solver, jnp.zeros((1, 1025))), "num_probes: wanted a number"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            call()


def test_a_source_of_its_own_has_no_known_density():
    flow = bj.Flow(collapsing, None, (2,))
    flow.source = types.SimpleNamespace()  # as flows with a source have it
    with pytest.raises(ValueError, match=r"^flow: wanted one whose noise is Gaussian"):
        bj.log_likelihood(flow, bj.init_theta("rk2", 2), jnp.zeros((1, 2)))


@pytest.mark.parametrize(
    "call",
    [lambda flow, x1: bj.log_likelihood(flow, None, x1), lambda flow, x1: bj.invert(flow, bj.classic.euler(4), x1)],
    ids=["flow", "solver"],
)
def test_a_velocity_that_fails_on_the_way_back_says_whose_time_it_names(call):
    flow = bj.Flow(lambda p, t, x: jnp.where(t < 0.25, jnp.nan, -x), None, (2,), bj.schedulers.CondOT())
    wanted = r"after t = 0\.75 .*The solve ran from data to noise: its t is 1 minus that of the flow\.$"
    with pytest.raises(FloatingPointError, match=wanted):
        call(flow, jnp.ones((2, 2)))
