"""What the model sees first is drawn pixel by pixel where it must be, and kept number by number."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from pizero.data.collate import collate
from pizero.data.loader import Samples
from pizero.data.sampler import Sampler, mixture_shares
from pizero.data.text import ByteTokenizer
from pizero.embodiment import Camera, Dimension, Embodiment
from pizero.robots import METAWORLD
from pizero.training.first_batch import (
    GAP,
    HEADER,
    PANEL,
    PICTURE,
    FirstBatch,
    Labels,
    action_labels,
    camera_labels,
    draw_first_batch,
    prompt_texts,
    read_first_batch,
    write_first_batch,
)
from pizero.types import Batch, Inputs, Tokens
from tests.examples import contract
from tests.small import demonstrate, small_config, small_contract, small_source, small_train

BLUE, ORANGE, GRAY, PALE = (0, 114, 178), (213, 94, 0), (154, 154, 154), (238, 238, 238)
HORIZON = 10


def first(*, prompt: str = "go", cameras: int = 2, side: int = 44, **changes: np.ndarray) -> FirstBatch:
    """One sample of two dimensions that are all 0, with pictures of noise."""
    pictures = np.random.default_rng(0).integers(0, 256, (1, cameras, 3, side, side)).astype(np.uint8)
    base = FirstBatch(
        images=pictures,
        camera_valid=np.ones((1, cameras), bool),
        state=np.zeros((1, 3), np.float32),
        actions=np.zeros((1, HORIZON, 2), np.float32),
        valid=np.ones((1, HORIZON), bool),
        real=np.ones((1, 2), bool),
        labels=Labels(prompts=(prompt,), cameras=("top", "wrist")[:cameras], actions=("dx", "dy")),
    )
    return replace(base, **changes)


def drawn(batch: FirstBatch) -> np.ndarray:
    return np.asarray(draw_first_batch(batch).convert("RGB"))


def picture_of(sheet: np.ndarray, camera: int, row: int = 0) -> np.ndarray:
    top, left = HEADER + row * (PICTURE + GAP), GAP + camera * (PICTURE + GAP)
    return sheet[top : top + PICTURE, left : left + PICTURE]


def panel_of(sheet: np.ndarray, cameras: int = 2) -> np.ndarray:
    """Return the lower part of a row's panel, where the chunks are: cells of an eighth of its width."""
    left = GAP + cameras * (PICTURE + GAP)
    return sheet[HEADER + PICTURE // 2 : HEADER + PICTURE, left : left + PANEL]


def places(part: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return (x, y) of the pixels of a colour."""
    return np.argwhere((part == np.array(color)).all(axis=-1))[:, ::-1]


def test_a_picture_is_shown_by_its_own_pixels() -> None:
    batch = first()
    sheet = drawn(batch)
    for camera in range(2):
        pixels = batch.images[0, camera].transpose(1, 2, 0)
        np.testing.assert_array_equal(picture_of(sheet, camera), pixels.repeat(4, axis=0).repeat(4, axis=1))


def test_a_picture_keeps_its_form() -> None:
    wide = np.random.default_rng(1).integers(0, 256, (1, 1, 3, 22, 44)).astype(np.uint8)
    shown = picture_of(drawn(first(cameras=1, images=wide)), 0)
    pixels = wide[0, 0].transpose(1, 2, 0).repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(shown[44:132], pixels)
    assert (shown[:44] == PALE).all()
    assert (shown[132:] == PALE).all()


def test_an_absent_camera_is_crossed_out() -> None:
    red = np.zeros((1, 2, 3, 44, 44), np.uint8)
    red[:, :, 0] = 200
    sheet = drawn(first(images=red, camera_valid=np.array([[True, False]])))
    assert (picture_of(sheet, 0) == (200, 0, 0)).all()
    absent = picture_of(sheet, 1)
    assert (absent[..., 0] == absent[..., 1]).all()  # nothing of what the model does not see
    assert (absent[120, 120] == GRAY).all()
    assert (absent[120, PICTURE - 121] == GRAY).all()
    assert (absent[60, 140] == PALE).all()


def test_steps_past_the_end_are_grey() -> None:
    valid = np.arange(HORIZON)[None] < 6
    part = panel_of(drawn(first(valid=valid)))[:, : PANEL // 8 - 3]
    step = (PANEL // 8 - 6) / (HORIZON - 1)
    blue, gray = places(part, BLUE), places(part, GRAY)
    assert blue[:, 0].min() <= 1
    assert blue[:, 0].max() == pytest.approx(5 * step, abs=2)
    assert gray[:, 0].min() == pytest.approx(5 * step, abs=3)
    assert gray[:, 0].max() == pytest.approx(9 * step, abs=2)
    assert len(places(panel_of(drawn(first()))[:, : PANEL // 8], GRAY)) == 0


def test_a_number_stands_at_its_height_and_beyond_the_limit_it_is_orange() -> None:
    def heights(value: float, color: tuple[int, int, int] = BLUE) -> float:
        actions = np.full((1, HORIZON, 2), value, np.float32)
        found = places(panel_of(drawn(first(actions=actions)))[:, : PANEL // 8], color)
        assert len(found)
        return float(np.median(found[:, 1]))

    top, middle, bottom = heights(3.0), heights(0.0), heights(-3.0)
    assert bottom - top > 40
    assert middle == pytest.approx((top + bottom) / 2, abs=1)
    assert heights(1.5) == pytest.approx((top + middle) / 2, abs=1)
    assert heights(-1.5) == pytest.approx((bottom + middle) / 2, abs=1)
    assert heights(7.0, ORANGE) == pytest.approx(top, abs=1)
    assert heights(float("nan"), ORANGE) == pytest.approx(top, abs=1)


def test_padded_dimensions_and_chunks_without_a_step_are_not_drawn() -> None:
    both, one = panel_of(drawn(first())), panel_of(drawn(first(real=np.array([[True, False]]))))
    second = slice(PANEL // 8, PANEL // 4)
    assert len(places(both[:, second], BLUE))
    assert len(places(one[:, : PANEL // 8], BLUE))
    assert (one[:, second] == 255).all()
    text_alone = panel_of(drawn(first(valid=np.zeros((1, HORIZON), bool))))
    assert (text_alone[:20] != 255).any()  # one line of words
    assert (text_alone[20:] == 255).all()


def test_state_is_bars_from_the_middle_line() -> None:
    state = np.array([[3.0, -3.0, 9.0]], np.float32)
    top = HEADER + PICTURE // 4
    left = GAP + 2 * (PICTURE + GAP)
    part = drawn(first(state=state))[top : HEADER + PICTURE // 2, left : left + PANEL]
    blue, orange = places(part, BLUE), places(part, ORANGE)
    up, down = blue[blue[:, 0] < PANEL / 3], blue[blue[:, 0] > PANEL / 3]
    assert up[:, 1].max() <= down[:, 1].min() + 1
    assert np.ptp(up[:, 1]) == pytest.approx(np.ptp(down[:, 1]), abs=1)
    assert np.ptp(orange[:, 1]) == pytest.approx(np.ptp(up[:, 1]), abs=1)
    assert orange[:, 0].min() > 2 * (PANEL - 36) / 3


def test_a_line_break_is_written_out() -> None:
    shown = drawn(first(prompt="go to the disc\nnow"))
    np.testing.assert_array_equal(shown, drawn(first(prompt=r"go to the disc\nnow")))
    assert (shown != drawn(first(prompt="go to the discnow"))).any()
    assert (shown != drawn(first(prompt="go to the disc□now"))).any()


def batch_of(num_samples: int) -> Batch:
    """Samples that can be told apart, of text that ends in two tokens to write."""
    rng = np.random.default_rng(5)
    ids = np.array(ByteTokenizer().encode("go on"))
    length = len(ids)
    target = np.arange(length) >= length - 2
    tokens = Tokens(ids=ids, valid=np.ones(length, bool), causal=target, target=target)
    rows = [
        Batch(
            inputs=Inputs(
                images=rng.integers(0, 256, (2, 3, 44, 44)).astype(np.uint8),
                camera_valid=np.array([True, row % 2 == 0]),
                state=rng.standard_normal(3).astype(np.float32),
                tokens=tokens,
            ),
            actions=rng.standard_normal((HORIZON, 2)).astype(np.float32),
            valid=np.arange(HORIZON) <= row,
            real=np.ones(2, bool),
        )
        for row in range(num_samples)
    ]
    return collate(rows, torch.device("cpu"))


def test_the_numbers_are_those_of_the_batch(tmp_path: Path) -> None:
    batch, names = batch_of(10), [f"sample {row}" for row in range(10)]
    write_first_batch(tmp_path / "run", batch, prompts=names, cameras=["a", "b"], actions=["dx", "dy"])
    arrays = load_file(tmp_path / "run" / "first_batch.safetensors")
    expected = {
        "images": batch.inputs.images,
        "camera_valid": batch.inputs.camera_valid,
        "state": batch.inputs.state,
        "actions": batch.actions,
        "valid": batch.valid,
        "real": batch.real,
    }
    assert arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(arrays[name], tensor[:8].numpy())
    words = json.loads((tmp_path / "run" / "first_batch.json").read_text())
    assert (words["prompts"], words["cameras"], words["actions"]) == (names[:8], ["a", "b"], ["dx", "dy"])
    with Image.open(tmp_path / "run" / "first_batch.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    assert sheet.shape == (HEADER + 8 * (PICTURE + GAP), GAP + 2 * (PICTURE + GAP) + PANEL + GAP, 3)
    for row in range(8):
        pixels = batch.inputs.images[row, 0].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(picture_of(sheet, 0, row)[::4, ::4], pixels)
    again = read_first_batch(tmp_path / "run")
    np.testing.assert_array_equal(again.actions, batch.actions[:8].numpy())
    assert {path.suffix for path in (tmp_path / "run").iterdir()} == {".json", ".png", ".safetensors"}


def test_names_that_do_not_fit_and_damaged_files_are_refused(tmp_path: Path) -> None:
    batch = batch_of(3)
    with pytest.raises(ValueError, match=r"expected \(3, 2, 2\) prompts, cameras and actions, found \(3, 1,"):
        write_first_batch(tmp_path, batch, prompts=["a"] * 3, cameras=["a"], actions=["dx", "dy"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"first_batch\.json, found none"):
        read_first_batch(tmp_path)
    write_first_batch(tmp_path, batch, prompts=["a"] * 3, cameras=["a", "b"], actions=["dx", "dy"])
    path = tmp_path / "first_batch.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"first_batch\.safetensors cannot be read"):
        read_first_batch(tmp_path)


def test_prompts_are_told_from_what_is_written() -> None:
    tokens = batch_of(1).inputs.tokens
    assert prompt_texts(tokens, ByteTokenizer()) == ("go  + 2 tokens to write",)
    read = replace(tokens, target=torch.zeros_like(tokens.target))
    assert prompt_texts(read, ByteTokenizer()) == ("go on",)


def test_the_names_of_several_robots_are_joined() -> None:
    plane = Embodiment(
        name="plane",
        state=METAWORLD.state,
        actions=(Dimension(name="dx", unit="m", kind="position", low=-1.0, high=1.0), *METAWORLD.actions[1:]),
        cameras=(Camera(name="top", height=64, width=64),),
        rate=10.0,
    )
    arm = contract(METAWORLD)
    left, right = METAWORLD.camera_names
    own = [dimension.name for dimension in METAWORLD.actions]
    other = replace(contract(plane), slots=("top", ""), width=len(own) + 1)
    assert camera_labels([arm]) == (left, right)
    assert camera_labels([arm, other]) == (f"{left} / top", right)
    assert camera_labels([other]) == ("top", "no camera")
    assert action_labels([arm]) == tuple(own)
    assert action_labels([arm, other]) == (f"{own[0]} / dx", *own[1:], "padding")


def test_a_run_shows_the_samples_of_its_first_step(tmp_path: Path) -> None:
    """Against the loader: what step 0 of the sampler reads of the dataset."""
    dataset = demonstrate(tmp_path / "dataset", num_episodes=4)
    config = replace(small_config(num_steps=2), batch_size=12)
    agreed = small_contract(config, dataset)
    small_train(config, dataset, agreed, tmp_path / "run")
    source = small_source(dataset, agreed)
    frames = [source.split(config.held_out, config.seed)[0]]
    sampler = Sampler(frames, mixture_shares([1]), batch_size=12, seed=config.seed)
    expected = Samples([source], frames).prepare(*sampler.step(0)).batch
    shown = read_first_batch(tmp_path / "run")
    np.testing.assert_array_equal(shown.images, expected.inputs.images[:8].numpy())
    np.testing.assert_array_equal(shown.actions, expected.actions[:8].numpy())
    np.testing.assert_array_equal(shown.valid, expected.valid[:8].numpy())
    tasks = [dataset.task_of_frame(int(frame)) for frame in sampler.step(0)[1][:8]]
    assert [prompt.removesuffix("\n") for prompt in shown.labels.prompts] == tasks
    assert shown.labels.cameras == ("top",)
