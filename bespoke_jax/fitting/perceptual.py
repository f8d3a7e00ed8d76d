"""The recipe for looks: learning a solver of few calls by features of its samples instead of their pixels."""

from collections.abc import Callable

from bespoke_jax.checks import check_count, check_number
from bespoke_jax.fitting.loss import BY_LOSS
from bespoke_jax.fitting.losses_of_ends import Distance
from bespoke_jax.fitting.recipes import Recipe
from bespoke_jax.fitting.stages import Stage

__all__ = ["perceptual"]


def perceptual(
    features: Callable,
    num_iterations: int = 64,
    *,
    endpoint_iterations: int = 64,
    average: str = "log",
    probes: int = 1,
    noise_radius: float = 0.0,
) -> Recipe:
    """A recipe that makes features of the samples agree, for solvers of so few calls that the samples themselves cannot.

    Levenberg-Marquardt minimises the error of the end point first, and then the distance of the features. The best solver is the
    one of the least distance on the held-out paths. docs/fid.md has the evidence, and says when this recipe pays.

    Args:
        features: `features(x) -> [B, ...]` of samples [B, *event], as for `losses.Distance`: differentiable, each sample treated
            independently. `bj.models.classifier_features` and `bj.models.inception_features` make such functions. Give the same
            function object each time: equal recipes share compiled programs.
        num_iterations: updates by features.
        endpoint_iterations: updates by the end point before them; 0 for none.
        average: what is applied to the squared distances before their mean: "log", "root" or "mean".
        probes: random cotangents of the features for each path, for the Gauss-Newton matrix.
        noise_radius: how far a noise may move during the updates by features, as a root mean square over its numbers: the relaxed
            target of LD3 (Tong et al. 2024, arXiv:2405.15506), see `Stage`.

    Raises:
        TypeError: if `features` is not a function.
        ValueError: for a count, an average or a radius of another kind.

    Examples:
        >>> import jax, jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.mixture([[1.0, -1.0], [0.0, 1.0]], std=0.3)
        >>> def features(x):
        ...     return jnp.tanh(3 * x)
        >>> recipe = perceptual(features, 4, endpoint_iterations=4)
        >>> [record["stage"] for record in bj.fit(flow, bj.init_theta("rk1", 3), jax.random.key(0), recipe).history]
        ['start', 'endpoint', 'perceptual']
    """
    if not callable(features):
        raise TypeError(f"features: wanted a function of samples, got {features!r:.80}.")
    check_count("num_iterations", num_iterations)
    distance = Distance(features=features, average=average, name="perceptual")
    check_number("noise_radius", noise_radius, 0)
    stages = (Stage(distance, num_iterations, probes=check_count("probes", probes), noise_radius=noise_radius),)
    if check_count("endpoint_iterations", endpoint_iterations, 0):
        stages = (Stage("endpoint", endpoint_iterations), *stages)
    return Recipe(stages=stages, best_by=BY_LOSS)
