"""Where numpy ends: samples are stacked into one batch of tensors on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pizero.types import Batch, Inputs, Tokens


def collate_inputs(samples: Sequence[Inputs], device: torch.device) -> Inputs:
    """Stack unbatched numpy inputs along a new first axis."""

    def stack(get: Callable[[Inputs], np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([get(sample) for sample in samples])).to(device)

    return Inputs(
        images=stack(lambda sample: sample.images),
        camera_valid=stack(lambda sample: sample.camera_valid),
        state=stack(lambda sample: sample.state),
        tokens=Tokens(
            ids=stack(lambda sample: sample.tokens.ids),
            valid=stack(lambda sample: sample.tokens.valid),
            causal=stack(lambda sample: sample.tokens.causal),
            target=stack(lambda sample: sample.tokens.target),
        ),
    )


def collate(samples: Sequence[Batch], device: torch.device) -> Batch:
    """Stack unbatched numpy samples along a new first axis."""
    return Batch(
        inputs=collate_inputs([sample.inputs for sample in samples], device),
        actions=torch.from_numpy(np.stack([sample.actions for sample in samples])).to(device),
        valid=torch.from_numpy(np.stack([sample.valid for sample in samples])).to(device),
        real=torch.from_numpy(np.stack([sample.real for sample in samples])).to(device),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch whose tensors are on a device."""
    inputs, tokens = batch.inputs, batch.inputs.tokens
    return Batch(
        inputs=Inputs(
            images=inputs.images.to(device),
            camera_valid=inputs.camera_valid.to(device),
            state=inputs.state.to(device),
            tokens=Tokens(
                ids=tokens.ids.to(device),
                valid=tokens.valid.to(device),
                causal=tokens.causal.to(device),
                target=tokens.target.to(device),
            ),
        ),
        actions=batch.actions.to(device),
        valid=batch.valid.to(device),
        real=batch.real.to(device),
    )
