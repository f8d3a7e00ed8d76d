"""U-Nets of Hugging Face diffusers: a `UNet2DModel` and its scheduler's description, from a folder of `save_pretrained`.

A model like google/ddpm-cifar10-32 is Ho et al.'s (2020, arXiv:2006.11239): a network of steps 0..N-1 that predicts noise.
Here it becomes a denoiser of noise levels (see `denoiser`). Step k has the level sqrt(1 / abar_k - 1), with abar_k the product
of 1 - beta_j over j <= k; between steps, the logarithm of the level is linear. Time t of a scheduler thus corresponds to the
step, usually a fraction, whose level is sigma_t / alpha_t.

Networks of flow matching predict noise - data at the time 1000 s of the straight path (1 - s) data + s noise: the velocity
at t = 1 - s, with the other sign. Networks of EDM's schedulers have EDM's preconditioning.
"""

import pathlib

import numpy as np

from bespoke_jax.checks import check_flag
from bespoke_jax.flow.flow import Flow
from bespoke_jax.models.denoiser import Denoiser
from bespoke_jax.models.diffusers.folder import find, read_json, read_tensors
from bespoke_jax.models.diffusers.network import network_of, renamed
from bespoke_jax.models.diffusers.noise import preconditioning_of
from bespoke_jax.models.labels import check_labels_given
from bespoke_jax.models.weights_io.state_dict import check_computation, load_arrays, variables_from_state
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import DTypeLike, Labels, PathLike

__all__ = ["load", "load_denoiser"]


def load(
    path: PathLike,
    scheduler: Scheduler | str | dict | None = None,
    labels: Labels | None = None,
    dtype: DTypeLike | None = None,
    remat: bool = False,
    image_size: int | tuple[int, int] | None = None,
) -> Flow:
    """The flow of a U-Net of diffusers under a scheduler.

    Args:
        path: the folder of the pipeline or of its U-Net, or the weights' file (.safetensors, .bin, or the .index.json of several)
            with config.json beside it. Nothing in it is run. scheduler_config.json, which says what the network predicts, is
            looked for in the U-Net's folder and the one above, in the `scheduler` folder of either, and also above a
            checkpoint-N folder. Without one, the network is assumed to be a DDPM with the noise schedule of Ho et al.
        scheduler: as for `Denoiser.flow`. None selects, for a DDPM, `VariancePreserving` with the constants of the noise schedule
            if that is linear in beta, else `Cosine`; for a network of flow matching `CondOT`; for one of EDM's schedulers `EDM`.
        labels: the class, or those of the samples, as for `load_flow`; required by a conditional network.
        dtype: computation type of the network, e.g. `jnp.bfloat16`; None for float32.
        remat: recompute activations in backward passes.
        image_size: side of the images, or (H, W); None for the `sample_size` of config.json.

    Raises:
        TypeError: if `dtype` is not a floating dtype.
        FileNotFoundError: if there is no such folder or file, no config.json, or no weights.
        ValueError: if network or scheduler are of an unsupported kind (names it), if the folder leaves open which weights are
            meant or how large the images are, if a file is truncated or asks for code to be run, or if tensors are missing,
            left over, or of other shapes than the network's.

    Examples:
        >>> load("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: nowhere: no such file or folder.
    """
    denoiser, usual = _load(path, dtype, remat, image_size)
    check_labels_given(labels, denoiser.num_classes, str(path))
    return denoiser.flow(usual if scheduler is None else scheduler, labels)


def load_denoiser(
    path: PathLike,
    dtype: DTypeLike | None = None,
    remat: bool = False,
    image_size: int | tuple[int, int] | None = None,
) -> Denoiser:
    """The same network as a `Denoiser`, with `.denoise(x, sigma)`, and `.flow(scheduler)` for several schedulers."""
    return _load(path, dtype, remat, image_size)[0]


def _load(path, dtype, remat, image_size) -> tuple[Denoiser, Scheduler]:
    check_computation(dtype, remat)
    weights, config_file, scheduler_config = find(pathlib.Path(path))
    source, config = str(weights), read_json(config_file)
    network, image_shape, names = network_of(config, str(config_file), image_size)
    preconditioning, usual = preconditioning_of(scheduler_config)
    state = renamed(load_arrays(read_tensors(weights), source), source)
    frequencies, classes = "time_embedding.linear_1.weight", "class_embedding.weight"
    flipped = check_flag(f"{config_file}: flip_sin_to_cos", config.get("flip_sin_to_cos", True))
    if not flipped and frequencies in state:
        # Their sines come first, ours last.
        state[frequencies] = np.roll(state[frequencies], network.time_channels // 2, axis=1)
    if classes in state:
        state[classes] = state[classes].T  # an embedding table; our layer is a dense one
    variables = variables_from_state(network, image_shape, state, names, source)
    return Denoiser(network.clone(dtype=dtype, remat=remat), variables, image_shape, preconditioning), usual
