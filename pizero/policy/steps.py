"""How many flow steps there is time for: coarse when late, fine when there is time, by what was measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

BUFFER = 10
"""Measurements that are remembered of each number of steps; the longest of them is expected."""

RETRY = 50
"""Choices after which a number of steps that was not chosen is taken for untried: machines recover."""


class StepChooser:
    """Chooses among numbers of flow steps the largest that is expected to be done in time.

    The first measurement of each number, which may include compilation, counts only until there is another.
    What was not tried is expected to lie on a line through what was, or to be proportional to it.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        if not choices or min(choices) < 1:
            raise ValueError(f"expected numbers of flow steps of 1 or more, found {list(choices)}")
        self.choices = sorted(set(choices))
        self.measured: dict[int, deque[float]] = {}
        self.unchosen = dict.fromkeys(self.choices, 0)

    def add(self, num_steps: int, seconds: float) -> None:
        """Remember how long an answer with some steps took."""
        self.measured.setdefault(num_steps, deque(maxlen=BUFFER + 1)).append(seconds)

    def choose(self, budget: float) -> int:
        """Return the most steps that are expected to take at most `budget` seconds, or else the fewest."""
        fitting = [number for number in self.choices if self.expected(number) <= budget]
        chosen = max(fitting, default=self.choices[0])
        for number in self.choices:
            self.unchosen[number] = 0 if number == chosen else self.unchosen[number] + 1
            if self.unchosen[number] >= RETRY:
                self.unchosen[number] = 0
                self.measured.pop(number, None)
        return chosen

    def expected(self, num_steps: int) -> float:
        """Return the seconds that an answer with some steps is expected to take; 0 if nothing is known."""
        own = self.measured.get(num_steps)
        if own is not None and len(own) > 1:
            return _longest(own)
        known = {number: _longest(times) for number, times in self.measured.items() if len(times) > 1}
        if len(known) > 1:
            slope, rest = np.polyfit(list(known), list(known.values()), 1)
            return max(0.0, float(slope * num_steps + rest))
        if known:
            (number, seconds), *_ = known.items()
            return seconds * num_steps / number
        return max(own, default=0.0) if own is not None else 0.0


def _longest(times: deque[float]) -> float:
    return max(list(times)[1:])
