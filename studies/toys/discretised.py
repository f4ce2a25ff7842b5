"""Actions as 256 bins and as FAST tokens, against continuous actions: resolution, jitter, number of tokens.

    python -m studies.toys.discretised OUTPUT [--quick] [--seed N]

Chunks of 50 steps of two dimensions, each told by four numbers: a smooth reach across the whole range of
actions, and a fine movement, three turns on a circle whose width is a fiftieth of that range, anywhere in it;
the fine one also relative to its first position and normalised again. Tokens are taken from the chunks
themselves, as if the model that writes them made no error. Beside them is what small networks learn that see
the four numbers and a step: a flow, and one that says how likely each of 256 bins is. Each step is drawn by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from pizero.data.action_tokens import FastTokenizer
from pizero.diagnose.figures import GRAY, new_figure
from pizero.generative.flow import FlowMatching
from pizero.nn.time_embedding import time_embedding
from studies.toys.common import QUICK, Networks, Size, denoising_loss, train
from studies.toys.drawing import curve, styles
from studies.toys.measures import spread
from studies.toys.output import arguments, around, save, show, size_of

FULL = Size(num_updates=2000, num_samples=256)
SMALL = replace(QUICK, num_updates=30, num_samples=16)
WIDTH = 128
HORIZON, ACTION_DIM = 50, 2
RADIUS, TURNS = 0.02, 3
BINS = (32, 64, 128, 256, 512, 1024)
SCALES = (2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
USUAL_BINS, USUAL_SCALE = 256, 10.0
VOCABULARY = 2048
FLOW = FlowMatching(num_steps=10)
LOOK = styles(("learnt flow", "bins", "FAST", "learnt bins"))


def reach(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ways of least jerk between two points, and the points (Flash and Hogan 1985)."""
    ends = 1.8 * torch.rand(rows, 2, ACTION_DIM, generator=generator) - 0.9
    s = torch.linspace(0, 1, HORIZON)[:, None]
    share = 10 * s**3 - 15 * s**4 + 6 * s**5
    return ends[:, :1] + share * (ends[:, 1:] - ends[:, :1]), ends.flatten(1)


