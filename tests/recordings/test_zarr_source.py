"""Replay buffers: UMI's, written by Zarr 2 with JPEG XL, and others in both formats, whole and damaged."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pizero.recordings.fields import Wording
from pizero.recordings.layouts import PUSHT_LAYOUT, RecordingLayout
from pizero.recordings.source import RecordingError
from pizero.recordings.zarr_source import ZarrSource, open_zarr
from tests.recordings.recorded import FIXTURES, all_pictures

zarr = pytest.importorskip("zarr")

ENDS = (3, 7, 8)
WORDING = Wording(task="push")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "img": rng.integers(0, 256, (8, 6, 8, 3)).astype(np.float32),
        "state": rng.normal(size=(8, 5)).astype(np.float32),
        "action": rng.normal(size=(8, 2)).astype(np.float32),
        "keypoint": rng.normal(size=(8, 9, 2)).astype(np.float32),
    }


def write(path: Path, data: dict[str, np.ndarray], ends: tuple[int, ...] = ENDS, **options: Any) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=options.pop("zarr_format", 2))
    chunks = options.pop("chunks", 3)
    for name, values in data.items():
        shape = (1 if values.ndim == 4 and chunks == 1 else chunks, *values.shape[1:])
        array = root.require_group("data").create_array(
            name, shape=values.shape, chunks=shape, dtype=values.dtype, **options
        )
        array[:] = values
    meta = root.require_group("meta").create_array("episode_ends", shape=(len(ends),), dtype="i8")
    meta[:] = np.array(ends)
    return path


def packed(folder: Path) -> Path:
    target = folder.with_suffix(".zarr.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def opened(path: Path, layout: RecordingLayout | None = None) -> ZarrSource:
    return open_zarr(path, layout=layout, wording=WORDING)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [1, 3, 100])
def test_push_t_comes_back(tmp_path: Path, *, zarr_format: int, chunks: int, archived: bool) -> None:
    data = arrays()
    path = write(tmp_path / "pusht.zarr", data, zarr_format=zarr_format, chunks=chunks)
    source = opened(packed(path) if archived else path)
    assert source.layout == PUSHT_LAYOUT
    assert source.episode_keys() == ["000000", "000001", "000002"]
    for key, start, stop in zip(source.episode_keys(), (0, *ENDS), ENDS, strict=False):
        episode = source.read(key)
        np.testing.assert_array_equal(episode.columns["observation.state"], data["state"][start:stop])
        np.testing.assert_array_equal(episode.columns["action"], data["action"][start:stop])
        found = all_pictures(episode.images["observation.images.image"])
        np.testing.assert_array_equal(found, data["img"][start:stop])
        assert episode.tasks == "push"


@pytest.mark.parametrize("archived", [True, False])
def test_umis_buffer_comes_back_as_zarr_2_reads_it(tmp_path: Path, *, archived: bool) -> None:
    pytest.importorskip("imagecodecs")
    path = FIXTURES / "umi.zarr.zip"
    if not archived:
        shutil.unpack_archive(path, tmp_path / "umi.zarr", "zip")
        path = tmp_path / "umi.zarr"
    source = opened(path)
    with np.load(FIXTURES / "umi_truth.npz", allow_pickle=False) as file:
        truth = {name: file[name] for name in file.files}
    ends = truth["meta/episode_ends"]
    assert len(source.episode_keys()) == len(ends) == 3
    for index, key in enumerate(source.episode_keys()):
        rows = slice(ends[index - 1] if index else 0, ends[index])
        episode = source.read(key)
        parts = [f"data/robot0_{name}" for name in ("eef_pos", "eef_rot_axis_angle", "gripper_width")]
        state = np.concatenate([truth[part][rows] for part in parts], axis=1)
        np.testing.assert_array_equal(episode.columns["observation.state"], state)
        np.testing.assert_array_equal(episode.columns["action"], np.concatenate([state[1:], state[-1:]]))
        found = all_pictures(episode.images["observation.images.camera0_rgb"])
        np.testing.assert_array_equal(found, truth["data/camera0_rgb"][rows])
        lossy = all_pictures(episode.images["observation.images.camera1_rgb"])
        assert np.abs(lossy.astype(int) - truth["data/camera1_rgb"][rows]).max() <= 1
    assert source.layout.state_names is not None
    assert source.layout.state_names[-1] == "gripper_width"
    assert source.layout.fps == 59.94


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_hash_of_an_episode_follows_its_rows_alone(tmp_path: Path, chunks: int) -> None:
    data = arrays()
    before = opened(write(tmp_path / "a.zarr", data, chunks=chunks))
    hashes = [before.content_hash(key) for key in before.episode_keys()]
    assert len(set(hashes)) == 3
    data["img"][4, 0, 0, 0] = 255 - data["img"][4, 0, 0, 0]
    changed = opened(write(tmp_path / "b.zarr", data, chunks=chunks))
    now = [changed.content_hash(key) for key in changed.episode_keys()]
    assert [ours == theirs for ours, theirs in zip(hashes, now, strict=True)] == [True, False, True]
    data["action"][0, 0] += 1
    changed = opened(write(tmp_path / "c.zarr", data, chunks=chunks))
    last = [changed.content_hash(key) for key in changed.episode_keys()]
    assert [ours == theirs for ours, theirs in zip(now, last, strict=True)] == [False, True, True]


def test_episodes_that_are_appended_are_new_and_the_others_the_same(tmp_path: Path) -> None:
    data = arrays()
    path = write(tmp_path / "a.zarr", {name: values[:7] for name, values in data.items()}, ENDS[:2])
    source = opened(path)
    hashes = [source.content_hash(key) for key in source.episode_keys()]
    shutil.rmtree(path)
    write(path, data)
    assert source.episode_keys() == ["000000", "000001", "000002"]
    assert [source.content_hash(key) for key in source.episode_keys()[:2]] == hashes


def test_a_plain_buffer_needs_state_and_action(tmp_path: Path) -> None:
    data = arrays()
    del data["keypoint"]
    layout = opened(write(tmp_path / "a.zarr", data)).layout
    assert (layout.name, layout.cameras, layout.fps) == ("replay-buffer", {"img": "data/img"}, None)
    del data["action"]
    with pytest.raises(ValueError, match=r"write a layout file(.|\n)*data/state: \[8, 5\]"):
        opened(write(tmp_path / "b.zarr", data))


def test_two_robots_have_names_of_their_own(tmp_path: Path) -> None:
    sizes = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}
    data = {f"robot{robot}_{name}": np.zeros((8, size)) for robot in (0, 1) for name, size in sizes.items()}
    source = opened(write(tmp_path / "a.zarr", data))
    assert source.layout.state_names is not None
    assert source.layout.state_names[0] == "robot0_x"
    assert source.layout.state_names[7] == "robot1_x"
    assert source.read("000000").columns["observation.state"].shape == (3, 14)


def test_a_chunk_that_is_missing_is_not_black(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays(), chunks=1)
    (path / "data" / "img" / "4.0.0.0").unlink()
    source = opened(path)
    assert len(all_pictures(source.read("000000").images["observation.images.image"])) == 3
    frames = source.read("000001").images["observation.images.image"]
    with pytest.raises(RecordingError, match=r"episode 000001: data/img has no chunk for a row from 4"):
        all_pictures(frames)


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays(), chunks=1)
    chunk = path / "data" / "img" / "4.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(RecordingError, match="data/img, rows 4 to 4 cannot be unpacked"):
        all_pictures(opened(path).read("000001").images["observation.images.image"])


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_nothing_unpickles(tmp_path: Path, place: str) -> None:
    path = write(tmp_path / "a.zarr", arrays())
    metadata = path / "data" / "action" / ".zarray"
    codec = {"id": "pickle", "protocol": 5}
    changed = {"compressor": codec} if place == "compressor" else {"filters": [codec]}
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | changed))
    source = opened(path)
    with pytest.raises(ValueError, match="data/action is packed with pickle, which is not read here"):
        source.read("000000")


def test_nothing_unpickles_in_format_3_either(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", arrays(), zarr_format=3)
    metadata = path / "data" / "action" / "zarr.json"
    data = json.loads(metadata.read_text())
    inner = {"name": "numcodecs.pickle", "configuration": {}}
    data["codecs"] = [{"name": "sharding_indexed", "configuration": {"codecs": [inner], "index_codecs": []}}]
    metadata.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"packed with numcodecs\.pickle"):
        opened(path).read("000000")


@pytest.mark.parametrize(
    ("ends", "words"),
    [((3, 2, 8), "to rise"), ((), "to rise"), ((3, 7, 9), "has 8 rows, its episodes need 9")],
)
def test_ends_that_cannot_be_are_said(tmp_path: Path, ends: tuple[int, ...], words: str) -> None:
    path = write(tmp_path / "a.zarr", arrays(), ends)
    with pytest.raises(ValueError, match=words):
        opened(path).read(f"{len(ends) - 1:06d}")


def test_no_changed_byte_does_more_than_raise_a_value_error(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    raw, rng, refused = (FIXTURES / "umi.zarr.zip").read_bytes(), np.random.default_rng(0), 0
    layout = opened(FIXTURES / "umi.zarr.zip").layout
    for number in range(60):
        changed = bytearray(raw)
        changed[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{number}.zarr.zip"
        path.write_bytes(changed)
        source = ZarrSource(path=path, layout=layout, wording=WORDING)
        try:
            for key in source.episode_keys():
                source.content_hash(key)
                for frames in source.read(key).images.values():
                    all_pictures(frames)
        except ValueError:
            refused += 1
    assert refused > 20


def test_what_is_no_replay_buffer_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a Zarr folder or zip archive"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"with meta/episode_ends, found no arrays"):
        opened(tmp_path / "empty")
    (tmp_path / "a.zarr.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="neither a folder nor a zip archive"):
        opened(tmp_path / "a.zarr.zip")


def test_a_field_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    layout = RecordingLayout(name="mine", state=("data/stat",), action=("data/action",), fps=10.0)
    with pytest.raises(RecordingError, match="no array 'data/stat': did you mean 'data/state'"):
        opened(write(tmp_path / "a.zarr", arrays()), layout).read("000000")
