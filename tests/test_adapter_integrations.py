"""Our solvers in the sampling calls of other libraries; each test is skipped where its library is not installed."""

import pathlib
import re
import sys

import jax
import numpy as np
import pytest

import bespoke_jax as bj

pytest.importorskip("equinox")

FLOW = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3)
SOLVERS = {"learned": bj.init_theta("rk2", 2), "unipc": bj.classic.unipc(5, FLOW.scheduler)}


DOCS = pathlib.Path(__file__).parents[1] / "docs"
EXAMPLES = {
    library: example
    for page in sorted(DOCS.rglob("*.md"))
    for library, example in re.findall(
        r"^<!-- run with (\w+) -->\n```python\n(.*?)^```$", page.read_text(), re.S | re.M
    )
}


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("library", EXAMPLES)
def test_the_whole_example_of_a_page_runs(library, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.setattr(sys, "path", sys.path[:])
    made = {"__name__": "example"}
    exec(EXAMPLES[library], made)
    samples = np.asarray(made["samples"])
    assert len(samples) > 1 and np.all(np.isfinite(samples))
    if "x1" in made:
        np.testing.assert_allclose(samples, made["x1"], atol=2e-3)


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


@pytest.mark.filterwarnings("ignore")
def test_cellflow(solver):
    pytest.importorskip("cellflow")
    import diffrax
    import optax
    from cellflow.networks import ConditionalVelocityField
    from cellflow.solvers import OTFlowMatching
    from cellflow.utils import match_linear

    from bespoke_jax.adapters.diffrax import TableSolver

    try:
        from cellflow._compat import ConstantNoiseFlow
    except ImportError:
        from ott.neural.methods.flows.dynamics import ConstantNoiseFlow

    field = ConditionalVelocityField(
        output_dim=3, max_combination_length=1, condition_embedding_dim=4, hidden_dims=(8,), decoder_dims=(8,)
    )
    model = OTFlowMatching(
        vf=field,
        match_fn=match_linear,
        probability_path=ConstantNoiseFlow(0.0),
        optimizer=optax.sgd(0.1),
        conditions={"drug": np.ones((2, 1, 3), np.float32)},
        rng=jax.random.PRNGKey(0),
    )
    model.is_trained = True
    x0 = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    condition = {"drug": np.full((1, 1, 3), 0.5, np.float32)}

    def sampled(solver):
        return model.predict(
            x0, condition, solver=TableSolver(solver), dt0=1.0, stepsize_controller=diffrax.ConstantStepSize()
        )

    def velocity(params, t, x):
        encoder_noise = np.zeros((1, 4), np.float32)
        call = model.vf_state_inference.apply_fn
        return jax.vmap(lambda one: call({"params": params}, t, one, condition, encoder_noise, train=False)[0])(x)

    flow = bj.Flow(velocity, model.vf_state_inference.params, (3,))
    found = sampled(solver)
    np.testing.assert_allclose(found, bj.solve(flow, solver, x0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sampled(solver), found)
    assert len(model._predict_fn_cache) == 1  # equal solvers share its compiled sampler


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RFSchedule", "CosineSchedule"])
def test_hackable_diffusion(solver, name):
    pytest.importorskip("hackable_diffusion")
    from hackable_diffusion.lib.corruption import schedules
    from hackable_diffusion.lib.corruption.gaussian import GaussianProcess

    from bespoke_jax.adapters.hackable_diffusion import sampler

    ours = {"RFSchedule": bj.schedulers.CondOT(), "CosineSchedule": bj.schedulers.Cosine()}[name]
    flow = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3, scheduler=ours)

    def inference(xt, conditioning, time):
        t = 1 - time[0, 0]
        level = ours.at(t)
        determinant = level.alpha * level.sigma_dot - level.sigma * level.alpha_dot
        return {"x0": (level.sigma_dot * xt - level.sigma * flow(t, xt)) / determinant}

    process = GaussianProcess(schedule=getattr(schedules, name)())
    x0 = jax.random.normal(jax.random.key(0), (6, 3))
    last, steps = sampler(solver, process)(inference, jax.random.key(1), x0)
    np.testing.assert_allclose(last.xt, bj.solve(flow, solver, x0), rtol=1e-4, atol=1e-4)
    assert steps.xt.shape == (solver.nfe + 1, 6, 3)
    alone, nothing = sampler(solver, process, store_trajectory=False)(inference, jax.random.key(1), x0)
    np.testing.assert_array_equal(alone.xt, last.xt)
    assert nothing is None
    with pytest.raises(ValueError, match="solver: wanted one that evaluates one velocity"):
        sampler(bj.by_call(bj.classic.euler(2), 1.5), process)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["FlowMatching", "VPCosine"])