def circle(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw turns on a small circle; its centre is anywhere, and the first angle too."""
    centre = 1.8 * torch.rand(rows, 1, ACTION_DIM, generator=generator) - 0.9
    first = 2 * math.pi * torch.rand(rows, 1, generator=generator)
    angle = first + 2 * math.pi * TURNS * torch.linspace(0, 1, HORIZON)
    around_it = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return centre + RADIUS * around_it, torch.cat([centre[:, 0], first.cos(), first.sin()], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Chunks, and how the model sees them: relative to their first position or not, over their half range."""

    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    relative: bool = False
    half_range: float = 1.0

    def normalise(self, chunks: Tensor) -> Tensor:
        """Return chunks in about [-1, 1]."""
        return (chunks - chunks[:, :1] if self.relative else chunks) / self.half_range

    def restore(self, normalised: Tensor, chunks: Tensor) -> Tensor:
        """Return normalised chunks in the units of `chunks`, whose first positions are known."""
        return normalised * self.half_range + (chunks[:, :1] if self.relative else 0.0)


KINDS = {
    "smooth reach": Kind(draw=reach),
    "fine circle": Kind(draw=circle),
    "fine circle, relative": Kind(draw=circle, relative=True, half_range=2 * RADIUS),
}


def index_of(normalised: Tensor, bins: int) -> Tensor:
    """Return which of equal bins of [-1, 1] each action is in, as RT-2 and OpenVLA write actions."""
    return ((normalised.clamp(-1, 1) + 1) / 2 * bins).long().clamp(max=bins - 1)


def middle_of(index: Tensor, bins: int) -> Tensor:
    """Return the middles of bins."""
    return (index + 0.5) / bins * 2 - 1


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a chunk is when it is written: tokens on average, each one of `vocabulary`."""

    tokens: float
    vocabulary: int

    @property
    def bits(self) -> float:
        return self.tokens * math.log2(self.vocabulary)


def fast(learn_from: Tensor, normalised: Tensor, scale: float) -> tuple[Tensor, Length]:
    """Return chunks as a tokenizer of FAST gives them back that learnt from others like them."""
    tokenizer = FastTokenizer.fit(learn_from.double().numpy(), scale=scale, vocab_size=VOCABULARY)
    ids = [tokenizer.encode(chunk) for chunk in normalised.double().numpy()]
    found = np.stack([tokenizer.decode(each, HORIZON, ACTION_DIM) for each in ids])
    return torch.from_numpy(found).float(), Length(
        tokens=float(np.mean([len(each) for each in ids])), vocabulary=tokenizer.vocab_size
    )


def told(condition: Tensor, step: Tensor) -> Tensor:
    """Return what a network knows: the four numbers of a chunk, and which step of it is asked for."""
    return torch.cat([condition, time_embedding(step / (HORIZON - 1), 16, shortest=0.1)], dim=-1)


def one_step(kind: Kind, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw single steps of chunks, normalised `[row, 1, action_dim]`, and what is known of each."""
    chunks, condition = kind.draw(rows, generator)
    step = torch.randint(HORIZON, (rows,), generator=generator)
    return kind.normalise(chunks)[torch.arange(rows), step][:, None], told(condition, step.float())


def every_step(condition: Tensor) -> Tensor:
    """Return what is known of each step of each chunk, chunk after chunk."""
    steps = torch.arange(HORIZON).float().repeat(len(condition))
    return told(condition.repeat_interleave(HORIZON, dim=0), steps)


def networks_of(action_dim: int, size: Size, generator: torch.Generator) -> Networks:
    return Networks(
        num_members=size.num_members,
        generator=generator,
        action_dim=action_dim,
        condition_dim=20,
        width=WIDTH,
    )


def by_flow(kind: Kind, condition: Tensor, size: Size, seed: int) -> Tensor:
    """Return normalised chunks that a flow makes, step by step; one network for each of equal parts."""
    generator = torch.Generator().manual_seed(seed)
    example = one_step(kind, 20_000, generator)[0]
    mean, std = example.mean(dim=0), example.std(dim=0)

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        action, known = one_step(kind, rows, generator)
        return (action - mean) / std, known

    loss = denoising_loss(FLOW, draw, rows=size.batch, generator=generator)
    networks = train(
        networks_of(ACTION_DIM, size, generator), loss, num_updates=size.num_updates, learning_rate=1e-3
    )
    noise = torch.randn(len(condition) * HORIZON, 1, ACTION_DIM, generator=generator)
    made = FLOW.generate(networks.bound(every_step(condition)), noise) * std + mean
    return made.view(len(condition), HORIZON, ACTION_DIM)


def by_bins(kind: Kind, condition: Tensor, size: Size, seed: int) -> Tensor:
    """Return normalised chunks whose bins are drawn from what such a network says, step by step."""
    generator = torch.Generator().manual_seed(seed)

    def logits(networks: Networks, known: Tensor) -> Tensor:
        nothing = torch.zeros(len(known), 1, ACTION_DIM * USUAL_BINS)
        return networks(nothing, torch.zeros(len(known)), condition=known).view(-1, USUAL_BINS)

    def loss(networks: Networks, _average: Networks) -> Tensor:
        action, known = one_step(kind, size.batch, generator)
        target = index_of(action, USUAL_BINS).flatten()
        error = nn.functional.cross_entropy(logits(networks, known), target, reduction="none")
        return error.view(size.batch, ACTION_DIM).mean(dim=1)

    networks = networks_of(ACTION_DIM * USUAL_BINS, size, generator)
    networks = train(networks, loss, num_updates=size.num_updates, learning_rate=1e-3)
    known = every_step(condition).unflatten(0, (size.num_members, -1))
    found = []
    with torch.no_grad():
        for part in known.split(1024, dim=1):
            chance = logits(networks, part.flatten(0, 1)).softmax(dim=-1)
            drawn = torch.multinomial(chance, 1, generator=generator)
            found.append(drawn.view(size.num_members, -1, ACTION_DIM))
    return middle_of(torch.cat(found, dim=1), USUAL_BINS).view(len(condition), HORIZON, ACTION_DIM)


def judge(found: Tensor, chunks: Tensor, size: Size, length: Length | None = None) -> dict[str, Any]:
    """Return the root mean square error; by how much steps are rougher than those of the chunks, as the ratio
    of root mean square second differences; and how long the chunks are.
    """

    def rms(values: Tensor) -> Tensor:
        return values.square().unflatten(0, (size.num_members, -1)).flatten(1).mean(dim=1).sqrt()

    written = {} if length is None else {**vars(length), "bits": length.bits}
    return {
        **written,
        "error": spread(rms(found - chunks).tolist()),
        "roughness": spread((rms(found.diff(n=2, dim=1)) / rms(chunks.diff(n=2, dim=1))).tolist()),
    }


LEARNT = {"learnt flow": by_flow, "learnt bins": by_bins}


def measure(kind: Kind, size: Size, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return error and roughness of each form of actions, and one chunk in each."""
    generator = torch.Generator().manual_seed(seed)
    learn_from = kind.normalise(kind.draw(8 * size.num_samples, generator)[0])
    chunks, condition = kind.draw(size.num_members * size.num_samples, generator)
    normalised = kind.normalise(chunks)
    record: dict[str, Any] = {"bins": {}, "FAST": {}}
    shown = {"recorded": chunks[0]}
    for name, learn in LEARNT.items():
        found = kind.restore(learn(kind, condition, size, seed + 1), chunks)
        record[name] = judge(found, chunks, size)
        shown[name] = found[0]
    for bins in BINS:
        found = kind.restore(middle_of(index_of(normalised, bins), bins), chunks)
        length = Length(tokens=HORIZON * ACTION_DIM, vocabulary=bins)
        record["bins"][bins] = judge(found, chunks, size, length)
        if bins == USUAL_BINS:
            shown["bins"] = found[0]
    for scale in SCALES:
        decoded, length = fast(learn_from, normalised, scale)
        found = kind.restore(decoded, chunks)
        record["FAST"][scale] = judge(found, chunks, size, length)
        if scale == USUAL_SCALE:
            shown["FAST"] = found[0]
    return record, shown


def draw_example(ax: Axes, shown: Mapping[str, Tensor]) -> None:
    """Draw one dimension of a chunk in each form."""
    ax.plot(shown["recorded"][:, 0], color=GRAY, linewidth=4, alpha=0.5, label="recorded")
    labels = {
        "bins": f"{USUAL_BINS} bins",
        "FAST": f"FAST, scale {USUAL_SCALE:g}",
        "learnt bins": f"{USUAL_BINS} bins, learnt",
        "learnt flow": "flow, learnt",
    }
    for name, label in labels.items():
        look = LOOK[name]
        ax.plot(shown[name][:, 0], color=look.color, linestyle=look.line, linewidth=1.3, label=label)


def draw_figure(record: dict[str, Any], shown: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw a chunk of each kind, and its error and roughness over the bits that it is written in."""
    figure, axes = new_figure(3, len(KINDS), size=(10.5, 8.4))
    for column, kind in zip(axes.T, KINDS, strict=True):
        found = record["kinds"][kind]
        draw_example(column[0], shown[kind])
        column[0].set(title=kind, xlabel="step of the chunk", ylabel="action")
        for ax, key in zip(column[1:], ("error", "roughness"), strict=True):
            for name, usual in (("bins", USUAL_BINS), ("FAST", USUAL_SCALE)):
                look, rows = LOOK[name], found[name]
                curve(ax, {row["bits"]: row[key] for row in rows.values()}, look, name)
                ring = {"color": "black", "markersize": 11, "fillstyle": "none"}
                ax.plot(rows[usual]["bits"], rows[usual][key]["mean"], "o", **ring)
            for name in LEARNT:
                look = LOOK[name]
                ax.axhspan(*found[name][key]["interval"], color=look.color, alpha=0.25, linewidth=0)
                ax.axhline(found[name][key]["mean"], color=look.color, linestyle=look.line, label=name)
            ax.set(xscale="log", yscale="log", xlabel="bits of a chunk")
        column[1].set_ylabel("error (the range is 2)")
        column[2].set_ylabel("roughness / recorded")
    axes[0, 0].legend(frameon=False, fontsize=7.5)
    axes[1, 0].legend(frameon=False, fontsize=7.5)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL, SMALL)
    results = {name: measure(kind, size, given.seed) for name, kind in KINDS.items()}
    record = {
        "size": vars(size),
        "radius": RADIUS,
        "kinds": {name: found for name, (found, _) in results.items()},
    }
    shown = {name: examples for name, (_, examples) in results.items()}
    save(given, record, draw_figure(record, shown), name="discretised")
    rows = []
    for name, found in record["kinds"].items():
        forms = {
            **{name: found[name] for name in LEARNT},
            **{f"{bins} bins": row for bins, row in found["bins"].items()},
            **{f"FAST, scale {scale:g}": row for scale, row in found["FAST"].items()},
        }
        rows += [
            {
                "chunks": name,
                "actions as": form,
                "tokens": f"{row['tokens']:.1f}" if "tokens" in row else "-",
                "error": around(row["error"], 5),
                "roughness": around(row["roughness"], 2),
            }
            for form, row in forms.items()
        ]
    show(rows)


if __name__ == "__main__":
    main()
