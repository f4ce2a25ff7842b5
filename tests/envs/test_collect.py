"""Demonstrations are the same bytes for the same seed, survive an interruption, and show the expert alone."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_features import ACTION, STATE
from pizero.data.lerobot_writer import partial_folder, shard_folder
from pizero.envs.collect import CollectConfig, collect, demonstrate
from pizero.envs.environment import Step
from pizero.envs.metaworld import MetaWorld

pytestmark = pytest.mark.sim

CONFIG = CollectConfig(tasks=("reach", "drawer-open"), episodes_per_task=3, seed=7)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collect") / "dataset"
    assert collect(CONFIG, folder, num_workers=2) == 6
    return folder


def test_interrupted_and_with_one_worker_the_bytes_are_the_same(folder: Path, tmp_path: Path) -> None:
    """Three shards are there from a run that was killed, one of them half-written."""
    other = tmp_path / "dataset"
    environment = MetaWorld("reach")
    episode = demonstrate(CONFIG, environment, 1)
    environment.close()
    first = partial_folder(other)
    (shard_folder(first, 0).with_suffix(".partial")).mkdir(parents=True)
    collect_config = CollectConfig(tasks=("reach",), episodes_per_task=3, seed=7)
    shutil.rmtree(first)
    assert collect(CONFIG, other, num_workers=1) == 6
    assert digest(other) == digest(folder)
    assert len(episode.columns[STATE]) == LeRobotDataset.open(other).episodes[1].length
    assert collect(CONFIG, other, num_workers=1) == 0
    with pytest.raises(ValueError, match=r"collected with another config .*Nothing was changed"):
        collect(collect_config, other, num_workers=1)
    assert digest(other) == digest(folder)


def test_the_recorded_actions_are_the_executed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulator was given in the steps that were drawn is what the episode says, to the bit."""
    executed: list[np.ndarray] = []
    real = MetaWorld.step

    def spy(self: MetaWorld, action: np.ndarray, *, render: bool = True) -> Step:
        if render:
            executed.append(action)
        return real(self, action, render=render)

    monkeypatch.setattr(MetaWorld, "step", spy)
    environment = MetaWorld("drawer-open")
    episode = demonstrate(CONFIG, environment, 4)
    environment.close()
    recorded = episode.columns[ACTION]
    np.testing.assert_array_equal(np.stack(executed)[-len(recorded) :], recorded)
    assert np.abs(recorded).max() <= 1.0


def test_what_cannot_be_collected_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown task 'drawer-opn': did you mean 'drawer-open'"):
        CollectConfig(tasks=("drawer-opn",))
    with pytest.raises(ValueError, match="each once"):
        CollectConfig(tasks=("reach", "reach"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="was not made by `pizero collect`; nothing was changed"):
        collect(CONFIG, tmp_path / "mine", num_workers=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
