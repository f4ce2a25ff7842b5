"""Frames survive the way into a video and back, each at its own time, and equal frames give equal bytes."""

from pathlib import Path

import numpy as np
import pytest

from pizero.data.video import decode_video, encode_video, join_videos, read_frames

FPS = 20.0


def numbered_frames(count: int, *, first: int = 0) -> np.ndarray:
    """Return smooth pictures that carry their number in black and white blocks along the bottom."""
    rows, columns = np.mgrid[0:64, 0:96]
    frames = np.empty((count, 64, 96, 3), np.uint8)
    for index in range(count):
        wave = 127 + 100 * np.sin((rows + 3 * index) / 20)[..., None] * np.cos(columns / 25)[..., None]
        frames[index] = wave.astype(np.uint8)
        for bit in range(8):
            frames[index, 48:, bit * 12 : (bit + 1) * 12] = 255 if (index + first) >> bit & 1 else 0
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    blocks = frames[:, 50:62].reshape(len(frames), 12, 8, 12, 3)[:, :, :, 2:10].mean(axis=(1, 3, 4)) > 127
    return (blocks @ (1 << np.arange(8))).tolist()


def test_frames_come_back_in_order_and_nearly_unchanged(tmp_path: Path) -> None:
    frames = numbered_frames(40)
    encode_video(tmp_path / "a.mp4", frames, fps=FPS)
    back = np.stack(list(decode_video(tmp_path / "a.mp4")))
    assert numbers_of(back) == list(range(40))
    assert np.abs(back[:, :44].astype(int) - frames[:, :44]).mean() < 2.0


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        encode_video(tmp_path / name, numbered_frames(25), fps=FPS)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_what_else_is_in_memory_changes_no_byte(tmp_path: Path) -> None:
    """With x264's macroblock tree, every fourth of these had other bytes."""
    rng = np.random.default_rng(0)
    for level in range(4):
        found = set()
        for _ in range(100):
            others = [
                np.full(size, rng.integers(256), np.uint8) for size in rng.integers(64, 6_000, 400).tolist()
            ]
            rng.shuffle(others)
            del others
            encode_video(tmp_path / "a.mp4", np.full((level + 2, 16, 24, 3), level, np.uint8), fps=10.0)
            found.add((tmp_path / "a.mp4").read_bytes())
        assert len(found) == 1


def test_joining_keeps_every_frame_and_its_time(tmp_path: Path) -> None:
    lengths = [7, 1, 12, 5]
    starts = np.cumsum([0, *lengths])
    for part, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        encode_video(tmp_path / f"{part}.mp4", numbered_frames(length, first=int(start)), fps=FPS)
    join_videos(tmp_path / "whole.mp4", [tmp_path / f"{part}.mp4" for part in range(len(lengths))])
    assert numbers_of(np.stack(list(decode_video(tmp_path / "whole.mp4")))) == list(range(25))
    for start, length in zip(starts, lengths, strict=False):
        wanted = range(int(start), int(start) + length)
        frames = read_frames(tmp_path / "whole.mp4", [frame / FPS for frame in wanted])
        assert numbers_of(frames) == list(wanted)


def test_any_frame_is_found_by_its_time(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", numbered_frames(50), fps=FPS)
    for wanted in ([0], [49], [13], [3, 4, 20, 21, 48]):
        assert numbers_of(read_frames(tmp_path / "a.mp4", [frame / FPS for frame in wanted])) == wanted


@pytest.mark.parametrize("time", [0.026, 2.5, 99.0])
def test_a_time_without_a_frame_is_refused(tmp_path: Path, time: float) -> None:
    encode_video(tmp_path / "a.mp4", numbered_frames(50), fps=FPS)
    with pytest.raises(ValueError, match=f"has no frame at {time:.4f} s"):
        read_frames(tmp_path / "a.mp4", [time])


def test_odd_sides_and_unequal_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"even sides .* found 33×32"):
        encode_video(tmp_path / "a.mp4", np.zeros((2, 32, 33, 3), np.uint8), fps=FPS)
    with pytest.raises(ValueError, match="frames of 32×32, found 64×32"):
        encode_video(
            tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)], fps=FPS
        )
    with pytest.raises(ValueError, match="at least one frame"):
        encode_video(tmp_path / "a.mp4", [], fps=FPS)
    assert not (tmp_path / "a.mp4").exists()


def test_a_missing_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a video at"):
        list(decode_video(tmp_path / "none.mp4"))
    encode_video(tmp_path / "a.mp4", numbered_frames(50), fps=FPS)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 20])
    with pytest.raises(ValueError, match=r"a\.mp4"):
        read_frames(tmp_path / "a.mp4", [0.0, 2.45])
