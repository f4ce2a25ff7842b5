"""A point on a plane that walks to one of two coloured discs: a robot task small enough for a test.

The instruction alone says which disc, and the picture alone says where it is; so a policy that solves it has
wired image, text, state and actions.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.envs.environment import Step
from pizero.names import nearest
from pizero.robots import NAVIGATION2D
from pizero.types import Observation

COLORS = {"red": (220, 40, 40), "blue": (40, 80, 230)}
AGENT_COLOR = (30, 30, 30)
DISC_RADIUS = 0.1
AGENT_RADIUS = 0.05


class Navigation2D:
    """Walk over the unit square to the disc that the instruction names; implements `Environment`.

    The state is the point's position; an action moves it by up to 0.1 along each axis. `success` when the
    point is within 0.08 of the disc's centre. ValueError for an unknown colour.
    """

    def __init__(self, color: str, *, max_steps: int = 30) -> None:
        if color not in COLORS:
            raise ValueError(f"unknown colour {color!r}: {nearest(color, COLORS)}")
        self.color = self.task = color
        self.max_steps = max_steps
        self.embodiment = NAVIGATION2D
        self.instruction = f"go to the {color} disc"

    def reset(self, seed: int) -> Observation:
        """Place the point and both discs apart from each other, as the seed says."""
        rng = np.random.default_rng(seed)
        while True:
            position, *centers = rng.uniform(0.1, 0.9, size=(1 + len(COLORS), 2))
            points = np.array([position, *centers])
            gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(len(points), 1)]
            if gaps.min() > 0.3:
                break
        self.position = position
        self.discs = dict(zip(COLORS, centers, strict=True))
        self.num_steps = 0
        return self.observe()

    def step(self, action: Float32[np.ndarray, "action_dim"], *, render: bool = True) -> Step:
        """Move the point."""
        self.position = np.clip(self.position + 0.1 * np.clip(action, -1.0, 1.0), 0.0, 1.0)
        self.num_steps += 1
        return Step(
            observation=self.observe() if render else None,
            success=bool(np.linalg.norm(self.discs[self.color] - self.position) < 0.08),
            done=self.num_steps >= self.max_steps,
        )

    def observe(self) -> Observation:
        """Draw the present."""
        return Observation(
            images={"top": self._draw()},
            state=self.position.astype(np.float32),
            instruction=self.instruction,
        )

    def expert_action(self) -> Float32[np.ndarray, "action_dim"]:
        """Return the step straight to the disc."""
        away = (self.discs[self.color] - self.position) / 0.1
        return (away / max(1.0, float(np.abs(away).max()))).astype(np.float32)

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draw the present for people, eight times as large."""
        return self._draw().repeat(8, axis=0).repeat(8, axis=1)

    def close(self) -> None:
        """Nothing to free."""

    def _draw(self) -> UInt8[np.ndarray, "height width 3"]:
        (camera,) = self.embodiment.cameras
        rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
        x, y = (columns + 0.5) / camera.width, 1.0 - (rows + 0.5) / camera.height
        picture = np.full((camera.height, camera.width, 3), 235, dtype=np.uint8)
        circles = [(COLORS[name], center, DISC_RADIUS) for name, center in self.discs.items()]
        for color, center, radius in [*circles, (AGENT_COLOR, self.position, AGENT_RADIUS)]:
            picture[(x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2] = color
        return picture
