"""Starting from another policy: its weights, and what must stay as its weights know it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pizero.contract import Contract
from pizero.models.build import ModelConfig
from pizero.records import differences, read_record, to_data
from pizero.training.config import TrainConfig
from pizero.weights.folder import CONFIG, CONTRACT, MANIFEST, WEIGHTS, sha256_of, token_files

OWN_CHOICE = ("lora", "compute_dtype", "num_draws", "co_training", "process", "max_delay")
"""What a run may choose about a model without needing other weights."""


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A policy that a run starts from: its folder, its records, and the sha256 of its manifest."""

    folder: Path
    model: ModelConfig
    contract: Contract
    sha256: str

    def copy_tokenizers(self, target: Path) -> None:
        """Copy the tokenizers that the policy's contract names."""
        target.mkdir(parents=True, exist_ok=True)
        for name in token_files(self.contract):
            shutil.copyfile(self.folder / name, target / name)


def read_start(folder: Path) -> StartingPoint:
    """Read what a policy says of itself; ValueError if the folder holds none."""
    missing = [name for name in (MANIFEST, CONFIG, CONTRACT, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"expected a policy to start from at {folder}, missing {', '.join(missing)}: name a folder that "
            f"`pizero train` or `pizero convert` wrote"
        )
    return StartingPoint(
        folder=folder,
        model=read_record(ModelConfig, folder / CONFIG),
        contract=read_record(Contract, folder / CONTRACT),
        sha256=sha256_of(folder / MANIFEST),
    )


def inherit(config: TrainConfig, start: StartingPoint) -> TrainConfig:
    """Return a config that writes prompts, pictures and numbers as the policy knows them.

    ValueError if the config's model is another one than the policy's, but for adapters and the like.
    """
    found = [
        line
        for line in differences(to_data(config.model), to_data(start.model))
        if not any(part.split("[")[0] in OWN_CHOICE for part in line.partition(":")[0].split("."))
    ]
    if found:
        raise ValueError(
            f"{start.folder} has another model than the recipe (recipe ≠ policy): {'; '.join(found[:5])}. "
            f"Take the recipe `fine_tune`, whose model is the policy's"
        )
    contract, statistics = start.contract, start.contract.statistics
    return replace(
        config,
        starts_from=start.sha256,
        image_size=contract.image_size,
        max_tokens=contract.max_tokens,
        prompt=contract.prompt,
        normalization=contract.normalization,
        convention=contract.convention,
        action_form=statistics.action_form,
        absolute=statistics.absolute,
        width=contract.width,
        num_slots=len(contract.slots),
    )
