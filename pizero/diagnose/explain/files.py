"""An explanation as files: `explain.json` for programs, `explain.html` for people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pizero.diagnose.explain.judgement import Explanation
from pizero.diagnose.explain.page import explain_page
from pizero.diagnose.explain.verdict import explains_as_much


def explanation_data(explanation: Explanation, policy: str, dataset: str) -> dict[str, Any]:
    """Return the explanation's figures and words as dicts, lists and scalars, without pictures and chunks."""
    data: dict[str, Any] = {
        "policy": policy,
        "dataset": dataset,
        "healthy": explanation.healthy,
        "reason": explanation.reason,
        "culprits": [asdict(culprit) for culprit in explanation.culprits],
        "remarks": list(explanation.remarks),
        "contract_sha256": explanation.contract.sha256,
        "statistics": [asdict(fit) for fit in explanation.fits],
    }
    measured = explanation.measured
    if measured is None:
        return data
    data["measured"] = {
        "episodes": measured.episodes,
        "frames": [sample.frame for sample in measured.samples],
        "error": measured.error,
        "skill": asdict(measured.skill) | {"ratio": measured.skill.ratio},
        "dimensions": [asdict(row) for row in measured.dimensions],
        "tasks": [asdict(task) for task in measured.tasks],
        "ablations": [asdict(ablation) for ablation in measured.ablations],
        "hypotheses": [
            {
                "culprit": trial.repair.culprit,
                "title": trial.repair.title,
                "num_fitted": trial.repair.num_fitted,
                **asdict(trial.comparison),
                "ratio": trial.comparison.ratio,
                "screened": trial.screened,
                "helps": trial.helps,
                "explains": explains_as_much(trial, measured.trials),
            }
            for trial in measured.trials
        ],
        "prompts": [sample.prompt for sample in measured.seen],
    }
    return data


def write_explanation(explanation: Explanation, folder: Path, policy: str, dataset: str) -> dict[str, Any]:
    """Write `explain.json` and `explain.html` into a folder, and return the figures of the former."""
    data = explanation_data(explanation, policy, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    _write(folder / "explain.json", text + "\n")
    _write(folder / "explain.html", explain_page(explanation, policy, dataset))
    return data


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
