"""Robot units to model units and back: openpi's numbers, one path for training and serving, errors with
names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pizero.contract import ActionForm, Contract, FieldStatistics, Normalization
from pizero.data.collate import collate, collate_inputs
from pizero.data.processor import Normalizer, Processor
from pizero.robots import METAWORLD
from pizero.types import Example, Inputs
from tests.examples import contract, observation, statistics_of
from tests.golden_weights import arrays

BOTH: list[Normalization] = ["zscore", "quantile"]


def golden_statistics(field: str) -> FieldStatistics:
    golden = arrays("normalize.npz")
    numbers = {
        name: tuple(golden[f"stats/{field}/{name}"].tolist()) for name in ("mean", "std", "q01", "q99")
    }
    return FieldStatistics(**numbers, minimum=numbers["q01"], maximum=numbers["q99"], count=1)


@pytest.mark.parametrize("normalization", BOTH)
@pytest.mark.parametrize("field", ["state", "actions"])
def test_agrees_with_openpi(field: str, normalization: Normalization) -> None:
    """One dimension of these actions never moves: openpi divides by 1e-6 there, and so do we."""
    golden, normalizer = arrays("normalize.npz"), Normalizer(golden_statistics(field), normalization)
    encoded, decoded = (golden[f"{normalization}/{name}_{field}"] for name in ("normalized", "unnormalized"))
    np.testing.assert_allclose(normalizer.encode(golden[f"in/{field}"]), encoded, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(normalizer.decode(encoded), decoded, rtol=1e-6, atol=1e-6)


@given(statistics_of(3), st.sampled_from(BOTH), st.integers(0, 99))
def test_decode_undoes_encode(statistics: FieldStatistics, normalization: Normalization, seed: int) -> None:
    normalizer = Normalizer(statistics, normalization)
    rng = np.random.default_rng(seed)
    x = rng.uniform(statistics.minimum, statistics.maximum, size=(4, 3)).astype(np.float32)
    encoded = normalizer.encode(x)
    assert encoded.dtype == np.float32
    assert encoded.shape == x.shape
    error = np.abs(normalizer.decode(encoded).astype(np.float64) - x)
    assert (error <= 2e-7 * (np.abs(x - normalizer.center) + np.abs(x))).all()


@given(statistics_of(2))
def test_each_kind_maps_its_own_marks_to_zero_and_one(statistics: FieldStatistics) -> None:
    mean, std, low, high = (np.array(getattr(statistics, name)) for name in ("mean", "std", "q01", "q99"))
    zscore, quantile = Normalizer(statistics, "zscore"), Normalizer(statistics, "quantile")
    np.testing.assert_allclose(zscore.encode(mean), 0.0)
    moves = std > 0
    np.testing.assert_allclose(zscore.encode(mean + std)[moves], 1.0, rtol=2e-3)  # 1e-6 beside 1e-3 or more
    np.testing.assert_allclose(quantile.encode(low), -1.0, rtol=1e-6)
    wide = high - low > 1e-3
    np.testing.assert_allclose(quantile.encode(high)[wide], 1.0, rtol=2e-3)


def example(some_contract: Contract, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    shape = (some_contract.horizon, some_contract.embodiment.action_dim)
    return Example(
        observation=observation(some_contract.embodiment, seed),
        actions=rng.normal(size=shape).astype(np.float32),
        valid=np.arange(some_contract.horizon) < 2,
    )


def assert_same_inputs(one: Inputs, other: Inputs) -> None:
    for name in ("images", "camera_valid", "state"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("ids", "valid", "causal", "target"):
        np.testing.assert_array_equal(getattr(one.tokens, name), getattr(other.tokens, name), err_msg=name)


@pytest.mark.parametrize("action_form", ["recorded", "displacement", "relative"])
@pytest.mark.parametrize("normalization", BOTH)
def test_training_sees_exactly_what_serving_sees(
    normalization: Normalization, action_form: ActionForm
) -> None:
    some_contract = contract(METAWORLD)
    statistics = replace(some_contract.statistics, action_form=action_form, horizon=some_contract.horizon)
    processor = Processor(replace(some_contract, normalization=normalization, statistics=statistics))
    samples = [example(processor.contract, seed) for seed in range(3)]
    cpu = torch.device("cpu")
    training = collate([processor.encode_example(sample) for sample in samples], cpu)
    serving = collate_inputs([processor.encode(sample.observation) for sample in samples], cpu)
    assert_same_inputs(training.inputs, serving)
    for row, sample in enumerate(samples):
        decoded = processor.decode(training.actions[row].numpy(), sample.observation)
        np.testing.assert_allclose(decoded, sample.actions, atol=1e-5)
        np.testing.assert_array_equal(training.valid[row].numpy(), sample.valid)


def test_inputs_are_what_the_robot_showed() -> None:
    """Against the contract's numbers by hand: order of cameras and channels, state, text."""
    some_contract = replace(contract(METAWORLD), image_size=96)
    shown = observation(METAWORLD)
    shown = replace(shown, images=dict(reversed(shown.images.items())))
    inputs = Processor(some_contract).encode(shown)
    for index, name in enumerate(("right", "left")):
        np.testing.assert_array_equal(inputs.images[index], shown.images[name].transpose(2, 0, 1))
    state = some_contract.statistics.state
    expected = (shown.state - np.array(state.mean)) / (np.array(state.std) + 1e-6)
    np.testing.assert_allclose(inputs.state, expected, rtol=1e-5)
    assert bytes((inputs.tokens.ids[inputs.tokens.valid][1:] - 3).tolist()) == b"go to the red disc\n"
    assert inputs.camera_valid.tolist() == [True, True]


