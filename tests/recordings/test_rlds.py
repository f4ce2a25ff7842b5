"""RLDS datasets written by TensorFlow Datasets: every field comes back as TensorFlow reads it."""

import json
from pathlib import Path

import numpy as np
import pytest

from pizero.recordings.fields import Wording
from pizero.recordings.layouts import DROID_LAYOUT, RecordingLayout
from pizero.recordings.protobuf import parse_example
from pizero.recordings.rlds import RecordFields, guess_layout, open_rlds
from pizero.recordings.source import LeftOutError, RecordingError
from pizero.recordings.tfds import Leaf, read_leaves
from pizero.recordings.tfrecord import read_record_at
from tests.recordings.recorded import FIXTURES, RLDS_KINDS, all_pictures, copy_of, rlds_truth


def record_fields(kind: str) -> list[RecordFields]:
    source = open_rlds(FIXTURES / kind)
    leaves = read_leaves(source.folder)
    places = [key.rpartition("#") for key in source.episode_keys()]
    return [
        RecordFields(parse_example(read_record_at(source.folder / name, int(number))), leaves, "here")
        for name, _, number in places
    ]


@pytest.mark.parametrize("kind", RLDS_KINDS)
def test_every_field_is_what_tensorflow_reads(kind: str) -> None:
    truth, records = rlds_truth(kind), record_fields(kind)
    assert len(records) == len(truth) == 5
    for number, fields in enumerate(records):
        for path, expected in truth[number].items():
            leaf = fields.leaves[path]
            if path.endswith("/depth"):
                continue
            if leaf.kind == "image":
                found = all_pictures(fields.pictures(path))
                np.testing.assert_array_equal(found, expected)
            else:
                found = fields.values(path)
                np.testing.assert_array_equal(found, expected)
                assert found.dtype.kind == expected.dtype.kind
            assert found.shape == expected.shape


def test_open_x_is_found_from_its_features() -> None:
    source = open_rlds(FIXTURES / "open_x_fixture")
    assert source.layout == RecordingLayout(
        name="open-x",
        state=("steps/observation/state",),
        action=("steps/action",),
        cameras={"image": "steps/observation/image"},
        instructions=("steps/language_instruction",),
    )
    truth = rlds_truth("open_x_fixture")
    for number, key in enumerate(source.episode_keys()):
        episode = source.read(key)
        np.testing.assert_array_equal(
            episode.columns["observation.state"], truth[number]["steps/observation/state"]
        )
        np.testing.assert_array_equal(
            episode.columns["action"], truth[number]["steps/action"].astype(np.float32)
        )
        np.testing.assert_array_equal(
            all_pictures(episode.images["observation.images.image"]), truth[number]["steps/observation/image"]
        )
        assert episode.tasks == truth[number]["steps/language_instruction"][0]
        assert str(episode.tasks).startswith("öffne")


def test_bridge_is_known_by_its_name() -> None:
    source = open_rlds(FIXTURES / "bridge_fixture" / "1.0.0")
    truth = rlds_truth("bridge_fixture")[0]
    episode = source.read(source.episode_keys()[0])
    assert source.layout.name == "bridge"
    assert set(episode.images) == {"observation.images.image_0"}
    np.testing.assert_array_equal(episode.columns["action"], truth["steps/action"])
    assert episode.tasks == truth["steps/language_instruction"][0]


