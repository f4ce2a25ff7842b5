"""Pictures as h264 video and back; the only file that knows FFmpeg."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.error import FFmpegError
from jaxtyping import UInt8

TOLERANCE = 1e-3
"""How far, in seconds, a frame's time may be from the one asked for."""


def encode_video(
    path: Path, frames: Iterable[UInt8[np.ndarray, "height width 3"]], *, fps: float, quality: int = 18
) -> None:
    """Write frames as an h264 mp4 that starts with a key frame; the same frames always give the same bytes.

    `quality` is x264's constant rate factor: 18 is near to lossless for the eye, higher is smaller.
    ValueError if a side is odd or a frame is not like the first.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"expected at least one frame for {path}, found none")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"h264 needs even sides, found {width}×{height}; render or crop to even sides")
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    with av.open(str(partial), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = 2
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        stream.options = {"crf": str(quality), "preset": "veryfast", "bf": "0"}
        for frame in _chain(first, iterator):
            if frame.shape != first.shape:
                raise ValueError(
                    f"expected frames of {width}×{height}, found {frame.shape[1]}×{frame.shape[0]}"
                )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def join_videos(path: Path, parts: Sequence[Path]) -> None:
    """Join videos of one size and rate into one file without decoding them; each keeps its own key frames."""
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    with av.open(str(partial), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as output:
        target, offset = None, 0
        for part in parts:
            with open_video(part) as source:
                stream = source.streams.video[0]
                if target is None:
                    target = output.add_stream_from_template(stream)
                duration = 0
                for packet in source.demux(stream):
                    if packet.pts is None:
                        continue
                    step = packet.duration or 0
                    duration = max(duration, packet.pts + step)
                    packet.pts, packet.dts = packet.pts + offset, (packet.dts or 0) + offset
                    packet.stream = target
                    output.mux(packet)
                offset += duration
    partial.replace(path)


def open_video(path: Path) -> InputContainer:
    """Open a video; ValueError if the file is missing or is no video."""
    if not path.is_file():
        raise ValueError(f"expected a video at {path}, found none; copy the whole dataset again")
    try:
        return av.open(str(path))
    except FFmpegError as error:
        raise ValueError(f"{path} is not a video that FFmpeg reads ({error}); it may be truncated") from None


def decode_video(path: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yield every frame of a video, in order."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
        except FFmpegError as error:
            raise ValueError(f"{path} cannot be decoded to its end ({error}); it may be truncated") from None


def read_frames(
    path: Path, times: Sequence[float], visit: Callable[[int], None] | None = None
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return the frames at some ascending times, in seconds from the file's start, decoding each frame once.

    Decoding starts at the last key frame before the first time. ValueError if the video has no frame within a
    millisecond of a time.
    """
    found: list[np.ndarray] = []
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        base = stream.time_base or Fraction(1)
        container.seek(max(0, round((times[0] - TOLERANCE) / base)), stream=stream, backward=True)
        for frame in container.decode(stream):
            wanted = times[len(found)]
            moment = float((frame.pts or 0) * base)
            while len(found) < len(times) and abs(moment - times[len(found)]) <= TOLERANCE:
                found.append(frame.to_ndarray(format="rgb24"))
                if visit is not None:
                    visit(1)
            if len(found) == len(times) or moment > wanted + 1.0:
                break
    if len(found) < len(times):
        raise ValueError(
            f"{path} has no frame at {times[len(found)]:.4f} s; it may be truncated or of another rate"
        )
    return np.stack(found)
