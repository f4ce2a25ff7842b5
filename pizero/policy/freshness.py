"""Whether what a robot shows is still the present: the age of observations, and pictures that stand still."""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import UInt8

from pizero.embodiment import Embodiment
from pizero.policy.robot import Stamped


class Freshness:
    """Looks at one observation a tick and names what is wrong with it.

    `stale-observation` is older than `max_age` seconds; `missing-camera:NAME` has no picture of a camera that
    is required, or one of another size; `frozen-camera:NAME` showed the same picture, number for number,
    for `max_frozen` ticks and more.
    """

    def __init__(self, embodiment: Embodiment, *, max_age: float, max_frozen: int) -> None:
        self.cameras, self.max_age, self.max_frozen = embodiment.cameras, max_age, max_frozen
        self.seen: dict[str, int] = {}
        self.still: dict[str, int] = {}
        self.last: float | None = None

    def check(self, stamped: Stamped, now: float) -> tuple[str, ...]:
        """Return the names of what is wrong at time `now`, in seconds of the monotonic clock."""
        found = []
        if now - stamped.time > self.max_age:
            found.append("stale-observation")
        for camera in self.cameras:
            picture = stamped.observation.images.get(camera.name)
            if picture is None or picture.shape[:2] != (camera.height, camera.width):
                if camera.required:
                    found.append(f"missing-camera:{camera.name}")
                continue
            if self.max_frozen and self._frozen(camera.name, picture, new=stamped.time != self.last):
                found.append(f"frozen-camera:{camera.name}")
        self.last = stamped.time
        if not np.isfinite(stamped.observation.state).all():
            found.append("state-not-finite")
        return tuple(found)

    def _frozen(self, camera: str, picture: UInt8[np.ndarray, "height width 3"], *, new: bool) -> bool:
        if new:
            digest = digest_of(picture)
            same = self.seen.get(camera) == digest
            self.still[camera] = self.still.get(camera, 0) + 1 if same else 0
            self.seen[camera] = digest
        return self.still.get(camera, 0) >= self.max_frozen


def digest_of(picture: UInt8[np.ndarray, "height width 3"]) -> int:
    """Return a number that is another one for another picture, as good as always."""
    whole = np.ascontiguousarray(picture)
    if whole.size % 8:
        return zlib.crc32(whole.data)
    words = whole.reshape(-1).view(np.uint64)
    return int(words.sum(dtype=np.uint64)) ^ zlib.crc32(words[::16].tobytes())
