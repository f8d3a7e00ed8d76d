"""From a config's `flow` section to a Flow."""

import hashlib
import pathlib

import jax
import numpy as np

import bespoke_jax as bj

__all__ = ["fingerprint", "load"]


def _mixture(name, image_size, num_components, std, seed):
    """Smooth random blobs as the means of a Gaussian mixture: an image flow in closed form, for tests and trials."""
    del name
    random = np.random.default_rng(seed)
    grid = (np.arange(image_size) + 0.5) / image_size
    centres, widths = random.uniform(0.2, 0.8, (num_components, 2)), random.uniform(0.1, 0.3, (num_components, 2))
    rows, columns = (np.exp(-(((grid - centres[:, [i]]) / widths[:, [i]]) ** 2)) for i in (0, 1))
    means = 2 * rows[:, :, None] * columns[:, None, :] - 1
    return bj.analytic.mixture(means[..., None], std)


def _checkpoint(name, path, missing, remedy):
    """The user's own file. Without it: what is missing, and how to get it."""
    del name
    if not path or not pathlib.Path(path).expanduser().exists():
        state = f"is {path!r}, where there is no file" if path else "is empty"
        raise FileNotFoundError(f"config.flow.path {state}; missing: {missing}\n{remedy}")
    return bj.models.load_flow(pathlib.Path(path).expanduser())


_LOADERS = {
    **{name: (bj.models.load_flow, ("name",)) for name in bj.models.SHIPPED},
    "mixture": (_mixture, ("name", "image_size", "num_components", "std", "seed")),
    "checkpoint": (_checkpoint, ("name", "path", "missing", "remedy")),
}


def load(section) -> bj.Flow:
    """The flow of `config.flow` on all devices; its field `name` says which kind, and the kind which other fields there are.

    Raises:
        ValueError: for an unknown kind, or fields that the kind does not have.
        FileNotFoundError: if weights are missing; says which, and how to get them.
    """
    fields = section.to_dict()
    name = fields.get("name")
    if name not in _LOADERS:
        raise ValueError(f"config.flow.name: got {name!r}, wanted one of {sorted(_LOADERS)}.")
    loader, wanted = _LOADERS[name]
    if set(fields) != set(wanted):
        raise ValueError(
            f"config.flow: flow {name!r} has the fields {', '.join(wanted)}; got {', '.join(sorted(fields))}."
        )
    return bj.sharding.replicate(loader(**fields))


def fingerprint(flow: bj.Flow) -> str:
    """A short hash of the flow's parameters: paths solved with other weights are not this flow's paths."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(flow):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