def test_diffusionlab(solver, name):
    pytest.importorskip("diffusionlab")
    from diffusionlab.processes import gaussian
    from diffusionlab.sampling import sample, uniform_schedule
    from diffusionlab.typing import Prediction

    from bespoke_jax.adapters.diffusionlab import sampler, schedule

    ours = {"FlowMatching": bj.schedulers.CondOT(), "VPCosine": bj.schedulers.Cosine()}[name]
    flow = bj.analytic.mixture([[1.0, -1.0, 0.3], [0.0, 1.0, -0.5]], std=0.3, scheduler=ours)
    begun = []

    def predictor(x, s, t, cond, aux):
        begun.append(x)
        time = 1 - t[0]
        level = ours.at(time)
        determinant = level.alpha * level.sigma_dot - level.sigma * level.alpha_dot
        return Prediction(value=(level.sigma_dot * x - level.sigma * flow(time, x)) / determinant, kind="x_0")

    process = getattr(gaussian, name)(data_shape=(3,))
    found = sample(jax.random.key(0), sampler(solver, process), predictor, 6, schedule(solver, 6))
    np.testing.assert_allclose(found, bj.solve(flow, solver, begun[0]), rtol=1e-4, atol=1e-4)
    times = schedule(solver, 6)
    compiled = jax.jit(lambda key: sample(key, sampler(solver, process), predictor, 6, times))
    np.testing.assert_allclose(compiled(jax.random.key(0)), found, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="time_schedule: wanted"):
        sample(jax.random.key(0), sampler(solver, process), predictor, 6, uniform_schedule(3, 6))
    with pytest.raises(ValueError, match="solver: wanted one that evaluates one velocity"):
        sampler(bj.by_call(bj.classic.euler(2), 1.5), process)


@pytest.mark.filterwarnings("ignore")
def test_swirl_dynamics(solver):
    pytest.importorskip("swirl_dynamics")
    from swirl_dynamics.lib.diffusion import diffusion, samplers

    from bespoke_jax.adapters.swirl_dynamics import TableIntegrator, scheduler

    scheme = diffusion.Diffusion.create_variance_exploding(diffusion.tangent_noise_schedule(10.0), data_std=1.0)
    tspan = jax.numpy.array([1.0, 0.5, 0.01])

    def denoise(x, sigma, cond):  # of Gaussian data, mean 2, standard deviation 0.5
        return (2.0 * sigma**2 + x * 0.25) / (0.25 + sigma**2)

    ours = scheduler(scheme, 0.01)

    def network(params, t, x):
        level = ours.at(t)
        return denoise(x / level.alpha, level.sigma / level.alpha, None)

    flow = bj.Flow.from_prediction(network, None, (3,), ours, prediction="data", time_margin=0.0)
    library = samplers.OdeSampler(
        input_shape=(3,), scheme=scheme, denoise_fn=denoise, tspan=tspan, apply_denoise_at_end=False,
        return_full_paths=True, integrator=TableIntegrator(solver),
    )  # fmt: skip
    noise, data = library.generate(6, jax.random.key(0))
    np.testing.assert_allclose(np.std(noise), float(ours.sigma(0.0)), rtol=0.5)
    np.testing.assert_allclose(data, bj.solve(flow, solver, noise), rtol=1e-3, atol=1e-3)
