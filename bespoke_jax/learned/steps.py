"""One step of a Bespoke solver, and how far it can stretch a distance.

A Bespoke step is one step of the base solver on the transformed field (16), written back in x. `h = 1 / n`; for rk2 the
knots 2i, 2i + 1, 2i + 2 are the paper's i, i + 1/2, i + 1.
"""

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_array, check_count, check_number, check_numeric, check_type, known
from bespoke_jax.learned.theta import Knots, Theta

__all__ = ["rk1_step", "rk2_step", "step_from_knots", "step_lipschitz", "step_theta"]


def rk1_step(knots: Knots, h: float, i, x, u):
    """RK1-Bespoke, eq. (17): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    c_x = (s[i] + h * ds[i]) / s[i + 1]
    c_u = h * dt[i] * s[i] / s[i + 1]
    return t[i + 1], _like(c_x, x) * x + _like(c_u, x) * u(t[i], x)


def rk2_step(knots: Knots, h: float, i, x, u):
    """RK2-Bespoke (midpoint), eqs. (19)-(20): (t_{i+1}, x_{i+1}) from x_i."""
    t, dt, s, ds = knots
    a, m, b = 2 * i, 2 * i + 1, 2 * i + 2
    # (19)
    z = _like(s[a] + h / 2 * ds[a], x) * x + _like(h / 2 * s[a] * dt[a], x) * u(t[a], x)
    # (20)
    slope = _like(ds[m] / s[m], x) * z + _like(dt[m] * s[m], x) * u(t[m], z / _like(s[m], x))
    return t[b], _like(s[a] / s[b], x) * x + _like(h / s[b], x) * slope


def _like(coefficient, x):
    # The state keeps its dtype, whatever theta's is.
    return coefficient.astype(x.dtype)


_STEPS = {"rk1": rk1_step, "rk2": rk2_step}


def step_from_knots(theta: Theta, knots: Knots, i, x, u):
    """`step_theta` for a caller that steps often and has already computed `knots = theta.knots()`."""
    return _STEPS[theta.base](knots, 1.0 / theta.num_steps, i, x, u)


def step_theta(theta: Theta, i, x, u):
    """Step number `i` of the solver `theta`: eq. (17) for rk1, eqs. (19)-(20) for rk2.

    Args:
        theta: the solver.
        i: step, 0 <= i < theta.num_steps; may be traced.
        x: the state at time t_i, any shape.
        u: velocity `u(t, x) -> array like x`, for example a `Flow`.

    Returns:
        (t_{i+1}, x_{i+1}).

    Raises:
        TypeError: if `theta` is none, or its numbers are not floating arrays.
        ValueError: if `i` is no integer, or a concrete one no step of the solver; for a theta with other than its numbers.

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
    return step_from_knots(theta, theta.knots(), i, x, u)


def step_lipschitz(theta: Theta, lipschitz):
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
