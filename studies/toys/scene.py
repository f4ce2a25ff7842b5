"""A room that is crossed past a column on either side: demonstrations, collisions, densities."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NUM_WAYPOINTS = 8
GOAL = (1.0, 1.0)
OBSTACLES = ((0.5, 0.5, 0.2), (0.0, 1.0, 0.22), (1.0, 0.0, 0.22))
"""Circles (x, y, radius): a column on the way, and two that leave a gap on either side of it."""

SHARE_LEFT = 0.65
"""How often the expert passes the column on the left."""

BULGE, BULGE_STD, WAYPOINT_STD, START_RANGE = 0.38, 0.025, 0.005, 0.05
"""How far from the diagonal the expert passes, its spread, the jitter of a waypoint, and of the start."""


def fractions() -> Float[Tensor, "waypoint"]:
    """Return how much of the way is behind at each waypoint."""
    return torch.arange(1, NUM_WAYPOINTS + 1) / NUM_WAYPOINTS


def sideways() -> Float[Tensor, "waypoint 2"]:
    """Return the direction to the left of the diagonal, times what share of the bulge a waypoint has."""
    return torch.sin(math.pi * fractions())[:, None] * torch.tensor([-1.0, 1.0]) / math.sqrt(2.0)


def ahead(start: Float[Tensor, "row 2"]) -> Float[Tensor, "row waypoint 2"]:
    """Return the waypoints of the straight way to the goal."""
    share = fractions()[:, None]
    return start[:, None] * (1.0 - share) + share * torch.tensor(GOAL)


def mean_path(start: Float[Tensor, "row 2"]) -> Float[Tensor, "row waypoint 2"]:
    """Return the mean demonstration from each start, which no demonstration is near: the optimum of a squared
    error.
    """
    return ahead(start) + (2 * SHARE_LEFT - 1) * BULGE * sideways()


def standard_deviation() -> Float[Tensor, "waypoint 2"]:
    """Return the standard deviation of each coordinate over demonstrations, in closed form."""
    side = BULGE**2 + BULGE_STD**2 - ((2 * SHARE_LEFT - 1) * BULGE) ** 2
    start = (1.0 - fractions()[:, None]).square() * START_RANGE**2 / 3
    return (start + side * sideways().square() + WAYPOINT_STD**2).sqrt()


def middle_density(points: Float[Tensor, "*point 2"], time: float) -> Float[Tensor, "*point"]:
    """Return the density of the middle waypoint of demonstrations from (0, 0) at a flow time.

    Noisy actions `(1 - t) · actions + t · noise` are, as waypoints, a mixture of two normals around
    `m + (1 - t) · (mode - m)` with the covariance `(1 - t)² · covariance + t² s²`; m and s are those of
    `to_actions`.
    """
    place = NUM_WAYPOINTS // 2 - 1
    middle, scale = mean_path(torch.zeros(1, 2))[0, place], standard_deviation()[place, 0]
    across = sideways()[place]
    blur = (time * scale).square()
    jitter = (1.0 - time) ** 2 * WAYPOINT_STD**2
    wide = (1.0 - time) ** 2 * BULGE_STD**2 + jitter + blur
    total = torch.zeros(points.shape[:-1])
    for share, side in ((SHARE_LEFT, 1.0), (1.0 - SHARE_LEFT, -1.0)):
        mode = 0.5 + side * BULGE * across
        away = points - (middle + (1.0 - time) * (mode - middle))
        aside = (away * across).sum(dim=-1)
        along = away.square().sum(dim=-1) - aside.square()
        exponent = aside.square() / wide + along / (jitter + blur)
        total += share * torch.exp(-exponent / 2) / (2 * math.pi * torch.sqrt(wide * (jitter + blur)))
    return total


def demonstrate(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw demonstrations `[row, waypoint, 2]` in the room's units, and their starts `[row, 2]`."""
    start = START_RANGE * (2 * torch.rand(rows, 2, generator=generator) - 1)
    left = torch.rand(rows, 1, 1, generator=generator) < SHARE_LEFT
    bulge = BULGE + BULGE_STD * torch.randn(rows, 1, 1, generator=generator)
    jitter = WAYPOINT_STD * torch.randn(rows, NUM_WAYPOINTS, 2, generator=generator)
    return ahead(start) + torch.where(left, bulge, -bulge) * sideways() + jitter, start


def to_actions(paths: Float[Tensor, "*row waypoint 2"]) -> Float[Tensor, "*row waypoint 2"]:
    """Return waypoints as actions of zero mean and unit variance."""
    return (paths - mean_path(torch.zeros(1, 2))[0]) / standard_deviation()


def to_paths(actions: Float[Tensor, "*row waypoint 2"]) -> Float[Tensor, "*row waypoint 2"]:
    """Return actions as waypoints in the room."""
    return actions * standard_deviation() + mean_path(torch.zeros(1, 2))[0]


def chunks(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw demonstrations as actions, and their starts as conditions between -1 and 1."""
    paths, start = demonstrate(rows, generator)
    return to_actions(paths), start / START_RANGE


def collides(paths: Float[Tensor, "row waypoint 2"], start: Float[Tensor, "row 2"]) -> Bool[Tensor, "row"]:
    """Return which paths, from the start along straight pieces, come into an obstacle."""
    corners = torch.cat([start[:, None], paths], dim=1)[:, :, None]
    begin, span = corners[:, :-1], corners.diff(dim=1)
    circles = torch.tensor(OBSTACLES)
    length = span.square().sum(dim=-1).clamp(min=1e-12)
    nearest = (((circles[:, :2] - begin) * span).sum(dim=-1) / length).clamp(0.0, 1.0)
    distance = (begin + nearest[..., None] * span - circles[:, :2]).norm(dim=-1)
    return (distance < circles[:, 2]).flatten(1).any(dim=1)


def passes_left(paths: Float[Tensor, "row waypoint 2"]) -> Bool[Tensor, "row"]:
    """Return which paths are left of the diagonal half way."""
    middle = paths[:, NUM_WAYPOINTS // 2 - 1]
    return middle[:, 1] > middle[:, 0]
