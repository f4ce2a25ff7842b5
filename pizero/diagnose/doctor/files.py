"""The files of columns: that each is there, inside the folder, whole, and of one schema with the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import COUNTERS, Feature
from pizero.data.lerobot_metadata import EpisodeInfo, confined
from pizero.diagnose.doctor.findings import COPY, Findings, several
from pizero.diagnose.doctor.source import Source


def check_files(source: Source, findings: Findings) -> dict[Path, list[EpisodeInfo]]:
    """Return the files of columns that can be read, with their episodes in order; say what is wrong."""
    schemas: dict[Path, pa.Schema] = {}
    usable: dict[Path, list[EpisodeInfo]] = {}
    for path, group in groupby(source.episodes, key=lambda episode: episode.data):
        if path in usable:
            usable[path] += group
            continue
        schema = _schema(source.folder, path, findings)
        if schema is not None:
            schemas[path], usable[path] = schema, list(group)
    _check_schemas(source, schemas, findings)
    return usable


def check_all_files(folder: Path, findings: Findings) -> None:
    """See that every file of columns can be opened, where no table says which there should be."""
    for path in sorted(folder.glob("data/**/*.parquet")):
        _schema(folder, path, findings)


def check_left_over(source: Source, findings: Findings) -> None:
    """Tell of files that nothing refers to: they take space, or are what a recorder left behind."""
    named = {episode.data for episode in source.episodes}
    named |= {path for episode in source.episodes for path, _ in episode.videos.values()}
    names = {str(path) for path in named}
    found = [
        path.relative_to(source.folder)
        for part in ("data", "videos")
        for path in sorted((source.folder / part).rglob("*"))
        if path.is_file() and str(path) not in names
    ]
    found += [path.relative_to(source.folder) for path in source.folder.rglob("*.partial*")]
    if found and source.episodes:
        findings.add(
            "file-left-over",
            source.folder,
            f"{len(found)} files are of no episode: {several(found, shown=3)}",
            "remove them if nothing else needs them",
        )


def _schema(folder: Path, path: Path, findings: Findings) -> pa.Schema | None:
    if not path.is_file():
        what = "a link to a file that is not there" if path.is_symlink() else "the file is not there"
        findings.add("data-missing", path, what, "copy the whole dataset again")
        return None
    try:
        confined(folder, path)
    except DatasetError as error:
        findings.refused(error, "put the file itself into the dataset instead of the link")
        return None
    if path.stat().st_size == 0:
        findings.add("data-damaged", path, "the file is empty (0 bytes)", COPY)
        return None
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        findings.add("data-damaged", path, f"not a whole parquet file ({reason})", COPY)
        return None


def _check_schemas(source: Source, schemas: Mapping[Path, pa.Schema], findings: Findings) -> None:
    """Compare every file's columns with the commonest schema, and that one with info.json."""
    if not schemas:
        return
    forms = {path: {f.name: _form(f.type) for f in schema} for path, schema in schemas.items()}
    usual = dict(Counter(tuple(form.items()) for form in forms.values()).most_common(1)[0][0])
    for path, form in forms.items():
        differences = [
            f"{name} is {form.get(name, 'missing')}, in other files {usual.get(name, 'missing')}"
            for name in sorted({*form, *usual})
            if not _alike(form.get(name, ""), usual.get(name, ""))
        ]
        if differences:
            findings.add(
                "schema-drift",
                path,
                several(differences, shown=3),
                "write this file with the others' columns",
            )
    columns = usual
    features = dict(COUNTERS) | {k: v for k, v in source.features.items() if v.dtype != "video"}
    first = next(path for path, form in forms.items() if form == columns)
    missing = [key for key in features if key not in columns]
    if missing:
        findings.add(
            "column-missing",
            first,
            f"no column {several(missing)}, which meta/info.json lists",
            "write the column, or take the feature out of info.json",
        )
    wrong = [
        f"{key} is {columns[key]}, info.json says {features[key].dtype} {list(features[key].shape)}"
        for key in features
        if key in columns and not _fits(columns[key], features[key])
    ]
    if wrong:
        findings.add("schema-drift", first, several(wrong, shown=3), "correct dtype and shape in info.json")


def _form(kind: pa.DataType) -> str:
    """Return a type as the reader sees it: any kind of list, of any length, is `list`."""
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        size = f"[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else "[]"
        return f"{_form(kind.value_type)}{size}"
    if pa.types.is_struct(kind):
        return "struct"
    return str(kind).removeprefix("large_")


def _alike(ours: str, others: str) -> bool:
    """Return whether two types are the same to the reader; a list without a length is like one with any."""
    if "[]" in ours or "[]" in others:
        ours, others = (re.sub(r"\d+\]", "]", form) for form in (ours, others))
    return ours == others


def _fits(form: str, feature: Feature) -> bool:
    """Return whether a column of that form can hold a feature."""
    if feature.dtype == "language":
        return True
    names = {"float32": "float", "float64": "double", "float16": "halffloat", "image": "struct"}
    scalar, *sizes = form.removesuffix("]").replace("][", "[").split("[")
    if scalar != names.get(feature.dtype, feature.dtype):
        return False
    if feature.is_picture or feature.dtype == "string":
        return True
    shape = [] if feature.shape == (1,) and not sizes else list(feature.shape)
    return len(sizes) == len(shape) and all(
        size in ("", str(length)) for size, length in zip(reversed(sizes), shape, strict=True)
    )
