"""`pizero explain`: why a policy's answers are wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.data.hub import open_dataset
from pizero.diagnose.explain.explain import explain as explain_policy
from pizero.diagnose.explain.files import write_explanation
from pizero.diagnose.explain.judgement import Explanation
from pizero.diagnose.explain.measured import Measured
from pizero.diagnose.explain.recording import write_rerun
from pizero.diagnose.explain.samples import run_of
from pizero.diagnose.explain.served import EQUAL, replay_recording
from pizero.diagnose.explain.verdict import explains_as_much
from pizero.policy.policy import Policy
from pizero.records import to_data
from pizero.serving.recording import is_recording

NUM_TRIALS = 5


def explain(
    policy: Path,
    dataset: Path,
    /,
    *,
    output: Path | None = None,
    episodes: tuple[int, ...] = (),
    samples: int = 64,
    seed: int = 0,
    device: str = "cpu",
    rerun: Path | None = None,
    as_json: Json = False,
) -> None:
    """Replay recorded samples through the path that serves the robot, and say what is wrong, if anything.

    Writes `explain.html` and `explain.json`. Exit status: 0 healthy, 1 unhealthy.

    Args:
        policy: Policy folder.
        dataset: Folder of a LeRobot dataset of the robot that the policy is for; or of a recording that
            `pizero serve --record` made, whose requests are asked again and answers compared.
        output: Folder to write into; by default `explain` beside the policy folder.
        episodes: Indices of the episodes to take samples from; by default those that training never saw, if
            the run beside the policy tells, else all.
        samples: Number of samples.
        seed: Decides samples and noise.
        device: Where the policy computes: cpu, cuda, cuda:1.
        rerun: File (.rrd) to write a Rerun recording into.
        as_json: Print the figures as JSON.
    """
    if is_recording(dataset):
        _replay(policy, dataset, device, as_json=as_json)
        return
    loaded, opened = Policy.load(policy, device=device), open_dataset(dataset)
    explanation = explain_policy(
        loaded,
        opened,
        files=policy,
        run=run_of(policy),
        episodes=episodes,
        num_samples=samples,
        seed=seed,
    )
    target = output or policy.resolve().parent / "explain"
    data = write_explanation(explanation, target, policy.name, dataset.name)
    if rerun is not None:
        if explanation.measured is None:
            raise ValueError(f"there is nothing to write into {rerun}: {explanation.reason}")
        write_rerun(explanation.measured, loaded, rerun)
    if as_json:
        print(json.dumps(data))
    else:
        _tell(explanation)
        say(f"{target / 'explain.html'} and {target / 'explain.json'}")
    if not explanation.healthy:
        sys.exit(1)


def _replay(policy: Path, recording: Path, device: str, *, as_json: bool) -> None:
    replay = replay_recording(Policy.load(policy, device=device), policy, recording)
    if as_json:
        print(json.dumps({**to_data(replay), "largest": replay.largest}))
    else:
        if not replay.same_policy:
            say(f"note: {replay.policy.name} answered, whose files are not those of {policy}")
        for request in replay.requests:
            difference = "–" if request.difference is None else f"{request.difference:.3g}"
            say(f"{request.number:6d}  {request.outcome:<16}  {difference}")
        say(f"{len(replay.requests)} requests, largest difference {replay.largest:.3g} in robot units")
    if replay.largest > EQUAL:
        sys.exit(1)


def _tell(explanation: Explanation) -> None:
    console = Console()
    if explanation.measured is not None:
        _tell_measured(console, explanation.measured)
    worrying = [fit for fit in explanation.fits if fit.outside > 0.01 or abs(fit.shift) > 0.5]
    if worrying:
        table = _table(
            "dataset under the contract's statistics", "dimension", "out of range", "shift", "scale"
        )
        for fit in worrying:
            table.add_row(
                f"{fit.field} {fit.name}", f"{fit.outside:.1%}", f"{fit.shift:+.2f}", f"{fit.ratio:.2f}"
            )
        console.print(table)
    for remark in explanation.remarks:
        say(f"note: {remark}")
    say(f"{'healthy' if explanation.healthy else 'UNHEALTHY'}: {explanation.reason}")
    for number, culprit in enumerate(explanation.culprits, start=1):
        say(f"{number}. {culprit.title} [{culprit.code}]")
        say(f"   {culprit.evidence}")
        say(f"   → {culprit.advice}")


def _tell_measured(console: Console, measured: Measured) -> None:
    title = f"answers to {len(measured.samples)} samples of {measured.episodes}"
    table = _table(
        title, "action", "error", "÷ spread", "correlation", "start", "end", "mean", "stay", "last"
    )
    for row in measured.dimensions:
        numbers = (row.relative, row.correlation, row.start, row.end, row.mean, row.hold, row.last)
        table.add_row(row.name, _number(row.error), *map(_number, numbers))
    console.print(table)
    table = _table("what the policy listens to", "input", "change", "× other noise")
    for ablation in measured.ablations:
        table.add_row(ablation.name, _number(ablation.change), _number(ablation.noises))
    console.print(table)
    table = _table("what was tried", "hypothesis", "error before", "undone", "p", "")
    for trial in measured.trials[:NUM_TRIALS]:
        explains = explains_as_much(trial, measured.trials)
        word = "explains it" if explains else "helps" if trial.helps else ""
        comparison = trial.comparison
        numbers = map(_number, (comparison.before, comparison.after, comparison.p_value))
        table.add_row(trial.repair.title, *numbers, word)
    console.print(table)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
