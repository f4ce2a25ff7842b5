"""`pizero tokenizer`: a FAST tokenizer of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.contract import ActionForm, Convention
from pizero.data.action_tokens import FastTokenizer
from pizero.data.actions import ActionTransform
from pizero.data.conventions import find_convention
from pizero.data.dataset import action_windows, check_robot, frames_of, split_episodes
from pizero.data.hub import open_dataset
from pizero.data.lerobot import LeRobotDataset
from pizero.data.lerobot_metadata import EpisodeInfo
from pizero.data.processor import Normalizer
from pizero.data.statistics import field_statistics
from pizero.progress import counting
from pizero.robots import find_embodiment


def tokenizer(
    dataset: Path,
    /,
    *,
    output: Path | None = None,
    robot: str | None = None,
    action_form: ActionForm = "recorded",
    convention: Convention = "native",
    horizon: int = 32,
    vocab_size: int = 1024,
    scale: float = 10.0,
    max_chunks: int = 100_000,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Learn a FAST tokenizer from a dataset's action chunks, and say how well it tells chunks it never saw.

    Actions are scaled so that their 1 % and 99 % quantiles become -1 and 1, as a π0-FAST sees them; a tenth
    of the episodes is held out.

    Args:
        dataset: Folder of a LeRobot dataset.
        output: Folder to write; by default `fast` beside the dataset's folder.
        robot: Name of the robot in the catalog; needed where actions are rewritten.
        action_form: How actions are written for the model.
        convention: In which numbers, as in the policy's contract.
        horizon: Actions of a chunk.
        vocab_size: Tokens to learn.
        scale: Steps that a coefficient of size 1 is told in; more is finer, and longer.
        max_chunks: Chunks to learn from, drawn at random if there are more.
        seed: Decides which.
        as_json: Print the figures as JSON.
    """
    target = output or dataset.parent / "fast"
    if target.exists():
        raise ValueError(f"{target} exists already; nothing was overwritten. Name another folder")
    opened = open_dataset(dataset)
    write = _writer(opened, robot, action_form, convention)
    actions, valid = action_windows(opened, np.arange(opened.num_frames), horizon)
    normalizer = Normalizer(field_statistics(write(actions, opened.states)[valid]), "quantile")
    train_episodes, held_out_episodes = split_episodes(opened, 0.1, seed)

    def chunks_of(episodes: list[EpisodeInfo]) -> Float64[np.ndarray, "chunk horizon action_dim"]:
        order = np.random.default_rng(seed).permutation(frames_of(episodes))
        chosen = order[valid[order].all(axis=1)][:max_chunks]
        written = write(actions[chosen], opened.states[chosen])
        return normalizer.encode(written).astype(np.float64)

    learnt, held_out = chunks_of(train_episodes), chunks_of(held_out_episodes)
    if not len(learnt) or not len(held_out):
        raise ValueError(
            f"expected whole chunks of {horizon} actions to learn from and others to try, found "
            f"{len(learnt)} and {len(held_out)} in {dataset}; take a shorter horizon or more episodes"
        )
    with counting("learning", len(learnt) + len(held_out), "chunks") as counter:

        def counted() -> Iterator[Float64[np.ndarray, "horizon action_dim"]]:
            for chunk in learnt:
                yield chunk
                counter.advance()

        fitted = FastTokenizer.fit(counted(), scale=scale, vocab_size=vocab_size)
        lengths, errors = [], []
        for chunk in held_out:
            ids = fitted.encode(chunk)
            lengths.append(len(ids))
            errors.append(fitted.decode(ids, *chunk.shape, strict=False) - chunk)
            counter.advance()
    figures = {
        "chunks_learnt": len(learnt),
        "chunks_held_out": len(held_out),
        "tokens": fitted.vocab_size,
        "tokens_per_chunk_mean": float(np.mean(lengths)),
        "tokens_per_chunk_p99": float(np.quantile(lengths, 0.99)),
        "numbers_per_token": float(learnt[0].size / np.mean(lengths)),
        "error_rms": float(np.sqrt(np.mean(np.square(errors)))),
        "error_largest": float(np.abs(errors).max()),
    }
    fitted.save(target)
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=f"FAST tokenizer of {dataset}, on chunks it never saw")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, figure in figures.items():
        table.add_row(name.replace("_", " "), f"{figure:,}" if isinstance(figure, int) else f"{figure:.4f}")
    Console().print(table)
    say(f"{target}: errors are in units in which nearly all actions lie between -1 and 1")


def _writer(
    dataset: LeRobotDataset, robot: str | None, action_form: ActionForm, convention: Convention
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return what turns recorded chunks, with the states they begin at, into those that a model sees."""
    if robot is None:
        if (action_form, convention) != ("recorded", "native"):
            raise ValueError("say whose actions these are with --robot, to write them in another form")
        return lambda actions, states: actions
    embodiment = find_embodiment(robot)
    check_robot(dataset, embodiment)
    written, transform = find_convention(convention), ActionTransform(action_form, embodiment)
    return lambda actions, states: transform.encode(
        written.encode_actions(actions), written.encode_state(states)
    )
