"""Flows of PyTorch's models against the same mathematics in JAX, and what is said when a model cannot serve."""

import functools
import traceback

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import bespoke_jax as bj
from bespoke_jax.adapters import torch as adapter
from bespoke_jax.fitting import gauss_newton
from bespoke_jax.flow import kernels
from bespoke_jax.flow.prediction import PREDICTIONS
from bespoke_jax.run import adjoint

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # of PyTorch's own forward mode
]

KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (5, 2))
SCHEDULER = bj.schedulers.CondOT()


class Net(torch.nn.Module):
    """tanh layers of (t, x, condition), which count their calls."""

    def __init__(self, of_condition=0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = torch.nn.Linear(3 + of_condition, 16), torch.nn.Linear(16, 2)
        for weight in self.parameters():
            weight.data = 0.5 * torch.randn(weight.shape, generator=generator)
        self.calls = 0

    def forward(self, t, x, condition=None):
        self.calls += 1
        extra = [] if condition is None else [condition]
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None], *extra], 1)))) - x


def ported(net):
    """The same velocity in JAX."""
    arrays = [jnp.asarray(weight.detach().numpy()) for weight in net.parameters()]

    def velocity(params, t, x):
        a, b, c, d = params["network"]
        extra = [jnp.broadcast_to(params["condition"], (len(x), 2))] if "condition" in params else []
        inputs = jnp.concatenate([x, jnp.full((len(x), 1), t, x.dtype), *extra], axis=1)
        return jnp.tanh(inputs @ a.T + b) @ c.T + d - x

    params = {"network": arrays} | ({} if net.first.in_features == 3 else {"condition": jnp.zeros(2)})
    return bj.Flow(velocity, params, (2,), SCHEDULER)


@functools.cache
def both():
    net = Net().eval()
    return net, adapter.flow(net, (2,), SCHEDULER), ported(net)


@functools.cache
def both_conditional():
    net = Net(of_condition=2).eval()
    return adapter.flow(net, (2,), SCHEDULER, condition=np.zeros(2, np.float32)), ported(net)


def close(one, other, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), one, other)


