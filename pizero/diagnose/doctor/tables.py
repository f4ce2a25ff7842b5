"""The tables of tasks and episodes, read row by row: a bad row is told, and the others are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pizero.data.faults import DatasetError, FaultCode
from pizero.data.lerobot_features import Version
from pizero.data.lerobot_metadata import read_parquet
from pizero.diagnose.doctor.findings import Findings, several

PLACES = ("chunk_index", "file_index")


def read_task_texts(folder: Path, version: Version, findings: Findings) -> dict[int, str] | None:
    """Return the tasks' texts by their number; None if there is no table or it cannot be read."""
    if version == "v3.0":
        path = folder / "meta" / "tasks.parquet"
        rows = _parquet_tasks(path, findings)
    else:
        path = folder / "meta" / "tasks.jsonl"
        rows = _lines(path, "tasks-missing", "tasks-damaged", findings)
    if rows is None:
        return None
    texts: dict[int, str] = {}
    wrong: list[str] = []
    for row in rows:
        number, text = row.get("task_index"), row.get("task")
        if not _is_count(number) or not isinstance(text, str) or number in texts:
            wrong.append(str(row)[:100])
        else:
            texts[int(number or 0)] = text
    if not texts or sorted(texts) != list(range(len(texts))):
        wrong.append(f"numbers {several(sorted(texts))}")
    if wrong and not findings.has("tasks-damaged"):
        findings.add(
            "tasks-damaged",
            path,
            f"expected a text for each task 0, 1, 2 …, found {several(wrong, shown=3)}",
            "write the table of tasks anew; the texts are in the table of episodes too",
        )
    return texts


def _parquet_tasks(path: Path, findings: Findings) -> list[dict[str, Any]] | None:
    if not path.is_file():
        findings.add("tasks-missing", path, "there is no table of tasks", "copy the whole dataset again")
        return None
    try:
        table = read_parquet(path, code="tasks-damaged")
    except DatasetError as error:
        findings.refused(error)
        return None
    columns = [field.name for field in table.schema if _is_text(field.type)]
    if len(columns) != 1 or "task_index" not in table.column_names:
        findings.add(
            "tasks-damaged",
            path,
            f"expected task_index and one column of texts, found {several(table.column_names)}",
            "write the table of tasks anew",
        )
        return None
    raw = table.column(columns[0]).cast(pa.large_binary()).to_pylist()
    texts = [_text(value, path, "tasks-damaged", findings) for value in raw]
    numbers = table.column("task_index").to_pylist()
    return [{"task_index": n, "task": text} for n, text in zip(numbers, texts, strict=True)]


def episode_rows(
    folder: Path, version: Version, video_keys: tuple[str, ...], findings: Findings
) -> list[dict[str, Any]]:
    """Return the usable rows of the table of episodes, with the columns of v3.0's table."""
    if version == "v3.0":
        return _rows_v3(folder, video_keys, findings)
    path = folder / "meta" / "episodes.jsonl"
    rows = _lines(path, "episodes-missing", "episodes-damaged", findings) or []
    usable = [row for row in rows if _is_count(row.get("episode_index")) and _is_count(row.get("length"))]
    whole = [row for row in usable if isinstance(row.get("tasks"), list)]
    if len(whole) < len(rows) and not findings.has("episodes-damaged"):
        findings.add(
            "episodes-damaged",
            path,
            f"{len(rows) - len(whole)} lines lack episode_index, length or tasks",
            "copy this file again",
        )
    start = 0
    for row in sorted(usable, key=lambda row: row["episode_index"]):
        tasks = row.get("tasks")
        row["tasks"] = [str(text) for text in tasks] if isinstance(tasks, list) else []
        row["dataset_from_index"], start = start, start + row["length"]
    return sorted(usable, key=lambda row: row["episode_index"])


def _rows_v3(folder: Path, video_keys: tuple[str, ...], findings: Findings) -> list[dict[str, Any]]:
    place = folder / "meta" / "episodes"
    files = sorted(place.glob("*/*.parquet"))
    if not files:
        findings.add(
            "episodes-missing", place, "there is no table of episodes", "copy the whole dataset again"
        )
        return []
    wanted = ["episode_index", "length", "dataset_from_index", *(f"data/{name}" for name in PLACES)]
    for key in video_keys:
        wanted += [f"videos/{key}/{name}" for name in (*PLACES, "from_timestamp")]
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            table = read_parquet(path, code="episodes-damaged")
        except DatasetError as error:
            findings.refused(error)
            continue
        missing = [name for name in (*wanted, "tasks") if name not in table.column_names]
        if missing:
            findings.add(
                "episodes-damaged", path, f"columns are missing: {several(missing)}", "copy this file again"
            )
        columns = {name: table.column(name).to_pylist() for name in wanted if name in table.column_names}
        if "tasks" in table.column_names:
            lists = pa.list_(pa.large_binary())
            columns["tasks"] = [
                [_text(value, path, "episodes-damaged", findings) for value in row or ()]
                for row in table.column("tasks").cast(lists).to_pylist()
            ]
        needed = [name for name in wanted if not name.startswith("videos/")]
        if any(name in missing for name in needed):
            continue
        holes = 0
        for number in range(len(table)):
            row = {name: values[number] for name, values in columns.items()}
            if all(_is_count(row[name]) for name in needed):
                rows.append({"tasks": [], **row})
            else:
                holes += 1
        if holes:
            findings.add(
                "episodes-damaged", path, f"{holes} rows have empty or negative cells", "copy this file again"
            )
    return rows


def _lines(
    path: Path, missing: FaultCode, damaged: FaultCode, findings: Findings
) -> list[dict[str, Any]] | None:
    if not path.is_file():
        findings.add(missing, path, "the file is not there", "copy the whole dataset again")
        return None
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(_text(line, path, damaged, findings))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.append(number)
    if bad or not rows:
        what = f"lines {several(bad)} are not JSON objects" if bad else "the file is empty"
        findings.add(damaged, path, what, "copy this file again")
    return rows


def _text(raw: bytes | None, path: Path, code: FaultCode, findings: Findings) -> str:
    """Return UTF-8 text; what is not becomes a finding, and its bad bytes become question marks."""
    try:
        return (raw or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        findings.add(code, path, f"a text is not UTF-8 ({error})", "write this file as UTF-8")
        return (raw or b"").decode("utf-8", errors="replace")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
