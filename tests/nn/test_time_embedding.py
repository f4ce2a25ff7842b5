"""The time embedding is openpi's, to the last digit of float32."""

import numpy as np
import torch

from pizero.nn.time_embedding import time_embedding
from tests.golden_weights import arrays


def test_agrees_with_openpi() -> None:
    time = torch.from_numpy(arrays("pi0/inputs.npz")["loss_time"])
    ours = time_embedding(time, 48).numpy()
    np.testing.assert_allclose(
        ours, arrays("pi0/outputs_torch.npz")["time_emb_float64_cast32"], atol=1e-7, rtol=0
    )
    np.testing.assert_allclose(ours, arrays("pi0/outputs_jax.npz")["time_emb"], atol=1e-4, rtol=0)


def test_values_that_can_be_checked_by_hand() -> None:
    """Eight numbers at t = 1/2: periods 0.004, 0.04, 0.4 and 4, that is 125, 12.5, 1.25 and 0.125 turns."""
    root = 0.5**0.5
    expected = torch.tensor([0.0, 0.0, 1.0, root, 1.0, -1.0, 0.0, root])
    torch.testing.assert_close(time_embedding(torch.tensor(0.5), 8), expected, atol=1e-6, rtol=0)


def test_every_frequency_turns_at_its_rate() -> None:
    """Sine and cosine of one frequency lie on the unit circle and repeat after one period."""
    periods = torch.tensor([0.004, 0.04, 0.4, 4.0], dtype=torch.float64)
    time = torch.rand(50, dtype=torch.float64)
    sines, cosines = time_embedding(time, 8).chunk(2, dim=-1)
    torch.testing.assert_close(sines.square() + cosines.square(), torch.ones(50, 4))
    for index, period in enumerate(periods):
        later, _ = time_embedding(time + period, 8).chunk(2, dim=-1)
        torch.testing.assert_close(later[:, index], sines[:, index], atol=1e-5, rtol=0)
        half_later, _ = time_embedding(time + period / 2, 8).chunk(2, dim=-1)
        torch.testing.assert_close(half_later[:, index], -sines[:, index], atol=1e-5, rtol=0)
