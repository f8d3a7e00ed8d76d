"""Our solvers in the sampling calls of other libraries; each test is skipped where its library is not installed."""

import jax
import numpy as np
import pytest

import bespoke_jax as bj

pytestmark = pytest.mark.usefixtures("quick_compilation")
pytest.importorskip("equinox")

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)
SOLVERS = {"learned": bj.init_theta("rk2", 2), "unipc": bj.classic.unipc(5, FLOW.scheduler)}


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_gensbi(solver):
    pytest.importorskip("gensbi")
    from gensbi.flow_matching.solver.fm_ode_solver import FMODESolver
    from gensbi.utils.model_wrapping import ModelWrapper

    from bespoke_jax.adapters.diffrax import TableSolver

    class Velocity(ModelWrapper):
        def __init__(self):
            pass

        def get_vector_field(self, **kwargs):
            return lambda t, x, args: FLOW(t, x)

    x0 = jax.random.normal(jax.random.key(0), (6, 3))
    found = FMODESolver(Velocity()).get_sampler(method=TableSolver(solver), step_size=1.0)(x0)
    np.testing.assert_allclose(found, bj.solve(FLOW, solver, x0), rtol=1e-5, atol=1e-6)
