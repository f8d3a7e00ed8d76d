"""Results of other people's samplers, for test_classic.py: `python -m tests.golden.make_classic --dpm-solver FILE`.

Needs torch, diffusers (0.42.1 was used) and the file dpm_solver_pytorch.py of the DPM-Solver authors (github.com/LuChengTHU/
dpm-solver, commit 52bc3fb was used). Neither is needed by the tests, which read classic.npz.

The data is a mixture on the line, so that the noise prediction is exact, smooth and far from linear. Every sampler gets
its noise levels from here, in place of those it would compute itself, and runs in float64 (see `in_float64`).

Where they differ from the papers, and what is therefore not compared:
- diffusers' DEIS has its polynomials in log(sigma / alpha), not in time: `deis(variable="log_rho")`.
- diffusers' singlestep order 3 takes the intermediate state by its rule of order 2, so the authors' own code is run instead.
- diffusers' iPNDM divides by max(alpha, 1e-8): from alpha = 0 it would drop E[x1 | x], so it starts a little later here.
- the authors' singlestep sampler puts the stages of a step at equal times on grids of times; the paper, at equal log-SNR.
- diffusers' singlestep order 2 ends with two steps of order 1 if `lower_order_final`; the authors' code does not: off.
"""

import argparse
import importlib.util
import math
import pathlib
import types

import numpy as np

FILE = pathlib.Path(__file__).with_name("classic.npz")
X0 = np.linspace(-2.0, 2.0, 7)
MEANS, STD, WEIGHTS = np.array([-1.0, 0.3, 1.5]), np.array([0.5, 0.4, 0.6]), np.array([0.3, 0.4, 0.3])
STEPS = 8  # of every sampler with one evaluation a step
T_END = 1e-3  # where the VP path stops short of clean data
ANGLE = 1.5  # where the cosine path starts, instead of pi / 2
FLOW_START = 0.95  # where the straight path starts, instead of 1


def predictions(alpha, sigma, x):
    """(E[x1 | x], E[x0 | x]) for x = alpha x1 + sigma x0 [B], x1 from the mixture."""
    variance = (alpha * STD) ** 2 + sigma**2
    difference = x[:, None] - alpha * MEANS
    log_term = np.log(WEIGHTS) - difference**2 / (2 * variance) - 0.5 * np.log(variance)
    chance = np.exp(log_term - log_term.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    x1 = np.sum(chance * (MEANS + alpha * STD**2 / variance * difference), axis=1)
    return x1, np.sum(chance * sigma / variance * difference, axis=1)


def vp_level(s):
    """(alpha, sigma) of the VP path at the papers' time s, 1 at noise."""
    log_alpha = -(s**2) * (20 - 0.1) / 4 - s * 0.1 / 2
    return math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))


def vp_times(n):
    """Our times, 0 at noise, with steps of no particular kind; the papers' time is 1 - (1 - T_END) t."""
    return (np.arange(n + 1) / n) ** 0.8


