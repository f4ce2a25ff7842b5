"""Counted quantiles and merged moments against numpy on all values at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.data.order_statistics import Moments, Quantiles

SHARES = (0.0, 0.01, 0.37, 0.5, 0.99, 1.0)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def in_parts(values: np.ndarray, count: int) -> list[np.ndarray]:
    return np.array_split(values, count)


def counted(values: np.ndarray, num_parts: int) -> np.ndarray:
    quantiles = Quantiles(values.shape[1], SHARES)
    for part in in_parts(values, num_parts):
        quantiles.count(part)
    quantiles.narrow()
    for part in reversed(in_parts(values, num_parts)):
        quantiles.count(part)
    return quantiles.values()


@given(values=arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=FLOATS))
def test_quantiles_are_numpy_s(values: np.ndarray) -> None:
    exact = np.quantile(values.astype(np.float64), SHARES, axis=0)
    np.testing.assert_allclose(counted(values, 3), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_outliers_ties_and_tiny_numbers_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(20_000, 4)).astype(np.float32)
    values[:, 1] = 1e-30 * values[:, 1]
    values[rng.integers(0, 20_000, 5), 2] = 1e6
    values[:, 3] = np.round(values[:, 3])
    exact = np.quantile(values.astype(np.float64), SHARES, axis=0)
    np.testing.assert_allclose(counted(values, 7), exact, rtol=1e-12, atol=0)


def test_one_pass_is_not_enough() -> None:
    with pytest.raises(ValueError, match="expected a second pass"):
        Quantiles(1, SHARES).values()


@given(
    values=arrays(
        np.float32, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1e4, 1e4, width=32)
    ),
    shift=st.sampled_from([0.0, 1e5]),
)
def test_moments_are_numpy_s(values: np.ndarray, shift: float) -> None:
    """A large common offset, which single-pass sums of squares get wrong, included."""
    values = (values + np.float32(shift)).astype(np.float32)
    moments = Moments(values.shape[1])
    for part in in_parts(values, 4):
        moments.count(part)
    exact = values.astype(np.float64)
    assert moments.total == len(values)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.std, exact.std(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(moments.minimum, exact.min(axis=0))
    np.testing.assert_array_equal(moments.maximum, exact.max(axis=0))
