"""How well a policy in training acts on episodes that it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pizero.data.collate import to_device
from pizero.data.loader import Samples
from pizero.data.processor import Processor
from pizero.data.text import PAD
from pizero.models.base import ActionModel
from pizero.types import Batch, Inputs, Tokens

VALIDATION_FRAMES = 256
"""How many held-out frames the policy acts on at each validation."""


@torch.no_grad()
def validate(
    model: ActionModel,
    average: dict[str, Tensor],
    samples: Samples,
    seed: int,
    device: torch.device,
    max_damaged: int = 0,
) -> dict[str, float]:
    """Let the averaged weights act on frames that training never saw, by full sampling.

    Returns the mean squared difference to the recorded actions, and that of always predicting the mean, both
    in normalised units over real steps and dimensions; for several datasets, of each as well. Tokens that are
    no actions count as the mean, and `unreadable` is their share. DatasetError if more than `max_damaged`
    samples cannot be read.
    """
    current = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.load_state_dict(average)
    rng = np.random.default_rng(seed)
    count = max(VALIDATION_FRAMES // len(samples.frames), 1)
    errors: list[tuple[float, float, float]] = []
    for source, frames in enumerate(samples.frames):
        if len(frames) == 0:
            continue
        chosen = np.sort(rng.choice(frames, size=min(count, len(frames)), replace=False))
        prepared = samples.prepare(np.full(len(chosen), source), chosen)
        if len(prepared.damaged) > max_damaged:
            raise prepared.damaged[-1]
        batch = to_device(prepared.batch, device)
        shape = (len(chosen), *model.noise_shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
        written = model.sample(prompts_of(batch.inputs), noise=noise)
        errors.append(_error(written, batch, samples.processors[source]))
    model.load_state_dict(current)
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


def _error(written: Tensor, batch: Batch, processor: Processor) -> tuple[float, float, float]:
    """Return the squared error of what a model wrote, that of the mean, and the share of unreadable rows."""
    recorded = batch.actions[..., : processor.contract.embodiment.action_dim].cpu().numpy()
    predicted, unreadable = np.zeros_like(recorded), 0
    rows = (written.float() if written.is_floating_point() else written).cpu().numpy()
    for row, one in enumerate(rows):
        try:
            predicted[row] = processor.read(one)
        except ValueError:
            unreadable += 1
    valid = batch.valid.cpu().numpy()
    error = np.square(predicted - recorded)[valid].mean()
    return float(error), float(np.square(recorded)[valid].mean()), unreadable / len(recorded)
