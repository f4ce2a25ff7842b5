"""Recordings into a LeRobot dataset, episode by episode: resumable, and the same again for the same source.

Beside the dataset, `<dataset>.partial` holds the work until the dataset is whole:

    plan.json                       what is imported and how
    episodes/<hash of the key>/     one finished episode: its shard, and source.json
    merging/                        the dataset while it is made of hard links to the shards
    dataset/                        the dataset for the moment before it gets its name
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pizero.data.lerobot_features import DatasetLayout
from pizero.data.lerobot_merge import merge_shards
from pizero.data.lerobot_writer import Episode, partial_folder, shard_folder, write_shard
from pizero.progress import counting
from pizero.recordings.executor import Executor
from pizero.recordings.fields import Writing, dataset_layout
from pizero.recordings.import_records import (
    Comparison,
    EpisodeRecord,
    ImportPlan,
    ImportRecord,
    Outcome,
    count_of,
    some,
)
from pizero.recordings.source import LeftOutError, RecordingError, RecordingSource
from pizero.records import differences, fingerprint, read_record, to_data, write_record

RECORD = Path("meta") / "import.json"


@dataclass(frozen=True, kw_only=True)
class EpisodeJob:
    """One episode to import into a folder, or to compare with the hash of what is there already.

    With `again` a changed episode is imported anew. Without a layout it is only compared.
    """

    source: RecordingSource
    key: str
    folder: Path
    layout: DatasetLayout | None
    known_hash: str | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What one call of `import_recordings` did: episodes imported now, and episodes that were there.

    `written` says whether there is a new dataset, or the old one was left alone.
    """

    record: ImportRecord
    imported: int
    kept: int
    written: bool = True


