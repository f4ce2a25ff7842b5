"""ALOHA's files, written by h5py: raw and compressed pictures, words in several places, and damage."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pizero.recordings.aloha import AlohaSource, open_aloha
from pizero.recordings.fields import Wording
from pizero.recordings.layouts import RecordingLayout
from pizero.recordings.source import RecordingError
from pizero.robots import ALOHA
from tests.recordings.recorded import all_pictures

h5py = pytest.importorskip("h5py")

CAMERAS = ("cam_high", "cam_left_wrist")


def pictures(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 12, 16, 3), dtype=np.uint8)


def jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def record(
    path: Path, length: int = 5, *, compressed: str = "", seed: int = 0, dim: int = 14
) -> dict[str, np.ndarray]:
    """Write an episode; return what is in it, pictures as they shall come out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    truth = {
        f"observations/{name}": rng.normal(size=(length, dim)) for name in ("qpos", "qvel", "effort")
    } | {"action": rng.normal(size=(length, dim)).astype(np.float32)}
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = bool(compressed)
        for name, values in truth.items():
            file[name] = values
        for number, camera in enumerate(CAMERAS):
            name, frames = f"observations/images/{camera}", pictures(length, seed + number)
            if not compressed:
                file.create_dataset(name, data=frames, chunks=(1, 12, 16, 3))
                truth[name] = frames
                continue
            files = [jpeg(frame) for frame in frames]
            truth[name] = np.stack([decoded(data) for data in files])
            longest = max(map(len, files)) + 7
            if compressed == "padded":
                rows = np.stack([np.frombuffer(data.ljust(longest, b"\0"), dtype=np.uint8) for data in files])
                file.create_dataset(name, data=rows, chunks=(1, longest))
            else:
                dataset = file.create_dataset(name, (length,), dtype=h5py.vlen_dtype(np.uint8))
                for row, data in enumerate(files):
                    dataset[row] = np.frombuffer(data, dtype=np.uint8)
        if compressed:
            file["compress_len"] = np.zeros((len(CAMERAS), length), dtype=np.float32)
    return truth


def opened(folder: Path, task: str | None = "insert the peg", **options) -> AlohaSource:
    return open_aloha(folder, wording=Wording(task=task), **options)


@pytest.mark.parametrize("compressed", ["", "padded", "ragged"])
def test_everything_in_a_file_comes_back(tmp_path: Path, compressed: str) -> None:
    truth = record(tmp_path / "episode_0.hdf5", compressed=compressed)
    source = opened(tmp_path)
    episode = source.read("episode_0.hdf5")
    np.testing.assert_array_equal(
        episode.columns["observation.state"], truth["observations/qpos"].astype(np.float32)
    )
    np.testing.assert_array_equal(episode.columns["action"], truth["action"])
    np.testing.assert_array_equal(episode.columns["observation.velocity"], truth["observations/qvel"])
    np.testing.assert_array_equal(episode.columns["observation.effort"], truth["observations/effort"])
    assert set(episode.images) == {f"observation.images.{camera}" for camera in CAMERAS}
    for camera in CAMERAS:
        found = all_pictures(episode.images[f"observation.images.{camera}"])
        np.testing.assert_array_equal(found, truth[f"observations/images/{camera}"])
    assert episode.tasks == "insert the peg"
    assert source.layout.state_names == tuple(dimension.name for dimension in ALOHA.state)
    assert (source.layout.fps, source.layout.robot) == (50.0, "aloha")


@pytest.mark.parametrize("compressed", ["", "padded"])
def test_bgr_swaps_red_and_blue(tmp_path: Path, compressed: str) -> None:
    truth = record(tmp_path / "episode_0.hdf5", compressed=compressed)
    episode = opened(tmp_path, channels="bgr").read("episode_0.hdf5")
    found = all_pictures(episode.images["observation.images.cam_high"])
    np.testing.assert_array_equal(found, truth["observations/images/cam_high"][..., ::-1])


