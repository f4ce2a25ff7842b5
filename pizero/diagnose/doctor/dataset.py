"""All checks of a dataset, in an order in which a fault is told once and not by everything that it breaks."""

from __future__ import annotations

from pathlib import Path

from pizero.data.faults import DatasetError
from pizero.data.lerobot_metadata import read_metadata
from pizero.diagnose.doctor.columns import read_numbers
from pizero.diagnose.doctor.files import check_all_files, check_files, check_left_over
from pizero.diagnose.doctor.findings import Finding, Findings, in_order
from pizero.diagnose.doctor.motion import check_motion
from pizero.diagnose.doctor.pictures import check_pictures, choose, watched
from pizero.diagnose.doctor.source import Source, read_source
from pizero.diagnose.doctor.statistics import check_statistics
from pizero.diagnose.doctor.tasks import check_tasks
from pizero.diagnose.doctor.units import check_units
from pizero.diagnose.doctor.values import check_values
from pizero.diagnose.doctor.videos import check_all_videos, check_videos
from pizero.progress import counting


def examine_dataset(folder: Path, *, max_frames: int = 120, pictures: bool = True) -> tuple[Finding, ...]:
    """Return all that is found about a dataset of version 2.0, 2.1 or 3.0, the gravest first.

    Nothing is changed. Memory is bounded: columns are read in blocks and kept as summaries, pictures as
    thumbnails. Without `pictures` none is decoded, but videos are still opened; `max_frames` is how many
    frames of a camera are looked at closely in each of some episodes, 0 for every frame of all.
    """
    findings = Findings()
    source = read_source(folder, findings)
    if source is None or not source.episodes:
        check_all_files(folder, findings)
        check_all_videos(folder, findings)
    if source is not None and source.episodes:
        _examine(source, findings, max_frames=max_frames, pictures=pictures)
    if not any(one.severity == "error" for one in findings.found):
        try:
            read_metadata(folder)
        except DatasetError as error:
            findings.refused(error)
    return in_order(findings.found)


def _examine(source: Source, findings: Findings, *, max_frames: int, pictures: bool) -> None:
    chosen = choose(source, max_frames)
    files = check_files(source, findings)
    total = sum(episode.length for episodes in files.values() for episode in episodes)
    with counting("columns", total, "frames") as counter:
        numbers = read_numbers(source, files, findings, counter, keep=watched(chosen) if pictures else ())
    videos = len({(path, key) for one in source.episodes for key, (path, _) in one.videos.items()})
    with counting("videos", videos, "videos") as counter:
        headers = check_videos(source, findings, counter, every=pictures)
    check_left_over(source, findings)
    check_tasks(source, numbers, findings)
    if numbers.episodes:
        check_values(source, numbers, findings)
        check_units(source, numbers, findings)
        check_motion(source, numbers, findings)
        check_statistics(source, numbers, findings)
    if not pictures:
        if source.cameras:
            findings.add(
                "pictures-not-checked", source.folder, "no picture was decoded", "run without --quick"
            )
        return
    frames = sum(len(run) for _, runs in chosen for run in runs) * len(source.cameras)
    with counting("pictures", frames, "frames") as counter:
        check_pictures(source, files, headers, numbers, findings, chosen, counter)
