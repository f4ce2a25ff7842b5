"""Hard columns: dimensions that hardly move, outliers, single frames, numbers that are none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.contract import FieldStatistics, Normalization
from pizero.data.processor import Normalizer
from pizero.data.statistics import LEAST_SPREAD, degenerate_dimensions, field_statistics, floors, reach
from pizero.robots import ALOHA

MODES: tuple[Normalization, ...] = ("zscore", "quantile")


def with_floor(values: np.ndarray, floor: float) -> FieldStatistics:
    return replace(field_statistics(values.astype(np.float32)), floor=(floor,) * values.shape[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_dimension_stays_finite_and_comes_back(mode: Normalization) -> None:
    values = np.full((500, 2), 0.3, np.float32)
    statistics = with_floor(values, 0.06)
    normalizer = Normalizer(statistics, mode)
    moved = values[:3] + np.array([[0.0], [0.03], [3.2]], np.float32)
    written = normalizer.encode(moved)
    assert np.isfinite(written).all()
    assert np.abs(written[1]).max() <= 2.01
    np.testing.assert_allclose(normalizer.decode(written), moved, atol=1e-5)
    assert degenerate_dimensions(statistics) == [0, 1]


@pytest.mark.parametrize("mode", MODES)
def test_a_joint_that_hardly_moved_does_not_blow_up_when_it_does(mode: Normalization) -> None:
    """openpi's issue 814: q99 - q01 of a thousandth, and a value of -3.2 becomes -3200 times the range."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-5e-4, 5e-4, (10_000, 1))
    values[:20] = -3.2
    bare = field_statistics(values.astype(np.float32))
    quantile_floor = replace(bare, floor=floors(ALOHA.actions[:1]))
    outside = np.array([[-3.2]], np.float32)
    assert np.abs(Normalizer(bare, "quantile").encode(outside)).max() > 3000
    assert np.abs(Normalizer(quantile_floor, mode).encode(outside)).max() < 3.2 / (LEAST_SPREAD * 6.28) * 4.1


def test_one_outlier_of_a_million_moves_no_quantile() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20_000, 1))
    spoilt = values.copy()
    spoilt[7] = 1e6
    clean, found = (field_statistics(each.astype(np.float32)) for each in (values, spoilt))
    assert found.q99[0] == pytest.approx(clean.q99[0], abs=2e-3)
    assert found.maximum == (1e6,)
    assert reach(found, "quantile")[0] > 1e5
    assert reach(clean, "quantile")[0] < 3


@pytest.mark.parametrize("mode", MODES)
def test_a_single_frame_has_statistics(mode: Normalization) -> None:
    statistics = with_floor(np.array([[1.0, -2.0]]), 0.1)
    assert (statistics.q01, statistics.q99, statistics.std) == ((1.0, -2.0), (1.0, -2.0), (0.0, 0.0))
    written = Normalizer(statistics, mode).encode(np.array([[1.0, -2.0]], np.float32))
    np.testing.assert_allclose(written, 0.0, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_named(bad: float) -> None:
    values = np.zeros((9, 3), np.float32)
    values[4, 1] = bad
    with pytest.raises(ValueError, match=r"found 1 that are not, first .* in frame 4, dimension 1; remove"):
        field_statistics(values)


@given(
    low=st.floats(-10, 10),
    spread=st.floats(0, 10),
    floor=st.floats(1e-3, 5),
    value=st.floats(-50, 50),
    mode=st.sampled_from(MODES),
)
def test_a_floor_widens_about_the_middle_and_only_where_it_must(
    low: float, spread: float, floor: float, value: float, mode: Normalization
) -> None:
    bare = FieldStatistics(
        mean=(low + spread / 2,), std=(spread / 4,), q01=(low,), q99=(low + spread,), count=9
    )
    plain, floored = Normalizer(bare, mode), Normalizer(replace(bare, floor=(floor,)), mode)
    x = np.array([[value]], np.float32)
    if spread >= floor:
        np.testing.assert_array_equal(plain.encode(x), floored.encode(x))
    else:
        wide = (x - (low + spread / 2)) / (floor / 2 if mode == "quantile" else floor / 4)
        np.testing.assert_allclose(floored.encode(x), wide, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_reach_is_the_largest_normalised_number(mode: Normalization) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(300, 3)).astype(np.float32)
    statistics = with_floor(values, 0.1)
    expected = np.abs(Normalizer(statistics, mode).encode(values)).max(axis=0)
    np.testing.assert_allclose(reach(statistics, mode), expected, rtol=1e-5)
