"""Random crops, turns and colours of training pictures: what openpi's training does, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

NUM_KINDS = 2  # of cameras: those that stay, and those that move
NUM_DRAWS = 3 + 5 * NUM_KINDS
LIMITS = {"degrees": 180.0, "brightness": 1.0, "saturation": 1.0, "hue": 0.5, "probability": 1.0}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much pictures are changed at random; the defaults are openpi's (`preprocess_observation`).

    `crop` is the share of each side that is kept and enlarged again, `degrees` the largest turn. Colours are
    changed with `probability`, by at most `brightness`, `contrast` and `hue` (in turns of the colour wheel).
    `saturation` is without effect unless `saturation_acts`: openpi asks for 0.5, but its library (augmax
    0.4.1, `ColorJitter`) computes the change and drops it, so that its policies were trained without.

    ValueError for a number outside its range, within which pictures keep their values in [0, 1].
    """

    crop: float = 0.95
    degrees: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    hue: float = 0.1
    probability: float = 0.5
    saturation_acts: bool = False

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"expected {name} in [0, {most:g}], found {getattr(self, name)}")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"expected crop in (0, 1], found {self.crop}: it is the share that is kept")
        if not 0.0 <= self.contrast < 1.0:
            raise ValueError(f"expected contrast in [0, 1), found {self.contrast}")


@dataclass(frozen=True)
class Distortions:
    """What is done to each sample's pictures: one row per sample.

    `offsets` (down, right) are shares of the largest offset that keeps a crop inside the picture, in [-1, 1];
    `angle` is in radians. Colours have a column for the cameras that stay and one for those that move: openpi
    gives all cameras of a sample one key, but augmax splits it by the number of steps, which is one for wrist
    cameras and two for others.
    """

    crop: float
    offsets: Float32[Tensor, "batch 2"]
    angle: Float32[Tensor, " batch"]
    brightness: Float32[Tensor, "batch kind"]
    contrast: Float32[Tensor, "batch kind"]
    saturation: Float32[Tensor, "batch kind"]
    hue: Float32[Tensor, "batch kind"]
    jittered: Bool[Tensor, "batch kind"]

    def rows(self, chosen: slice | Tensor) -> Distortions:
        """Return those of some samples, so that ranks and micro-batches can share one draw."""
        tensors = [field.name for field in fields(self) if field.name != "crop"]
        return Distortions(self.crop, **{name: getattr(self, name)[chosen] for name in tensors})


def moving(camera_names: Sequence[str]) -> tuple[bool, ...]:
    """Say of each camera whether it is cropped and turned: all are, but for wrist cameras (openpi)."""
    return tuple("wrist" not in name for name in camera_names)


def draw_distortions(config: Augmentation, num_rows: int, generator: torch.Generator) -> Distortions:
    """Draw independent uniform distortions for `num_rows` samples, on the generator's device."""
    draws = torch.rand((num_rows, NUM_DRAWS), generator=generator, device=generator.device)
    geometry, colours = 2.0 * draws[:, :3] - 1.0, draws[:, 3:].unflatten(1, (5, NUM_KINDS))
    amounts = 2.0 * colours - 1.0
    return Distortions(
        crop=config.crop,
        offsets=geometry[:, :2],
        angle=math.radians(config.degrees) * geometry[:, 2],
        brightness=config.brightness * amounts[:, 0],
        contrast=config.contrast * amounts[:, 1],
        saturation=(config.saturation if config.saturation_acts else 0.0) * amounts[:, 2],
        hue=config.hue * amounts[:, 3],
        jittered=colours[:, 4] < config.probability,
    )


@torch.no_grad()
def augment(
    images: UInt8[Tensor, "batch camera 3 height width"], distortions: Distortions, *, moves: Sequence[bool]
) -> UInt8[Tensor, "batch camera 3 height width"]:
    """Return a batch of pictures, distorted: cameras that move are cropped and turned, then all get colours.

    Computed in float32 and rounded: a value is half a level at most (and float32's own error) from openpi's,
    which stays a float. A picture that is neither moved nor jittered keeps its bytes. ValueError unless
    `moves` has an entry for every camera.
    """
    if len(moves) != images.shape[1]:
        raise ValueError(
            f"expected one entry of moves for each of {images.shape[1]} cameras, found {len(moves)}"
        )
    levels = images.float()
    moved = [camera for camera, moves_too in enumerate(moves) if moves_too]
    if moved:
        levels[:, moved] = _move(levels[:, moved].flatten(1, 2), distortions).unflatten(1, (len(moved), 3))
    kinds = [int(moves_too) for moves_too in moves]
    jittered = distortions.jittered[:, kinds].nonzero(as_tuple=True)
    amounts = [
        amount[:, kinds][jittered][:, None, None]
        for amount in (distortions.brightness, distortions.contrast, distortions.saturation, distortions.hue)
    ]
    levels[jittered] = _jitter(levels[jittered] / 255.0, *amounts) * 255.0
    return levels.round_().to(torch.uint8)


