"""What cameras saw: damaged, blank and frozen pictures, and cameras that changed places or show the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import STATE
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.diagnose.doctor.columns import Numbers, sampled
from pizero.diagnose.doctor.findings import Findings, several
from pizero.diagnose.doctor.source import Source
from pizero.diagnose.doctor.thumbnails import EmbeddedThumbnails, Thumbnails, VideoThumbnails
from pizero.diagnose.doctor.videos import VideoHeader
from pizero.progress import Counter

MAX_CLOSE = 24
"""Episodes of which runs of frames are looked at; of the others, three frames are."""
MAX_EPISODES = 500
RUN = 32
"""Frames that are decoded at a time."""
BLANK = 8.0
"""Levels of 255: parts of a picture differ by more, even in the dark; those of one colour by less."""
FROZEN = 0.1
"""A picture that changes by a tenth of what it usually does while the robot moves stands still."""
FROZEN_STEPS = 5
"""Steps that a picture must stand still for, and typical steps by which the robot must move meanwhile."""
VISIBLE = 0.5
"""Levels (root mean square): a picture that changes by less while the robot moves does not show it."""
EQUAL = 1.0
"""Levels: two cameras of one scene differ by tens, one picture encoded twice by less than one."""
DISTINCT = 0.2
"""Natural logarithm: two cameras can be told apart if fitting them crosswise is usually so much worse."""
SWAPPED = 0.5
"""They changed places where fitting them crosswise is better by half of what it is usually worse by."""


@dataclass
class _Seen:
    """What is kept of a camera: the mean picture of each episode, and steps of picture and robot in runs."""

    means: dict[int, np.ndarray] = field(default_factory=dict)
    blank: dict[int, int] = field(default_factory=dict)
    runs: list[_Run] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Successive frames of an episode: how much each step changed the picture, and the states, in ranges."""

    episode: int
    first: int
    changes: np.ndarray
    states: np.ndarray