T = jnp.float32(0.3)
TIMES = np.full(5, np.float32(0.3))
OPERATIONS = {
    "velocity": lambda flow: flow(T, X),
    "one sample": lambda flow: flow(T, X[0]),
    "compiled": lambda flow: jax.jit(flow)(T, X),
    "times": lambda flow: jax.vmap(flow, in_axes=(0, None))(jnp.array([0.0, 1.0]), X),
    "second batch axis": lambda flow: jax.vmap(flow, in_axes=(None, 1), out_axes=1)(
        T, X[:, None] * jnp.ones((1, 3, 1))
    ),
    "pullback": lambda flow: jax.vjp(flow, T, X)[1](X),
    "compiled pullback": lambda flow: jax.jit(lambda t, x, w: jax.vjp(flow, t, x)[1](w))(T, X, X),
    "pullback of each sample": lambda flow: adjoint._linearised(flow, TIMES, X)[1](X),
    "mapped pullbacks": lambda flow: jax.vmap(jax.vjp(flow, T, X)[1])(jnp.stack([X, 2 * X])),
    "tangent": lambda flow: jax.jvp(flow, (T, X), (T, 2 * X)),
    "slope on the path": lambda flow: kernels.velocity_and_slope(flow, T, X),
    "compiled tangents": lambda flow: jax.jit(jax.jacfwd(lambda t: flow(t, X)))(T),
    "gradient of a solve": lambda flow: jax.grad(lambda x: jnp.sum(bj.solve(flow, bj.classic.heun(4), x) ** 2))(X),
    "states": lambda flow: bj.solve(flow, bj.init_theta("rk2", 2), X, return_path=True),
    "sample": lambda flow: bj.sample(flow, bj.classic.ddim(4, SCHEDULER), KEY, num_samples=3),
    "parallel": lambda flow: bj.solve(flow, bj.in_blocks(bj.classic.euler(4), 2), X),
    "genie": lambda flow: bj.solve(flow, bj.classic.genie(4, SCHEDULER), X),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_derivatives_are_those_of_the_port(name):
    _, flow, port = both()
    close(OPERATIONS[name](flow), OPERATIONS[name](port))


def test_conditions_one_for_all_and_one_for_each():
    flow, port = both_conditional()
    conditions = jnp.arange(10.0).reshape(5, 2) / 10
    for make in (
        lambda flow: flow,
        lambda flow: bj.given(flow, conditions),
        lambda flow: bj.guided(flow, 0.5, unconditional=jnp.ones(2)),
        lambda flow: bj.guided(bj.given(flow, conditions), 0.5, unconditional=jnp.ones(2)),
    ):
        one, other = make(flow), make(port)
        assert one.outside_jax and not other.outside_jax
        close(kernels.velocity(one, T, X), kernels.velocity(other, T, X))
        close(adjoint._linearised(one, TIMES, X)[1](X), adjoint._linearised(other, TIMES, X)[1](X))
    # Conditions are parameters, and have gradients.
    close(*(jax.grad(lambda c, of=of: jnp.sum(bj.given(of, c)(T, X) ** 2))(conditions) for of in (flow, port)))


def test_integers_reach_the_model_as_its_indices():
    table = torch.nn.Embedding(4, 2).eval()
    flow = adapter.flow(lambda t, x, c: table(c["label"]) - x, (2,), condition={"label": np.int32(3)})
    found = bj.given(flow, {"label": [0, 3]})(0.5, jnp.zeros((2, 2)))
    close(found, table.weight.detach().numpy()[[0, 3]])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_are_read_as_those_of_the_port(prediction):
    net, _, port = both()
    flow = adapter.flow(net, (2,), SCHEDULER, prediction)
    other = bj.Flow.from_prediction(port.velocity, port.params, (2,), SCHEDULER, prediction)
    assert flow.outside_jax and flow.time_range == other.time_range
    close(flow(T, X), other(T, X))
    close(adjoint._linearised(flow, TIMES, X)[1](X), adjoint._linearised(other, TIMES, X)[1](X), 1e-5)


def test_a_fit_learns_the_same_at_the_same_cost():
    _, flow, port = both()
    theta, recipe = bj.init_theta("rk2", 2), bj.frugal(1600)
    one, other = (bj.fit(each, theta, KEY, recipe) for each in (flow, port))
    assert one.cost == other.cost
    close(one.theta.raw, other.theta.raw, 1e-4)
    checked = [bj.check_solver(each, other.theta, KEY, num_paths=4, others={}).gain for each in (flow, port)]
    assert abs(checked[0] - checked[1]) < 0.1


def test_a_loss_of_steps_by_forward_mode():
    _, flow, port = both()
    theta, loss = bj.init_theta("rk1", 2), bj.losses.RmseBound()
    paths = bj.ground_truth(port, X, rtol=1e-3)
    close(*(gauss_newton.linearise(loss, of, theta, paths, KEY) for of in (flow, port)), 1e-5)


def test_the_model_is_called_once_for_each_evaluation():
    net, flow, _ = both()
    table = bj.classic.heun(6)

    def calls(function):
        before = net.calls
        function()
        return net.calls - before

    assert calls(lambda: bj.solve(flow, table, X)) == 6
    assert calls(lambda: adjoint.end_points(flow, table, X)) == 6
    trace = adjoint.run(flow, table, X)
    # For each evaluation one call with its graph, which all cotangents share.
    assert calls(lambda: adjoint.table_gradients(flow, table, trace, [X, 2 * X, -X])) == 6
    _, pullback = jax.vjp(flow, T, X)
    kernels.velocity(flow, T, X)  # gives the graph's memory back
    assert flow.velocity.velocity.model.memory.last is None
    assert calls(lambda: pullback(X)) == 1 and calls(lambda: pullback(X)) == 0
    found = bj.ground_truth(flow, X)
    assert calls(lambda: bj.ground_truth(flow, X)) * len(X) == int(jnp.sum(found.evaluations))


def test_equal_flows_share_compiled_programs_and_weights_may_change():
    net = Net().eval()
    one, other = adapter.flow(net, (2,)), adapter.flow(net, (2,))
    assert one.velocity == other.velocity and hash(one.velocity) == hash(other.velocity)
    assert jax.tree.leaves(one) == []
    before = jax.jit(bj.solve)(one, bj.classic.euler(2), X)
    with torch.no_grad():
        net.last.bias += 1
    after = jax.jit(bj.solve)(one, bj.classic.euler(2), X)
    assert float(jnp.min(jnp.abs(after - before))) > 0.1
    close(after, bj.solve(ported(net), bj.classic.euler(2), X))
    gradient = jax.jit(lambda x: jax.vjp(one, T, x)[1](x)[1])  # leaves out the velocity itself
    before = gradient(X)
    net.first.bias.data = net.first.bias.data + 1  # which PyTorch does not notice in a graph
    assert float(jnp.max(jnp.abs(gradient(X) - before))) > 0.1
    close(gradient(X), jax.vjp(ported(net), T, X)[1](X)[1])


def test_precisions_of_states_and_of_weights():
    net = Net().eval()
    flow = adapter.flow(net, (2,))
    half = flow(T, X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    close(half.astype(jnp.float32), flow(T, X.astype(jnp.bfloat16).astype(jnp.float32)), 2e-2)
    coarse = torch.nn.Linear(2, 2).to(torch.bfloat16).eval()
    seen = []

    def velocity(t, x):
        seen.append((t.dtype, x.dtype))
        return coarse(x) * t[:, None].to(x.dtype)

    flow = adapter.flow(velocity, (2,))
    assert flow(T, X).dtype == jnp.float32 and set(seen) == {(torch.float32, torch.bfloat16)}
    assert jax.vjp(flow, T, X)[1](X)[1].dtype == jnp.float32
    assert ml_dtypes.bfloat16 == jax.jit(flow)(T, X.astype(jnp.bfloat16)).dtype
    fine = adapter.flow(lambda t, x: -x.sin() * t[:, None], (2,), dtype=torch.float64)
    close(fine(T, X), -0.3 * np.sin(X))


def test_a_model_of_scalar_times_is_mapped():
    def velocity(t, x):
        assert t.ndim == 0
        return -x * torch.exp(t)

    flow = adapter.flow(velocity, (2,), per_sample_time=False)
    port = bj.Flow(lambda params, t, x: -x * jnp.exp(t), None, (2,))
    close(flow(T, X), port(T, X))
    close(adjoint._linearised(flow, TIMES, X)[1](X), adjoint._linearised(port, TIMES, X)[1](X))


def test_images_have_channels_first():
    convolution = torch.nn.Conv2d(3, 3, 3, padding=1).eval()
    flow = adapter.flow(lambda t, x: convolution(x) * t[:, None, None, None], (3, 4, 4))
    x = jax.random.normal(KEY, (2, 3, 4, 4))
    close(flow(1.0, x), convolution(torch.tensor(np.asarray(x))).detach().numpy())


def test_a_model_that_writes_into_its_input_writes_into_nothing_of_ours():
    flow = adapter.flow(lambda t, x: x.clone().mul_(-1.0), (2,))
    kept = np.array(X)
    writes = adapter.flow(lambda t, x: x.add_(1.0) if not x.requires_grad else x + 1, (2,))
    writes(T, X)
    close(X, kept)
    close(flow(T, X), -kept)


def test_samples_on_one_device():
    flow, port = both_conditional()
    devices = jax.devices()[:2]
    conditions = jnp.arange(8.0).reshape(4, 2) / 10
    spread = bj.sharding.replicate(bj.given(flow, conditions), devices)  # its conditions lie on a mesh
    paths = bj.ground_truth(spread, X[:4])
    close(paths.x1, bj.ground_truth(bj.given(port, conditions), X[:4]).x1, 1e-4)
    mesh = bj.sharding.mesh_of(spread)
    x = jax.device_put(X[:4], NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    with pytest.raises(ValueError, match="wanted one device for a compiled program that calls PyTorch, got 2"):
        jax.jit(lambda x: bj.given(flow, conditions)(T, x))(x)


def refused(match, model, error=ValueError, event_shape=(2,), **options):
    with pytest.raises(error, match=match):
        adapter.flow(model, event_shape, **options)


def test_modules_that_cannot_serve_are_refused():
    training = Net()
    refused("training mode.*model.eval", training)
    refused("training mode", lambda t, x: training(t, x))
    refused("training mode", functools.partial(training.forward))
    partly = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Dropout()).eval()
    partly[1].train()
    refused("training mode .1.;", lambda t, x: partly(x))
    with torch.inference_mode():
        made = Net().eval()
    refused("inference_mode", made)
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2).eval()
    refused("on the meta device", lambda t, x: empty(x))
    refused("device: wanted that of the model's weights, cpu, got meta", Net().eval(), device="meta")
    refused("device: wanted a device of PyTorch", Net().eval(), TypeError, device="nowhere")
    refused("dtype: wanted a floating dtype", Net().eval(), TypeError, dtype=torch.int32)


def test_functions_that_cannot_serve_are_refused():
    net = Net().eval()
    refused("model: wanted a torch.nn.Module or a function", 3, TypeError)
    refused(r"wanted the shape of x, \(2, 2\), got \(2, 1\)", lambda t, x: x[:, :1])
    refused("wanted a tensor, got tuple", lambda t, x: (x, t), TypeError)
    refused("wanted a floating tensor, got torch.int64", lambda t, x: x.long(), TypeError)
    refused("no derivative.*no_grad", torch.no_grad()(lambda t, x: net(t, x)))
    refused("differentiate in x", lambda t, x: net(t, x.detach()))
    refused("differentiate in t", lambda t, x: net((10 * t).round(), x))
    refused("event_shape", net, TypeError, event_shape=2.5)
    refused("scheduler: wanted", net, TypeError, prediction="noise")
    refused("per_sample_time", net, ValueError, per_sample_time="yes")
    refused("unexpected keyword", net, TypeError, time_margins=0.1)
    adapter.flow(lambda t, x: torch.zeros_like(x), (2,))  # depends on nothing, and has the derivatives that it says


def broken_in_large_batches(t, x):
    if len(x) > 2:
        raise RuntimeError("no kernel image is available")
    return -x


def test_errors_of_the_model_show_its_own_lines():
    refused("mat1 and mat2", lambda t, x: torch.nn.functional.linear(x, torch.ones(3, 5)), RuntimeError)
    flow = adapter.flow(broken_in_large_batches, (2,))
    for run in (
        lambda: bj.fit(flow, bj.init_theta("rk1", 2), KEY),
        lambda: bj.ground_truth(flow, X),
        lambda: bj.sample(flow, bj.classic.euler(2), KEY, num_samples=3),
    ):
        with pytest.raises(RuntimeError, match=r"^no kernel image is available") as caught:
            run()
        assert type(caught.value) is RuntimeError  # and not XLA's
        assert "x [" in caught.value.__notes__[0]
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken_in_large_batches"
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"in broken_in_large_batches(.|\n)*no kernel image"):
        jax.jit(flow)(T, X)  # in a program that contains the call, XLA's, with the model's lines in its text


def test_a_module_put_back_into_training_is_noticed():
    net = Net().eval()
    flow = adapter.flow(net, (2,))
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        flow(T, X)


def test_grad_mode_of_the_caller_does_not_matter():
    _, flow, port = both()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            close(adapter_pullback(flow), adapter_pullback(port))


def adapter_pullback(flow):
    return adjoint._linearised(flow, TIMES, X)[1](X)


def test_second_derivatives_are_refused():
    _, flow, _ = both()
    with pytest.raises(TypeError, match="first derivatives"):
        jax.hessian(lambda x: jnp.sum(flow(T, x)))(X)


def test_a_sampler_file_cannot_hold_a_model_of_pytorch(tmp_path):
    _, flow, _ = both()
    with pytest.raises(ValueError, match="outside JAX"):
        bj.save_sampler(tmp_path / "sampler", flow, bj.classic.euler(2), batch_size=2)
    bj.save_solver(tmp_path / "solver.json", bj.init_theta("rk1", 2), flow=flow)
    bj.load_solver(tmp_path / "solver.json", flow=flow)
