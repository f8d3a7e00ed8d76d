"""What networks of diffusers' other schedulers mean, for tests/models/test_diffusers.py: `python -m tests.golden.make_diffusers`.

Needs torch and diffusers (0.42.1 was used); the tests need neither. The network is "diffusers/cifar10" of make_models.py, with
the weights that are drawn from its names. For flow matching, the steps of their sampler; for EDM's schedulers, the clean images
that they compute at each of their levels. Writes diffusers.npz.
"""

import json
import pathlib

import diffusers
import numpy as np
import torch

from tests.golden.weights import draw_all

HERE = pathlib.Path(__file__).parent


def _network():
    described = json.loads((HERE / "models.json").read_text())
    config = {key: value for key, value in described["configs"]["diffusers/cifar10"].items() if key[0] != "_"}
    network = diffusers.UNet2DModel(**config).eval()
    weights = draw_all(described["shapes"]["diffusers/cifar10"])
    network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return network


@torch.no_grad()
def main():
    network, arrays, configs = _network(), {}, {}
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def record(name, scheduler):
        configs[name] = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
        configs[name]["_class_name"] = type(scheduler).__name__

    for name, scheduler in [
        ("flow/euler", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)),
        ("flow/unipc", diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")),
    ]:
        record(name, scheduler)
        scheduler.set_timesteps(4)
        x, states, clean = noise, [], []
        for step, timestep in enumerate(scheduler.timesteps):
            # Of its times UniPC takes the integer part; what it means is this.
            out = network(x, 1000 * scheduler.sigmas[step]).sample
            states.append(x)
            if name == "flow/unipc":
                scheduler._step_index = step
                clean.append(scheduler.convert_model_output(out, sample=x))
                scheduler._step_index = None if step == 0 else step
            x = scheduler.step(out, timestep, x).prev_sample
        arrays[f"{name}/sigmas"], arrays[f"{name}/states"] = scheduler.sigmas, torch.stack([*states, x])
        if clean:
            arrays[f"{name}/clean"] = torch.stack(clean)

    for name, scheduler in [
        ("edm/euler", diffusers.EDMEulerScheduler(sigma_max=20.0, sigma_data=0.7)),
        ("edm/euler v", diffusers.EDMEulerScheduler(prediction_type="v_prediction")),
        ("edm/dpm", diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.01)),
    ]:
        record(name, scheduler)
        scheduler.set_timesteps(4)
        states, clean = [], []
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            x = noise * (sigma**2 + 0.25).sqrt()
            out = network(scheduler.scale_model_input(x, timestep), timestep).sample
            states.append(x)
            clean.append(scheduler.precondition_outputs(x, out, sigma))
            scheduler._step_index += 1
        arrays[f"{name}/sigmas"] = scheduler.sigmas[:4]
        arrays[f"{name}/states"], arrays[f"{name}/clean"] = torch.stack(states), torch.stack(clean)

    arrays = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    np.savez_compressed(HERE / "diffusers.npz", configs=json.dumps(configs), **arrays)
    print("diffusers.npz", (HERE / "diffusers.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
