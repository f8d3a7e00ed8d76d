"""Dedicated solvers: against other people's code, at their order of convergence, and where they must be exact.

A table is run in NumPy here, so that nothing is compiled; test_table.py has the tables in `solve`.
"""

import functools
import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bespoke_jax as bj
from bespoke_jax.classic import levels
from tests import reference, zoo
from tests.golden import make_classic as golden

classic = bj.classic


def run(table, u, x0):
    """x1 from a table of arrays and a velocity u(t, x)."""
    t, a, b = (np.asarray(value, np.float64) for value in (table.t, table.a, table.b))
    x, velocities = x0, np.zeros((len(t), *np.shape(x0)))
    for i in range(len(t)):
        velocities[i] = u(t[i], x)
        x = a[i] * x0 + np.tensordot(b[i, : i + 1], velocities[: i + 1], axes=1)
    return x


def double(solver, *args, **options):
    """The table in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        return jax.tree.map(np.asarray, solver(*args, **options, dtype=jnp.float64))


def velocity(level):
    """u(t, x) of the golden mixture, for level(t) = (alpha, sigma, alphadot, sigmadot)."""

    def u(t, x):
        alpha, sigma, alpha_dot, sigma_dot = level(t)
        x1, x0 = golden.predictions(alpha, sigma, x)
        return alpha_dot * x1 + sigma_dot * x0

    return u


# --- Against other people's code, float64: see golden/make_classic.py. ---


@functools.cache
def data():
    with np.load(golden.FILE) as arrays:
        return dict(arrays)


def vp_level(t):
    scale = 1 - golden.T_END
    alpha, sigma, alpha_dot, sigma_dot = reference.variance_preserving(scale * t)
    return alpha, sigma, scale * alpha_dot, scale * sigma_dot


def _vp_log_alpha(t):
    s = 1 - (1 - golden.T_END) * t
    return -(s**2) * (20 - 0.1) / 4 - s * 0.1 / 2


VP = bj.schedulers.Scheduler(lambda t: jnp.exp(_vp_log_alpha(t)), lambda t: jnp.sqrt(-jnp.expm1(2 * _vp_log_alpha(t))))
FLOW = bj.schedulers.Scheduler(lambda t: 1 - golden.FLOW_START * (1 - t), lambda t: golden.FLOW_START * (1 - t))
ANGULAR = bj.schedulers.Scheduler(lambda t: jnp.cos(golden.ANGLE * (1 - t)), lambda t: jnp.sin(golden.ANGLE * (1 - t)))
EXPLODING = bj.schedulers.Scheduler(lambda t: 1.0, lambda t: 20.0 * (1 - t))


def flow_level(t):
    sigma = golden.FLOW_START * (1 - t)
    return 1 - sigma, sigma, golden.FLOW_START, -golden.FLOW_START


def angular_level(t):
    angle = golden.ANGLE * (1 - t)
    return math.cos(angle), math.sin(angle), golden.ANGLE * math.sin(angle), -golden.ANGLE * math.cos(angle)


def vp_cases():
    grid, n = golden.vp_times(golden.STEPS), golden.STEPS
    cases = {"ddim": (classic.ddim, {})}
    for order in (1, 2, 3):
        for final in (False, True):
            options = dict(order=order, lower_order_final=final)
            cases[f"dpm_solver_pp-{order}-{final}"] = classic.dpm_solver_pp, options
            for variant in ("bh1", "bh2"):
                for corrector in (False, True):
                    options = dict(order=order, variant=variant, corrector=corrector, lower_order_final=final)
                    cases[f"unipc-{order}-{variant}-{corrector}-{final}"] = classic.unipc, options
        cases[f"deis-{order}"] = classic.deis, dict(order=order, variable="log_rho")
    cases = {
        name: (solver, dict(nfe=n, scheduler=VP, grid=grid, **options)) for name, (solver, options) in cases.items()
    }
    for name in ("dpm_solver_2", "dpm_solver_pp_2s"):
        cases[name] = getattr(classic, name), dict(nfe=n, scheduler=VP, grid=golden.vp_times(n // 2))
    return cases


VP_CASES = vp_cases()


def test_every_golden_array_of_the_vp_path_is_compared():
    kept = {name.removeprefix("vp/") for name in data() if name.startswith("vp/")}
    assert kept - {"times", "half_times"} == set(VP_CASES)


@pytest.mark.parametrize("name", VP_CASES)
def test_against_diffusers_on_the_vp_path(name):
    solver, options = VP_CASES[name]
    np.testing.assert_allclose(
        run(double(solver, **options), velocity(vp_level), golden.X0), data()[f"vp/{name}"], rtol=1e-10, atol=1e-11
    )


OFFICIAL = {
    "dpmsolver-singlestep-2": classic.dpm_solver_2,
    "dpmsolver-singlestep-3": classic.dpm_solver_3,
    "dpmsolver++-singlestep-2": classic.dpm_solver_pp_2s,
    "dpmsolver++-multistep-3": functools.partial(classic.dpm_solver_pp, order=3),
}


def test_against_the_dpm_solver_authors_from_end_to_end():
    # With their own grids, orders of the steps and intermediate times.
    names = [name for name in data() if name.startswith("official/")]
    assert len(names) == 13
    for name in names:
        solver, nfe, skip = name.removeprefix("official/").rsplit("-", 2)
        grid = {"logSNR": "log_snr", "time_uniform": "uniform"}[skip]
        found = run(double(OFFICIAL[solver], int(nfe), VP, grid=grid), velocity(vp_level), golden.X0)
        np.testing.assert_allclose(found, data()[name], rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("order", [2, 3])
def test_against_diffusers_on_the_straight_path_to_sigma_0(order):
    cases = {"dpm_solver_pp": (classic.dpm_solver_pp, dict(lower_order_final=False)), "unipc": (classic.unipc, {})}
    for name, (solver, options) in cases.items():
        table = double(solver, golden.STEPS, FLOW, order, grid="uniform", **options)
        wanted = data()[f"flow/{name}-{order}"]
        np.testing.assert_allclose(run(table, velocity(flow_level), golden.X0), wanted, rtol=1e-10, atol=1e-11)


def test_edm_heun_against_diffusers():
    grid = 1 - data()["heun/sigmas"] / 20.0
    table = double(classic.edm_heun, 2 * golden.STEPS - 1, EXPLODING, grid=grid)
    found = run(table, velocity(lambda t: (1.0, 20.0 * (1 - t), 0.0, -20.0)), 20.0 * golden.X0)
    np.testing.assert_allclose(found, data()["heun/heun"], rtol=1e-10, atol=1e-11)


def test_ipndm_against_diffusers():
    table = double(classic.ipndm, golden.STEPS, 4, scheduler=ANGULAR, coefficients="fixed")
    np.testing.assert_allclose(
        run(table, velocity(angular_level), golden.X0), data()["cosine/ipndm"], rtol=1e-10, atol=1e-11
    )


def test_deis_weights_against_quadrature():
    # tAB-DEIS by the paper's integrals, with Gauss's rule in many pieces.
    n, order = 5, 3
    times = golden.vp_times(n)

    def weights(nodes, end):
        points, gauss = np.polynomial.legendre.leggauss(20)
        out = np.zeros(len(nodes))
        edges = np.linspace(nodes[0], end, 21)
        for low, high in itertools.pairwise(edges):
            for point, weight in zip(points, gauss, strict=True):
                tau = (low + high) / 2 + (high - low) / 2 * point
                alpha, sigma, alpha_dot, sigma_dot = vp_level(tau)
                rate = (sigma_dot * alpha - sigma * alpha_dot) / alpha**2  # d(sigma / alpha) / dt
                for j, node in enumerate(nodes):
                    others = [other for other in nodes if other != node]
                    lagrange = np.prod([(tau - other) / (node - other) for other in others])
                    out[j] += weight * (high - low) / 2 * rate * lagrange
        return out

    x, known = golden.X0, []
    for i in range(n):
        (alpha_s, sigma_s, *_), (alpha_t, *_) = vp_level(times[i]), vp_level(times[i + 1])
        known = [(times[i], golden.predictions(alpha_s, sigma_s, x)[1]), *known][:order]
        nodes, noises = zip(*known, strict=True)
        x = alpha_t * (x / alpha_s + np.tensordot(weights(nodes, times[i + 1]), np.array(noises), axes=1))
    found = run(double(classic.deis, n, VP, order, grid=times), velocity(vp_level), golden.X0)
    np.testing.assert_allclose(found, x, rtol=1e-9)


# --- Order of convergence, on the mixture and a scheduler that is finite and smooth from end to end. ---

SMOOTH = bj.schedulers.Scheduler(lambda t: 0.2 + 0.8 * t, lambda t: 1.0 - 0.95 * t)


def smooth_level(t):
    return 0.2 + 0.8 * t, 1.0 - 0.95 * t, 0.8, -0.95


def graded(n):
    """Steps smooth in log-SNR, small at the start: the first ones, of lower order, then do no harm."""
    snr = np.exp(math.log(0.2) + math.log(100) * (np.arange(n + 1) / n) ** 2)
    t = (snr - 0.2) / (0.8 + 0.95 * snr)
    t[0], t[-1] = 0.0, 1.0
    return t


@functools.cache
def truth(level=smooth_level):
    """x1 by RK4, far finer than the errors looked at."""
    return reference.rk4(velocity(level), golden.X0, 1000)


def full(solver, **options):
    return lambda n: solver(n, scheduler=SMOOTH, grid=graded(n), dtype=jnp.float64, **options)


ORDERS = {  # name -> (from a number of evaluations to a table, order, numbers of evaluations)
    "ddim": (full(classic.ddim), 1, (32, 64, 128)),
    "dpm_solver_pp-2m": (full(classic.dpm_solver_pp, order=2, lower_order_final=False), 2, (32, 64, 128)),
    "dpm_solver_pp-3m": (full(classic.dpm_solver_pp, order=3, lower_order_final=False), 2, (96, 144, 216)),
    "dpm_solver_2": (
        lambda n: classic.dpm_solver_2(n, SMOOTH, grid=graded(n // 2), dtype=jnp.float64),
        2,
        (32, 64, 128),
    ),
    "dpm_solver_pp_2s": (
        lambda n: classic.dpm_solver_pp_2s(n, SMOOTH, grid=graded(n // 2), dtype=jnp.float64),
        2,
        (32, 64, 128),
    ),
    "dpm_solver_3": (
        lambda n: classic.dpm_solver_3(n, SMOOTH, grid=graded(n // 3 + 1), dtype=jnp.float64),
        3,
        (47, 95, 191),  # these end with a step of order 2
    ),
    "edm_heun": (lambda n: classic.edm_heun(n, SMOOTH, grid=graded(n // 2), dtype=jnp.float64), 2, (32, 64, 128)),
    "edm_heun odd": (
        lambda n: classic.edm_heun(n, SMOOTH, grid=graded((n + 1) // 2), dtype=jnp.float64),
        2,
        (31, 63, 127),
    ),
    **{
        f"unip-{order}": (
            full(classic.unipc, order=order, corrector=False, lower_order_final=False),
            order,
            (32, 64, 128),
        )
        for order in (1, 2, 3)
    },
    **{
        f"unipc-{order}-{variant}": (
            full(classic.unipc, order=order, variant=variant, lower_order_final=False),
            order + 1,
            (32, 64, 128),
        )
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
    },
    **{
        f"deis-{order}-{variable}": (full(classic.deis, order=order, variable=variable), order, (32, 64, 128))
        for order in (1, 2, 3, 4)
        for variable in ("t", "rho", "log_rho")
    },
    **{
        f"ipndm-{order}": (
            lambda n, order=order: classic.ipndm(n, order, grid=graded(n), dtype=jnp.float64),
            order,
            (32, 64, 128),
        )
        for order in (1, 2, 3, 4)
    },
    **{
        f"ipndm_noise-{order}": (full(classic.ipndm, order=order, coefficients="variable"), order, (32, 64, 128))
        for order in (1, 2, 3, 4)
    },
    **{
        name: (
            lambda n, name=name, s=stages: getattr(classic, name)(n, jnp.float64, grid=graded(n // s)),
            order,
            (32, 64, 128),
        )
        for name, stages, order in [("euler", 1, 1), ("midpoint", 2, 2), ("heun", 2, 2), ("rk4", 4, 4)]
    },
}


@pytest.mark.parametrize("name", ORDERS)
def test_solvers_converge_at_their_order(name):
    make, order, nfes = ORDERS[name]
    errors = []
    for nfe in nfes:
        with jax.enable_x64(True):
            table = make(nfe)
        assert table.nfe == nfe
        errors.append(reference.rms(run(table, velocity(smooth_level), golden.X0) - truth()))
    assert reference.order_of(errors, nfes) == pytest.approx(order, abs=0.35)


# --- Where the signal-to-noise ratio is 0 or infinite. ---


def straight_level(t):
    return t, 1 - t, 1.0, -1.0


EVERYTHING = [
    pytest.param(name, nfe, marks=pytest.mark.slow if nfe in (2, 4) else ())
    for name in zoo.SCHEDULERS
    for nfe in (1, 2, 3, 4, 7)
]


@pytest.mark.parametrize("name, nfe", EVERYTHING)
def test_all_solvers_are_finite_and_well_formed_on_every_scheduler(name, nfe):
    tables = classic.dedicated(nfe, zoo.SCHEDULERS[name])
    for key, table in tables.items():
        t, a, b = (np.asarray(value) for value in (table.t, table.a, table.b))
        assert t.shape == a.shape == (nfe,) and b.shape == (nfe, nfe), key
        assert all(np.all(np.isfinite(value)) and value.dtype == np.float32 for value in (t, a, b)), key
        assert t[0] == 0 and np.all((0 <= t) & (t <= 1)), key
        np.testing.assert_array_equal(b, np.tril(b), err_msg=key)


EXACT = {  # those that keep X1 fixed are exact where it is constant, whatever the steps
    "ddim": classic.ddim,
    **{f"dpm_solver_pp-{order}": functools.partial(classic.dpm_solver_pp, order=order) for order in (1, 2, 3)},
    "dpm_solver_pp_2s": classic.dpm_solver_pp_2s,
    **{f"unipc-{order}": functools.partial(classic.unipc, order=order) for order in (1, 2, 3)},
    # X0 is then constant too, and these keep that fixed.
    "dpm_solver_2": classic.dpm_solver_2,
    "dpm_solver_3": classic.dpm_solver_3,
    "edm_heun": classic.edm_heun,
    **{f"deis-{order}": functools.partial(classic.deis, order=order) for order in (1, 2, 3, 4)},
    "deis-3-log_rho": functools.partial(classic.deis, order=3, variable="log_rho"),
    "ipndm": functools.partial(classic.ipndm, order=4),
    "ipndm fixed": functools.partial(classic.ipndm, order=4, coefficients="fixed"),
}


@pytest.mark.parametrize("scheduler", ["CondOT", "Cosine", "VariancePreserving", "EDM"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_where_the_data_is_one_point(name, scheduler):
    point = 0.7

    def u(t, x):
        alpha, sigma, alpha_dot, sigma_dot = level(t)
        return alpha_dot * point + sigma_dot * (x - alpha * point) / sigma

    level = reference.SCHEDULERS[scheduler]
    alpha_0, sigma_0, _, _ = level(0.0)
    end = levels.levels(zoo.SCHEDULERS[scheduler], [1.0])[0]
    x0 = np.array([-1.0, 0.2, 2.0])
    wanted = end.alpha * point + end.sigma * (x0 - alpha_0 * point) / sigma_0
    for grid in ("uniform", "log_snr"):
        for nfe in (1, 5):
            table = double(EXACT[name], nfe, scheduler=zoo.SCHEDULERS[scheduler], grid=grid)
            np.testing.assert_allclose(run(table, u, x0), wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_steps_among_levels_that_only_stand_for_pure_noise_or_clean_data(name):
    times = {5: [0, 1e-7, 3e-6, 0.5, 1 - 1e-7, 1], 3: [0, 1e-7, 0.5, 1], 2: [0, 3e-6, 1]}
    steps = {"dpm_solver_2": 3, "dpm_solver_pp_2s": 3, "edm_heun": 3, "dpm_solver_3": 2}.get(name, 5)
    table = double(EXACT[name], 5, scheduler=bj.schedulers.CondOT(), grid=times[steps])
    assert np.all(np.isfinite(table.b)) and np.all((0 <= table.t) & (table.t < 1))
    found = run(table, lambda t, x: (0.7 - x) / (1 - t), np.array([-1.0, 0.2, 2.0]))
    np.testing.assert_allclose(found, 0.7, rtol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_they_converge_on_the_straight_path_from_snr_0_to_sigma_0(name):
    x1 = truth(straight_level)
    errors = []
    for nfe in (15, 45):
        table = double(EXACT[name], nfe, scheduler=bj.schedulers.CondOT(), grid="uniform")
        errors.append(reference.rms(run(table, velocity(straight_level), golden.X0) - x1))
    # Order 1 at the two ends is felt, above all where the error is small already; no more than that.
    first_order = name in ("ddim", "dpm_solver_pp-1", "deis-1")
    assert errors[1] < (0.05 if first_order else 0.01) and reference.order_of(errors, (15, 45)) > 0.85, errors


def test_members_of_order_1_are_all_ddim():
    for scheduler in (bj.schedulers.CondOT(), VP):
        options = dict(scheduler=scheduler, grid="quadratic")
        wanted = double(classic.ddim, 6, **options)
        for found in (
            double(classic.dpm_solver_pp, 6, order=1, **options),
            double(classic.deis, 6, order=1, **options),
            double(classic.ipndm, 6, order=1, **options),
            double(classic.unipc, 6, order=1, corrector=False, **options),
        ):
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), found, wanted)


def test_ddim_is_eulers_method_in_disguise():
    same = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    for grid in ("uniform", "karras"):
        # On the straight path as it stands; and where alpha = 1, for sigma as the variable.
        options = dict(scheduler=bj.schedulers.CondOT(), grid=grid)
        jax.tree.map(same, double(classic.ddim, 5, **options), double(classic.euler, 5, **options))
    options = dict(scheduler=EXPLODING, grid="quadratic")
    jax.tree.map(same, double(classic.ddim, 5, **options), double(classic.euler, 5, **options))


def test_solvers_that_are_the_same_in_other_words():
    same = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)
    grid = golden.vp_times(7)
    # iPNDM with variable steps is rhoAB-DEIS; on equal steps the coefficients are the classical ones.
    found = double(classic.ipndm, 7, 4, scheduler=VP, grid=grid)
    jax.tree.map(same, found, double(classic.deis, 7, VP, 4, grid=grid, variable="rho"))
    jax.tree.map(same, double(classic.ipndm, 7, 4), double(classic.ipndm, 7, 4, coefficients="fixed"))
    same(np.diff(double(classic.ipndm, 5, 4).b, axis=0)[3] * 5 * 24, [0, -9, 37, -59, 55])
    # Where alpha = 1 and sigma is linear in t, EDM's Heun is Heun's method but for the last step.
    nfe = 9
    heun, edm = double(classic.heun, nfe + 1), double(classic.edm_heun, nfe, EXPLODING, grid="uniform")
    same(edm.b[: nfe - 1], heun.b[: nfe - 1, :nfe])


# --- Several numbers of evaluations, grids, dtypes. ---


@pytest.mark.parametrize("nfe", range(1, 12))
def test_singlestep_solvers_use_all_their_evaluations(nfe):
    orders = {2: [2] * (nfe // 2) + [1] * (nfe % 2), 3: [3] * (nfe // 3) + [nfe % 3] * (nfe % 3 > 0)}
    if nfe % 3 == 0:
        orders[3] = [3] * (nfe // 3 - 1) + [2, 1]
    for solver, order in [(classic.dpm_solver_2, 2), (classic.dpm_solver_pp_2s, 2), (classic.dpm_solver_3, 3)]:
        table = solver(nfe, VP, grid="uniform")
        assert table.nfe == nfe
        # Steps begin where the fine grid says.
        starts = np.cumsum([0, *orders[order]])[:-1]
        np.testing.assert_allclose(np.asarray(table.t)[starts], starts / nfe, atol=1e-6)


def test_edm_heun_on_edms_own_levels():
    table = double(classic.edm_heun, 35, bj.schedulers.CondOT())
    level = 1 / np.array([levels.levels(bj.schedulers.CondOT(), [t])[0].snr for t in table.t[2::2]])
    wanted = (80 ** (1 / 7) + np.arange(1, 18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(level, wanted, rtol=1e-9)
    # EDM's own scheduler ends at 0.002: nothing lies beyond, and its levels are equal steps of its time.
    for nfe in (17, 18):
        np.testing.assert_allclose(
            double(classic.edm_heun, nfe, bj.schedulers.EDM()).t[::2], np.arange(9) / 9, atol=1e-9
        )


def test_dedicated_gives_what_the_solvers_give():
    scheduler = bj.schedulers.CondOT()
    tables = classic.dedicated(6, scheduler)
    for name, wanted in {
        "dpm_solver_pp-3m/log_snr": classic.dpm_solver_pp(6, scheduler, 3),
        "unipc-2/cosine": classic.unipc(6, scheduler, 2, grid="cosine"),
        "midpoint/karras": classic.midpoint(6, grid="karras", scheduler=scheduler),
        "ipndm-4/quadratic": classic.ipndm(6, grid="quadratic"),
        "ipndm_noise-3/uniform": classic.ipndm(6, 3, scheduler=scheduler, coefficients="fixed"),
        "deis-3/quadratic": classic.deis(6, scheduler),
    }.items():
        jax.tree.map(np.testing.assert_array_equal, tables[name], wanted)
    assert "rk4/uniform" not in tables and "edm_heun/karras" not in tables  # 6 is no multiple of 4, and not odd
    assert "edm_heun/karras" in classic.dedicated(6, bj.schedulers.EDM())
    without = classic.dedicated(6, None)
    assert set(without) < set(tables) and "euler/uniform" in without and not any("ddim" in name for name in without)


# --- GENIE. ---


def test_genie_is_a_taylor_method_of_order_2():
    # Step by step: y = x / alpha, gamma = sigma / alpha, dX0/dgamma by central differences along the path.
    def noise(t, x):
        return golden.predictions(*smooth_level(t)[:2], x)[1]

    u = velocity(smooth_level)

    def literal(x, times):
        for s, t in itertools.pairwise(times):
            (alpha_s, sigma_s, *_), (alpha_t, sigma_t, *_) = smooth_level(s), smooth_level(t)
            h = sigma_t / alpha_t - sigma_s / alpha_s
            d = 1e-5
            (a1, s1, *_), (a2, s2, *_) = smooth_level(s - d), smooth_level(s + d)
            slope = (noise(s + d, x + d * u(s, x)) - noise(s - d, x - d * u(s, x))) / (s2 / a2 - s1 / a1)
            x = alpha_t * (x / alpha_s + h * noise(s, x) + h**2 / 2 * slope)
        return x

    with jax.enable_x64(True):
        flow = bj.analytic.mixture(golden.MEANS, golden.STD, golden.WEIGHTS, SMOOTH)
        x0 = jnp.asarray(golden.X0)
        solvers = {n: classic.genie(2 * n, SMOOTH, dtype=jnp.float64) for n in (3, 10, 20, 40)}
        path = zoo.solve(flow, solvers[3], x0, return_path=True)
        assert path.shape == (4, *x0.shape) and solvers[3].nfe == 6
        np.testing.assert_allclose(path[-1], literal(golden.X0, np.arange(4) / 3), rtol=1e-6, atol=1e-7)
        errors = [reference.rms(np.asarray(zoo.solve(flow, solvers[n], x0)) - truth()) for n in (10, 20, 40)]
    assert reference.order_of(errors, (10, 20, 40)) == pytest.approx(2, abs=0.2)


def test_genie_from_snr_0_to_sigma_0():
    flow = bj.analytic.mixture(golden.MEANS, golden.STD, golden.WEIGHTS)
    x1 = truth(straight_level)
    for steps, tolerance in [(1, 2.0), (40, 5e-3)]:
        solver = classic.genie(2 * steps, bj.schedulers.CondOT())
        found = np.asarray(zoo.solve(flow, solver, jnp.asarray(golden.X0, jnp.float32)))
        assert found.dtype == np.float32 and reference.rms(found - x1) < tolerance


# --- Bad input. ---

SOLVERS = {
    name: getattr(classic, name)
    for name in (
        "ddim",
        "dpm_solver_2",
        "dpm_solver_3",
        "dpm_solver_pp",
        "dpm_solver_pp_2s",
        "deis",
        "unipc",
        "edm_heun",
    )
}


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_numbers_of_evaluations_schedulers_and_grids(name):
    solver, scheduler = SOLVERS[name], bj.schedulers.CondOT()
    for nfe in (0, -1, 2.5, True, "4", None):
        with pytest.raises(ValueError, match=f"nfe: wanted an integer >= 1, got {nfe!r}"):
            solver(nfe, scheduler)
    for wrong in (None, "condot", bj.schedulers.CondOT):
        with pytest.raises(ValueError, match=f"scheduler: wanted a bespoke_jax.schedulers.Scheduler for {name}, got"):
            solver(4, wrong)
    with pytest.raises(ValueError, match="grid: wanted one of"):
        solver(5, scheduler, grid="linear")
    with pytest.raises(ValueError, match=r"grid: wanted \d+ times for"):
        solver(5, scheduler, grid=[0.0, 1.0])
    assert all(
        p.kind is p.KEYWORD_ONLY for p in inspect.signature(solver).parameters.values() if p.name in ("grid", "dtype")
    )


NAN = bj.schedulers.Scheduler(lambda t: jnp.nan * t, lambda t: 1 - t)


def rk(nfe=2, nodes=(0, 1), matrix=((0, 0), (1, 0)), weights=(0.5, 0.5)):
    return classic.runge_kutta(nfe, nodes, matrix, weights)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: classic.dpm_solver_pp(4, s, order=4), "order: wanted an integer from 1 to 3, got 4"),
        (lambda s: classic.dpm_solver_pp(4, s, order=True), "order: .* got True"),
        (
            lambda s: classic.dpm_solver_pp(4, s, lower_order_final="no"),
            "lower_order_final: wanted True or False, got 'no'",
        ),
        (lambda s: classic.unipc(4, s, order=0), "order: wanted an integer from 1 to 3, got 0"),
        (lambda s: classic.unipc(4, s, variant="bh3"), r"variant: wanted one of \['bh1', 'bh2'\], got 'bh3'"),
        (lambda s: classic.unipc(4, s, corrector=1), "corrector: wanted True or False, got 1"),
        (lambda s: classic.deis(4, s, order=5), "order: wanted an integer from 1 to 4, got 5"),
        (lambda s: classic.deis(4, s, variable="lambda"), "variable: wanted one of .* got 'lambda'"),
        (lambda s: classic.ipndm(4, order=2.0), "order: wanted an integer from 1 to 4, got 2.0"),
        (lambda s: classic.ipndm(0), "nfe: wanted an integer >= 1, got 0"),
        (lambda s: classic.ipndm(4, coefficients="best"), "coefficients: wanted one of .* got 'best'"),
        (lambda s: classic.ipndm(4, grid="cosine"), "scheduler: wanted .* for the grid 'cosine'"),
        (lambda s: classic.edm_heun(4, s), "nfe: wanted an odd number, .* got 4"),
        (lambda s: classic.edm_heun(5, s, rho=0), "rho: wanted a finite number > 0, got 0"),
        (lambda s: classic.edm_heun(5, s, sigma_max="80"), "sigma_max: wanted a finite number > 0, got '80'"),
        (lambda s: classic.edm_heun(5, s, sigma_min=90.0), "sigma_min: wanted less than sigma_max=80.0, got 90.0"),
        (lambda s: classic.euler(4, grid="karras"), "scheduler: wanted .* for the grid 'karras'"),
        (lambda s: classic.dedicated(0, s), "nfe: wanted an integer >= 1, got 0"),
        (lambda s: classic.dedicated(4, "vp"), "scheduler: .* got 'vp'"),
        (lambda s: classic.genie(4, None), "scheduler: wanted .* for genie"),
        (lambda s: classic.genie(0, s), "nfe: wanted an integer >= 1, got 0"),
        (lambda s: classic.genie(5, s), "nfe: wanted an even number, .* got 5"),
        (lambda s: rk(nodes=[0.5, 1]), "nodes: wanted times of a step within .*, the first 0, got"),
        (lambda s: rk(nodes=[0, 1.5]), "nodes: wanted times of a step within"),
        (lambda s: rk(nodes=["0", "1"]), "nodes: wanted numbers of shape"),
        (lambda s: rk(nodes=0), r"nodes: wanted shape \[S\], got \[\]"),
        (lambda s: rk(matrix=[[0, 0], [0.5, 0.5]]), "matrix: wanted a strictly lower triangular one"),
        (lambda s: rk(matrix=[[0, 0]]), r"matrix: wanted shape \[2, 2\], got \[1, 2\]"),
        (lambda s: rk(weights=[0.5, 0.6]), "weights: wanted a sum of 1, got .* of sum 1.1000"),
        (lambda s: rk(weights=[0.5, np.nan]), "weights: wanted finite numbers"),
        (lambda s: rk(nfe=3), "nfe: wanted a positive multiple of 2 for runge_kutta, got 3"),
        (
            lambda s: classic.euler(2, grid=[0, np.nan, 1]),
            "grid: wanted one of .* or 3 times for 2 steps, finite numbers",
        ),
        (
            lambda s: classic.euler(2, grid=[0, 0.7, 0.5]),
            "grid: wanted times that increase from exactly 0 to exactly 1",
        ),
        (lambda s: classic.euler(1, grid=[False, True]), "grid: wanted one of"),
        (lambda s: classic.ddim(2, NAN), "scheduler|table"),
    ],
)
def test_bad_options(call, words):
    with pytest.raises(ValueError, match=words):
        call(bj.schedulers.CondOT())


@pytest.mark.parametrize("dtype", [int, complex, bool, "text", None])
@pytest.mark.parametrize(
    "solver",
    [
        lambda s, dtype: classic.euler(4, dtype),
        lambda s, dtype: classic.ipndm(4, dtype=dtype),
        lambda s, dtype: classic.ddim(4, s, dtype=dtype),
        lambda s, dtype: classic.edm_heun(5, s, dtype=dtype),
        lambda s, dtype: classic.genie(4, s, dtype=dtype),
        lambda s, dtype: classic.solver_search(5, dtype),
        lambda s, dtype: classic.dedicated(2, s, dtype),
    ],
)
def test_numbers_that_are_not_floats(solver, dtype):
    with pytest.raises(TypeError, match="dtype: wanted a floating dtype such as float32, got"):
        solver(bj.schedulers.CondOT(), dtype)


def test_in_a_debugging_session_without_jit():
    compiled_there = bj.schedulers.Scheduler(lambda t: t, lambda t: 1.0 - t)
    wanted = classic.ddim(3, bj.schedulers.CondOT())
    with jax.disable_jit():
        for scheduler in (compiled_there, bj.schedulers.CondOT()):
            jax.tree.map(np.testing.assert_array_equal, classic.ddim(3, scheduler), wanted)
