"""Augmented pictures against SciPy's resampling, Python's colours, and what openpi's own library returned."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from pizero.records import from_data, to_data
from pizero.training.augmentation import Augmentation, Distortions, augment, draw_distortions, moving

STILL = Augmentation(crop=1.0, degrees=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
HALF = 0.5 + 0.01
"""Half a level for the rounding, and what float32 loses of a coordinate or a colour."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def distortions(batch: int = 1, **given: Any) -> Distortions:
    """Return distortions that do nothing but what is given, for cameras of both kinds."""
    none = draw_distortions(replace(STILL, probability=0.0), batch, generator())
    return replace(none, **given)


def tensors(drawn: Distortions) -> dict[str, Tensor]:
    return {field.name: getattr(drawn, field.name) for field in fields(drawn) if field.name != "crop"}


def both(*amounts: float) -> Tensor:
    """Return the same amounts for cameras that stay and for those that move."""
    return torch.tensor(amounts)[:, None].repeat(1, 2)


def resampled(picture: np.ndarray, offset: tuple[float, float], angle: float, crop: float) -> np.ndarray:
    """Return levels of a picture `[3, height, width]`: each target pixel looked up in float64, by SciPy."""
    height, width = picture.shape[1:]
    kept = np.array([int(height * crop), int(width * crop)])
    sides = np.array([height, width])
    centre = (sides - 1) / 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    target = np.moveaxis(np.mgrid[:height, :width], 0, -1) - centre
    shift = np.array(offset) * (sides - kept) / 2
    source = centre + shift + kept / sides * (target @ turn.T)
    channels = [
        ndimage.map_coordinates(
            channel, source.transpose(2, 0, 1), order=1, mode="grid-constant", prefilter=False
        )
        for channel in picture.astype(np.float64)
    ]
    return np.stack(channels)


def recoloured(
    pixel: Sequence[float], brightness: float, contrast: float, saturation: float, hue: float
) -> list[float]:
    """Return the levels of one pixel, by the formulas of openpi's library and Python's own colours."""
    colour, vividness, value = colorsys.rgb_to_hsv(*(level / 255 for level in pixel))
    value = value * (1 + brightness) if brightness < 0 else value * (1 - brightness) + brightness
    slope = math.tan((contrast + 1) * math.pi / 4)
    if abs(slope - 1) > 1e-9:
        first = (slope - slope**2) / (2 * (1 - slope**2))
        if value < first:
            value = value / slope
        elif value > 1 - first:
            value = value / slope + 1 - 1 / slope
        else:
            value = slope * (value - 0.5) + 0.5
    vividness = min(vividness * (1 + saturation), 1.0)
    return [255 * level for level in colorsys.hsv_to_rgb((colour + hue) % 1.0, vividness, value)]


@pytest.mark.parametrize("size", [(24, 24), (17, 30), (30, 17), (4, 9)])
@pytest.mark.parametrize("degrees", [5.0, 180.0])
def test_geometry_is_scipy_s(size: tuple[int, int], degrees: float) -> None:
    config = replace(STILL, crop=0.8, degrees=degrees)
    drawn = draw_distortions(config, 4, generator(1))
    images = random_pictures(4, 2, 3, *size)
    found = augment(images, drawn, moves=(True, True)).double().numpy()
    for row in range(4):
        offset = (float(drawn.offsets[row, 0]), float(drawn.offsets[row, 1]))
        for camera in range(2):
            expected = resampled(images[row, camera].numpy(), offset, float(drawn.angle[row]), 0.8)
            assert np.abs(found[row, camera] - expected).max() <= HALF


