"""A Zarr group as files: a folder or a zip archive, its arrays, and whether they are safe to unpack."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

from pizero.recordings.source import RecordingError

SAFE_CODECS = frozenset(
    [
        "blosc",
        "zstd",
        "lz4",
        "zlib",
        "gzip",
        "bz2",
        "lzma",
        "delta",
        "shuffle",
        "fixedscaleoffset",
        "astype",
        "packbits",
        "quantize",
        "bitround",
        "bytes",
        "endian",
        "crc32c",
        "crc32",
        "adler32",
        "fletcher32",
        "jenkins_lookup3",
        "transpose",
        "sharding_indexed",
        "vlen-utf8",
    ]
)
"""What may unpack a chunk; `pickle`, which runs what it reads, is not among them."""


FAULTS = (
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged archive or unpacking a damaged chunk raises."""


class ZarrFiles:
    """The files of one Zarr group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ValueError(f"expected a Zarr folder or zip archive at {path}, found none")

    @cached_property
    def archive(self) -> zipfile.ZipFile | None:
        """Return the open archive, None for a folder."""
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except FAULTS as error:
            raise ValueError(f"{self.path} is neither a folder nor a zip archive ({error})") from None

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if it is not there; ValueError if an archive's entry is damaged."""
        if self.archive is None:
            path = self.path / name
            return path.read_bytes() if path.is_file() else None
        try:
            return self.archive.read(name)
        except KeyError:
            return None
        except FAULTS as error:
            raise RecordingError(f"{self.path}: {name} is damaged ({error})") from None

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """Return the paths of all arrays two levels deep, `data/action`."""
        if self.archive is None:
            found = [*self.path.glob("*/*/.zarray"), *self.path.glob("*/*/zarr.json")]
            names = {path.parent.relative_to(self.path).as_posix() for path in found}
        else:
            parts = [name.split("/") for name in self.archive.namelist()]
            names = {
                "/".join(part[:2]) for part in parts if len(part) == 3 and part[2] in (".zarray", "zarr.json")
            }
        return tuple(sorted(name for name in names if self.metadata(name).get("shape") is not None))

    def metadata(self, array: str) -> dict[str, Any]:
        """Return what the array says of itself; ValueError if that is no JSON."""
        for name in (".zarray", "zarr.json"):
            content = self.read(f"{array}/{name}")
            if content is not None:
                try:
                    data = json.loads(content)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise ValueError(f"{self.path}: {array}/{name} is not JSON ({error})") from None
                if isinstance(data, dict):
                    return data
        raise ValueError(f"{self.path}: no array {array!r}")

    def check_codecs(self, array: str) -> None:
        """Raise ValueError if unpacking the array could do more than unpack."""
        data = self.metadata(array)
        codecs = [data.get("compressor"), *(data.get("filters") or []), *(data.get("codecs") or [])]
        for codec in filter(None, codecs):
            names = _codec_names(codec)
            wrong = [name for name in names if not _is_safe(name)]
            if wrong:
                raise ValueError(
                    f"{self.path}: {array} is packed with {', '.join(wrong)}, which is not read here; "
                    f"write the array again with one of {', '.join(sorted(SAFE_CODECS)[:6])} …"
                )


def _codec_names(codec: Any) -> list[str]:
    if not isinstance(codec, dict):
        return [str(codec)]
    configuration = codec.get("configuration")
    inner = configuration if isinstance(configuration, dict) else {}
    nested = [*(inner.get("codecs") or []), *(inner.get("index_codecs") or [])]
    return [
        str(codec.get("id", codec.get("name"))),
        *(name for part in nested for name in _codec_names(part)),
    ]


def _is_safe(name: str) -> bool:
    bare = name.removeprefix("numcodecs.")
    return bare in SAFE_CODECS or bare.startswith("imagecodecs_")