def test_shapes_and_types_of_one_sample_and_of_a_batch() -> None:
    some_contract = contract(METAWORLD)
    one = Processor(some_contract).encode_example(example(some_contract))
    assert one.inputs.images.shape == (2, 3, 16, 16)
    assert one.inputs.images.dtype == np.uint8
    assert one.inputs.state.dtype == one.actions.dtype == np.float32
    batch = collate([one, one], torch.device("cpu"))
    assert batch.inputs.images.shape == (2, 2, 3, 16, 16)
    assert batch.actions.shape == (2, 3, 4)
    assert batch.inputs.images.dtype == torch.uint8
    assert batch.inputs.tokens.ids.dtype == torch.int64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"state": np.zeros(3, np.float32)},
            r"state of 4 numbers \(hand_x, hand_y, .*\), found shape \(3,\)",
        ),
        ({"state": np.array([0, np.nan, 0, 0], np.float32)}, r"finite state, found \[0.0, nan, 0.0, 0.0\]"),
        ({"images": {"right": np.zeros((9, 9, 3), np.uint8)}}, r"cameras right, left, found right"),
        ({"images": {}}, r"cameras right, left, found none"),
        (
            {"images": {"right": np.zeros((9, 9, 3), np.float32), "left": np.zeros((9, 9, 3), np.uint8)}},
            r"camera 'right' as uint8 \[height, width, 3\], found float32 \[9, 9, 3\]",
        ),
        (
            {"images": {"right": np.zeros((9, 9, 3), np.uint8), "left": np.zeros((3, 9, 9), np.uint8)}},
            r"camera 'left' as uint8 \[height, width, 3\], found uint8 \[3, 9, 9\]",
        ),
        ({"instruction": " \n"}, r"instruction, and found an empty one"),
        ({"instruction": "x" * 23}, r"at most 22 tokens, found 23"),
    ],
    ids=str,
)
def test_an_observation_that_breaks_the_contract_is_refused(changes: dict[str, Any], message: str) -> None:
    processor = Processor(contract(METAWORLD))
    shown = observation(METAWORLD)
    processor.encode(shown)
    with pytest.raises(ValueError, match=message):
        processor.encode(replace(shown, **changes))


def test_a_question_is_text_alone_in_the_slots_of_its_pictures() -> None:
    """By hand: one picture of two, nothing of a state, no step and every padded number told apart."""
    some_contract = replace(contract(METAWORLD), prompt="pi05", image_size=96, width=6, max_tokens=60)
    processor = Processor(replace(some_contract, slots=("left", "", "right")))
    picture = observation(METAWORLD).images["right"]
    batch = processor.encode_question({"right": picture}, "what is_it?\n", " a cup")
    np.testing.assert_array_equal(batch.inputs.images[2], picture.transpose(2, 0, 1))
    assert not batch.inputs.images[:2].any()
    assert batch.inputs.camera_valid.tolist() == [False, False, True]
    tokens = batch.inputs.tokens
    assert bytes((tokens.ids[tokens.valid & ~tokens.target][1:] - 3).tolist()) == b"what is it?\n"
    assert bytes((tokens.ids[tokens.target][:-1] - 3).tolist()) == b"a cup"
    assert batch.inputs.state.tolist() == [0.0] * 6
    assert batch.actions.tolist() == [[0.0] * 6] * 3
    assert batch.valid.tolist() == [False] * 3
    assert batch.real.tolist() == [True] * 4 + [False] * 2
    robot = processor.encode_example(example(processor.contract))
    both = collate([robot, batch], torch.device("cpu"))
    assert both.inputs.images.shape == (2, 3, 3, 96, 96)
    assert both.inputs.tokens.target.any(dim=1).tolist() == [False, True]


def test_a_question_that_breaks_the_contract_is_refused() -> None:
    pictures = observation(METAWORLD).images
    with pytest.raises(ValueError, match="prompt 'pi0' learns no text: leave the questions out"):
        Processor(contract(METAWORLD)).encode_question(pictures, "what?", "a cup")
    processor = Processor(replace(contract(METAWORLD), prompt="pi0_fast"))
    with pytest.raises(ValueError, match="expected pictures of the cameras right, left, found front"):
        processor.encode_question({"front": pictures["left"]}, "what?", "a cup")
    with pytest.raises(ValueError, match="at most 24 tokens, found 7 of the question and 18 of the answer"):
        processor.encode_question(pictures, "what?", "a cup and a saucer"[:17])
