"""What a robot study reads of a run (`pizero demo`, or `studies.robot.point`), and how it is called."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pizero.contract import Contract
from pizero.data.dataset import used_cameras
from pizero.data.frames import FrameSource, open_frames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Source
from pizero.envs.workers import default_workers
from pizero.records import read_record
from pizero.training.config import TrainConfig


def arguments(
    text: str | None,
    argv: Sequence[str] | None = None,
    *,
    updates: int | None = None,
    seeds: tuple[int, ...] = (),
    episodes: int = 20,
) -> argparse.Namespace:
    """Read the command line of a robot study; `updates` if it trains, `seeds` if it does so several times."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=Path, help="folder of a finished run; what takes long is kept in RUN/studies"
    )
    parser.add_argument("output", type=Path, help="folder of the JSON file and of the figures")
    parser.add_argument("--episodes", type=int, default=episodes, help="scenes of each task")
    parser.add_argument("--quick", action="store_true", help="a small form, which only shows that it runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes; 0: this one alone")
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="of the trainings")
    if updates is not None:
        parser.add_argument("--updates", type=int, default=updates, help="of each training")
    given = parser.parse_args(argv)
    if given.quick:
        given.episodes, given.workers = 1, 0
        if updates is not None:
            given.updates = 6
        if seeds:
            given.seeds = [0]
    return given


@dataclass(frozen=True)
class Run:
    """A finished run: its policy, the config that it was trained by, its data."""

    folder: Path

    @property
    def policy(self) -> Path:
        """Return the folder of the policy."""
        return self.folder / "training" / "policy"

    @property
    def config(self) -> TrainConfig:
        """Return the config of the training."""
        return read_record(TrainConfig, self.folder / "training" / "config.json")

    @property
    def contract(self) -> Contract:
        """Return what the policy and its robot agree on."""
        return read_record(Contract, self.policy / "contract.json")

    def source(self, frames: FrameSource = "video") -> Source:
        """Return the run's data as a training loop reads it; a cache of pictures is kept in RUN/studies."""
        dataset, contract = LeRobotDataset.open(self.folder / "dataset"), self.contract
        cameras = used_cameras(dataset, contract.embodiment)
        cache = self.folder / "studies" / "pictures"
        return Source(dataset=dataset, contract=contract, frames=open_frames(dataset, cameras, frames, cache))


def percent(row: Mapping[str, Any]) -> str:
    """Return a success rate with its interval as text."""
    low, high = row["interval"]
    return f"{row['success']:.2f} ({low:.2f}–{high:.2f})"
