"""One update: the loss is a mean over the whole batch in however many pieces; pictures change rightly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.collate import rows_of
from pizero.data.frames import DecodedFrames
from pizero.data.loader import Source
from pizero.data.sampler import Sampler, mixture_shares
from pizero.embodiment import Camera
from pizero.models.pi05 import CoTraining, Pi05Config
from pizero.robots import NAVIGATION2D
from pizero.training.augmentation import Augmentation, augment, draw_distortions
from pizero.training.config import Execution, TrainConfig
from pizero.training.optimizer import OptimizerConfig
from pizero.training.ranks import Ranks
from pizero.training.state import make_state
from pizero.training.update import Augmenter, check_division, step_seed, update
from pizero.types import Batch
from tests.models.test_co_training import PLAIN, inputs_of
from tests.small import demonstrate, small_config, small_contract

ROWS = 6
WEIGHTS = CoTraining(action_weight=3.0, text_weight=0.5)


def config_of(model: Pi05Config, **other: object) -> TrainConfig:
    optimizer = OptimizerConfig(peak_rate=1e-2, warmup_steps=0, clip_norm=1e9)
    return replace(small_config(num_steps=5), model=model, batch_size=ROWS, optimizer=optimizer, **other)


def uneven_batch() -> Batch:
    """Return samples of which the first half has few real steps and much text, and the second the reverse."""
    inputs = inputs_of((4, 7, 6, 5, 4, 6), (5, 4, 6, 0, 0, 1))
    valid = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    actions = torch.randn(ROWS, 3, 2, generator=torch.Generator().manual_seed(3))
    real = torch.ones(ROWS, 2, dtype=torch.bool)
    real[:, 1] = False
    return Batch(inputs=inputs, actions=actions, valid=valid, real=real)


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_each_term_is_a_mean_over_the_whole_batch(micro_batches: int, masked: bool) -> None:
    """By the definition, computed at once; a mean of the pieces' means would be another number."""
    config = config_of(
        replace(PLAIN, co_training=WEIGHTS), padded_dimensions="masked" if masked else "counted"
    )
    batch, state = uneven_batch(), make_state(config, start=None)
    generator = torch.Generator().manual_seed(step_seed(config.seed, 4))
    draws = state.model.draw(ROWS, generator)
    real = batch.real if masked else None
    terms = state.model.losses(batch.inputs, batch.actions, batch.valid, draws=draws, real=real)
    flow, text = terms["flow"].values, terms["text"].values
    has_text = batch.inputs.tokens.target.any(dim=1)
    expected = {"flow": flow[batch.valid].mean().item(), "text": text[has_text].mean().item()}
    (3.0 * flow[batch.valid].mean() + 0.5 * text[has_text].mean()).backward()
    norm = torch.cat(
        [weight.grad.flatten() for weight in state.model.parameters() if weight.grad is not None]
    )
    execution = Execution(micro_batches=micro_batches)
    figures = update(
        make_state(config, start=None), batch, config, step=4, execution=execution, ranks=Ranks()
    )
    assert figures.terms == pytest.approx(expected, rel=1e-5)
    assert figures.loss == pytest.approx(3.0 * expected["flow"] + 0.5 * expected["text"], rel=1e-5)
    assert figures.gradient_norm == pytest.approx(norm.norm().item(), rel=1e-4)
    assert figures.named_terms() == {f"loss_{name}": term for name, term in figures.terms.items()}


