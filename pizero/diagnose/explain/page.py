"""The page of an explanation: one file without scripts, which opens anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from pizero.diagnose.explain import figures as figures
from pizero.diagnose.explain.inputs import Picture, Seen
from pizero.diagnose.explain.judgement import Explanation
from pizero.diagnose.explain.measured import Measured
from pizero.diagnose.page import STYLE

OWN_STYLE = """
.bad { color: #D55E00; } .culprit { border-left: 4px solid #D55E00; padding: 2px 0 2px 14px; margin: 14px
0; } .culprit p { margin: 2px 0; } .slots { display: flex; gap: 16px; flex-wrap: wrap; margin: 0 0 6px; }
figure { margin: 0; } figure img { width: 192px; image-rendering: pixelated; display: block; } figcaption {
color: #555; font-size: 14px; } li { margin: 2px 0; max-width: 90ch; }
"""


def explain_page(explanation: Explanation, policy: str, dataset: str) -> str:
    """Return the page: the verdict first, then why, then what the model saw and answered."""
    parts = [_headline(explanation, policy, dataset)]
    measured = explanation.measured
    if measured is not None:
        parts += [*_answers(measured), *_listening(measured), _inputs(measured.seen), *_trials(measured)]
    if explanation.fits:
        parts.append(_fits(explanation))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pizero explain: '
        f"{escape(policy)}</title><meta name="
        f'"viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{OWN_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _headline(explanation: Explanation, policy: str, dataset: str) -> str:
    word, kind = ("healthy", "headline") if explanation.healthy else ("unhealthy", "headline bad")
    parts = [
        f"<h1>{escape(policy)} on {escape(dataset)}</h1>",
        f'<p class="{kind}">{word}</p><p class="note">{escape(explanation.reason)}.</p>',
    ]
    for number, culprit in enumerate(explanation.culprits, start=1):
        parts.append(
            f'<div class="culprit"><p><b>{number}. {escape(culprit.title)}</b> '
            f"<code>{escape(culprit.code)}</code></p><p>{escape(culprit.evidence)}</p>"
            f"<p>→ {escape(culprit.advice)}</p></div>"
        )
    if explanation.remarks:
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in explanation.remarks)
        parts.append(f"<h2>Worth knowing</h2><ul>{remarks}</ul>")
    return "\n".join(parts)


def _answers(measured: Measured) -> list[str]:
    text = (
        f"{len(measured.samples)} samples from {measured.episodes}, through the path that serves the robot. "
        "On the line, the policy answers what was recorded; bright points are late in the chunk."
    )
    rows = [
        (
            row.name,
            row.unit,
            _number(row.error),
            _number(row.relative),
            _number(row.correlation),
            _number(row.mean),
            _number(row.hold),
            _number(row.last),
        )
        for row in measured.dimensions
    ]
    heads = ("dimension", "unit", "error", "÷ spread", "correlation", "mean", "stay", "last action")
    tasks = [
        (task.task, str(task.samples), _number(task.error / task.mean_error if task.mean_error else None))
        for task in measured.tasks
    ]
    return [
        _section("Answers beside what was recorded", text, figures.scatter(measured)),
        _section(
            "Error along the chunk",
            "Orange marks left of the baselines are good: the policy knows more than they do.",
            figures.errors(measured.dimensions),
            _table(heads, rows, num_texts=2),
        ),
        _section(
            "By task",
            "The error as a share of that of always answering the mean of the data.",
            _table(("task", "samples", "share"), tasks, num_texts=1),
        ),
        _section("Three chunks", "Recorded (grey) and answered (orange).", figures.chunks(measured)),
    ]


def _listening(measured: Measured) -> list[str]:
    text = (
        "One input is taken away at a time, with the same noise in both answers. What changes less than "
        "other noise would, the policy hardly listens to."
    )
    return [_section("What it listens to", text, figures.ablations(measured.ablations))]


def _inputs(samples: Sequence[Seen]) -> str:
    text = "Pictures, instruction and state exactly as the model reads them, from the processor that serves."
    blocks = []
    for sample in samples:
        slots = "".join(_slot(picture) for picture in sample.pictures)
        state = ", ".join(f"{number:.2f}" for number in sample.state)
        blocks.append(
            f'<p><b>frame {sample.frame}</b></p><div class="slots">{slots}</div>'
            f"<p>prompt ({sample.num_tokens} of {sample.max_tokens} tokens): "
            f"<code>{escape(repr(sample.prompt))}</code><br>normalised state: {state}</p>"
        )
    return _section("What the model sees", text, *blocks)


def _slot(picture: Picture) -> str:
    mask = "seen" if picture.valid else "masked out"
    caption = f"{escape(picture.slot)}, {picture.pixels.shape[1]} × {picture.pixels.shape[0]}, {mask}"
    return (
        f'<figure><img src="{png_address(picture)}" alt="{caption}"><figcaption>{caption}</figcaption>'
        "</figure>"
    )


def png_address(picture: Picture) -> str:
    """Return a picture, pixel by pixel, as a PNG in a data address."""
    data = io.BytesIO()
    Image.fromarray(picture.pixels).save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _trials(measured: Measured) -> list[str]:
    text = (
        "Each hypothesis was undone on the way in and out, and the same samples replayed with the same "
        "noise. Left of the dashed line, a repair removes a fifth of the error or more. Orange: a culprit; "
        "blue: it helps, but leaves no working policy."
    )
    return [_section("What was tried", text, figures.trials(measured.trials))]


def _fits(explanation: Explanation) -> str:
    text = (
        "The dataset under the contract's statistics: share of values out of range, how far its centre lies "
        "off in the contract's spreads, and its spread over the contract's."
    )
    rows = [
        (fit.field, fit.name, f"{fit.outside:.1%}", f"{fit.shift:+.2f}", f"{fit.ratio:.2f}")
        for fit in explanation.fits
    ]
    heads = ("field", "dimension", "out of range", "shift", "scale")
    return _section("Statistics", text, _table(heads, rows, num_texts=2))


def _section(title: str, text: str, *contents: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(text)}</p>\n' + "\n".join(contents)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_texts: int) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = ["" if place < num_texts else ' class="number"' for place in range(len(row))]
        pairs = zip(kinds, row, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in pairs) + "</tr>"

    return "<table>" + cells("th", heads) + "".join(cells("td", row) for row in rows) + "</table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