def test_large_chunks_are_read_in_any_order(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5", length=10)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        frames = file["observations/images/cam_high"][:]
        del file["observations/images/cam_high"]
        file.create_dataset(
            "observations/images/cam_high", data=frames, chunks=(4, 12, 16, 3), compression="gzip"
        )
    found = opened(tmp_path).read("episode_0.hdf5").images["observation.images.cam_high"]
    for index in (9, 0, 5, 3, 4, 8):
        np.testing.assert_array_equal(found[index], frames[index])
    with pytest.raises(IndexError):
        found[10]


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("@task", "lift the cube", "lift the cube"),
        ("@language_instruction", np.bytes_(b"lift it"), "lift it"),
        ("language_raw", [b"open the drawer"], "open the drawer"),
        ("task", "a scalar", "a scalar"),
        ("language_instruction", ["one", "one", "two", "", "two"], ("one", "one", "two", "two", "two")),
        ("@task", "  ", "insert the peg"),
        ("instruction", np.zeros(5), "insert the peg"),
    ],
)
def test_words_come_from_the_file_and_else_from_the_option(
    tmp_path: Path, place: str, value: object, expected: str | tuple[str, ...]
) -> None:
    record(tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        if place.startswith("@"):
            file.attrs[place[1:]] = value
        else:
            file[place] = value
    assert opened(tmp_path).read("episode_0.hdf5").tasks == expected


def test_words_that_are_no_text_and_groups_of_that_name(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file.create_group("task")
    assert opened(tmp_path).read("episode_0.hdf5").tasks == "insert the peg"
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file["instruction"] = np.bytes_(b"\xff\xfe")
    with pytest.raises(RecordingError, match="expected texts in UTF-8 in instruction"):
        opened(tmp_path).read("episode_0.hdf5")


def test_no_changed_byte_does_more_than_raise_a_recording_error(tmp_path: Path) -> None:
    record(tmp_path / "whole" / "episode_0.hdf5", length=2, compressed="padded")
    source, raw = opened(tmp_path / "whole"), (tmp_path / "whole" / "episode_0.hdf5").read_bytes()
    damaged = AlohaSource(folder=tmp_path, layout=source.layout, wording=source.wording)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        changed = bytearray(raw)
        changed[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        (tmp_path / "episode_0.hdf5").write_bytes(changed)
        try:
            episode = damaged.read("episode_0.hdf5")
            for frames in episode.images.values():
                all_pictures(frames)
        except RecordingError:
            refused += 1
    assert refused > 5


def test_without_any_words_the_error_names_the_option(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    with pytest.raises(RecordingError, match=r"episode_0\.hdf5: no instruction.*--task gives one"):
        opened(tmp_path, task=None).read("episode_0.hdf5")


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("episode_10.hdf5", "episode_2.hdf5", "b/episode_1.h5", "episode_1.hdf5"):
        record(tmp_path / name, length=1)
    (tmp_path / "notes.txt").write_text("not a recording")
    assert opened(tmp_path).episode_keys() == [
        "b/episode_1.h5",
        "episode_1.hdf5",
        "episode_2.hdf5",
        "episode_10.hdf5",
    ]


def test_a_mobile_base_is_a_column_of_its_own(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    base = np.random.default_rng(5).normal(size=(5, 2))
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file["base_action"] = base
    np.testing.assert_array_equal(opened(tmp_path).read("episode_0.hdf5").columns["action.base"], base)


def test_another_number_of_joints_has_no_names(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5", dim=7)
    assert opened(tmp_path).layout.state_names is None


def test_the_hash_follows_the_file(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    source = opened(tmp_path)
    before = source.content_hash("episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file["action"][3, 3] += 1
    assert source.content_hash("episode_0.hdf5") != before


def test_a_torn_file_is_named_and_the_others_still_open(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    record(tmp_path / "episode_1.hdf5")
    path = tmp_path / "episode_0.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    source = opened(tmp_path)
    with pytest.raises(RecordingError, match=r"episode_0\.hdf5 is no HDF5 file, or a damaged one"):
        source.read("episode_0.hdf5")
    assert len(source.read("episode_1.hdf5").columns["action"]) == 5
    (tmp_path / "episode_1.hdf5").unlink()
    with pytest.raises(ValueError, match="none of 1 files can be opened"):
        opened(tmp_path)


def test_missing_fields_and_wrong_shapes_are_named(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    source = opened(tmp_path)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        del file["observations/images/cam_high"]
        file["observations/images/cam_high"] = np.zeros((5, 12, 16), np.uint8)
    episode_error = "expected pictures"
    with pytest.raises(RecordingError, match=episode_error):
        source.read("episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        del file["action"]
    with pytest.raises(RecordingError, match="no dataset 'action'"):
        source.read("episode_0.hdf5")
    with pytest.raises(ValueError, match="action is not there; write a layout file"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"expected files \*\.hdf5"):
        opened(tmp_path / "nowhere")


def test_a_different_number_of_steps_is_said(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        del file["action"]
        file["action"] = np.zeros((4, 14))
    with pytest.raises(RecordingError, match="'action' has 4 steps, the state has 5"):
        opened(tmp_path).read("episode_0.hdf5")


def test_damaged_pictures_are_named_by_their_number(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5", compressed="padded")
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file["observations/images/cam_high"][2] = 7
    frames = opened(tmp_path).read("episode_0.hdf5").images["observation.images.cam_high"]
    assert frames[1].shape == (12, 16, 3)
    with pytest.raises(RecordingError, match=r"cam_high: picture 2 cannot be decoded"):
        frames[2]


def test_a_field_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5")
    source = opened(tmp_path)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        del file["action"]
        file.create_dataset("action", (5, 2**40), "f4", chunks=(1, 1024))
    with pytest.raises(RecordingError, match="action: expected at most"):
        source.read("episode_0.hdf5")


@pytest.mark.parametrize("what", ["link", "link to a group", "storage", "virtual"])
def test_another_file_is_not_followed(tmp_path: Path, what: str) -> None:
    record(tmp_path / "episode_0.hdf5")
    other = str(tmp_path / "aside" / "secret.dat")
    record(Path(other))
    source = opened(tmp_path)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        name = "observations" if what == "link to a group" else "action"
        del file[name]
        if what.startswith("link"):
            file[name] = h5py.ExternalLink(other, name)
        elif what == "storage":
            file.create_dataset(name, (5, 14), "f4", external=[(other, 0, 280)])
        else:
            layout = h5py.VirtualLayout((5, 14), "f4")
            layout[:] = h5py.VirtualSource(other, "action", (5, 14))
            file.create_virtual_dataset(name, layout)
    with pytest.raises(RecordingError, match="lies in another file"):
        source.read("episode_0.hdf5")


def test_a_layout_of_ones_own_takes_parts_of_fields(tmp_path: Path) -> None:
    truth = record(tmp_path / "episode_0.hdf5")
    layout = RecordingLayout(
        name="left",
        state=("observations/qpos[:7]", "observations/effort[6:7]"),
        cameras={"left": "observations/images/cam_left_wrist"},
        fps=25.0,
    )
    episode = opened(tmp_path, layout=layout).read("episode_0.hdf5")
    state = np.concatenate([truth["observations/qpos"][:, :7], truth["observations/effort"][:, 6:7]], axis=1)
    np.testing.assert_array_equal(episode.columns["observation.state"], state.astype(np.float32))
    following = np.concatenate([state[1:], state[-1:]]).astype(np.float32)
    np.testing.assert_array_equal(episode.columns["action"], following)
    assert set(episode.images) == {"observation.images.left"}
