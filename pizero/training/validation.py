"""How well a policy in training acts on episodes that it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from pizero.data.collate import to_device
from pizero.data.loader import Samples
from pizero.data.processor import Processor
from pizero.data.text import PAD
from pizero.training.config import TrainConfig
from pizero.training.ranks import Ranks
from pizero.training.state import State
from pizero.types import Batch, Inputs, Tokens

VALIDATION_FRAMES = 256
"""How many held-out frames the policy acts on at each validation."""


@torch.no_grad()
def validate(state: State, samples: Samples, config: TrainConfig, ranks: Ranks) -> dict[str, float]:
    """Let the averaged weights act on frames that training never saw, by full sampling.

    Returns the mean squared difference to the recorded actions, and that of always predicting the mean, both
    in normalised units over real steps and dimensions; for several datasets, of each as well. Tokens that are
    no actions count as the mean, and `unreadable` is their share. Each process acts on some of the frames.
    DatasetError if more than `max_damaged` samples cannot be read.
    """
    rng = np.random.default_rng(config.seed)
    count = max(VALIDATION_FRAMES // len(samples.frames), 1)
    errors: list[list[float]] = []
    with state.averaged():
        for source, frames in enumerate(samples.frames):
            if len(frames) == 0:
                continue
            chosen = np.sort(rng.choice(frames, size=min(count, len(frames)), replace=False))
            noise = torch.randn(
                (len(chosen), *state.model.noise_shape), generator=torch.Generator().manual_seed(config.seed)
            )
            own = np.arange(len(chosen))[ranks.own_rows]
            rows = own if len(own) else np.zeros(1, dtype=np.int64)  # every process takes part in sampling
            prepared = samples.prepare(np.full(len(rows), source), chosen[rows])
            if len(prepared.damaged) > config.max_damaged:
                raise prepared.damaged[-1]
            batch = to_device(prepared.batch, ranks.device)
            written = state.model.sample(prompts_of(batch.inputs), noise=noise[rows].to(ranks.device))
            sums = _error(written, batch, samples.processors[source]) * bool(len(own))
            total = ranks.sum(torch.from_numpy(sums).to(ranks.device, torch.float32)).tolist()
            squared, of_mean, numbers, unreadable, rows_in_all = total
            errors.append([squared / numbers, of_mean / numbers, unreadable / rows_in_all])
    error, of_mean, unreadable = np.mean(errors, axis=0).tolist()
    figures = {"action_error": error, "action_error_of_mean": of_mean}
    if len(errors) > 1:
        figures |= {f"action_error_{index}": row[0] for index, row in enumerate(errors)}
    return figures | ({"unreadable": unreadable} if unreadable else {})


def prompts_of(inputs: Inputs) -> Inputs:
    """Return what a model reads before it acts: without the tokens that it learns to write."""
    tokens = inputs.tokens
    prompt = Tokens(
        ids=tokens.ids.masked_fill(tokens.target, PAD),
        valid=tokens.valid & ~tokens.target,
        causal=tokens.causal & ~tokens.target,
        target=torch.zeros_like(tokens.target),
    )
    return replace(inputs, tokens=prompt)


def _error(written: Tensor, batch: Batch, processor: Processor) -> Float64[np.ndarray, "5"]:
    """Return sums over what a model wrote: squared errors, the mean's, numbers, unreadable rows, rows."""
    recorded = batch.actions[..., : processor.contract.embodiment.action_dim].cpu().numpy()
    predicted, unreadable = np.zeros_like(recorded), 0
    rows = (written.float() if written.is_floating_point() else written).cpu().numpy()
    for row, one in enumerate(rows):
        try:
            predicted[row] = processor.read(one)
        except ValueError:
            unreadable += 1
    valid = batch.valid.cpu().numpy()
    error, of_mean = np.square(predicted - recorded)[valid], np.square(recorded)[valid]
    sums = (error.sum(dtype=np.float64), of_mean.sum(dtype=np.float64), error.size, unreadable, len(recorded))
    return np.array(sums, dtype=np.float64)
