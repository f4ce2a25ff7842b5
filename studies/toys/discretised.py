"""Actions as 256 bins and as FAST tokens, against continuous actions: resolution, jitter, number of tokens.

    python -m studies.toys.discretised OUTPUT [--quick] [--seed N]

Chunks of 50 steps of two dimensions, each told by four numbers: a smooth reach across the whole range of
actions, and a fine movement, three turns on a circle whose width is a fiftieth of that range, anywhere in it;
the fine one also relative to its first position and normalised again. Tokens are taken from the chunks
themselves, as if the model that writes them made no error. The continuous actions are those of a small flow
that had to learn them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pizero.data.action_tokens import FastTokenizer
from pizero.diagnose.figures import GRAY, new_figure
from pizero.generative.flow import FlowMatching
from studies.toys.common import Networks, Size, denoising_loss, draw_noise, train
from studies.toys.drawing import curve, styles
from studies.toys.measures import spread
from studies.toys.output import arguments, around, save, show, size_of

FULL = Size(num_updates=4000, num_samples=512)
HORIZON, ACTION_DIM = 50, 2
RADIUS, TURNS = 0.02, 3
BINS = (32, 64, 128, 256, 512, 1024)
SCALES = (2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
USUAL_BINS, USUAL_SCALE = 256, 10.0
VOCABULARY = 2048
FLOW = FlowMatching(num_steps=10)
FLOW_NAME = "continuous, from a flow"
LOOK = styles((FLOW_NAME, "bins", "FAST"))


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


def binned(normalised: Tensor, bins: int) -> Tensor:
    """Return the middles of equal bins of [-1, 1], as RT-2 and OpenVLA write actions."""
    index = ((normalised.clamp(-1, 1) + 1) / 2 * bins).floor().clamp(max=bins - 1)
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


def learnt(kind: Kind, chunks: Tensor, condition: Tensor, size: Size, seed: int) -> Tensor:
    """Return what a flow makes of the conditions of `chunks`, one network for each of `num_members` equal
    parts.
    """
    generator = torch.Generator().manual_seed(seed)
    example = kind.normalise(kind.draw(4096, generator)[0])
    mean, std = example.mean(dim=0), example.std(dim=0).clamp(min=1e-3)

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        fresh, given = kind.draw(rows, generator)
        return (kind.normalise(fresh) - mean) / std, given

    networks = Networks(
        num_members=size.num_members,
        generator=generator,
        action_dim=HORIZON * ACTION_DIM,
        condition_dim=condition.shape[1],
        width=128,
    )
    loss = denoising_loss(FLOW, draw, rows=size.batch, generator=generator)
    networks = train(networks, loss, num_updates=size.num_updates, learning_rate=1e-3)
    noise = draw_noise(FLOW, size, seed=seed + 1, horizon=HORIZON, action_dim=ACTION_DIM)
    return kind.restore(FLOW.generate(networks.bound(condition), noise) * std + mean, chunks)


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


def measure(kind: Kind, size: Size, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return error and roughness of each form of actions, and one chunk in each."""
    generator = torch.Generator().manual_seed(seed)
    learn_from = kind.normalise(kind.draw(4 * size.num_samples, generator)[0])
    chunks, condition = kind.draw(size.num_members * size.num_samples, generator)
    normalised = kind.normalise(chunks)
    flow = learnt(kind, chunks, condition, size, seed + 1)
    record: dict[str, Any] = {FLOW_NAME: judge(flow, chunks, size), "bins": {}, "FAST": {}}
    shown = {"recorded": chunks[0], FLOW_NAME: flow[0]}
    for bins in BINS:
        found = kind.restore(binned(normalised, bins), chunks)
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
    labels = {FLOW_NAME: "a flow", "bins": f"{USUAL_BINS} bins", "FAST": f"FAST, scale {USUAL_SCALE:g}"}
    for name, label in labels.items():
        look = LOOK[name]
        style = "steps-mid" if name == "bins" else "default"
        ax.plot(
            shown[name][:, 0],
            color=look.color,
            linestyle=look.line,
            linewidth=1.3,
            label=label,
            drawstyle=style,
        )


def draw_figure(record: dict[str, Any], shown: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draw a chunk of each kind, and its error and roughness over the bits that it is written in."""
    figure, axes = new_figure(3, len(KINDS), size=(10.5, 8.0))
    for column, kind in zip(axes.T, KINDS, strict=True):
        found = record["kinds"][kind]
        draw_example(column[0], shown[kind])
        column[0].set(title=kind, xlabel="step of the chunk", ylabel="action")
        for ax, key in zip(column[1:], ("error", "roughness"), strict=True):
            for name, usual in (("bins", USUAL_BINS), ("FAST", USUAL_SCALE)):
                look, rows = LOOK[name], found[name]
                curve(ax, {row["bits"]: row[key] for row in rows.values()}, look, name)
                ax.plot(
                    rows[usual]["bits"],
                    rows[usual][key]["mean"],
                    "o",
                    color="black",
                    markersize=11,
                    fillstyle="none",
                )
            low, high = found[FLOW_NAME][key]["interval"]
            ax.axhspan(low, high, color=LOOK[FLOW_NAME].color, alpha=0.3, linewidth=0)
            ax.axhline(found[FLOW_NAME][key]["mean"], color=LOOK[FLOW_NAME].color, label="a flow")
            ax.set(xscale="log", yscale="log", xlabel="bits of a chunk")
        column[1].set_ylabel("error (the range is 2)")
        column[2].set_ylabel("roughness / recorded")
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[1, 0].legend(frameon=False, fontsize=8, title="circles: 256 bins, scale 10", title_fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, argv)
    size = size_of(given, FULL)
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
            "a flow": found[FLOW_NAME],
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
