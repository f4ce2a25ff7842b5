"""What a model sees in its first step: the one look that finds most mistakes in data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pizero.contract import Contract
from pizero.data.text import TextTokenizer
from pizero.records import read_record, write_record
from pizero.types import Batch, Tokens

NUM_SAMPLES = 8
"""So many samples are kept and drawn."""

LIMIT = 3.0
"""Normalised numbers are drawn from -LIMIT to LIMIT; those beyond are cut there, and orange."""

PICTURE, PANEL, GAP, HEADER = 176, 600, 8, 26
LINE, STATE, ACTIONS_TOP, NUM_LINES, CELLS = 15, 30, 84, 3, 8
BLUE, ORANGE, GRAY, PALE, INK = "#0072B2", "#D55E00", "#9a9a9a", "#eeeeee", "#1a1a1a"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The words of a first batch: each sample's prompt, each picture's camera, each action dimension."""

    prompts: tuple[str, ...]
    cameras: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FirstBatch:
    """The first samples of a batch, as the model reads them."""

    images: UInt8[np.ndarray, "sample camera 3 height width"]
    camera_valid: Bool[np.ndarray, "sample camera"]
    state: Float32[np.ndarray, "sample state_dim"]
    actions: Float32[np.ndarray, "sample horizon action_dim"]
    valid: Bool[np.ndarray, "sample horizon"]
    real: Bool[np.ndarray, "sample action_dim"]
    labels: Labels


def write_first_batch(
    folder: Path, batch: Batch, *, prompts: Sequence[str], cameras: Sequence[str], actions: Sequence[str]
) -> None:
    """Write `first_batch.png`, `first_batch.safetensors` and `first_batch.json`, of at most 8 samples.

    `prompts` has a text for each sample of the batch, `cameras` a name for each picture of a sample,
    `actions` one for each dimension. ValueError if their numbers do not fit.
    """
    inputs = batch.inputs
    expected = (inputs.images.shape[0], inputs.images.shape[1], batch.actions.shape[-1])
    found = (len(prompts), len(cameras), len(actions))
    if found != expected:
        raise ValueError(f"expected {expected} prompts, cameras and actions, found {found}")
    tensors = {
        "images": inputs.images,
        "camera_valid": inputs.camera_valid,
        "state": inputs.state,
        "actions": batch.actions,
        "valid": batch.valid,
        "real": batch.real,
    }
    arrays = {name: np.ascontiguousarray(_numpy(tensor)[:NUM_SAMPLES]) for name, tensor in tensors.items()}
    labels = Labels(prompts=tuple(prompts[:NUM_SAMPLES]), cameras=tuple(cameras), actions=tuple(actions))
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "first_batch.json", labels)
    partial = folder / "first_batch.partial"
    save_file(arrays, partial)
    partial.replace(folder / "first_batch.safetensors")
    draw_first_batch(FirstBatch(labels=labels, **arrays)).save(partial, format="PNG")
    partial.replace(folder / "first_batch.png")