def choose(source: Source, max_frames: int) -> list[tuple[EpisodeInfo, list[range]]]:
    """Return the episodes to look at and the runs of their frames.

    All frames of the first and the last episode and runs of `max_frames` in all of up to 24 evenly chosen
    ones, begin and end among them; three single frames of up to 500 others. 0 means every frame.
    """
    count = len(source.episodes)
    if not count:
        return []
    if max_frames == 0:
        return [(one, [range(one.length)]) for one in source.episodes]
    close = {int(place) for place in np.linspace(0, count - 1, min(MAX_CLOSE, count))}
    wide = close | {int(place) for place in np.linspace(0, count - 1, min(MAX_EPISODES, count))}
    chosen: list[tuple[EpisodeInfo, list[range]]] = []
    for place in sorted(wide):
        episode = source.episodes[place]
        length = episode.length
        if place in (0, count - 1):
            runs = [range(min(length, 50 * max_frames))]
        elif place in close or length <= 3:
            runs = _runs(length, max_frames)
        else:
            runs = [range(step, step + 1) for step in sorted({0, length // 2, length - 1})]
        chosen.append((episode, runs))
    return chosen


def watched(chosen: Sequence[tuple[EpisodeInfo, list[range]]]) -> set[int]:
    """Return the episodes of which runs are looked at, at most 2000 of them: their states are needed."""
    close = [episode.index for episode, runs in chosen if any(len(run) > 1 for run in runs)]
    return {close[int(place)] for place in np.linspace(0, len(close) - 1, min(len(close), 2000))}


def _runs(length: int, max_frames: int) -> list[range]:
    size = max(2, max_frames // 4)
    if length <= max_frames or length <= 4 * size:
        return [range(length)]
    return [range(int(start), int(start) + size) for start in np.linspace(0, length - size, 4)]


def check_pictures(
    source: Source,
    files: Mapping[Path, list[EpisodeInfo]],
    headers: Mapping[Path, VideoHeader],
    numbers: Numbers,
    findings: Findings,
    chosen: Sequence[tuple[EpisodeInfo, list[range]]],
    counter: Counter,
) -> None:
    """Look at the chosen frames of every camera; `files` and `headers` are those that can be read."""
    states = {one.episode.index: one.vectors[STATE] for one in numbers.excerpts if STATE in one.vectors}
    spread = np.ones(1)
    if STATE in numbers.sample:
        spread = np.ptp(np.quantile(sampled(numbers, STATE), (0.01, 0.99), axis=0), axis=0)
    first_frames = {path: episodes[0].start for path, episodes in files.items()}
    seen: dict[str, _Seen] = {}
    for key in source.cameras:
        seen[key] = camera = _Seen()
        for episode, first, small in _thumbnails(source, key, first_frames, headers, chosen, findings):
            counter.advance(min(len(small), counter.total - counter.done))  # runs share their ends
            keep(camera, episode, first, small, states.get(episode.index), spread)
    for key, camera in seen.items():
        _tell(source, key, camera, findings)
    _compare_cameras(source, {key: camera.means for key, camera in seen.items()}, findings)


def _thumbnails(
    source: Source,
    key: str,
    first_frames: Mapping[Path, int],
    headers: Mapping[Path, VideoHeader],
    chosen: Sequence[tuple[EpisodeInfo, list[range]]],
    findings: Findings,
) -> Iterator[tuple[EpisodeInfo, int, Thumbnails]]:
    """Yield runs of a camera's pictures, made small; a file with a damaged one is left after it."""
    given_up: set[Path] = set()
    opened: VideoThumbnails | EmbeddedThumbnails | None = None
    feature = source.features[key]
    is_video = feature.dtype == "video"
    try:
        for episode, runs in chosen:
            path, begins = episode.videos.get(key, (episode.data, 0.0))
            readable = path in headers if is_video else path in first_frames
            if not readable or path in given_up:
                continue
            try:
                if opened is None or opened.path != path:
                    if opened is not None:
                        opened.close()
                    opened = (
                        VideoThumbnails(path)
                        if is_video
                        else EmbeddedThumbnails(path, key, feature, first_frames[path])
                    )
                for steps in (part for run in runs for part in _parts(run)):
                    if isinstance(opened, VideoThumbnails):
                        header = headers[path]
                        times = begins + np.asarray(steps) / source.fps
                        small = opened.read((header.times[steps] if header.by_count else times).tolist())
                    else:
                        small = opened.read(episode, steps)
                    yield episode, steps.start, small
            except DatasetError as error:
                findings.refused(error)
                given_up.add(path)
    finally:
        if opened is not None:
            opened.close()


def _parts(run: range) -> Iterator[range]:
    """Cut a run into parts that share their end, so that every step is inside of one."""
    start = run.start
    while start < run.stop:
        yield range(start, min(start + RUN, run.stop))
        start += RUN - 1 if start + RUN < run.stop else RUN


def keep(
    camera: _Seen,
    episode: EpisodeInfo,
    first: int,
    small: Thumbnails,
    states: np.ndarray | None,
    spread: np.ndarray,
) -> None:
    """Add a run of pictures to what is kept of a camera; a part that goes on where another ended joins it."""
    number = episode.index
    mean = small.mean(axis=0)
    before = camera.means.get(number)
    camera.means[number] = mean if before is None else (before + mean) / 2
    ranges = small.max(axis=(1, 2)) - small.min(axis=(1, 2))
    blank = ranges.max(axis=-1) < BLANK
    if blank.any():
        camera.blank[number] = camera.blank.get(number, 0) + int(blank.sum())
    if states is None or len(small) < 2:
        return
    moving = spread > 0
    changes = np.sqrt(np.mean(np.diff(small, axis=0) ** 2, axis=(1, 2, 3)))
    changes[blank[1:] & blank[:-1]] = np.nan  # neither still nor moving
    own = states[first : first + len(small), moving] / spread[moving]
    last = camera.runs[-1] if camera.runs else None
    if last is not None and last.episode == number and last.first + len(last.changes) == first:
        changes = np.concatenate([last.changes, changes])
        own = np.concatenate([last.states, own[1:]])
        first = last.first
        camera.runs.pop()
    camera.runs.append(_Run(episode=number, first=first, changes=changes, states=own))


def _tell(source: Source, key: str, camera: _Seen, findings: Findings) -> None:
    if camera.blank:
        episodes = [f"{number} ({count} frame{'s' * (count > 1)})" for number, count in camera.blank.items()]
        findings.add(
            "blank-frames",
            f"{source.folder}, {key}",
            f"pictures of one colour in episodes {several(episodes)}",
            "see that the camera was on and uncovered; cut these frames or leave the episodes out",
        )
    frozen = frozen_runs(camera.runs)
    if frozen:
        shown = [f"{number} from frame {first} on for {count} frames" for number, first, count in frozen]
        findings.add(
            "frozen-frames",
            f"{source.folder}, {key}",
            f"the picture stands still while the robot moves, in episodes {several(shown, shown=3)}",
            "the recorder repeated pictures: leave these episodes out",
        )


def frozen_runs(runs: Sequence[_Run]) -> list[tuple[int, int, int]]:
    """Return episode, first frame and length of each stretch in which a picture does not follow the robot."""
    with_states = [run for run in runs if run.states.shape[1]]
    if not with_states:
        return []
    speeds = [np.abs(np.diff(run.states, axis=0)).max(axis=1) for run in with_states]
    every = np.concatenate(speeds)
    if not (every > 0).any():
        return []
    step = float(np.median(every[every > 0]))
    changes = np.concatenate([run.changes for run in with_states])[every >= step]
    usual = float(np.nanmedian(changes)) if np.isfinite(changes).any() else 0.0
    if usual < VISIBLE:
        return []
    found: list[tuple[int, int, int]] = []
    for run in with_states:
        still = np.concatenate([[False], run.changes < FROZEN * usual, [False]])
        edges = np.flatnonzero(still[1:] != still[:-1])
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            travelled = np.ptp(run.states[start : end + 1], axis=0).max()
            if end - start >= FROZEN_STEPS and travelled >= FROZEN_STEPS * step:
                found.append((run.episode, run.first + int(start), int(end - start) + 1))
    return found


def _compare_cameras(
    source: Source, means: Mapping[str, Mapping[int, np.ndarray]], findings: Findings
) -> None:
    for one, other in combinations(means, 2):
        shared = sorted(means[one].keys() & means[other].keys())
        same = [number for number in shared if _distance(means[one][number], means[other][number]) < EQUAL]
        if same:
            findings.add(
                "cameras-equal",
                source.folder,
                f"{one} and {other} show the same in episodes {several(same)}",
                "one camera was recorded twice: leave one of them out, or these episodes",
            )
        swapped = swapped_episodes(shared, means[one], means[other])
        if swapped:
            findings.add(
                "cameras-swapped",
                source.folder,
                f"{one} and {other} seem to have changed places in episodes {several(swapped)}",
                "look at these episodes and exchange their videos",
            )


def swapped_episodes(
    episodes: Sequence[int], ours: Mapping[int, np.ndarray], others: Mapping[int, np.ndarray]
) -> list[int]:
    """Return the episodes, fewer than half, in which two cameras have changed places.

    Each episode is compared with the one before, straight and crosswise, so that slow changes of light or
    scene do not matter; each change of sides begins or ends a stretch of swapped episodes.
    """
    fits: list[float] = []
    for before, after in pairwise(episodes):
        straight = _distance(ours[before], ours[after]) + _distance(others[before], others[after])
        crossed = _distance(ours[before], others[after]) + _distance(others[before], ours[after])
        fits.append(float(np.log(max(crossed, 1e-6) / max(straight, 1e-6))))
    usual = float(np.median(fits)) if fits else 0.0
    if usual < DISTINCT:
        return []
    sides = [False]
    for fit in fits:
        sides.append(sides[-1] != (fit < -SWAPPED * usual))
    flipped = [number for number, side in zip(episodes, sides, strict=False) if side]
    kept = [number for number, side in zip(episodes, sides, strict=False) if not side]
    return flipped if len(flipped) <= len(kept) else kept


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))