def in_float64(module, torch):
    """Let `module` find float64 where it asks torch for float32."""
    double = types.SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch)})
    double.float32 = torch.float64
    module.torch = double


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dpm-solver", required=True, help="the authors' dpm_solver_pytorch.py")
    arguments = parser.parse_args()
    import diffusers
    import torch

    torch.set_default_dtype(torch.float64)
    for kind in (
        "dpmsolver_multistep",
        "dpmsolver_singlestep",
        "unipc_multistep",
        "deis_multistep",
        "heun_discrete",
        "ipndm",
    ):
        in_float64(getattr(diffusers.schedulers, f"scheduling_{kind}"), torch)
    out = {"x0": X0}

    def walk(sampler, levels, x, output=lambda alpha, sigma, x1, x0: x0):
        """Step through; `levels` has the network's (alpha, sigma) at each evaluation, `output` is what it predicts."""
        x = torch.tensor(x)[:, None]
        for (alpha, sigma), t in zip(levels, sampler.timesteps, strict=False):
            predicted = output(alpha, sigma, *predictions(alpha, sigma, x.numpy()[:, 0]))
            x = sampler.step(torch.tensor(predicted)[:, None], t, x).prev_sample
        return x.numpy()[:, 0]

    def prepare(sampler, steps, evaluations, **given):
        """Replace what the sampler has computed for itself."""
        sampler.set_timesteps(steps)
        for name, value in given.items():
            setattr(sampler, name, torch.tensor(value))
        sampler.timesteps = torch.arange(evaluations)
        sampler.set_begin_index(0)
        return sampler

    def drive(sampler, sigmas, levels):
        """On the noise levels sigma / alpha."""
        steps = len(sigmas) - 1
        return walk(prepare(sampler, steps, steps, sigmas=sigmas), levels, X0)

    # --- The VP path, finite at both ends. ---
    def vp_levels(times):
        return [vp_level(1 - (1 - T_END) * t) for t in times]

    def ratios(levels):
        return np.array([sigma / alpha for alpha, sigma in levels])

    times = vp_times(STEPS)
    levels = vp_levels(times)
    sigmas = ratios(levels)
    out["vp/times"] = times

    squares = torch.tensor([alpha**2 for alpha, _ in levels])
    ddim = diffusers.DDIMScheduler(num_train_timesteps=STEPS, clip_sample=False)
    ddim.alphas_cumprod, ddim.final_alpha_cumprod = squares[:-1].flip(0), squares[-1]
    ddim.set_timesteps(STEPS)
    out["vp/ddim"] = walk(ddim, levels, X0)

    for order in (1, 2, 3):
        for final in (False, True):
            options = dict(solver_order=order, lower_order_final=final, final_sigmas_type="sigma_min")
            sampler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **options)
            out[f"vp/dpm_solver_pp-{order}-{final}"] = drive(sampler, sigmas, levels)
            for variant in ("bh1", "bh2"):
                for corrector in (False, True):
                    sampler = diffusers.UniPCMultistepScheduler(
                        solver_type=variant, disable_corrector=[] if corrector else list(range(STEPS)), **options
                    )
                    out[f"vp/unipc-{order}-{variant}-{corrector}-{final}"] = drive(sampler, sigmas, levels)
        sampler = diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=False)
        out[f"vp/deis-{order}"] = drive(sampler, sigmas, levels)

    # Singlestep: the points halfway in log-SNR stand in the list of levels between those of the grid.
    coarse = ratios(vp_levels(vp_times(STEPS // 2)))
    fine = np.empty(STEPS + 1)
    fine[::2], fine[1::2] = coarse, np.sqrt(coarse[:-1] * coarse[1:])
    fine_levels = [(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)) for sigma in fine]
    out["vp/half_times"] = vp_times(STEPS // 2)
    for name, algorithm in {"dpm_solver_2": "dpmsolver", "dpm_solver_pp_2s": "dpmsolver++"}.items():
        options = dict(solver_order=2, lower_order_final=False, final_sigmas_type="sigma_min")
        sampler = diffusers.DPMSolverSinglestepScheduler(algorithm_type=algorithm, **options)
        out[f"vp/{name}"] = drive(sampler, fine, fine_levels)

    # The authors' code from end to end: its own grids, orders and intermediate times.
    spec = importlib.util.spec_from_file_location("dpm_solver_pytorch", arguments.dpm_solver)
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    schedule = official.NoiseScheduleVP("linear", continuous_beta_0=0.1, continuous_beta_1=20.0, dtype=torch.float64)

    def noise(x, t):
        return torch.tensor(predictions(*vp_level(float(t.flatten()[0])), x.numpy().ravel())[1]).reshape(x.shape)

    for algorithm, method, order, nfe in [
        ("dpmsolver", "singlestep", 2, 7),
        ("dpmsolver", "singlestep", 2, 8),
        ("dpmsolver", "singlestep", 3, 9),
        ("dpmsolver", "singlestep", 3, 10),
        ("dpmsolver", "singlestep", 3, 11),
        ("dpmsolver++", "singlestep", 2, 8),
        ("dpmsolver++", "multistep", 3, 9),
    ]:
        solver = official.DPM_Solver(noise, schedule, algorithm_type=algorithm)
        options = dict(steps=nfe, order=order, skip_type="logSNR")
        x = solver.sample(torch.tensor(X0)[:, None], t_end=T_END, method=method, **options)
        out[f"official/{algorithm}-{method}-{order}-{nfe}-logSNR"] = x.numpy().ravel()
        if method == "singlestep":
            # On this grid their sampler puts the stages at equal times; their step by itself, at the paper's fractions.
            options["skip_type"] = "time_uniform"
            grid, orders = solver.get_orders_and_timesteps_for_singlestep_solver(
                t_T=1.0, t_0=T_END, device="cpu", **options
            )
            x = torch.tensor(X0)[:, None]
            for s, t, stages in zip(grid[:-1], grid[1:], orders, strict=True):
                x = solver.singlestep_dpm_solver_update(x, s.reshape(1), t.reshape(1), stages)
            out[f"official/{algorithm}-{method}-{order}-{nfe}-time_uniform"] = x.numpy().ravel()

    # --- The straight path from near pure noise to clean data, sigma = 0. ---
    flow_sigmas = FLOW_START * (1 - np.arange(STEPS + 1) / STEPS)
    flow_levels = [(1 - sigma, sigma) for sigma in flow_sigmas]

    def drive_flow(sampler):
        sampler = prepare(sampler, STEPS, STEPS, sigmas=flow_sigmas)
        return walk(sampler, flow_levels, X0, lambda alpha, sigma, x1, x0: x0 - x1)

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero")
    for order in (2, 3):
        sampler = diffusers.DPMSolverMultistepScheduler(solver_order=order, lower_order_final=False, **flow)
        out[f"flow/dpm_solver_pp-{order}"] = drive_flow(sampler)
        sampler = diffusers.UniPCMultistepScheduler(solver_order=order, solver_type="bh2", **flow)
        out[f"flow/unipc-{order}"] = drive_flow(sampler)

    # --- Variance exploding, sigma from 20 to 0: Heun. ---
    sigmas = 20.0 * (1 - np.arange(STEPS + 1) / STEPS) ** 3
    out["heun/sigmas"] = sigmas
    doubled = np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]])
    sampler = prepare(diffusers.HeunDiscreteScheduler(), STEPS, 2 * STEPS - 1, sigmas=doubled)
    heun_levels = [(1.0, sigmas[(i + 1) // 2]) for i in range(2 * STEPS - 1)]
    out["heun/heun"] = walk(sampler, heun_levels, 20.0 * X0)

    # --- The cosine path with v-prediction: iPNDM. ---
    angles = np.linspace(ANGLE, 0.0, STEPS + 1)
    sampler = prepare(diffusers.IPNDMScheduler(), STEPS, STEPS, alphas=np.cos(angles), betas=np.sin(angles))
    cosine_levels = [(math.cos(angle), math.sin(angle)) for angle in angles]
    out["cosine/ipndm"] = walk(sampler, cosine_levels, X0, lambda alpha, sigma, x1, x0: alpha * x0 - sigma * x1)

    np.savez(FILE, **out)
    print(f"{len(out)} arrays in {FILE}, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
