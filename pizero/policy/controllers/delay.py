"""How late an answer will be, and which delays a chunk can bear."""

from __future__ import annotations

from collections import deque

BUFFER = 10
"""Delays that are remembered; the longest of them is expected next (Black et al. 2025, section 4.2)."""


class DelayEstimator:
    """The longest of the last measured delays, in ticks; `expected` before anything is measured."""

    def __init__(self, expected: int) -> None:
        if expected < 0:
            raise ValueError(f"expected a delay of 0 or more control periods, found {expected}")
        self.expected = expected
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.last: deque[int] = deque(maxlen=BUFFER)

    def add(self, delay: int) -> None:
        """Remember a measured delay."""
        self.last.append(delay)

    @property
    def estimate(self) -> int:
        """Return the delay to count on."""
        return max(self.last, default=self.expected)


def check_delay(*, horizon: int, execution: int, delay: int) -> None:
    """Raise ValueError unless delay d, execution s and horizon H fit: d ≤ s ≤ H - d.

    The next chunk is made while the last one is executed, so the last one must have d actions left, and an
    answer must be there before the next is asked for (Black et al. 2025, section 4.1).
    """
    if not delay <= execution <= horizon - delay:
        longest = horizon // 2
        raise ValueError(
            f"chunks of {horizon} actions cannot be spliced with a delay of {delay} control periods and "
            f"{execution} actions between requests: expected delay ≤ actions ≤ horizon - delay, found "
            f"{delay} ≤ {execution} ≤ {horizon - delay}. "
            + (
                f"Choose {max(delay, 1)} to {horizon - delay} actions"
                if delay <= longest
                else f"Delays of up to {longest} can be spliced: answer faster, or execute synchronously"
            )
        )
