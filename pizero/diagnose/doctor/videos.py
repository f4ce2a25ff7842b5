"""The video files, without decoding: that each is whole, and has a frame for each frame of its episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pizero.data.faults import DatasetError
from pizero.data.lerobot_metadata import EpisodeInfo, confined
from pizero.data.video import FFmpegError, open_video
from pizero.diagnose.doctor.counters import RATE_TOLERANCE, UNEVEN
from pizero.diagnose.doctor.findings import COPY, Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.progress import Counter

SLOW = 5.0
"""Seconds between two key frames: what a random read must decode at most, in the mean half of it."""


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """What a video's container tells: the picture's size, and the times of its frames in seconds.

    A video `by_count` runs at another rate, but has one frame for each of its only episode.
    """

    height: int
    width: int
    num_frames: int
    times: np.ndarray
    key_times: np.ndarray
    by_count: bool = False


def check_videos(
    source: Source, findings: Findings, counter: Counter, *, every: bool = True
) -> dict[Path, VideoHeader]:
    """Return the headers of the videos that can be looked into further; say what is wrong with the others.

    Unless `every` video is asked for, only 200 evenly chosen ones are opened, but each must be there.
    """
    wanted: dict[tuple[Path, str], list[tuple[EpisodeInfo, float]]] = {}
    for episode in source.episodes:
        for key, (path, begins) in episode.videos.items():
            wanted.setdefault((path, key), []).append((episode, begins))
    usable: dict[Path, VideoHeader] = {}
    opened = set(np.linspace(0, len(wanted) - 1, len(wanted) if every else min(len(wanted), 200)).astype(int))
    for place, ((path, key), episodes) in enumerate(wanted.items()):
        if place not in opened and path.is_file() and path.stat().st_size:
            counter.advance(1)
            continue
        header = _header(source.folder, path, findings)
        counter.advance(1)
        fitting = header and _fits(source, path, key, header, episodes, findings)
        if fitting is not None:
            usable[path] = fitting
    return usable


def check_all_videos(folder: Path, findings: Findings) -> None:
    """See that every video can be opened, where no table says which there should be."""
    for path in sorted(folder.glob("videos/**/*.mp4")):
        _header(folder, path, findings)


def _header(folder: Path, path: Path, findings: Findings) -> VideoHeader | None:
    if not path.is_file():
        what = "a link to a file that is not there" if path.is_symlink() else "the file is not there"
        findings.add("video-missing", path, what, "copy the whole dataset again")
        return None
    try:
        confined(folder, path)
        with open_video(path) as container:
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
            header = VideoHeader(
                height=stream.height,
                width=stream.width,
                num_frames=stream.frames,
                times=np.sort([pts * base for pts, _ in packets]),
                key_times=np.sort([pts * base for pts, is_key in packets if is_key]),
            )
    except DatasetError as error:
        findings.refused(error)
        return None
    except FFmpegError as error:
        findings.add("video-damaged", path, f"the file cannot be read to its end ({error})", COPY)
        return None
    if len(header.times) < header.num_frames:
        findings.add(
            "video-damaged",
            path,
            f"the file is cut off: it lists {header.num_frames} frames and has {len(header.times)}",
            COPY,
        )
        return None
    return header


def _fits(
    source: Source,
    path: Path,
    key: str,
    header: VideoHeader,
    episodes: list[tuple[EpisodeInfo, float]],
    findings: Findings,
) -> VideoHeader | None:
    """Compare a video with its episodes; return None if pictures cannot be looked up by their times."""
    height, width, _ = source.features[key].shape
    if (header.height, header.width) != (height, width):
        findings.add(
            "resolution-mismatch",
            path,
            f"pictures of {header.width}×{header.height}, info.json says {width}×{height}",
            "encode this video again at the others' size, or correct info.json",
        )
    if len(header.key_times) and np.diff(header.key_times, append=header.times[-1]).max() > SLOW:
        findings.add(
            "video-slow",
            path,
            f"up to {np.diff(header.key_times, append=header.times[-1]).max():.1f} s between key frames",
            "encode with a key frame every second frame, as LeRobot does",
        )
    if not source.fps:
        return None
    times = header.times
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / source.fps
    if abs(step * source.fps - 1) > RATE_TOLERANCE:
        findings.add(
            "rate-mismatch",
            path,
            f"the video runs at {1 / step:.4g} Hz, info.json says {source.fps:g} Hz",
            "correct fps in info.json, or encode this video again",
        )
        same = len(episodes) == 1 and episodes[0][0].length == len(times)
        return replace(header, by_count=True) if same else None
    asked = np.concatenate([begins + np.arange(one.length) / source.fps for one, begins in episodes])
    missing = asked[_distance(times, asked) > UNEVEN]
    if len(missing):
        late = missing > times[-1] if len(times) else np.ones(len(missing), bool)
        code = "video-too-short" if late.all() else "video-damaged"
        findings.add(
            code,
            path,
            f"{len(missing)} of {len(asked)} frames are not in the video, first at {missing[0]:.3f} s; "
            f"it has {len(times)} frames and ends at {times[-1] if len(times) else 0:.3f} s",
            "copy this video again; if it is so in the original, remove its last episodes",
        )
        return None
    extra = len(times) - len(asked)
    if extra > 0 and not findings.has("episodes-missing", "episodes-damaged"):
        numbers = several(one.index for one, _ in episodes)
        findings.add(
            "video-too-long",
            path,
            f"{extra} frames more than its episodes ({numbers}) have",
            "see that frames and rows of the columns are the same moments: one of them was cut",
        )
    return header


def _distance(times: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return how far each time is from the nearest frame's."""
    if not len(times):
        return np.full(len(asked), np.inf)
    after = np.clip(np.searchsorted(times, asked), 0, len(times) - 1)
    before = np.clip(after - 1, 0, len(times) - 1)
    return np.minimum(np.abs(times[after] - asked), np.abs(times[before] - asked))
