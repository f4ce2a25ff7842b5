"""A video at a glance: a few of its frames side by side."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pizero.data.video import decode_video

NUM_FRAMES = 6


def strip(video: Path, *, height: int = 180) -> Image.Image:
    """Return evenly spaced frames, first and last included, in one picture of the given height."""
    frames = list(decode_video(video))
    chosen = [frames[place] for place in np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)]
    row = Image.fromarray(np.concatenate(chosen, axis=1))
    return row.resize((round(row.width * height / row.height), height), Image.Resampling.LANCZOS)


def filmstrip(video: Path) -> str:
    """Return a video's strip as a JPEG in a data address, for a page of its own."""
    data = io.BytesIO()
    strip(video).save(data, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
