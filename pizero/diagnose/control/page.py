"""The page of a control report: one file without scripts, which opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pizero.diagnose.control import figures as draw
from pizero.diagnose.control.measure import ControlFigures, Spread
from pizero.diagnose.page import STYLE
from pizero.embodiment import Embodiment
from pizero.policy.record import Record

HEADS = ("", "p50", "p95", "p99", "max")


def control_page(
    title: str, setting: Mapping[str, str], figures: ControlFigures, record: Record, robot: Embodiment
) -> str:
    """Return the page: whether time was kept, then why not, then what the robot was told."""
    parts = [
        _headline(title, figures, robot),
        _section(
            "Time",
            "Left: how long after its deadline each tick began. Right: how many periods were as long as that "
            "or longer; the dashed line is the period that was asked for. Deadlines are absolute, so a late "
            "tick does not move the next ones. In ms.",
            draw.timing(record, robot),
            _table(HEADS, [("period", *_cells(figures.period)), ("lateness", *_cells(figures.lateness))]),
        ),
        _section(
            "Latency by stage",
            "The parts of one tick (observe, plan, guard, tell), then the policy, which computes beside the "
            "loop, and the parts that a server tells of. In ms.",
            draw.stages(figures),
            _table(HEADS, [(name, *_cells(part)) for name, part in figures.stages.items()]),
        ),
        _section(
            "Delay",
            f"From an observation to the chunk that was made from it, in control ticks. {_delays(figures)}",
            draw.delays(record),
        ),
        _section(
            "What the robot was told",
            "The last commands, at the policy's rate; grey marks below: another chunk takes over; orange: "
            "nothing is planned, and the robot is told to stay where it is.",
            draw.commands(record, robot),
        ),
    ]
    if figures.joints:
        parts.append(
            _section(
                "Where chunks meet",
                "Chunks that are spliced well change no more where they meet than within: diamonds lie on "
                "the bars. Jerk is per second cubed, of velocities per second squared.",
                draw.seams(figures),
                _joints(figures),
            )
        )
    parts += [_guard(figures), _states(figures)]
    parts.append("<h2>What was run</h2>" + _table((), [(name, text) for name, text in setting.items()]))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pizero: {escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _headline(title: str, figures: ControlFigures, robot: Embodiment) -> str:
    over = figures.period.p99 - 1e3 / robot.rate
    sentence = (
        f"99 of 100 periods are at most that much longer than the {1e3 / robot.rate:g} ms of {robot.rate:g} "
        f"Hz. Over {figures.seconds:.0f} s the ticks drifted by {figures.drift:+.2f} ms; "
        f"{_count(figures.missed, 'deadline')} of {figures.ticks + figures.skipped} missed, at most "
        f"{figures.longest_miss} in a row. After its first action the robot stood still for want of actions "
        f"in {_count(figures.held, 'tick')}, for at most {figures.longest_hold:.0f} ms at a time."
    )
    heading = f'<h1>{escape(title)}</h1><p class="headline">{over:+.2f} ms</p>'
    return f'{heading}<p class="note">{escape(sentence)}</p>'


def _delays(figures: ControlFigures) -> str:
    if figures.delay is None:
        return "There were too few answers to say more."
    if figures.estimate is None:
        usual, most = figures.delay.p50, figures.delay.max
        return f"Measured: {usual:.0f} as a rule, {most:.0f} at most. This controller waits for its answers."
    return (
        f"Measured: {figures.delay.p50:.0f} as a rule, {figures.delay.max:.0f} at most; expected: "
        f"{figures.estimate.p50:.0f}. {_count(figures.underestimated, 'answer')} of {figures.answers} came "
        f"later than expected, {figures.dropped} too late to be used, "
        f"{_count(sum(figures.errors.values()), 'error')}."
    )


def _joints(figures: ControlFigures) -> str:
    rows = [
        (
            joint.name,
            joint.unit,
            _number(joint.splice),
            _number(joint.within),
            _number(joint.jerk_rms),
            _number(joint.jerk_max),
        )
        for joint in figures.joints
    ]
    return _table(("", "unit", "where chunks meet", "within", "jerk, rms", "jerk, max"), rows, words=2)


def _guard(figures: ControlFigures) -> str:
    if not figures.interventions:
        return _section("Guard", "It had nothing to do.")
    rows = [(name, f"{count}") for name, count in sorted(figures.interventions.items())]
    return _section("Guard", "What it did, and in how many commands.", _table(("", "commands"), rows))


def _states(figures: ControlFigures) -> str:
    shown = figures.transitions[:40]
    lines = "".join(f"<li>{escape(line)}</li>" for line in shown)
    more = len(figures.transitions) - len(shown)
    text = "Every change of state, from the first tick on." + (f" {more} more are not shown." if more else "")
    return _section("States", text, f"<ul>{lines}</ul>")


def _section(title: str, text: str, *contents: str) -> str:
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(text)}</p>\n' + "\n".join(contents)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if place < words or not heads else ' class="number"' for place in range(len(cells))]
        pairs = zip(kinds, cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in pairs) + "</tr>"

    head = line("th", heads) if heads else ""
    return "<table>" + head + "".join(line("td", row) for row in rows) + "</table>"


def _cells(part: Spread) -> tuple[str, str, str, str]:
    return _number(part.p50), _number(part.p95), _number(part.p99), _number(part.max)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