def import_recordings(
    source: RecordingSource,
    folder: Path,
    executor: Executor,
    *,
    format_name: str,
    writing: Writing,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    allowed_damaged: int = 0,
    refresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ImportSummary:
    """Import the episodes of `source` (the first `limit`) into the dataset `folder`; return what was done.

    What is finished and unchanged is kept. New episodes come behind those that are there. With `refresh`
    changed episodes are imported again, those that are gone leave, and another plan starts anew; without it
    each of these is a ValueError that changes nothing. Damaged episodes are a ValueError once all others are
    done, unless there are at most `allowed_damaged`. `options` are whatever else decides about the content.
    """
    all_keys = source.episode_keys()
    keys = all_keys[:limit]
    dataset = dataset_layout(source.layout, first_readable(source, keys), writing)
    plan = ImportPlan(
        format=format_name, layout=source.layout, options=dict(options or {}), dataset=to_data(dataset)
    )
    work = partial_folder(folder)
    _put_in_place(work, folder)
    before = _finished(folder)
    if before is not None and _same_plan(before.plan, plan, folder, refresh=refresh):
        found = _compare(source, keys, all_keys, before, executor)
        if found == Comparison():
            shutil.rmtree(work, ignore_errors=True)
            return ImportSummary(record=before, imported=0, kept=len(before.episodes), written=False)
        if (found.changed or found.gone) and not refresh:
            raise ValueError(
                f"{folder} was imported from other recordings ({found}); nothing was changed. --refresh "
                f"builds it anew from what is there now"
            )
        say(f"{found}; the dataset is built anew, the one that is there stays until then")
    outcomes = _import_all(source, keys, work, dataset, plan, executor, refresh=refresh)
    record = _judge(plan, [outcomes[key] for key in _order(keys, before)], allowed_damaged)
    _finish(record, work, folder, dataset)
    fates = [outcome.fate for outcome in outcomes.values()]
    return ImportSummary(record=record, imported=fates.count("imported"), kept=fates.count("unchanged"))


def first_readable(source: RecordingSource, keys: Sequence[str]) -> Episode:
    """Return the first episode that is neither damaged nor left out; ValueError if there is none."""
    reasons: list[str] = []
    for key in keys:
        try:
            return source.read(key)
        except (RecordingError, LeftOutError) as reason:
            reasons.append(str(reason))
    raise ValueError(
        f"expected an episode that can be imported, found none among {len(keys)}: {some(reasons, '; ')}"
    )


def import_episode(job: EpisodeJob) -> Outcome:
    """Do one job; an episode that is damaged or left out is an outcome, any other failure is raised."""
    content_hash = ""
    try:
        content_hash = job.source.content_hash(job.key)
        if content_hash == job.known_hash:
            return Outcome(key=job.key, fate="unchanged", content_hash=content_hash)
        if job.layout is None or (job.known_hash is not None and not job.again):
            return Outcome(key=job.key, fate="changed", content_hash=content_hash)
        _write_episode(job, job.layout, content_hash)
    except LeftOutError as reason:
        return Outcome(key=job.key, fate="left out", content_hash=content_hash, fault=str(reason))
    except ValueError as fault:
        if content_hash == job.known_hash:
            return Outcome(key=job.key, fate="unchanged", content_hash=content_hash)
        return Outcome(key=job.key, fate="damaged", content_hash=content_hash, fault=f"{job.key}: {fault}")
    return Outcome(key=job.key, fate="imported", content_hash=content_hash)


def _write_episode(job: EpisodeJob, layout: DatasetLayout, content_hash: str) -> None:
    """Write a shard and the record of its source, both or none."""
    building = job.folder.with_name(f"{job.folder.name}.{platform.node()}.{os.getpid()}.partial")
    shutil.rmtree(building, ignore_errors=True)
    try:
        write_shard(building, 0, job.source.read(job.key), layout)
        write_record(building / "source.json", EpisodeRecord(key=job.key, content_hash=content_hash))
        shutil.rmtree(job.folder, ignore_errors=True)
        building.rename(job.folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put_in_place(work: Path, folder: Path) -> None:
    """Give a dataset that is whole its name; what it replaces goes with the work."""
    if not (work / "dataset" / RECORD).exists():
        return
    if folder.exists():
        shutil.rmtree(work / "replaced", ignore_errors=True)
        folder.rename(work / "replaced")
    (work / "dataset").rename(folder)
    shutil.rmtree(work)


def _finished(folder: Path) -> ImportRecord | None:
    if not folder.exists():
        return None
    if not (folder / RECORD).exists():
        raise ValueError(f"{folder} exists and was not made by `pizero import`; nothing was changed")
    return read_record(ImportRecord, folder / RECORD)


def _same_plan(there: ImportPlan, asked: ImportPlan, place: Path, *, refresh: bool) -> bool:
    """Return whether two plans agree; ValueError lists the differences unless `refresh` allows them."""
    found = differences(to_data(asked), to_data(there))
    if found and not refresh:
        raise ValueError(
            f"{place} was imported in another way (asked ≠ there): {some(found, '; ')}. Nothing was changed. "
            f"Name another folder, or start anew with --refresh"
        )
    return not found


def _compare(
    source: RecordingSource,
    keys: Sequence[str],
    all_keys: Sequence[str],
    before: ImportRecord,
    executor: Executor,
) -> Comparison:
    known = {entry.key: entry.content_hash for entry in before.all_episodes}
    there = [key for key in all_keys if key in known]
    jobs = (
        EpisodeJob(source=source, key=key, folder=Path(), layout=None, known_hash=known[key]) for key in there
    )
    changed = set()
    with counting("comparing", len(there), "episodes") as progress:
        for outcome in executor.run(import_episode, jobs):
            progress.advance()
            if outcome.fate != "unchanged":
                changed.add(outcome.key)
    return Comparison(
        new=tuple(key for key in keys if key not in known),
        changed=tuple(key for key in there if key in changed),
        gone=tuple(key for key in known if key not in set(all_keys)),
    )


def _order(keys: Sequence[str], before: ImportRecord | None) -> list[str]:
    """Return the keys with those that the dataset had first, in its order."""
    had = {entry.key: None for entry in before.episodes} if before is not None else {}
    wanted = set(keys)
    return [*(key for key in had if key in wanted), *(key for key in keys if key not in had)]


def _import_all(
    source: RecordingSource,
    keys: Sequence[str],
    work: Path,
    dataset: DatasetLayout,
    plan: ImportPlan,
    executor: Executor,
    *,
    refresh: bool,
) -> dict[str, Outcome]:
    """Return what became of each episode, all of them tried."""
    if (work / "plan.json").exists() and not _same_plan(
        read_record(ImportPlan, work / "plan.json"), plan, work, refresh=refresh
    ):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_record(work / "plan.json", plan)
    outcomes = {}
    with counting("importing", len(keys), "episodes") as progress:
        for outcome in executor.run(import_episode, _jobs(source, keys, work, dataset, refresh=refresh)):
            outcomes[outcome.key] = outcome
            damaged = sum(outcome.fate == "damaged" for outcome in outcomes.values())
            progress.advance(note=f"{damaged} damaged" if damaged else "")
    return outcomes


def _jobs(
    source: RecordingSource, keys: Sequence[str], work: Path, dataset: DatasetLayout, *, refresh: bool
) -> Iterator[EpisodeJob]:
    for key in keys:
        folder = _episode_folder(work, key)
        mark = folder / "source.json"
        known = read_record(EpisodeRecord, mark).content_hash if mark.exists() else None
        yield EpisodeJob(
            source=source, key=key, folder=folder, layout=dataset, known_hash=known, again=refresh
        )


def _episode_folder(work: Path, key: str) -> Path:
    return work / "episodes" / fingerprint(key)[:24]


def _judge(plan: ImportPlan, outcomes: Sequence[Outcome], allowed_damaged: int) -> ImportRecord:
    """Return the record of an import; ValueError if it must not be finished."""
    changed = [outcome.key for outcome in outcomes if outcome.fate == "changed"]
    if changed:
        raise ValueError(
            f"{count_of(changed)} changed since they were imported: {some(changed)}. What is finished is "
            f"kept; --refresh imports them again"
        )
    damaged = tuple(outcome.record for outcome in outcomes if outcome.fate == "damaged")
    episodes = tuple(outcome.record for outcome in outcomes if outcome.fate in ("imported", "unchanged"))
    if len(damaged) > allowed_damaged:
        faults = [entry.fault for entry in damaged]
        raise ValueError(
            f"{len(damaged)} of {len(outcomes)} episodes cannot be imported, {allowed_damaged} are allowed: "
            f"{some(faults, '; ')}. The others are finished and kept; --skip-damaged {len(damaged)} goes on "
            f"without these"
        )
    if not episodes:
        raise ValueError("no episode is left to make a dataset of: all are damaged or left out")
    left_out = tuple(outcome.record for outcome in outcomes if outcome.fate == "left out")
    return ImportRecord(plan=plan, episodes=episodes, damaged=damaged, left_out=left_out)


def _finish(record: ImportRecord, work: Path, folder: Path, dataset: DatasetLayout) -> None:
    """Make the dataset of the finished episodes, which stay until it has its name."""
    merging, whole = work / "merging", work / "dataset"
    for leftover in (merging, whole):
        shutil.rmtree(leftover, ignore_errors=True)
    for index, entry in enumerate(record.episodes):
        shard = shard_folder(_episode_folder(work, entry.key), 0)
        target = shard_folder(merging, index)
        target.mkdir(parents=True)
        for path in shard.iterdir():
            _link(path, target / path.name)
    merge_shards(merging, whole, dataset)
    write_record(whole / RECORD, record)
    _put_in_place(work, folder)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
