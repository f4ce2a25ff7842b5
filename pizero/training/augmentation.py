"""What training does to pictures so that a policy does not learn single scenes by heart."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor


def random_shift(
    images: UInt8[Tensor, "batch camera 3 height width"], max_shift: int, generator: torch.Generator
) -> UInt8[Tensor, "batch camera 3 height width"]:
    """Move each picture by up to `max_shift` whole pixels along both axes, repeating its border.

    Kostrikov et al. (2020, DrQ), with a draw of its own for each sample and camera.
    """
    batch, cameras, _, height, width = images.shape
    draws = torch.randint(
        -max_shift, max_shift + 1, (2, batch, cameras), generator=generator, device=images.device
    )
    rows = (torch.arange(height, device=images.device) + draws[0, ..., None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + draws[1, ..., None]).clamp(0, width - 1)
    rows = rows[:, :, None, :, None].expand(-1, -1, 3, -1, width)
    columns = columns[:, :, None, None, :].expand(-1, -1, 3, height, -1)
    return images.gather(3, rows).gather(4, columns)
