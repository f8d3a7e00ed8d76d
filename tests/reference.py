"""The mathematics once more: NumPy, float64, loops. Written from the paper's equations, for comparison only.

Nothing here imports JAX or the package, and nothing is clever: one line for one line of the paper.
"""

import math

import numpy as np

# --- Schedulers (Sec. 2.2): alpha, sigma and their derivatives, differentiated by hand. ---


def condot(t):
    return t, 1 - t, 1.0, -1.0


def cosine(t):
    angle = math.pi * t / 2
    return math.sin(angle), math.cos(angle), math.pi / 2 * math.cos(angle), -math.pi / 2 * math.sin(angle)


def variance_preserving(t, b=0.1, big_b=20.0):
    s = 1 - t
    xi = math.exp(-(s**2) * (big_b - b) / 4 - s * b / 2)
    xi_dot = xi * (-s * (big_b - b) / 2 - b / 2)  # d xi / ds
    sigma = math.sqrt(1 - xi**2)
    sigma_dot = xi * xi_dot / sigma if sigma > 0 else -math.inf  # d sigma / dt = -d sigma / ds
    return xi, sigma, -xi_dot, sigma_dot


def edm(t, sigma_min=0.002, sigma_max=80.0, rho=7):
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    root = root_max + t * (root_min - root_max)
    return 1.0, root**rho, 0.0, rho * root ** (rho - 1) * (root_min - root_max)


SCHEDULERS = {"CondOT": condot, "Cosine": cosine, "VariancePreserving": variance_preserving, "EDM": edm}


# --- Data that is a Gaussian mixture: posterior means, velocity, density, by loops. ---


