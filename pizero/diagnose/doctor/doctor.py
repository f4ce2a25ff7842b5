"""The one door to all checks: what a folder is, and everything that is found about it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pizero.diagnose.doctor.dataset import examine_dataset
from pizero.diagnose.doctor.findings import Finding
from pizero.diagnose.doctor.machine import examine_machine
from pizero.diagnose.doctor.policy import examine_policy
from pizero.diagnose.doctor.run import examine_checkpoint, examine_run
from pizero.training.checkpoint import PROGRESS
from pizero.weights.folder import CONFIG, CONTRACT, MANIFEST, WEIGHTS

Subject = Literal["dataset", "policy", "run", "checkpoint", "machine"]


def subject_of(path: Path | None) -> Subject:
    """Return what a folder is, by the files in it, be it damaged; no folder is the machine.

    ValueError if it is none of them, which names those that are inside of it.
    """
    if path is None:
        return "machine"
    if not path.is_dir():
        raise ValueError(
            f"expected the folder of a dataset, a policy or a training run, found nothing at {path}"
        )
    subject = _recognised(path)
    if subject is None:
        inside = [child.name for child in sorted(path.iterdir()) if child.is_dir() and _recognised(child)]
        advice = f"; in it there are {', '.join(inside)}: name one of them" if inside else ""
        raise ValueError(f"{path} is no dataset, policy or training run{advice}")
    return subject


def _recognised(path: Path) -> Subject | None:
    def has(*names: str) -> bool:
        return any((path / name).exists() for name in names)

    if has("meta", "data", "videos"):
        return "dataset"
    if has(PROGRESS):
        return "checkpoint"
    if has("checkpoints", "policy", "metrics.jsonl"):
        return "run"
    if has(WEIGHTS, MANIFEST) or (has(CONFIG) and has(CONTRACT)):
        return "policy"
    return None


def examine(path: Path | None, *, quick: bool = False, max_frames: int = 120) -> tuple[Finding, ...]:
    """Return all that is found about a folder, or about this machine, the gravest first; nothing is changed.

    With `quick`, no picture is decoded, no weight read and nothing drawn. `max_frames` is that of
    `examine_dataset`. ValueError if the folder is nothing that is known.
    """
    subject = subject_of(path)
    if path is None:
        return examine_machine(Path.cwd(), drawing=not quick)
    match subject:
        case "dataset":
            return examine_dataset(path, max_frames=max_frames, pictures=not quick)
        case "policy":
            return examine_policy(path, weights=not quick)
        case "run":
            return examine_run(path, weights=not quick)
        case _:
            return examine_checkpoint(path, weights=not quick)