def _move(
    pictures: Float32[Tensor, "batch channel height width"], distortions: Distortions
) -> Float32[Tensor, "batch channel height width"]:
    """Crop, enlarge and turn in one bilinear resampling; what lies outside the picture is black.

    From centres (y, x) of pixels, counted from the picture's centre: source = offset + scale · R target with
    scale = int(size · crop) / size for each side, R = [[cos a, sin a], [-sin a, cos a]] and offsets of at
    most (size - int(size · crop)) / 2 pixels. At 224 pixels and a crop of 0.95: 212 / 224 and 6 pixels.
    """
    height, width = pictures.shape[-2:]
    down, right = (max(int(size * distortions.crop), 1) / size for size in (height, width))
    y = torch.arange(height, device=pictures.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=pictures.device) - (width - 1) / 2
    cosine, sine = distortions.angle.cos()[:, None, None], distortions.angle.sin()[:, None, None]
    offset_y, offset_x = distortions.offsets[:, :, None, None].unbind(1)
    # Halves of a side are what grid_sample counts in. No matrix product: on a GPU it may be rounded to TF32.
    source_y = (down * (cosine * y + sine * x)) / (height / 2) + (1.0 - down) * offset_y
    source_x = (right * (cosine * x - sine * y)) / (width / 2) + (1.0 - right) * offset_x
    grid = torch.stack((source_x, source_y), dim=-1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _jitter(
    pictures: Float32[Tensor, "picture 3 height width"],
    brightness: Float32[Tensor, "picture 1 1"],
    contrast: Float32[Tensor, "picture 1 1"],
    saturation: Float32[Tensor, "picture 1 1"],
    hue: Float32[Tensor, "picture 1 1"],
) -> Float32[Tensor, "picture 3 height width"]:
    """Change value, saturation and hue (HSV) of pictures with values in [0, 1], which stay in it.

    They do because both curves of the value, `_brighten` and `_steepen`, lead from [0, 1] into it, and a
    channel lies between 0 and the value. Saturation is multiplied by 1 + `saturation`, at most to 1: augmax's
    own curve, were its result not dropped, is the same below 0, but above it gives grey pixels the saturation
    of the amount itself, and so paints them red.
    """
    red, green, blue = pictures.unbind(1)
    value = pictures.amax(1)
    spread = value - pictures.amin(1)
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2.0 * spread, red - green + 4.0 * spread),
    )
    tiny = torch.finfo(pictures.dtype).tiny  # grey has no hue and black no saturation: 0 / tiny = 0
    sixths = sixths / spread.clamp_min(tiny) + 6.0 * hue
    vividness = ((1.0 + saturation) * (spread / value.clamp_min(tiny))).clamp_max_(1.0)
    value = _steepen(_brighten(value, brightness), contrast)
    chroma = value * vividness
    channels = []
    for first in (5.0, 3.0, 1.0):
        position = (sixths + first) % 6.0
        channels.append(value - chroma * torch.minimum(position, 4.0 - position).clamp_(0.0, 1.0))
    return torch.stack(channels, dim=1)


def _brighten(
    value: Float32[Tensor, "picture height width"], amount: Float32[Tensor, "picture 1 1"]
) -> Float32[Tensor, "picture height width"]:
    """Move values towards 0 or 1 by the share |amount| of their distance (augmax, `adjust_brightness`)."""
    return value * (1.0 - amount.abs()) + amount.clamp_min(0.0)


def _steepen(
    value: Float32[Tensor, "picture height width"], amount: Float32[Tensor, "picture 1 1"]
) -> Float32[Tensor, "picture height width"]:
    """Bend values along an S of three lines: slope s = tan((amount + 1) π/4) in the middle, 1/s at the ends.

    The S leads from 0 to 1, with knots at p = s / (2 (1 + s)) and 1 - p (augmax, `adjust_contrast`, where
    p = (s - s²) / (2 (1 - s²)) is 0/0 for s = 1).
    """
    slope = torch.tan((amount + 1.0) * (math.pi / 4))
    knot = slope / (2.0 * (1.0 + slope))
    middle = slope * (value - 0.5) + 0.5
    upper = torch.where(value > 1.0 - knot, (value - 1.0) / slope + 1.0, middle)
    return torch.where(value < knot, value / slope, upper)