def posterior_means(scheduler, means, std, weights, t, x):
    """E[x1 | x] and E[x0 | x] for one sample x (any shape), t strictly inside (0, 1)."""
    alpha, sigma, _, _ = SCHEDULERS[scheduler](t)
    log_terms, x1_given = [], []
    for mean, spread, weight in zip(means, std, weights, strict=True):
        mean = np.asarray(mean, np.float64)
        variance = alpha**2 * spread**2 + sigma**2
        log_term = math.log(weight)
        for x_j, mean_j in zip(x.ravel(), mean.ravel(), strict=True):
            log_term += -((x_j - alpha * mean_j) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
        log_terms.append(log_term)
        # Bayes' rule for x = alpha x1 + sigma x0, x1 ~ N(mean, spread^2).
        x1_given.append(mean + alpha * spread**2 / variance * (x - alpha * mean))
    top = max(log_terms)
    chances = [math.exp(term - top) for term in log_terms]
    x1 = sum(chance * given for chance, given in zip(chances, x1_given, strict=True)) / sum(chances)
    return x1, (x - alpha * x1) / sigma


def mixture_velocity(scheduler, means, std, weights):
    """u(t, x) = alphadot E[x1 | x] + sigmadot E[x0 | x], for x of shape [B, *event]."""

    def u(t, x):
        _, _, alpha_dot, sigma_dot = SCHEDULERS[scheduler](float(t))
        out = np.empty_like(x, dtype=np.float64)
        for k in range(len(x)):
            x1, x0 = posterior_means(scheduler, means, std, weights, float(t), np.asarray(x[k], np.float64))
            out[k] = alpha_dot * x1 + sigma_dot * x0
        return out

    return u


def mixture_density(scheduler, means, std, weights, t, x):
    """p_t(x) of a mixture on the line, x of shape [m]."""
    alpha, sigma, _, _ = SCHEDULERS[scheduler](t)
    density = np.zeros_like(x)
    for mean, spread, weight in zip(means, std, weights, strict=True):
        variance = alpha**2 * spread**2 + sigma**2
        density += weight / sum(weights) * np.exp(-((x - alpha * mean) ** 2) / (2 * variance)) / math.sqrt(variance)
    return density / math.sqrt(2 * math.pi)


def gaussian_path(scheduler, mean, std, t, x0):
    """x(t) for data N(mean, std^2 I): the map between the normal laws at times 0 and t that keeps quantiles."""
    alpha_0, sigma_0, _, _ = SCHEDULERS[scheduler](0.0)
    alpha, sigma, _, _ = SCHEDULERS[scheduler](t)
    spread_0 = math.sqrt((alpha_0 * std) ** 2 + sigma_0**2)
    spread = math.sqrt((alpha * std) ** 2 + sigma**2)
    return alpha * mean + spread * (x0 - alpha_0 * mean) / spread_0


# --- Bespoke steps, knots = (t, dt, s, ds). ---


def rk1_step(knots, n, i, x, u):
    """Eq. (17)."""
    t, t_dot, s, s_dot = knots
    h = 1 / n
    x_next = (s[i] + h * s_dot[i]) / s[i + 1] * x + h * t_dot[i] * s[i] / s[i + 1] * u(t[i], x)
    return t[i + 1], x_next


def rk2_step(knots, n, i, x, u):
    """Eqs. (19)-(20). The paper's index i + 1/2 is knot 2 i + 1."""
    t, t_dot, s, s_dot = knots
    h = 1 / n
    t_i, t_dot_i, s_i, s_dot_i = t[2 * i], t_dot[2 * i], s[2 * i], s_dot[2 * i]
    t_half, t_dot_half, s_half, s_dot_half = t[2 * i + 1], t_dot[2 * i + 1], s[2 * i + 1], s_dot[2 * i + 1]
    s_next = s[2 * i + 2]
    z = (s_i + h / 2 * s_dot_i) * x + h / 2 * s_i * t_dot_i * u(t_i, x)
    bracket = s_dot_half / s_half * z + t_dot_half * s_half * u(t_half, z / s_half)
    return t[2 * i + 2], s_i / s_next * x + h / s_next * bracket


STEPS = {"rk1": rk1_step, "rk2": rk2_step}
INTERVALS = {"rk1": 1, "rk2": 2}


def solve(base, knots, n, x0, u):
    """All n + 1 states."""
    path = [x0]
    for i in range(n):
        path.append(STEPS[base](knots, n, i, path[-1], u)[1])
    return path


def lipschitz_constants(base, knots, n, lipschitz):
    """L_i of the step that starts at t_i, i = 0..n-1 (Sec. 2.3)."""
    _, t_dot, s, s_dot = knots
    h = 1 / n
    constants = []
    for i in range(n):
        if base == "rk1":
            l_bar = abs(s_dot[i]) / s[i] + t_dot[i] * lipschitz
            constants.append(s[i] / s[i + 1] * (1 + h * l_bar))
        else:
            l_bar = abs(s_dot[2 * i]) / s[2 * i] + t_dot[2 * i] * lipschitz
            l_bar_half = abs(s_dot[2 * i + 1]) / s[2 * i + 1] + t_dot[2 * i + 1] * lipschitz
            constants.append(s[2 * i] / s[2 * i + 2] * (1 + h * l_bar_half * (1 + h / 2 * l_bar)))
    return constants


def bound_weights(constants):
    """M_i = L_i L_{i+1} ... L_{n-1} for i = 1..n; the product is empty for i = n."""
    n = len(constants)
    weights = []
    for i in range(1, n + 1):
        product = 1.0
        for j in range(i, n):
            product *= constants[j]
        weights.append(product)
    return weights


# --- Losses. x_at(t) gives the true path [B, *event]. ---


def rms(x):
    """||x|| of one sample."""
    x = np.ravel(x)
    return math.sqrt(sum(float(x_j) ** 2 for x_j in x) / len(x))


def rmse_bound(base, knots, n, x_at, u, lipschitz=1.0):
    """Eq. (26)."""
    return _weighted(base, knots, n, x_at, u, bound_weights(lipschitz_constants(base, knots, n, lipschitz)))


def local(base, knots, n, x_at, u):
    return _weighted(base, knots, n, x_at, u, [1.0] * n)


def _weighted(base, knots, n, x_at, u, weights):
    per_step, total = INTERVALS[base], 0.0
    for i in range(1, n + 1):
        start = x_at(knots[0][per_step * (i - 1)])
        t_i, reached = STEPS[base](knots, n, i - 1, start, u)
        for wanted, got in zip(x_at(t_i), reached, strict=True):
            total += weights[i - 1] * rms(wanted - got) / len(start)
    return total


def rmse(base, knots, n, x_at, u):
    """Eq. (6)."""
    ends = solve(base, knots, n, x_at(0.0), u)[-1]
    return float(np.mean([rms(wanted - got) for wanted, got in zip(x_at(1.0), ends, strict=True)]))


def endpoint(base, knots, n, x_at, u):
    """E log ||x(1) - x_n||^2."""
    ends = solve(base, knots, n, x_at(0.0), u)[-1]
    return float(np.mean([math.log(rms(wanted - got) ** 2) for wanted, got in zip(x_at(1.0), ends, strict=True)]))


def sqrt_rmse(base, knots, n, x_at, u):
    """E ||x(1) - x_n||^(1/2)."""
    ends = solve(base, knots, n, x_at(0.0), u)[-1]
    return float(np.mean([math.sqrt(rms(wanted - got)) for wanted, got in zip(x_at(1.0), ends, strict=True)]))


LOSSES = {"rmse_bound": rmse_bound, "local": local, "rmse": rmse, "sqrt_rmse": sqrt_rmse, "endpoint": endpoint}


# --- Runge-Kutta methods as any textbook writes them: n equal steps from t = 0 to 1. ---


def euler(u, x, n):
    h = 1 / n
    for i in range(n):
        x = x + h * u(i * h, x)
    return x


def midpoint(u, x, n):
    h = 1 / n
    for i in range(n):
        k1 = u(i * h, x)
        x = x + h * u(i * h + h / 2, x + h / 2 * k1)
    return x


def heun(u, x, n):
    h = 1 / n
    for i in range(n):
        k1 = u(i * h, x)
        k2 = u(i * h + h, x + h * k1)
        x = x + h * (k1 + k2) / 2
    return x


def rk4(u, x, n):
    h = 1 / n
    for i in range(n):
        k1 = u(i * h, x)
        k2 = u(i * h + h / 2, x + h / 2 * k1)
        k3 = u(i * h + h / 2, x + h / 2 * k2)
        k4 = u(i * h + h, x + h * k3)
        x = x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return x


# --- Helpers of tests. ---


def random_knots(base, n, seed=0, spread=0.4):
    """Knots with nothing trivial about them: uneven t, s away from 1, slopes of both signs."""
    rng = np.random.default_rng(seed)
    size = INTERVALS[base] * n
    steps = np.exp(spread * rng.standard_normal(size))
    t = np.concatenate([[0.0], np.cumsum(steps) / np.sum(steps)])
    t[-1] = 1.0
    s = np.concatenate([[1.0], np.exp(spread * rng.standard_normal(size))])
    return t, np.exp(spread * rng.standard_normal(size)), s, spread * rng.standard_normal(size)


def finite_differences(f, x, h=1e-5):
    """df/dx for x of shape [m], by central differences, one number at a time: [*f, m]."""
    x = np.asarray(x, np.float64)
    columns = []
    for j in range(len(x)):
        shift = np.zeros_like(x)
        shift[j] = h
        columns.append((np.asarray(f(x + shift)) - np.asarray(f(x - shift))) / (2 * h))
    return np.stack(columns, axis=-1)


def order_of(errors, ns):
    """Minus the slope of log error over log n, by least squares."""
    return -np.polyfit(np.log(ns), np.log(errors), 1)[0]