def test_droid_leaves_failures_out_and_takes_the_first_words_there_are() -> None:
    source = open_rlds(FIXTURES / "droid_fixture", wording=Wording(task="stack"))
    assert source.layout == DROID_LAYOUT
    truth, words = rlds_truth("droid_fixture"), []
    for number, key in enumerate(source.episode_keys()):
        fields = truth[number]
        if "failure" in fields["episode_metadata/file_path"][0]:
            with pytest.raises(
                LeftOutError, match=r"file_path does not contain 'success' \('/data/failure/1"
            ):
                source.read(key)
            continue
        episode = source.read(key)
        words.append(episode.tasks)
        observation = "steps/observation/"
        state = np.concatenate(
            [fields[f"{observation}joint_position"], fields[f"{observation}gripper_position"]], axis=1
        )
        np.testing.assert_array_equal(episode.columns["observation.state"], state.astype(np.float32))
        action = np.concatenate(
            [fields["steps/action_dict/joint_velocity"], fields["steps/action_dict/gripper_position"]], axis=1
        )
        np.testing.assert_array_equal(episode.columns["action"], action.astype(np.float32))
        cartesian = episode.columns["observation.cartesian_position"]
        assert cartesian.dtype == np.float64
        np.testing.assert_array_equal(cartesian, fields[f"{observation}cartesian_position"])
        assert set(episode.images) == {f"observation.images.{camera}" for camera in DROID_LAYOUT.cameras}
    assert sorted(map(str, words)) == [
        "cups on top of each other",
        "stack",
        "stack the cups",
        "stack the cups",
    ]


def test_an_episode_without_words_needs_a_task_or_is_left_out() -> None:
    silent = next(
        number
        for number, fields in rlds_truth("droid_fixture").items()
        if not any(fields[path][0] for path in DROID_LAYOUT.instructions)
    )
    source = open_rlds(FIXTURES / "droid_fixture")
    key = source.episode_keys()[silent]
    with pytest.raises(
        RecordingError, match=r"no instruction in steps/language_instruction.*--task gives one"
    ):
        source.read(key)
    with pytest.raises(LeftOutError, match="no instruction"):
        open_rlds(FIXTURES / "droid_fixture", wording=Wording(skip_unlabelled=True)).read(key)


@pytest.mark.parametrize(
    ("numbers", "state", "action"),
    [
        (
            (
                "observation/base_pose_tool_reached",
                "observation/gripper_closed",
                "action/world_vector",
                "action/rotation_delta",
                "action/gripper_closedness_action",
                "action/terminate_episode",
            ),
            ("observation/base_pose_tool_reached", "observation/gripper_closed"),
            ("action/world_vector", "action/rotation_delta", "action/gripper_closedness_action"),
        ),
        (
            ("observation/state", "action/open_gripper", "action/rotation_delta", "action/world_vector"),
            ("observation/state",),
            ("action/world_vector", "action/rotation_delta", "action/open_gripper"),
        ),
    ],
    ids=["RT-1", "the older Bridge"],
)
def test_actions_in_parts_are_put_together(
    numbers: tuple[str, ...], state: tuple[str, ...], action: tuple[str, ...]
) -> None:
    leaves = [Leaf(path=f"steps/{name}", kind="tensor", shape=(3,), dtype="float32") for name in numbers]
    leaves.append(Leaf(path="steps/observation/image", kind="image", shape=(-1, -1, 3), dtype="uint8"))
    leaves.append(Leaf(path="steps/observation/natural_language_instruction", kind="text", dtype="string"))
    layout = guess_layout({leaf.path: leaf for leaf in leaves}, Path("any"))
    assert layout.state == tuple(f"steps/{name}" for name in state)
    assert layout.action == tuple(f"steps/{name}" for name in action)
    assert layout.cameras == {"image": "steps/observation/image"}
    assert layout.instructions == ("steps/observation/natural_language_instruction",)


def test_pictures_may_be_plain_numbers() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3))
    packed = b"".join(bytes([value & 127 | 128, value >> 7]) for value in frames.reshape(-1).tolist())
    feature = b"\x1a" + length(b"\x0a" + length(packed))
    leaf = Leaf(path="steps/camera", kind="tensor", shape=(4, 6, 3), dtype="uint8")
    fields = RecordFields({"steps/camera": (memoryview(feature),)}, {"steps/camera": leaf}, "here")
    np.testing.assert_array_equal(all_pictures(fields.pictures("steps/camera")), frames)


