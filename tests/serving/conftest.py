"""A dashboard that is served to a browser, for the tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pizero.serving.server.dashboard import Dashboard
from pizero.serving.server.telemetry import Telemetry
from tests.serving.dashboards import Served, robot_contract


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def served(telemetry: Telemetry) -> Iterator[Served]:
    server = Served(Dashboard(telemetry, robot_contract()))
    yield server
    server.close()