def test_geometry_at_224_pixels_is_openpi_s() -> None:
    """The crop keeps 212 pixels, moved by at most 6; smooth, so that 0.01 pixels would be seen."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((3, 224, 224)), (0, 4, 4))
    picture = np.round(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    drawn = distortions(
        crop=Augmentation().crop, offsets=torch.tensor([[-0.5, 1.0]]), angle=torch.tensor([math.radians(5)])
    )
    found = augment(torch.from_numpy(picture)[None, None], drawn, moves=(True,))[0, 0].double().numpy()
    cosine, sine = math.cos(math.radians(5)), math.sin(math.radians(5))
    y, x = np.mgrid[:224, :224] - 111.5
    source = [
        111.5 - 3 + 212 / 224 * (cosine * y + sine * x),
        111.5 + 6 + 212 / 224 * (cosine * x - sine * y),
    ]
    for channel in range(3):
        expected = ndimage.map_coordinates(
            picture[channel].astype(float), source, order=1, mode="grid-constant", prefilter=False
        )
        assert np.abs(found[channel] - expected).max() <= HALF


AMOUNTS = {
    "brighter": (0.3, 0.0, 0.0, 0.0),
    "darker": (-0.3, 0.0, 0.0, 0.0),
    "steeper": (0.0, 0.4, 0.0, 0.0),
    "flatter": (0.0, -0.4, 0.0, 0.0),
    "turned": (0.0, 0.0, 0.0, 0.1),
    "turned back": (0.0, 0.0, 0.0, -0.5),
    "more vivid": (0.0, 0.0, 0.5, 0.0),
    "paler": (0.0, 0.0, -0.5, 0.0),
    "all": (0.21, -0.33, 0.4, 0.07),
    "all others": (-0.17, 0.26, -0.3, -0.09),
    "most": (1.0, 0.99, 1.0, 0.5),
    "least": (-1.0, -0.99, -1.0, -0.5),
}


def test_colours_are_those_of_a_scalar_transcription() -> None:
    """With grey, black and white pixels, and pixels of two equal channels, where a hue is easily wrong."""
    corners = [[red, green, blue] for red in (0, 97, 255) for green in (0, 97, 255) for blue in (0, 97, 255)]
    rng = np.random.default_rng(0)
    pixels = np.concatenate([np.array(corners), rng.integers(0, 256, (53, 3))]).astype(np.uint8)
    images = torch.from_numpy(pixels.T.reshape(3, 8, 10).copy()).repeat(len(AMOUNTS), 1, 1, 1, 1)
    brightness, contrast, saturation, hue = (
        both(*amounts) for amounts in zip(*AMOUNTS.values(), strict=True)
    )
    drawn = distortions(
        len(AMOUNTS),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        jittered=torch.ones(len(AMOUNTS), 2, dtype=torch.bool),
    )
    found = augment(images, drawn, moves=(False,)).double().numpy()
    for row, (name, amounts) in enumerate(AMOUNTS.items()):
        expected = np.array([recoloured(pixel, *amounts) for pixel in pixels.tolist()])
        assert expected.min() > -1e-9, name
        assert expected.max() < 255 + 1e-9, name
        assert np.abs(found[row, 0].reshape(3, -1).T - expected).max() <= HALF, name


GOLDEN = {
    "base": (
        "232322201f1f403b433d403d345159593337434c4c5555776b9397979b994142413f3d387660666183749c9e9fa09f9eada5"
        "abc2a386e3946d998406aaabaaa9a38f8eabdeba8d8d225f918a16262025273b2b314244484b4d24",
        "2427282828283f42444648485d5f636c71747d838a8e8a7c9899a2a9b07f797b7c7c7b6e929598929494a6abb0b4acb8c3b8"
        "cdd48442d96f5f874f0bbfc1c2b9bfa8bcdadd89587a4c6f944e171922292f3a38333e474f566148",
    ),
    "wrist": (
        "000d1a25303b293948562d3d4c263c4f62d6374f66dbe9f759d6e7f713331c28343f495343515f6cd8e163d5e1ecf707deec"
        "fa132e46f20729462e4ccfd5dbe1e7ede3ebf4fd0d1ef7061d32461f18324a2a435a3d1f3f5ad7e8",
        "000a141e2934223243558d9a498a99b3cda893b3d4adcbedc1a8c5ed0f2c81878d97a5b29cb0c4d8abb8caa8b6d2ed06b0d2"
        "f30f2843e00623438aa8a2a7acb6c5d3bbd0e5fa0a19ec05182d4384132d4889a6c73884a0c7aac8",
    ),
}


def test_pictures_are_those_of_openpi_s_library() -> None:
    """What augmax 0.4.1 on jax 0.5.3 made of a picture of 5 x 6 pixels, rounded, for keys 7 and 113.

    `base` is Chain(RandomCrop(4, 3), Resize(6, 5), Rotate((-20, 20)), jitter), `wrist` the jitter alone:
    ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5). The amounts are those drawn from the keys.
    """
    y, x, channel = np.mgrid[:5, :6, :3]
    picture = ((37 * y + 11 * x + 83 * channel + 5 * x * y) % 256).astype(np.uint8).transpose(2, 0, 1)
    drawn = Distortions(
        crop=0.7,
        offsets=torch.tensor([[-0.6222718, 0.5099342], [-0.6445322, 0.8301182]]),
        angle=torch.tensor([-0.34055987, -0.23508320]),
        brightness=torch.tensor([[0.15282355, -0.00342672], [0.23131865, -0.09374435]]),
        contrast=torch.tensor([[0.27431747, -0.37377605], [-0.3199895, 0.05358047]]),
        saturation=torch.zeros(2, 2),
        hue=torch.tensor([[0.06065133, 0.04553929], [-0.04925973, -0.00753243]]),
        jittered=torch.ones(2, 2, dtype=torch.bool),
    )
    images = torch.from_numpy(picture.copy()).repeat(2, 2, 1, 1, 1)
    found = augment(images, drawn, moves=moving(("base", "wrist")))
    for camera, name in enumerate(GOLDEN):
        for row, expected in enumerate(GOLDEN[name]):
            assert found[row, camera].numpy().tobytes().hex() == expected, (name, row)


@pytest.mark.parametrize("moves", [(True, False), (True, True), (False, False)])
def test_zero_ranges_give_the_same_bytes(moves: tuple[bool, bool]) -> None:
    images = random_pictures(3, 2, 3, 33, 20)
    drawn = draw_distortions(replace(STILL, probability=1.0), 3, generator())
    assert drawn.jittered.all()
    assert torch.equal(augment(images, drawn, moves=moves), images)


def test_a_camera_on_the_wrist_gets_colours_but_stays_in_place() -> None:
    images = random_pictures(8, 2, 3, 16, 16)
    before = images.clone()
    moves = moving(("base_0_rgb", "left_wrist_0_rgb"))
    drawn = draw_distortions(Augmentation(probability=0.0), 8, generator())
    plain = augment(images, drawn, moves=moves)
    assert torch.equal(images, before)
    assert torch.equal(plain[:, 1], images[:, 1])
    assert (plain[:, 0] != images[:, 0]).flatten(1).float().mean(1).min() > 0.5

    drawn = draw_distortions(Augmentation(probability=1.0), 8, generator())
    found = augment(images, drawn, moves=moves)
    for row in range(8):
        amounts = [getattr(drawn, name)[row, 0] for name in ("brightness", "contrast", "saturation", "hue")]
        pixels = images[row, 1].flatten(1).T
        expected = [recoloured(pixel, *map(float, amounts)) for pixel in pixels.tolist()]
        assert np.abs(found[row, 1].flatten(1).T.numpy() - np.array(expected)).max() <= HALF


def test_cameras_of_one_kind_are_distorted_alike_and_samples_are_not() -> None:
    images = random_pictures(1, 1, 3, 16, 16).repeat(6, 4, 1, 1, 1)
    drawn = draw_distortions(Augmentation(probability=1.0), 6, generator())
    found = augment(images, drawn, moves=(True, False, True, False))
    assert torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(found[:, 1], found[:, 3])
    for camera in (0, 1):
        assert len({row.numpy().tobytes() for row in found[:, camera]}) == 6
    assert all((drawn.hue[:, 0] != drawn.hue[:, 1]).tolist())


def test_each_kind_of_camera_has_its_own_chance_of_colours() -> None:
    images = random_pictures(2, 2, 3, 6, 6)
    drawn = distortions(2, hue=both(0.3, 0.3), jittered=torch.tensor([[True, False], [False, True]]))
    same = (augment(images, drawn, moves=(False, True)) == images).flatten(2).all(-1)
    assert same.tolist() == [[False, True], [True, False]]


def test_draws_are_uniform_within_their_ranges_and_independent() -> None:
    config = Augmentation(
        crop=0.9, degrees=7.0, brightness=0.2, contrast=0.3, saturation=0.6, hue=0.05, saturation_acts=True
    )
    drawn = draw_distortions(config, 20_000, generator())
    widths = {
        "offsets": 1.0,
        "angle": math.radians(7.0),
        "brightness": 0.2,
        "contrast": 0.3,
        "saturation": 0.6,
        "hue": 0.05,
    }
    columns = []
    for name, width in widths.items():
        values = getattr(drawn, name).double().reshape(20_000, -1).numpy()
        assert np.abs(values).max() <= width * (1 + 1e-6)
        for column in values.T:
            assert stats.kstest(column, stats.uniform(-width, 2 * width).cdf).pvalue > 1e-3, name
            columns.append(column)
    columns += list(drawn.jittered.double().numpy().T)
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 4.5 / math.sqrt(20_000)
    assert drawn.crop == 0.9


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_jittered_pictures_is_the_probability(probability: float) -> None:
    drawn = draw_distortions(Augmentation(probability=probability), 10_000, generator())
    deviation = 5 * math.sqrt(probability * (1 - probability) / 10_000)
    assert (drawn.jittered.double().mean(0) - probability).abs().max() <= deviation


def test_saturation_is_without_effect_unless_it_acts() -> None:
    images = random_pictures(32, 1, 3, 4, 4)
    grey = images[:, :, :1].repeat(1, 1, 3, 1, 1)
    silent = draw_distortions(replace(STILL, saturation=0.5, probability=1.0), 32, generator())
    assert torch.equal(augment(images, silent, moves=(False,)), images)
    config = replace(STILL, saturation=0.5, probability=1.0, saturation_acts=True)
    acting = draw_distortions(config, 32, generator())
    assert acting.saturation.min() < -0.3
    assert acting.saturation.max() > 0.3
    assert (augment(images, acting, moves=(False,)) != images).flatten(1).any(1).all()
    assert torch.equal(augment(grey, acting, moves=(False,)), grey)
    others = [name for name in tensors(acting) if name != "saturation"]
    assert all(torch.equal(getattr(acting, name), getattr(silent, name)) for name in others)


@pytest.mark.parametrize("chosen", [slice(2, 5), slice(None, None, 3), torch.tensor([6, 0, 0, 3])])
def test_rows_of_one_draw_make_the_same_pictures(chosen: slice | Tensor) -> None:
    images = random_pictures(7, 2, 3, 9, 9)
    drawn = draw_distortions(Augmentation(), 7, generator(3))
    whole = augment(images, drawn, moves=(True, False))
    part = augment(images[chosen], drawn.rows(chosen), moves=(True, False))
    assert torch.equal(part, whole[chosen])


def test_the_generator_alone_decides() -> None:
    state = torch.get_rng_state()
    first, again, other = (draw_distortions(Augmentation(), 5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, getattr(again, name)), name
    assert not torch.equal(first.offsets, other.offsets)
    one = generator(1)
    draws = [draw_distortions(Augmentation(), 5, one).angle for _ in range(2)]
    assert torch.equal(draws[0], first.angle)
    assert not torch.equal(draws[1], first.angle)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"), (True, False, False)),
        (("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"), (True, True, False, False)),
        (("image", "wrist_image"), (True, False)),
        ((), ()),
    ],
)
def test_all_cameras_move_but_those_on_a_wrist(names: tuple[str, ...], expected: tuple[bool, ...]) -> None:
    assert moving(names) == expected


def test_the_defaults_are_openpi_s_and_a_record_survives_its_file() -> None:
    config = Augmentation()
    assert (config.crop, config.degrees, config.probability) == (0.95, 5.0, 0.5)
    assert (config.brightness, config.contrast, config.saturation, config.hue) == (0.3, 0.4, 0.5, 0.1)
    assert config.saturation_acts is False
    changed = Augmentation(crop=0.8, degrees=10.0, hue=0.0, saturation_acts=True)
    assert from_data(Augmentation, to_data(changed)) == changed


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("crop", 0.0),
        ("crop", 1.01),
        ("degrees", -5.0),
        ("degrees", 181.0),
        ("brightness", -0.1),
        ("brightness", 1.1),
        ("contrast", 1.0),
        ("contrast", -0.1),
        ("saturation", -0.5),
        ("saturation", 1.5),
        ("hue", 0.51),
        ("hue", -0.1),
        ("probability", 1.5),
        ("probability", -0.5),
        ("degrees", math.nan),
        ("crop", math.nan),
        ("contrast", math.nan),
    ],
)
def test_a_number_outside_its_range_is_refused(field: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"expected {field} in .*found {wrong}"):
        replace(Augmentation(), **{field: wrong})


def test_a_missing_entry_for_a_camera_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 3 cameras, found 2"):
        augment(random_pictures(2, 3, 3, 8, 8), distortions(2), moves=(True, False))