@pytest.mark.parametrize(("samples", "processes", "micro_batches"), [(6, 4, 1), (6, 1, 4), (6, 2, 2)])
def test_a_batch_that_does_not_divide_is_refused(samples: int, processes: int, micro_batches: int) -> None:
    config = replace(small_config(num_steps=1), batch_size=samples)
    said = rf"{processes} processes × {micro_batches} micro-batches, found {samples} samples"
    with pytest.raises(ValueError, match=said):
        check_division(config, Execution(micro_batches=micro_batches), Ranks(world_size=processes))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Two robots, whose wrist cameras are in other slots, and a third one like the first."""
    dataset = demonstrate(tmp_path_factory.mktemp("update") / "dataset", num_episodes=6)
    contract = small_contract(small_config(num_steps=1), dataset)

    def source(*names: str) -> Source:
        cameras = tuple(Camera(name=name, height=32, width=32) for name in names)
        robot = replace(NAVIGATION2D, cameras=cameras)
        seen = DecodedFrames(dataset, dataset.camera_names)
        return Source(dataset=dataset, contract=replace(contract, embodiment=robot), frames=seen)

    return [source("top", "wrist"), source("left_wrist", "top"), source("front", "right_wrist")]


def augmenter_of(mixture: list[Source], config: TrainConfig, ranks: Ranks) -> tuple[Augmenter, Sampler]:
    frames = [np.arange(20) for _ in mixture]
    sampler = Sampler(frames, mixture_shares([20] * 3), batch_size=config.batch_size, seed=config.seed)
    return Augmenter(config, mixture, sampler, ranks), sampler


@pytest.mark.parametrize("rank", [0, 1])
def test_each_robot_s_wrist_cameras_stay(mixture: list[Source], rank: int) -> None:
    """Row by row, with the distortions of the whole batch, by `augment`, which has tests of its own."""
    config = config_of(PLAIN, augmentation=Augmentation())
    ranks = Ranks(rank=rank, world_size=2)
    augmenter, sampler = augmenter_of(mixture, config, ranks)
    images = torch.randint(0, 256, (ROWS, 2, 3, 16, 16), dtype=torch.uint8)
    whole = uneven_batch()
    whole = replace(whole, inputs=replace(whole.inputs, images=images))
    own = ranks.own_rows
    batch = rows_of(whole, own)
    seen = augmenter.prepare(batch, step=2).inputs.images
    generator = torch.Generator().manual_seed(step_seed(config.seed, 2, stream=1))
    drawn = draw_distortions(config.augmentation or Augmentation(), ROWS, generator)
    stays = {0: (True, False), 1: (False, True), 2: (True, False)}
    chosen, _ = sampler.step(2)
    assert len(set(chosen.tolist())) > 1
    for place, row in enumerate(range(ROWS)[own]):
        alone = slice(row, row + 1)
        expected = augment(images[alone], drawn.rows(alone), moves=stays[int(chosen[row])])
        assert seen[place].equal(expected[0])
    assert not seen.equal(images[own])


def test_without_augmentation_pictures_are_as_they_came(mixture: list[Source]) -> None:
    augmenter, _ = augmenter_of(mixture, config_of(PLAIN), Ranks())
    batch = uneven_batch()
    assert augmenter.prepare(batch, step=0) is batch


def test_steps_past_an_episode_s_end_count_where_openpi_s_way_is_asked_for(mixture: list[Source]) -> None:
    augmenter, _ = augmenter_of(mixture, config_of(PLAIN, padded_steps="counted"), Ranks())
    batch = uneven_batch()
    counted = augmenter.prepare(batch, step=0).valid
    assert counted.all(dim=1).tolist() == [False, True, False, True, True, True], "rows of text alone stay"
    assert counted.any(dim=1).tolist() == counted.all(dim=1).tolist()


def test_seeds_of_steps_and_streams_differ() -> None:
    seeds = {step_seed(seed, step, stream) for seed in (0, 1) for step in range(50) for stream in (0, 1)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_steps", 0), ("batch_size", 0), ("held_out", 1.0), ("ema_decay", 1.5), ("seed", -1)],
)
def test_a_config_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"expected {field} .*found {value}"):
        replace(small_config(num_steps=1), **{field: value})


def test_an_execution_out_of_range_is_refused(tmp_path: Path) -> None:
    for field in ("micro_batches", "save_every", "keep_last"):
        with pytest.raises(ValueError, match=f"expected {field} of at least 1, found 0"):
            Execution(**{field: 0})
