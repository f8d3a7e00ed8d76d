"""One step of a Bespoke solver, and how far it can stretch a distance."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_count, check_number, check_numeric, check_type, known
from bespoke_jax.learned.steps import Index, Velocity, step
from bespoke_jax.learned.theta import Theta
from bespoke_jax.types import Array, Scalar

__all__ = ["step_lipschitz", "step_theta"]


def step_theta(
    theta: Theta, i: Index, x: Float[Array, "*shape"], u: Velocity
) -> tuple[Float[jax.Array, ""], Float[jax.Array, "*shape"]]:
    """Step number `i` of the solver `theta`: eq. (17) for rk1, eqs. (19)-(20) for rk2.

    Args:
        theta: the solver.
        i: step, 0 <= i < theta.num_steps; may be traced.
        x: the state at time t_i, any shape.
        u: velocity `u(t, x) -> array like x`, for example a `Flow`.

    Returns:
        (t_{i+1}, x_{i+1}).

    Raises:
        TypeError: if `theta` is not a `Theta`, its parameters are not floating arrays, x is not a floating array, or u not a
            function.
        ValueError: if `i` is not an integer, or is known and not a step of the solver; for a theta with a wrong number of
            parameters.

    Examples:
        >>> from bespoke_jax import init_theta
        >>> t, x = step_theta(init_theta("rk2", num_steps=2), 0, jnp.float32(1.0), lambda t, x: -x)
        >>> float(t), float(x)  # midpoint: 1 - h + h^2 / 2 with h = 1/2
        (0.5, 0.625)
    """
    check_type("theta", theta, Theta, "a theta of rk1 or rk2").check("theta")
    if isinstance(i, jax.Array) and (i.ndim or not jnp.issubdtype(i.dtype, jnp.integer)):
        raise ValueError(f"i: wanted one integer, got {i.dtype} of shape {i.shape}.")
    if not isinstance(i, jax.Array) or known(i) is not None:
        check_count("i", int(i) if isinstance(i, jax.Array) else i, 0, theta.num_steps - 1)
    if not hasattr(x, "dtype") or not jnp.issubdtype(check_numeric("x", x)[1], jnp.floating):
        raise TypeError(f"x: wanted a floating array, got {getattr(x, 'dtype', type(x).__name__)}.")
    if not callable(u):
        raise TypeError(f"u: wanted a function of (t, x), got {type(u).__name__}.")
    return step(theta.base, theta.knots(), 1.0 / theta.num_steps, i, x, u)


def step_lipschitz(theta: Theta, lipschitz: Scalar) -> Float[jax.Array, "n"]:
    """L_i of every step, shape [n], for a field with Lipschitz constant `lipschitz` (L_tau) in x (Sec. 2.3; constants derived).

    Lbar_r = |sdot_r| / s_r + tdot_r L_tau bounds the transformed field (16); then
    rk1: L_i = s_i / s_{i+1} (1 + h Lbar_i);  rk2: L_i = s_i / s_{i+1} (1 + h Lbar_{i+1/2} (1 + h/2 Lbar_i)).
    """
    check_type("theta", theta, Theta, "a theta of rk1 or rk2")
    if isinstance(lipschitz, jax.Array) and (lipschitz.ndim or known(lipschitz) is None):
        check_array("lipschitz", lipschitz, ())
    else:
        check_number("lipschitz", float(lipschitz) if isinstance(lipschitz, jax.Array) else lipschitz, 0)
    _, dt, s, ds = theta.knots()
    h = 1.0 / theta.num_steps
    bar = jnp.abs(ds) / s[:-1] + dt * lipschitz
    if theta.base == "rk1":
        return s[:-1] / s[1:] * (1 + h * bar)
    return s[:-1:2] / s[2::2] * (1 + h * bar[1::2] * (1 + h / 2 * bar[::2]))