def length(content: bytes) -> bytes:
    """Return a message behind its length, of at most 14 bits."""
    return bytes([len(content) & 127 | 128, len(content) >> 7]) + content


@pytest.mark.parametrize("path", ["steps/observation/depth", "steps/observation/mask", "steps/is_first"])
def test_what_has_no_three_colours_is_no_camera(path: str) -> None:
    for fields in record_fields("open_x_fixture")[:1]:
        with pytest.raises(RecordingError, match=rf"{path}.*found|{path}: expected pictures"):
            fields.pictures(path)


def test_texts_are_no_pictures_and_numbers_no_texts() -> None:
    fields = record_fields("open_x_fixture")[0]
    with pytest.raises(RecordingError, match="expected pictures in colour in steps/language_instruction"):
        fields.pictures("steps/language_instruction")
    with pytest.raises(RecordingError, match="expected texts in steps/action"):
        fields.texts("steps/action")
    with pytest.raises(RecordingError, match="expected a fixed shape"):
        fields.values("steps/embedding")
    with pytest.raises(RecordingError, match="expected numbers or texts, found image uint8"):
        fields.values("steps/observation/image")


def test_keys_and_hashes_are_stable_and_follow_the_content(tmp_path: Path) -> None:
    source = open_rlds(FIXTURES / "open_x_fixture")
    keys = source.episode_keys()
    assert keys[0] == "open_x_fixture-train.tfrecord-00000-of-00002#0"
    assert len(set(keys)) == len({source.content_hash(key) for key in keys}) == 5
    again = open_rlds(copy_of("open_x_fixture", tmp_path))
    assert [again.content_hash(key) for key in again.episode_keys()] == list(map(source.content_hash, keys))


def test_a_damaged_record_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    source = open_rlds(folder)
    path = folder / "open_x_fixture-train.tfrecord-00000-of-00002"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 4
    path.write_bytes(raw)
    first, second = source.episode_keys()[:2]
    with pytest.raises(RecordingError, match=r"00000-of-00002: record 0 at byte 0 is damaged"):
        source.read(first)
    assert len(source.read(second).columns["action"])


def test_missing_files_splits_and_fields_are_named(tmp_path: Path) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    with pytest.raises(ValueError, match=r"split 'test'.*found: train; --split"):
        open_rlds(folder, split="test")
    with pytest.raises(ValueError, match=r"with features\.json"):
        open_rlds(tmp_path / "nowhere")
    layout = RecordingLayout(name="mine", state=("steps/observation/stat",), action=("steps/action",))
    source = open_rlds(folder, layout=layout)
    with pytest.raises(RecordingError, match="did you mean 'steps/observation/state'"):
        source.read(source.episode_keys()[0])
    (folder / "open_x_fixture-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ValueError, match=r"1 are missing: open_x_fixture-train\.tfrecord-00001-of-00002"):
        open_rlds(folder)


def test_without_counts_the_files_are_counted(tmp_path: Path) -> None:
    folder = copy_of("droid_fixture", tmp_path)
    expected = open_rlds(folder).episode_keys()
    (folder / "dataset_info.json").unlink()
    assert open_rlds(folder).episode_keys() == expected


def test_another_file_format_and_unknown_features_are_said(tmp_path: Path) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "array_record"}))
    with pytest.raises(ValueError, match=r"expected TFRecord files.*'array_record'"):
        open_rlds(folder)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    text = (folder / "features.json").read_text()
    (folder / "features.json").write_text(text.replace('"action"', '"torque"'))
    with pytest.raises(
        ValueError, match=r"make the action; write a layout file(.|\n)*steps/torque: float64 \[2\]"
    ):
        open_rlds(folder)


def test_a_template_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = copy_of("open_x_fixture", tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["filepathTemplate"] = "../{DATASET}"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="template of file names"):
        open_rlds(folder)
