"""Pictures become squares as openpi's client makes them: bit for bit, with the shape kept and black bars."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.data.images import resize_with_pad
from tests.golden_weights import arrays


@pytest.mark.parametrize("case", ["case1", "case3", "case4", "case5"])
def test_agrees_with_openpi_s_client_bit_for_bit(case: str) -> None:
    golden = arrays("resize_with_pad.npz")
    np.testing.assert_array_equal(resize_with_pad(golden[f"{case}/input_u8"], 224), golden[f"{case}/pil_u8"])


def expected_box(height: int, width: int, size: int) -> tuple[slice, slice]:
    """Return where the picture must lie: its longer side fills the square, the other is centred."""
    scale = Fraction(size, max(height, width))
    sides = [int(height * scale), int(width * scale)]
    begins = [(size - side) // 2 for side in sides]
    down, right = (slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True))
    return down, right


@given(st.integers(8, 200), st.integers(8, 200), st.sampled_from([32, 64]), st.integers(0, 255))
def test_a_plain_picture_stays_plain_in_its_box_with_black_around(
    height: int, width: int, size: int, value: int
) -> None:
    picture = np.full((height, width, 3), value, dtype=np.uint8)
    result = resize_with_pad(picture, size)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    expected = np.zeros_like(result)
    expected[expected_box(height, width, size)] = value
    np.testing.assert_array_equal(result, expected)


@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 99))
def test_a_mirrored_picture_gives_the_mirrored_square(height: int, width: int, seed: int) -> None:
    """Where the bars are of equal size: then nothing prefers left or right."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    _, right = expected_box(height, width, 32)
    mirrored = resize_with_pad(picture[:, ::-1], 32)
    straight = resize_with_pad(picture, 32)
    difference = straight[:, right][:, ::-1].astype(int) - mirrored[:, right].astype(int)
    assert np.abs(difference).max() <= 1  # rounding


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_with_pad(picture, 32), picture)


def test_channels_keep_their_order() -> None:
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    picture[..., 0], picture[..., 2] = 200, 100
    middle = resize_with_pad(picture, 64)[32, 32]
    assert middle.tolist() == [200, 0, 100]