def read_first_batch(folder: Path) -> FirstBatch:
    """Return what `write_first_batch` wrote; ValueError if a file is missing or damaged."""
    labels = read_record(Labels, folder / "first_batch.json")
    path = folder / "first_batch.safetensors"
    try:
        arrays = load_file(path)
        return FirstBatch(labels=labels, **arrays)
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def prompt_texts(tokens: Tokens, tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Return the prompt of each sample as text, and how many tokens follow that the model learns to write."""
    texts = []
    read, targets = _numpy(tokens.valid & ~tokens.target), _numpy(tokens.valid & tokens.target)
    for ids, prompt, target in zip(_numpy(tokens.ids), read, targets, strict=True):
        written = f" + {int(target.sum())} tokens to write" if target.any() else ""
        texts.append(tokenizer.decode(ids[prompt].tolist()) + written)
    return tuple(texts)


def camera_labels(contracts: Sequence[Contract]) -> tuple[str, ...]:
    """Return a name for each picture of a batch; several robots' names are joined."""
    slots = [contract.slots or contract.embodiment.camera_names for contract in contracts]
    return _joined(slots, max(map(len, slots)), "no camera")


def action_labels(contracts: Sequence[Contract]) -> tuple[str, ...]:
    """Return a name for each action dimension of a batch, padding included; several robots' are joined."""
    names = [[dimension.name for dimension in contract.embodiment.actions] for contract in contracts]
    widths = [contract.width for contract in contracts]
    return _joined(names, max([*map(len, names), *widths]), "padding")


def draw_first_batch(first: FirstBatch) -> Image.Image:
    """Return a picture of a first batch: a row for each sample, its pictures, then prompt, state, actions."""
    num_samples, num_cameras = first.camera_valid.shape
    width = GAP + num_cameras * (PICTURE + GAP) + PANEL + GAP
    sheet = Image.new("RGB", (width, HEADER + num_samples * (PICTURE + GAP)), "white")
    pen, left = ImageDraw.Draw(sheet), GAP + num_cameras * (PICTURE + GAP)
    for place, name in enumerate(first.labels.cameras):
        _write(pen, (GAP + place * (PICTURE + GAP), 6), _cut(name, PICTURE, 13), 13)
    header = f"prompt; normalised state and actions, from -{LIMIT:g} to {LIMIT:g} (grey: past the end)"
    _write(pen, (left, 6), header, 13)
    for row in range(num_samples):
        top = HEADER + row * (PICTURE + GAP)
        for camera in range(num_cameras):
            corner = (GAP + camera * (PICTURE + GAP), top)
            if first.camera_valid[row, camera]:
                sheet.paste(_picture(first.images[row, camera]), corner)
            else:
                _absent(pen, corner)
        for place, line in enumerate(_wrap(first.labels.prompts[row], PANEL, 13)):
            _write(pen, (left, top + place * LINE), line, 13)
        _bars(pen, (left, top + NUM_LINES * LINE + 4), first.state[row])
        _sparklines(pen, (left, top + ACTIONS_TOP), first, row)
    return sheet


def _picture(image: UInt8[np.ndarray, "3 height width"]) -> Image.Image:
    """Return a picture, fitted into its square without changing its form."""
    whole = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    scale = PICTURE / max(whole.size)
    fitted = whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.BOX)
    square = Image.new("RGB", (PICTURE, PICTURE), PALE)
    square.paste(fitted, ((PICTURE - fitted.width) // 2, (PICTURE - fitted.height) // 2))
    return square


def _absent(pen: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    left, top = corner
    box = (left, top, left + PICTURE - 1, top + PICTURE - 1)
    pen.rectangle(box, fill=PALE)
    pen.line((box[0], box[1], box[2], box[3]), fill=GRAY)
    pen.line((box[0], box[3], box[2], box[1]), fill=GRAY)
    _write(pen, (left + 8, top + 8), "absent", 13)


def _bars(pen: ImageDraw.ImageDraw, corner: tuple[int, int], numbers: np.ndarray) -> None:
    """Draw numbers as bars from the middle line."""
    left, top = corner
    _write(pen, (left, top + STATE // 2 - 7), "state", 11)
    start, width = left + 36, (PANEL - 36) / max(len(numbers), 1)
    middle = top + STATE / 2
    pen.line((start, middle, left + PANEL, middle), fill=GRAY)
    for place, number in enumerate(numbers):
        height, color = _scaled(float(number), STATE)
        across = start + place * width
        edges = sorted((middle, middle - height))
        pen.rectangle((across + 1, edges[0], across + max(min(width - 2, 24), 2), edges[1]), fill=color)


def _sparklines(pen: ImageDraw.ImageDraw, corner: tuple[int, int], first: FirstBatch, row: int) -> None:
    """Draw each real dimension of a chunk over its steps; what is past the episode's end is grey."""
    if not first.valid[row].any():
        _write(pen, corner, "no actions: this sample teaches text alone", 13)
        return
    shown = np.flatnonzero(first.real[row]).tolist()
    lines = -(-len(shown) // CELLS)
    width, height = PANEL // CELLS, (PICTURE - ACTIONS_TOP) // max(lines, 1)
    for place, dimension in enumerate(shown):
        left, top = corner[0] + place % CELLS * width, corner[1] + place // CELLS * height
        name = _cut(first.labels.actions[dimension], width - 6, 10)
        _write(pen, (left, top), name, 10)
        _curve(
            pen, (left, top + 11, width - 6, height - 13), first.actions[row, :, dimension], first.valid[row]
        )


def _curve(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], numbers: np.ndarray, valid: np.ndarray
) -> None:
    left, top, width, height = box
    middle = top + height / 2
    pen.line((left, middle, left + width, middle), fill=PALE)
    across = left + np.linspace(0, width, len(numbers)) if len(numbers) > 1 else np.array([left + width / 2])
    scaled = [_scaled(number, height) for number in numbers.tolist()]
    points = [(x, middle - offset) for x, (offset, _) in zip(across, scaled, strict=True)]
    for step in range(len(points)):
        color = scaled[step][1] if valid[step] else GRAY
        if step:
            pen.line((*points[step - 1], *points[step]), fill=color, width=2)
        x, y = points[step]
        pen.rectangle((x - 1, y - 1, x + 1, y + 1), fill=color)


def _scaled(number: float, height: float) -> tuple[float, str]:
    """Return how far from the middle a number lies, in pixels, and its colour."""
    finite = bool(np.isfinite(number))
    cut = float(np.clip(number, -LIMIT, LIMIT)) if finite else LIMIT
    return cut / LIMIT * height / 2, BLUE if finite and abs(number) <= LIMIT else ORANGE


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int) -> None:
    pen.text(corner, text, fill=INK, font=ImageFont.load_default(size))


def _wrap(text: str, width: int, size: int) -> list[str]:
    r"""Return a text in at most three lines; "…" stands for what does not fit, `\n` for a line break."""
    lines, rest = [], text.replace("\n", r"\n")
    while rest and len(lines) < NUM_LINES:
        if len(lines) == NUM_LINES - 1:
            lines.append(_cut(rest, width, size))
            break
        fits = len(_fitting(rest, width, size))
        space = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
        end = space if space > 0 else fits
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _cut(text: str, width: int, size: int) -> str:
    fitting = _fitting(text, width, size)
    return text if fitting == text else fitting[:-1] + "…"


def _fitting(text: str, width: int, size: int) -> str:
    font = ImageFont.load_default(size)
    count = next((end for end in range(len(text)) if font.getlength(text[: end + 1]) > width), len(text))
    return text[: max(count, 1)]


def _joined(names: Sequence[Sequence[str]], count: int, missing: str) -> tuple[str, ...]:
    labels = []
    for place in range(count):
        here = [row[place] for row in names if place < len(row) and row[place]]
        labels.append(" / ".join(dict.fromkeys(here)) or missing)
    return tuple(labels)


def _numpy(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    return tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else tensor
