"""Why does the robot do nonsense? Recorded samples through the serving path, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pizero.data.lerobot import LeRobotDataset
from pizero.data.statistics import compute_statistics
from pizero.diagnose.explain.instructions import candidates, try_instructions
from pizero.diagnose.explain.judgement import Explanation, judge, named
from pizero.diagnose.explain.measured import measure_replay
from pizero.diagnose.explain.repairs import repairs
from pizero.diagnose.explain.replay import Replay, Ruler
from pizero.diagnose.explain.samples import choose_frames, episodes_to_replay, read_samples
from pizero.diagnose.explain.statistics import fit_of
from pizero.diagnose.explain.structure import mismatches, trained_contract
from pizero.diagnose.explain.verdict import MIN_SAMPLES, Court, ranked
from pizero.policy.policy import Policy


def explain(
    policy: Policy,
    dataset: LeRobotDataset,
    *,
    files: Path | None = None,
    run: Path | None = None,
    episodes: Sequence[int] = (),
    num_samples: int = 64,
    seed: int = 0,
) -> Explanation:
    """Replay samples of a dataset through a policy, and say whether its answers are right, and if not, why.

    `files` is the folder of the policy's tokenizers, `run` the folder of the run that made it, `episodes`
    the indices of those to take samples from. ValueError if there are not enough samples to judge by.
    """
    if num_samples < MIN_SAMPLES:
        raise ValueError(f"expected {MIN_SAMPLES} samples or more to judge by, found {num_samples}")
    contract = policy.contract
    trained = trained_contract(contract, run)
    differing = mismatches(contract, dataset, trained)
    fatal = [mismatch for mismatch in differing if mismatch.weight == "fatal"]
    if fatal:
        return Explanation(
            healthy=False,
            reason="the policy cannot be shown these samples",
            culprits=tuple(named(mismatch) for mismatch in fatal),
            remarks=tuple(mismatch.evidence for mismatch in differing[len(fatal) :]),
            contract=contract,
            fits=(),
            measured=None,
        )
    statistics = contract.statistics
    own = compute_statistics(
        dataset,
        contract.embodiment,
        action_form=statistics.action_form,
        absolute=statistics.absolute,
        horizon=contract.horizon,
        convention=contract.convention,
    )
    chosen, description = episodes_to_replay(dataset, contract, run, episodes)
    frames = choose_frames(chosen, horizon=contract.horizon, count=num_samples, seed=seed)
    if len(frames) < MIN_SAMPLES:
        raise ValueError(
            f"expected {MIN_SAMPLES} frames or more with a frame before them in {description}, found "
            f"{len(frames)}; name more with --episodes"
        )
    samples = list(read_samples(dataset, contract, frames))
    replay = Replay(policy, samples, files=files, seed=seed)
    ruler = Ruler(policy, samples, own)
    same_robot = not any(mismatch.code == "another-robot" for mismatch in differing)
    found = repairs(contract, dataset, own, trained=trained, same_robot=same_robot)
    texts = candidates(dataset, replay)
    court = Court(replay, ruler, len(found) + bool(texts))
    trials = [court.try_repair(repair) for repair in found]
    trials += [try_instructions(court, texts)] if texts else []
    measured = measure_replay(replay, ruler, dataset.tasks, ranked(trials), description)
    return judge(contract, measured, tuple(fit_of(dataset, policy.processor, own)), differing)
