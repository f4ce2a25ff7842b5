"""Studies of robot policies: what they measure is right, and each runs in its small form."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.collate import collate_inputs
from pizero.data.text import ByteTokenizer
from pizero.envs.collect import DEMONSTRATION_SEEDS
from pizero.envs.environment import Step
from pizero.envs.navigation2d import COLORS, Navigation2D
from pizero.generative.diffusion import Diffusion
from pizero.generative.flow import FlowMatching
from pizero.policy.policy import Policy
from pizero.types import ActionChunk, Inputs, Observation
from studies.robot import control_rate, guidance, point, processes, solver_error, solvers, time_density
from studies.robot.asking import Asked, Way, denoiser, load_exact, model_of, without_instruction
from studies.robot.closed_loop import Outcome, Scenes, other_task, paired, rate, run, run_episode
from studies.robot.control_rate import MACHINES
from studies.robot.learning import learn, shortened
from studies.robot.open_loop import held_out
from studies.robot.processes import updates_to
from studies.robot.run_folder import Run


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Studies compute on one thread; other tests have what they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the point on a plane that has learnt nothing."""
    folder = tmp_path_factory.mktemp("run") / "point"
    point.main([str(folder), "--quick"])
    return folder


def inputs_of(policy: Policy, instruction: str) -> Inputs:
    environment = Navigation2D("red")
    environment.reset(0)
    seen = replace(environment.observe(), instruction=instruction)
    return collate_inputs([policy.processor.encode(seen)], torch.device("cpu"))


def test_an_empty_instruction_leaves_nothing_of_the_one_before(small_run: Path) -> None:
    """Two instructions of different lengths are one once they are taken away: begin, and a line break."""
    policy = load_exact(Run(small_run).policy)
    short, long = (without_instruction(inputs_of(policy, text)) for text in ("go", "go to the red disc"))
    assert torch.equal(short.tokens.ids, long.tokens.ids)
    assert torch.equal(short.tokens.valid, long.tokens.valid)
    assert ByteTokenizer().decode(short.tokens.ids[0][short.tokens.valid[0]].tolist()) == "\n"

    kept = without_instruction(inputs_of(policy, "go"), torch.tensor([True]))
    assert torch.equal(kept.tokens.ids, inputs_of(policy, "go").tokens.ids)


def test_guidance_goes_from_the_empty_prompt_through_the_instruction(small_run: Path) -> None:
    """On the line through both answers: scale 0 is the one, 1 the other, 3 two more of their difference."""
    policy = load_exact(Run(small_run).policy)
    model, inputs = model_of(policy), inputs_of(policy, "go to the red disc")
    noisy, time = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(1)), torch.full((1,), 0.6)
    with torch.no_grad():
        told = model.denoise(model.observe(inputs), noisy, time)
        nothing = model.denoise(model.observe(without_instruction(inputs)), noisy, time)
    assert (told - nothing).abs().max() > 1e-4
    for scale, expected in ((0.0, nothing), (1.0, told), (3.0, told + 2 * (told - nothing))):
        torch.testing.assert_close(denoiser(model, inputs, scale=scale)(noisy, time), expected)


def test_asked_in_the_usual_way_a_policy_answers_as_it_does_by_itself(small_run: Path) -> None:
    folder = Run(small_run).policy
    environment = Navigation2D("blue")
    seen = environment.reset(3)
    policy = load_exact(folder)
    asked = Asked(policy, Way(policy=folder, process=FlowMatching()))
    for seed in (0, 7):
        policy.reset(seed=seed)
        asked.reset(seed=seed)
        for _ in range(2):
            np.testing.assert_array_equal(asked.act(seen), policy.act(seen))


def test_told_something_else_it_hears_that(small_run: Path) -> None:
    folder = Run(small_run).policy
    seen = Navigation2D("blue").reset(3)
    policy, other = load_exact(folder), "go to the red disc"
    told = Asked(policy, Way(policy=folder, process=FlowMatching(), told={seen.instruction: other}))
    plain = Asked(policy, Way(policy=folder, process=FlowMatching()))
    np.testing.assert_array_equal(told.act(seen), plain.act(replace(seen, instruction=other)))


