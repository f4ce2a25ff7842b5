"""Questions about pictures as samples of a run: read strictly, and mixed with what a robot did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pizero.contract import Contract
from pizero.data.action_tokens import FastTokenizer
from pizero.data.faults import DatasetError
from pizero.data.frames import DecodedFrames
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import QuestionSource, Samples, Source, batches
from pizero.data.processor import Processor
from pizero.data.questions import QuestionSet
from pizero.data.sampler import Sampler, mixture_shares
from pizero.data.text import ByteTokenizer
from pizero.models.build import build
from pizero.models.pi0 import Pi0Config
from pizero.models.pi05 import CoTraining, Pi05Config
from pizero.robots import METAWORLD, NAVIGATION2D
from pizero.training.config import TrainConfig
from pizero.training.sources import open_questions, open_sources
from tests.examples import contract
from tests.small import demonstrate, small_config, small_contract

CPU = torch.device("cpu")
LINES: list[dict[str, Any]] = [
    {"images": {"right": "pictures/0.png"}, "question": "What is this?", "answer": "a disc"},
    {"images": {"left": "1.jpg", "right": "pictures/0.png"}, "question": "Which is red?", "answer": "left"},
    {"images": {"left": "1.jpg"}, "question": "Wie heißt es?", "answer": "Scheibe\u2028rot"},
]


def picture(seed: int, shape: tuple[int, ...] = (12, 20, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, lines: Sequence[dict[str, Any]] = LINES) -> Path:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(0)).save(folder / "pictures" / "0.png")
    Image.fromarray(picture(1)).save(folder / "1.jpg")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    return folder


def asked(**changes: Any) -> Contract:
    return replace(contract(METAWORLD), prompt="pi05", max_tokens=40, **changes)


def test_questions_come_as_they_were_written(tmp_path: Path) -> None:
    questions, processor = QuestionSet.open(write(tmp_path)), Processor(asked(image_size=20))
    assert len(questions) == 3
    questions.check(processor)
    for index, line in enumerate(LINES):
        batch = questions.encode(index, processor)
        assert batch.inputs.camera_valid.tolist() == ["right" in line["images"], "left" in line["images"]]
        tokens = batch.inputs.tokens
        prompt, target = (tokens.ids[tokens.valid & part] for part in (~tokens.target, tokens.target))
        assert bytes((prompt[1:] - 3).tolist()).decode() == line["question"] + "\n"
        assert bytes((target[:-1] - 3).tolist()).decode() == line["answer"]
    shown = questions.encode(1, processor).inputs.images
    np.testing.assert_array_equal(shown[0, :, 4:16], picture(0).transpose(2, 0, 1))
    with Image.open(tmp_path / "1.jpg") as jpeg:
        np.testing.assert_array_equal(shown[1, :, 4:16], np.asarray(jpeg).transpose(2, 0, 1))
    assert not shown[:, :, :4].any()
    assert not shown[:, :, 16:].any()


BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "line 2: expected .*Expecting property name"),
    "no object": ("[]", r"line 2: expected .*found \[\]"),
    "blank": ("", "line 2: expected .*Expecting value"),
    "deep": ("[" * 100_000, "line 2: expected .*"),
    "long number": ("9" * 5000, "line 2: expected .*"),
    "unknown key": ({"answer": "b", "color": "red"}, "line 2: .*unknown field 'color'"),
    "missing key": ({"answer": ...}, "line 2: .*missing field 'answer'"),
    "number": ({"answer": 4}, "line 2: .*answer: expected str, found 4"),
    "pictures as a list": ({"images": ["1.jpg"]}, "line 2: .*images: expected an object"),
    "lone surrogate": ({"answer": "\udc80"}, "line 2: .*surrogates not allowed"),
    "no answer": ({"answer": " \n"}, "line 2: .*found no answer"),
    "no question": ({"question": ""}, "line 2: .*found no question"),
    "no picture": ({"images": {}}, "line 2: .*found no images"),
    "absent file": ({"images": {"left": "2.jpg"}}, "line 2: .*2.jpg, which is not there"),
    "a folder": ({"images": {"left": "pictures"}}, "line 2: .*pictures, which is not there"),
    "upwards": ({"images": {"left": "pictures/../../x.png"}}, "line 2: .*leads out of the folder"),
    "absolute": ({"images": {"left": "/etc/hostname"}}, "line 2: '/etc/hostname' leads out of the folder"),
    "a link": ({"images": {"left": "link.png"}}, "line 2: .*leads out of the dataset"),
    "gray": ({"images": {"left": "gray.png"}}, "line 2: .*gray.png, which is not RGB but 'L'; convert it"),
    "alpha": ({"images": {"left": "alpha.png"}}, "line 2: .*not RGB but 'RGBA'"),
    "no picture file": ({"images": {"left": "questions.jsonl"}}, "line 2: .*jsonl, which is no picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    folder = write(tmp_path / "questions")
    Image.fromarray(picture(0)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    Image.fromarray(picture(0, (9, 9))).save(folder / "gray.png")
    Image.fromarray(picture(0, (9, 9, 4))).save(folder / "alpha.png")
    line = change
    if isinstance(change, dict):
        line = json.dumps({key: value for key, value in (LINES[0] | change).items() if value is not ...})
    first, _, third = (folder / "questions.jsonl").read_text(encoding="utf-8").split("\n")[:3]
    (folder / "questions.jsonl").write_text(f"{first}\n{line}\n{third}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"(?s){folder}/questions.jsonl, {message}"):
        QuestionSet.open(folder)


def test_what_is_no_folder_of_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected questions in .*questions.jsonl, found no such file"):
        QuestionSet.open(tmp_path)
    (tmp_path / "questions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"line 1: expected .*codec can't decode"):
        QuestionSet.open(tmp_path)
    (tmp_path / "questions.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"line 1: expected .*Expecting value"):
        QuestionSet.open(tmp_path)


def test_a_question_that_does_not_fit_a_robot_is_named(tmp_path: Path) -> None:
    questions = QuestionSet.open(write(tmp_path))
    with pytest.raises(ValueError, match="line 2: expected pictures of the cameras right, found left"):
        questions.check(Processor(replace(asked(), slots=("right", ""))))
    with pytest.raises(
        ValueError, match="line 3: expected at most 25 tokens, found 16 of the question and 14"
    ):
        questions.encode(2, Processor(replace(asked(), max_tokens=25)))


@pytest.mark.parametrize("name", ["pictures/0.png", "1.jpg"])
def test_a_damaged_picture_is_an_error_that_names_it_or_a_picture(name: str, tmp_path: Path) -> None:
    """Cut short or with changed bytes, at opening or at reading: no other error, no other shape."""
    folder, processor = write(tmp_path, [LINES[1]]), Processor(asked())
    whole = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[:length] for length in np.linspace(0, len(whole) - 13, 60).astype(int)]
    changed = [bytearray(whole) for _ in range(200)]
    for data in changed:
        data[rng.integers(min(len(data), 250))] ^= 1 << rng.integers(8)
    errors = []
    for data in [*cuts, *map(bytes, changed)]:
        (folder / name).write_bytes(data)
        try:
            batch = QuestionSet.open(folder).encode(0, processor)
        except DatasetError as error:
            errors.append(error)
        else:
            assert batch.inputs.images.shape == (2, 3, 16, 16)
    assert len(errors) > len(cuts)
    for error in errors:
        assert error.code == "image-damaged"
        assert f"questions.jsonl, line 1: expected a picture in {name}, which is " in str(error)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return demonstrate(tmp_path_factory.mktemp("questions") / "dataset", num_episodes=4)


def about_discs(folder: Path, count: int = 7) -> Path:
    lines = [{"images": {"top": "1.jpg"}, "question": f"Number {i}?", "answer": str(i)} for i in range(count)]
    return write(folder, lines)


def co_trained(training: CoTraining | None = CoTraining()) -> TrainConfig:  # noqa: B008
    base = small_config(num_steps=1)
    assert isinstance(base.model, Pi0Config)
    model = Pi05Config(
        backbone=base.model.backbone,
        expert=replace(base.model.expert, conditioned=True),
        action_dim=2,
        horizon=base.model.horizon,
        co_training=training,
    )
    return replace(base, model=model, prompt="pi05", max_tokens=80)


def source_of(dataset: LeRobotDataset) -> Source:
    agreed = replace(small_contract(co_trained(), dataset), prompt="pi05")
    return Source(dataset=dataset, contract=agreed, frames=DecodedFrames(dataset, ("top",)))


def test_a_mixture_reads_robots_and_questions_in_their_shares(
    dataset: LeRobotDataset, tmp_path: Path
) -> None:
    """Every sample by itself, from its own source, against the row that the loader made of it."""
    robot = source_of(dataset)
    (questions,) = open_questions(co_trained(), [about_discs(tmp_path)], [robot])
    sources = [robot, questions]
    assert questions.folder == tmp_path
    parts = [source.split(0.3, 0) for source in sources]
    assert [len(part) for part in parts[1]] == [7, 0]
    frames = [train for train, _ in parts]
    assert 0 < len(frames[0]) < dataset.num_frames
    samples = Samples(sources, frames)
    sampler = Sampler(frames, mixture_shares([1, 1], (3.0, 1.0)), batch_size=16, seed=0)
    read = list(batches(samples, sampler, steps=range(4), device=CPU))
    processor, number = samples.processors[0], []
    for step, batch in enumerate(read):
        for row, (source, frame) in enumerate(zip(*sampler.step(step), strict=True)):
            number.append(int(source))
            if source == 1:
                expected = questions.frames.encode(int(frame), processor)
            else:
                expected = processor.encode_example(samples.example(0, int(frame)))
            assert np.array_equal(batch.inputs.tokens.ids[row].numpy(), expected.inputs.tokens.ids)
            assert np.array_equal(batch.inputs.images[row].numpy(), expected.inputs.images)
            assert np.array_equal(batch.actions[row].numpy(), expected.actions)
            asks = bool(batch.inputs.tokens.target[row].any())
            assert (asks, bool(batch.valid[row].any())) == ((True, False) if source == 1 else (False, True))
    assert 8 <= sum(number) <= 24
    assert len(Samples(sources).frames[1]) == 7


@pytest.mark.slow
def test_worker_processes_read_the_same_questions(dataset: LeRobotDataset, tmp_path: Path) -> None:
    robot = source_of(dataset)
    samples = Samples([robot, *open_questions(co_trained(), [about_discs(tmp_path)], [robot])])
    sampler = Sampler(samples.frames, mixture_shares([1, 1]), batch_size=4, seed=0)
    here, there = (
        list(batches(samples, sampler, steps=range(2), device=CPU, num_workers=number)) for number in (0, 1)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.inputs.tokens.ids, other.inputs.tokens.ids)
        assert torch.equal(one.inputs.images, other.inputs.images)


def test_a_damaged_picture_is_replaced_by_the_next_question(tmp_path: Path) -> None:
    questions = QuestionSet.open(write(tmp_path))
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 2])
    samples = Samples([QuestionSource(frames=questions, contract=asked())])
    prepared = samples.prepare(np.zeros(2, np.int64), np.array([1, 0]))
    assert [error.code for error in prepared.damaged] == ["image-damaged"] * 2
    assert "line 2: expected a picture in 1.jpg" in str(prepared.damaged[0])
    ids = prepared.batch.inputs.tokens.ids
    assert torch.equal(ids[0], ids[1])


def test_questions_need_a_model_that_learns_text_and_a_robot(dataset: LeRobotDataset, tmp_path: Path) -> None:
    robot, folder = source_of(dataset), about_discs(tmp_path)
    assert open_questions(small_config(num_steps=1), [], [robot]) == ()
    for config in (small_config(num_steps=1), co_trained(None)):
        with pytest.raises(ValueError, match="model learns no text; leave out the questions"):
            open_questions(config, [folder], [robot])
    (found,) = open_questions(co_trained(), [folder], [robot], robot=NAVIGATION2D.name)
    assert found.contract == robot.contract
    other = replace(robot, contract=asked())
    for name in ("", "arm"):
        with pytest.raises(ValueError, match=f"one of navigation2d, {METAWORLD.name}, found '{name}'"):
            open_questions(co_trained(), [folder], [robot, other], robot=name)
    with pytest.raises(ValueError, match="line 1: expected pictures of the cameras right, left, found top"):
        open_questions(co_trained(), [folder], [robot, other], robot=METAWORLD.name)


def test_a_run_of_robots_and_questions_has_both_losses(dataset: LeRobotDataset, tmp_path: Path) -> None:
    """From folders to terms: every sample has text to write, and those of the robot alone a flow."""
    chunks = np.random.default_rng(0).uniform(-1, 1, (50, 4, 2))
    fitted = FastTokenizer.fit(chunks, vocab_size=300)
    fitted.save(tmp_path / "fast")
    config = co_trained()
    assert isinstance(config.model, Pi05Config)
    backbone = replace(config.model.backbone, vocab_size=ByteTokenizer.vocab_size + 300 + 128)
    config = replace(config, model=replace(config.model, backbone=backbone), normalization="quantile")
    robots = open_sources(config, [dataset], tokenizers=tmp_path / "t", action_tokenizer=tmp_path / "fast")
    questions = open_questions(config, [about_discs(tmp_path / "q")], robots)
    samples = Samples([*robots, *questions])
    batch = samples.prepare(np.array([0, 1, 0]), np.array([3, 2, 5])).batch
    tokens = batch.inputs.tokens
    for row in (0, 2):
        ids = tokens.ids[row][tokens.target[row]].tolist()
        told = [ByteTokenizer.vocab_size + 299 - number for number in ids[:-2]]
        np.testing.assert_allclose(fitted.decode(told, 4, 2), batch.actions[row], atol=0.5)
    model = build(config.model)
    terms = model.losses(
        batch.inputs, batch.actions, batch.valid, draws=model.draw(3, torch.Generator().manual_seed(0))
    )
    assert terms["text"].counted.tolist() == [True, True, True]
    assert terms["flow"].counted.any(dim=1).tolist() == [True, False, True]
    assert terms["text"].values.tolist() == pytest.approx([np.log(backbone.vocab_size)] * 3, rel=0.1)


def test_a_co_trained_recipe_demands_an_action_tokenizer_and_others_refuse_one(
    dataset: LeRobotDataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a co-trained π0\.5 learns actions as tokens too: give the folder"):
        open_sources(co_trained(), [dataset], tokenizers=tmp_path)
    with pytest.raises(ValueError, match="writes actions as numbers; leave out the action tokenizer"):
        open_sources(co_trained(None), [dataset], tokenizers=tmp_path, action_tokenizer=tmp_path)
    with pytest.raises(ValueError, match=r"a co-trained π0\.5 needs the prompt 'pi05', found 'pi0'"):
        open_sources(replace(co_trained(), prompt="pi0"), [dataset], tokenizers=tmp_path)
