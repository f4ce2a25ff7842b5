"""Where the recordings are that other programs wrote, and what those programs read back from them."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pizero.data.lerobot_features import Pictures
from pizero.data.lerobot_writer import Episode
from pizero.recordings.layouts import RecordingLayout

FIXTURES = Path(__file__).parents[1] / "fixtures" / "recordings"
RLDS_KINDS = ("open_x_fixture", "bridge_fixture", "droid_fixture")

Truth = dict[int, dict[str, np.ndarray]]


def rlds_truth(kind: str) -> Truth:
    """Return the fields of each episode, in the order in which TensorFlow Datasets gives them."""
    truth: Truth = defaultdict(dict)
    with np.load(FIXTURES / f"{kind}_truth.npz", allow_pickle=False) as file:
        for name in file.files:
            number, _, path = name.partition("|")
            truth[int(number)][path] = file[name]
    return dict(truth)


def copy_of(kind: str, folder: Path) -> Path:
    """Return a copy of an RLDS fixture that a test may damage."""
    return Path(shutil.copytree(FIXTURES / kind / "1.0.0", folder / kind))


def all_pictures(pictures: Pictures) -> np.ndarray:
    """Return a camera's pictures as one array."""
    return np.stack([pictures[index] for index in range(len(pictures))])


class TableSource:
    """Episodes of a few numbers, made from their keys; contents and faults are what a test says."""

    def __init__(self, contents: Mapping[str, object], layout: RecordingLayout) -> None:
        self.contents, self.layout = dict(contents), layout

    def episode_keys(self) -> list[str]:
        """Return the keys."""
        return list(self.contents)

    def field_names(self) -> dict[str, str]:
        """Return nothing: nobody asks."""
        return {}

    def content_hash(self, key: str) -> str:
        """Return the content itself."""
        return str(self.contents[key])

    def read(self, key: str) -> Episode:
        """Return an episode of a length and with numbers that the content decides; an error is raised."""
        content = self.contents[key]
        if isinstance(content, Exception):
            raise content
        assert isinstance(content, int)
        values = np.random.default_rng(content).normal(size=(content % 5 + 2, 3)).astype(np.float32)
        pictures = np.full((len(values), 8, 8, 3), content % 256, dtype=np.uint8)
        return Episode(
            columns={"observation.state": values, "action": values[:, :2]},
            images={"observation.images.front": pictures},
            tasks=f"do {content % 2}",
        )
