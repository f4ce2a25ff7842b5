"""Solvers of `dx/dt = velocity(x, t)` from time 1 to time 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.integrate
import torch
from jaxtyping import Float
from torch import Tensor

from pizero.generative.process import per_row

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(state `[batch, ...]`, time `[batch]`) → velocity of the state's shape."""

Solver = Literal["euler", "midpoint", "heun", "rk4"]


def euler(
    velocity: Velocity, x: Float[Tensor, "batch *shape"], *, num_steps: int
) -> Float[Tensor, "batch *shape"]:
    """Take `num_steps` equal steps `x ← x - velocity(x, t) / num_steps`, from t = 1 down to t = 1 /
    num_steps.

    Time is accumulated in float32, as in openpi: the time embedding's fastest phase tells the last bit.
    """
    _check(num_steps)
    time = torch.ones(x.shape[0], dtype=torch.float32, device=x.device)
    for _ in range(num_steps):
        x = x - velocity(x, time) / num_steps
        time = time - 1.0 / num_steps
    return x


@dataclass(frozen=True, kw_only=True)
class RungeKutta:
    """An explicit Runge–Kutta method, given by its Butcher tableau.

    Stage i looks at time `start + nodes[i] · span`, at `x + span · Σ_j coefficients[i][j] · slope_j`; the
    step is `x + span · Σ_i weights[i] · slope_i` (Hairer, Nørsett and Wanner, Solving Ordinary Differential
    Equations I, section II.1).
    """

    nodes: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def step(
        self,
        velocity: Velocity,
        x: Float[Tensor, "batch *shape"],
        *,
        start: Float[Tensor, "batch"],
        end: Float[Tensor, "batch"],
    ) -> Float[Tensor, "batch *shape"]:
        """Carry each row from its time `start` to its time `end` in one step."""
        span = per_row(end - start, x)
        slopes: list[Tensor] = []
        for node, row in zip(self.nodes, self.coefficients, strict=True):
            inner = x
            for coefficient, slope in zip(row, slopes, strict=True):
                inner = inner + span * coefficient * slope
            slopes.append(velocity(inner, start + node * (end - start)))
        for weight, slope in zip(self.weights, slopes, strict=True):
            x = x + span * weight * slope
        return x

    def solve(
        self, velocity: Velocity, x: Float[Tensor, "batch *shape"], *, num_steps: int
    ) -> Float[Tensor, "batch *shape"]:
        """Take `num_steps` equal steps from time 1 to time 0; time has at least float32's precision."""
        _check(num_steps)
        one = torch.ones(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for left in range(num_steps, 0, -1):
            x = self.step(velocity, x, start=one * (left / num_steps), end=one * ((left - 1) / num_steps))
        return x


MIDPOINT = RungeKutta(nodes=(0.0, 0.5), coefficients=((), (0.5,)), weights=(0.0, 1.0))
"""Runge's midpoint rule, of order 2."""

HEUN = RungeKutta(nodes=(0.0, 1.0), coefficients=((), (1.0,)), weights=(0.5, 0.5))
"""Heun's method, the explicit trapezoidal rule, of order 2; its last look is at time 0."""

RK4 = RungeKutta(
    nodes=(0.0, 0.5, 0.5, 1.0),
    coefficients=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
"""The classical method of Kutta, of order 4; its last look is at time 0."""

METHODS: dict[Solver, RungeKutta] = {"midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4}
NUM_STAGES: dict[Solver, int] = {
    "euler": 1,
    **{name: len(method.nodes) for name, method in METHODS.items()},
}
"""How often each solver looks at the velocity in one step."""


def solve(
    velocity: Velocity, x: Float[Tensor, "batch *shape"], *, solver: Solver, num_steps: int
) -> Float[Tensor, "batch *shape"]:
    """Carry `x` from time 1 to time 0 in `num_steps` equal steps."""
    if solver == "euler":
        return euler(velocity, x, num_steps=num_steps)
    return METHODS[solver].solve(velocity, x, num_steps=num_steps)


@torch.no_grad()
def dormand_prince(
    velocity: Velocity, x: Float[Tensor, "batch *shape"], *, tolerance: float = 1e-6
) -> Float[Tensor, "batch *shape"]:
    """Carry `x` from time 1 to time 0 in steps as long as the tolerated error allows: the reference that
    other solvers are judged by.

    `tolerance` bounds the error estimated for each step, absolute and relative, over the batch as one system
    (Dormand and Prince 1980, of order 5 with an embedded order 4, as in `scipy.integrate.RK45`).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)

    def slope(time: float, flat: np.ndarray) -> np.ndarray:
        here = torch.from_numpy(flat).to(x).view_as(x)
        return velocity(here, x.new_full(x.shape[:1], time, dtype=dtype)).double().cpu().numpy().ravel()

    start = x.double().cpu().numpy().ravel()
    solution = scipy.integrate.solve_ivp(
        slope, (1.0, 0.0), start, method="RK45", t_eval=[0.0], rtol=tolerance, atol=tolerance
    )
    if not solution.success:
        raise ValueError(
            f"the adaptive solver stopped before time 0: {solution.message} Expected a smooth velocity; try "
            f"a tolerance above {tolerance}"
        )
    return torch.from_numpy(solution.y[:, -1]).to(x).view_as(x)


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(
            f"expected at least one solver step, found num_steps={num_steps}; the usual number is 10"
        )
