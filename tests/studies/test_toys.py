"""The 2-D studies run, small, and write what they should; the same seed gives the same numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studies.toys import (
    couplings,
    discretised,
    flow_and_diffusion,
    guidance,
    navigation,
    one_step,
    solvers_and_steps,
    time_density,
)
from studies.toys.common import Networks, Size, trained
from studies.toys.scene import chunks

STUDIES = {
    "couplings": couplings,
    "discretised": discretised,
    "flow_and_diffusion": flow_and_diffusion,
    "guidance": guidance,
    "navigation": navigation,
    "one_step": one_step,
    "solvers_and_steps": solvers_and_steps,
    "time_density": time_density,
}
FIGURES = Path(__file__).parents[2] / "docs" / "images" / "flow"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A study takes one thread; the tests after it keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def policies(size: Size, seed: int) -> dict[str, Networks]:
    ways = {name: trained(process, chunks, size, seed=seed) for name, process in navigation.PROCESSES.items()}
    return {navigation.REGRESSION: navigation.regression(size, seed), **ways}


def spreads(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mean with its interval."""
    if isinstance(value, dict):
        if {"mean", "interval", "values"} <= set(value):
            yield value
        for inner in value.values():
            yield from spreads(inner)


def refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "study"), STUDIES.items())
def test_a_study_runs_and_leaves_numbers_figures_and_a_table(
    name: str, study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.main([str(tmp_path), "--quick"])
    text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=refuse)
    assert (record["study"], record["seed"], record["quick"]) == (name, 0, True)
    found = list(spreads(record))
    assert len(found) >= 8
    for each in found:
        low, high = each["interval"]
        assert len(each["values"]) == record["size"]["num_members"]
        assert low <= each["mean"] <= high
        assert each["mean"] == pytest.approx(np.mean(each["values"]), rel=1e-3, abs=1e-4)
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.width >= 1100
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height) or []) > 8
    assert ET.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
    heading, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= 3
    assert len(heading.split("  ")) > 3
    if study is navigation:
        with Image.open(tmp_path / "navigation.gif") as film:
            assert getattr(film, "n_frames", 1) == navigation.QUICK_FRAMES
            assert film.info["loop"] == 0


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others() -> None:
    size = Size(num_members=2, num_updates=20, rows=16, num_samples=32)
    first, again, other = (
        navigation.act(policies(size, seed), torch.zeros(32, 2), size, seed) for seed in (3, 3, 4)
    )
    for name, paths in first.items():
        assert torch.equal(paths, again[name])
        assert not torch.equal(paths, other[name])


@pytest.mark.parametrize(("name", "study"), STUDIES.items())
def test_the_figures_in_the_docs_are_of_a_full_run_at_this_code_s_size(name: str, study: ModuleType) -> None:
    record = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
    assert (record["study"], record["seed"], record["quick"]) == (name, 0, False)
    assert record["size"] == vars(study.FULL)
    written = {path.suffix for path in FIGURES.glob(f"{name}.*")}
    assert written >= {".png", ".svg", ".json"}
