"""Pictures as h264 or AV1 video and back; the only file that knows FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from pizero.data.faults import DatasetError
from pizero.data.lerobot_features import Codec


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    name: str
    smallest: int
    options: dict[str, str]


X264 = "mbtree=0"
"""With its macroblock tree, x264 now and then writes other bytes for the same frames (docs/log.md)."""

ENCODERS = {
    "h264": _Encoder(
        name="libx264", smallest=2, options={"preset": "veryfast", "bf": "0", "x264-params": X264}
    ),
    "av1": _Encoder(name="libsvtav1", smallest=64, options={"preset": "12", "svtav1-params": "lp=1"}),
}

FRAMES_AHEAD = 1
"""So many frames are decoded and dropped rather than looked for from a key frame."""

TOLERANCE = 1e-3
"""How far, in seconds, a frame's time may be from the one asked for."""


def encode_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    *,
    fps: float,
    quality: int = 18,
    codec: Codec = "h264",
) -> None:
    """Write frames as an mp4 with a key frame every second frame; the same frames always give the same bytes.

    `quality` is the constant rate factor of x264 or SVT-AV1: 18 is near to lossless for the eye, higher is
    smaller. ValueError if a side is odd, too small for the codec, or a frame is not like the first.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"expected at least one frame for {path}, found none")
    height, width = first.shape[:2]
    encoder = ENCODERS[codec]
    if height % 2 or width % 2 or min(height, width) < encoder.smallest:
        raise ValueError(
            f"{codec} needs even sides of at least {encoder.smallest} pixels, found {width}×{height}; "
            f"render, crop or pad to such sides"
        )
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells of errors alone
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    with av.open(str(partial), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(av.VideoStream, container.add_stream(encoder.name, rate=rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = 2
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        stream.options = {"crf": str(quality), **encoder.options}
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
                    target = output.add_stream_from_template(stream, opaque=True)
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
    """Open a video; DatasetError if the file is missing or is no video."""
    if not path.is_file():
        raise DatasetError(
            "video-missing", path, f"expected a video at {path}, found none; copy the whole dataset again"
        )
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise _damaged(path, f"is not a video that FFmpeg reads ({error})") from None
    if not container.streams.video:
        container.close()
        raise _damaged(path, "has no pictures")
    return container


def decode_video(path: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yield every frame of a video, in order; DatasetError if it cannot be decoded to its end."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        reformatter = VideoReformatter()
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise _damaged(path, "has a damaged frame")
                yield _pixels(frame, reformatter)
        except FFmpegError as error:
            raise _damaged(path, f"cannot be decoded to its end ({error})") from None


class OpenVideo:
    """A video that stays open between reads, for frames in any order."""

    def __init__(self, path: Path, *, threads: bool = False) -> None:
        self.path = path
        self.container = open_video(path)
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO" if threads else "SLICE"
        if not threads:
            self.stream.codec_context.thread_count = 1
        self.base = self.stream.time_base or Fraction(1)
        self.rate = float(self.stream.average_rate or 1)
        self.reformatter = VideoReformatter()
        self.frames: Iterator[av.VideoFrame] = iter(())
        self.last: av.VideoFrame | None = None

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def read(self, times: Sequence[float]) -> UInt8[np.ndarray, "frame height width 3"]:
        """Return the frames at some times, in seconds from the file's start.

        Decoding goes on from where it is if the time lies just ahead, else from the key frame before it.
        DatasetError if the video has no frame within a millisecond of a time, or cannot be decoded.
        """
        found = np.empty((len(times), self.stream.height, self.stream.width, 3), np.uint8)
        try:
            for index, time in enumerate(times):
                found[index] = _pixels(self._frame_at(time), self.reformatter)
        except FFmpegError as error:
            self.last = None
            raise _damaged(self.path, f"cannot be decoded ({error})") from None
        return found

    def _next(self) -> av.VideoFrame | None:
        frame = next(self.frames, None)
        if frame is not None and frame.is_corrupt:
            raise _damaged(self.path, f"has a damaged frame at {self._moment(frame):.4f} s")
        return frame

    def _frame_at(self, time: float) -> av.VideoFrame:
        moment = self._moment(self.last)
        if self.last is None or not moment - TOLERANCE <= time <= moment + FRAMES_AHEAD / self.rate:
            # a place just behind the time: else a frame that is a key frame would be looked for from the one
            # before it
            self.container.seek(round((time + TOLERANCE) / self.base), stream=self.stream, backward=True)
            self.frames = self.container.decode(self.stream)
            self.last = None
        while self.last is None or self._moment(self.last) < time - TOLERANCE:
            self.last = self._next()
            if self.last is None:
                break
        if self.last is None or self._moment(self.last) > time + TOLERANCE:
            self.last = None
            raise DatasetError(
                "video-too-short",
                self.path,
                f"{self.path} has no frame at {time:.4f} s; it may be truncated or of another rate",
            )
        return self.last

    def _moment(self, frame: av.VideoFrame | None) -> float:
        return -1.0 if frame is None or frame.pts is None else float(frame.pts * self.base)


def read_frames(path: Path, times: Sequence[float]) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return the frames at some ascending times, in seconds from the file's start, decoding each frame once.

    DatasetError if the video has no frame within a millisecond of a time.
    """
    video = OpenVideo(path, threads=True)
    try:
        return video.read(times)
    finally:
        video.close()


def _pixels(frame: av.VideoFrame, reformatter: VideoReformatter) -> UInt8[np.ndarray, "height width 3"]:
    return reformatter.reformat(frame, format="rgb24").to_ndarray()


def _damaged(path: Path, what: str) -> DatasetError:
    return DatasetError("video-damaged", path, f"{path} {what}; it may be truncated: copy it again")