class Walker(Navigation2D):
    """The point, walking straight to a disc of one's choice, whatever the policy says."""

    def __init__(self, color: str, goal: str) -> None:
        super().__init__(color)
        self.goal = goal

    def step(self, action: np.ndarray, *, render: bool = True) -> Step:
        away = (self.discs[self.goal] - self.position) / 0.1
        return super().step(np.clip(away, -1, 1).astype(np.float32), render=render)


@pytest.mark.parametrize("goal", COLORS)
def test_an_episode_says_which_task_was_done(small_run: Path, goal: str) -> None:
    folder = Run(small_run).policy
    way = Way(policy=folder, process=FlowMatching(num_steps=1))
    outcome = run_episode(way, load_exact(folder), Walker("red", goal), 2, 30)
    assert (outcome.done, outcome.success) == (goal, goal == "red")
    start = Navigation2D("red")
    start.reset(DEMONSTRATION_SEEDS + 2)
    assert other_task(start) == ""
    way_to_go = np.abs(start.discs[goal] - start.position).max()
    assert outcome.steps <= np.ceil(way_to_go / 0.1)


def test_a_late_chunk_is_executed_from_the_action_that_is_due(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that answers 1, 2, 3, 4: executed rows show where the ticks went."""
    folder = Run(small_run).policy
    policy = load_exact(folder)
    executed: list[float] = []

    class Recorder(Navigation2D):
        def step(self, action: np.ndarray, *, render: bool = True) -> Step:
            executed.append(float(action[0]))
            return super().step(np.zeros(2, np.float32), render=render)

    class Rows(Asked):
        def act(self, observation: Observation, **_: object) -> ActionChunk:
            return np.arange(4, dtype=np.float32)[:, None].repeat(2, axis=1) + 1

    monkeypatch.setattr("studies.robot.closed_loop.Asked", Rows)
    for latency, kind, rows in (
        (0, "receding", [1, 2, 1, 2, 1, 2]),
        (1, "naive", [0, 1, 2, 3, 2, 3]),
        (1, "receding", [0, 1, 2, 0, 1, 2]),
    ):
        executed.clear()
        way = Way(policy=folder, process=FlowMatching(), latency=latency, kind=kind)
        run_episode(way, policy, Recorder("red"), 0, 6)
        assert executed == rows, (latency, kind)


def scenes(folder: Path, episodes: int) -> Scenes:
    return Scenes(folder=folder, episodes=episodes, max_steps=4, num_workers=0)


def test_runs_are_resumed_and_shared(small_run: Path, tmp_path: Path) -> None:
    way = Way(policy=Run(small_run).policy, process=FlowMatching(num_steps=1))
    found = run({"first": way}, scenes(tmp_path, 2))["first"]
    assert [(outcome.task, outcome.index) for outcome in found] == [
        (color, index) for color in sorted(COLORS) for index in range(2)
    ]
    (log,) = tmp_path.glob("*.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:15])
    assert run({"second": way}, scenes(tmp_path, 2))["second"] == found
    assert len(log.read_text().splitlines()) == 4

    log.write_text("".join(line.replace('"done": ""', '"done": "red"') for line in lines))
    assert any(outcome.done for outcome in run({"x": way}, scenes(tmp_path, 2))["x"])
    other = replace(way, latency=1)
    assert not any(outcome.done == "red" for outcome in run({"x": other}, scenes(tmp_path, 1))["x"])


def outcome(index: int, done: str) -> Outcome:
    return Outcome(task="red", index=index, done=done, steps=10 + index)


def test_rates_and_pairs_are_counted() -> None:
    """2 of 4 solved: Wilson's interval is 0.15 to 0.85; 5 scenes against 0 have 2 · (1/2)⁵ of a chance."""
    found = rate([outcome(0, "red"), outcome(1, "blue"), outcome(2, ""), outcome(3, "red")])
    assert (found["success"], found["another"], found["median_steps"]) == (0.5, 0.25, 13)
    assert found["interval"] == pytest.approx([0.150, 0.850], abs=1e-3)
    better = paired(
        [outcome(i, "red") for i in range(7)], [outcome(i, "red" if i > 4 else "") for i in range(7)]
    )
    assert better == {"only_first": 5, "only_second": 0, "chance": pytest.approx(2 * 0.5**5)}
    with pytest.raises(ValueError, match="same scenes"):
        paired([outcome(0, "red")], [outcome(1, "red")])


def test_held_out_frames_are_of_episodes_that_training_never_saw(small_run: Path) -> None:
    """The expert's own actions have no error, and half of them shifted by one a half."""
    of = Run(small_run)
    seen = held_out(of, 8)
    train, unseen = of.source().split(of.config.held_out, of.config.seed)
    episodes = of.source().dataset.episodes
    of_training = {index for index, one in enumerate(episodes) if one.start in train}
    assert len(seen.episodes) == min(8, len(unseen))
    assert not of_training & set(seen.episodes.tolist())
    perfect = seen.measure(seen.batch.actions[:, None].repeat(1, 3, 1, 1))
    assert perfect["expert_error"]["mean"] == perfect["spread"]["mean"] == 0.0
    shifted = seen.measure(seen.batch.actions[:, None] + torch.tensor([0.0, 1.0])[None, :, None, None])
    assert shifted["expert_error"]["mean"] == pytest.approx(0.5)
    assert shifted["spread"]["mean"] == pytest.approx(0.5)


def test_learning_curves_are_compared_by_updates() -> None:
    """Falling tenfold from 100 to 200 updates, an error has halved after 130.1 (log10 2 = 0.301)."""
    curve = {step: {"expert_error": {"mean": error}} for step, error in ((100, 1.0), (200, 0.1), (300, 0.05))}
    assert updates_to(curve, 0.5) == pytest.approx(130.1, abs=0.01)
    assert updates_to(curve, 2.0) == 100.0
    assert updates_to(curve, 0.01) is None


def test_training_by_another_process_repeats(small_run: Path, tmp_path: Path) -> None:
    """The same seed gives the same weights; process and dropped instructions give others."""
    of = Run(small_run)
    config = shortened(of.config, 4, seed=1)
    diffusion = Diffusion(prediction="velocity")
    given = {"config": config, "dropout": 0.5}

    def weights(path: Path) -> torch.Tensor:
        return torch.cat([p.flatten() for p in load_exact(path).model.parameters()])

    whole = learn(of, tmp_path / "whole", process=diffusion, snapshots=(2,), **given)
    again = learn(of, tmp_path / "again", process=diffusion, snapshots=(2,), **given)
    assert torch.equal(weights(whole[4]), weights(again[4]))
    assert not torch.equal(weights(whole[2]), weights(whole[4]))
    flow = learn(of, tmp_path / "flow", process=FlowMatching(), **given)
    assert not torch.equal(weights(flow[4]), weights(whole[4]))
    all_kept = learn(of, tmp_path / "kept", process=diffusion, config=config)
    assert not torch.equal(weights(all_kept[4]), weights(whole[4]))


def test_machines_are_charged_as_published() -> None:
    """π0 on an RTX 4090 took 73 ms for ten steps: two ticks at 20 Hz; one step's 48.7 ms are one."""
    machine = MACHINES["RTX 4090, JAX"]
    assert machine.look + 10 * machine.step == pytest.approx(73.0)
    assert (machine.latency(10, 20.0), machine.latency(1, 20.0)) == (2, 1)
    orin, eager = MACHINES["Jetson Orin, tuned"], MACHINES["PyTorch, eager"]
    assert orin.look + 10 * orin.step == pytest.approx(165.67, abs=0.1)
    assert orin.look + orin.step == pytest.approx(119.05, abs=0.1)
    assert eager.look + 10 * eager.step == pytest.approx(274, abs=0.5)
    assert eager.look + eager.step == pytest.approx(83, abs=0.5)


STUDIES = {
    "solvers": solvers,
    "solver_error": solver_error,
    "control_rate": control_rate,
    "guidance_navigation2d": guidance,
    "processes": processes,
    "time_density": time_density,
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_in_its_small_form(small_run: Path, tmp_path: Path, name: str) -> None:
    STUDIES[name].main([str(small_run), str(tmp_path), "--quick"])
    record = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert record["quick"] is True
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    assert "<svg" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
