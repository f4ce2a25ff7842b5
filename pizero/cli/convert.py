"""`pizero convert`: weights of openpi, LeRobot and PaliGemma in, and out again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from pizero.cli.options import Json, say
from pizero.contract import ActionForm, Normalization, PromptFormat
from pizero.models.build import ComputeDtype
from pizero.policy.golden import distance_to_golden
from pizero.progress import counting
from pizero.records import to_data, write_record
from pizero.weights.adapters import adapters_of, save_adapters
from pizero.weights.convert import (
    REPORT,
    check_space,
    convert_to_policy,
    convert_to_torch,
    planned,
    readable,
    summary,
)
from pizero.weights.folder import refuse_existing, seal
from pizero.weights.request import Changes, open_source
from pizero.weights.torch_names import LEROBOT, OPENPI

Target = Literal["policy", "openpi", "lerobot", "adapter"]
NAMINGS = {"policy": None, "openpi": OPENPI, "lerobot": LEROBOT, "adapter": None}


def convert(
    source: Path,
    output: Path,
    /,
    *,
    preset: str | None = None,
    robot: str | None = None,
    statistics: Path | None = None,
    tokenizer: Path | None = None,
    action_tokenizer: Path | None = None,
    weights_only: bool = False,
    to: Target = "policy",
    dtype: Literal["keep", "float32", "bfloat16"] = "keep",
    compute: ComputeDtype = "bfloat16",
    merge_lora: bool = False,
    adapter: Path | None = None,
    horizon: int | None = None,
    max_tokens: int | None = None,
    prompt: PromptFormat | None = None,
    instruction: str | None = None,
    normalization: Normalization | None = None,
    action_form: ActionForm | None = None,
    bytes_prompt: bool = False,
    rate: float | None = None,
    vision_heads: int | None = None,
    skipped_positions: int | None = None,
    golden: Path | None = None,
    dry_run: bool = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into a policy folder, or a policy folder into another project's naming.

    What the source is follows from its tensors, never from its path: openpi's JAX checkpoints (Orbax),
    openpi's PyTorch files, LeRobot's (both namings), PaliGemma's archives, and policy folders of our own.
    Every tensor must have its place, or one error lists those that have none. Nothing in a file is executed,
    and the output appears whole or not at all.

    Args:
        source: Checkpoint folder or file.
        output: Folder to write.
        preset: Name of the published checkpoint that it is, or was fine-tuned like.
        robot: Name of the robot in the catalog, if not the preset's.
        statistics: openpi's `norm_stats.json`; by default that of the checkpoint's assets.
        tokenizer: PaliGemma's `tokenizer.model`.
        action_tokenizer: Folder of a FAST tokenizer, for a π0-FAST.
        weights_only: Leave out the contract: weights to go on from, without a robot.
        to: What to write: a policy folder, openpi's or LeRobot's names, or the adapters alone.
        dtype: What weights are stored in.
        compute: What the policy's transformers compute in.
        merge_lora: Merge adapters into the weights beside them.
        adapter: Folder of adapters (`--to adapter`) to put on the weights.
        horizon: Actions of a chunk, if not the preset's.
        max_tokens: Tokens of a prompt, if not the preset's.
        prompt: Form of the prompt, if not the preset's.
        instruction: What to do if the robot does not say, if not the preset's.
        normalization: How state and actions are scaled, if not the preset's.
        action_form: How actions are written for the model, if not the preset's.
        bytes_prompt: The model reads bytes instead of PaliGemma's tokens.
        rate: Control rate in Hz, for a LeRobot folder of a robot that the catalog lacks.
        vision_heads: Attention heads of an image encoder of an unpublished size.
        skipped_positions: Positions that a π0-FAST leaves out before it writes: 1 in openpi, 0 in training.
        golden: An `.npz` of the reference (`obs/…`, `noise`, `actions`) to compare actions with.
        dry_run: Check everything and say what would be written.
        as_json: Print the whole report as JSON.
    """
    changes = Changes(
        preset=preset,
        robot=robot,
        statistics=statistics,
        tokenizer=tokenizer,
        action_tokenizer=action_tokenizer,
        weights_only=weights_only or to in ("lerobot", "adapter"),
        horizon=horizon,
        max_tokens=max_tokens,
        prompt=prompt,
        instruction=instruction,
        normalization=normalization,
        action_form=action_form,
        bytes_prompt=bytes_prompt,
        rate=rate,
        vision_heads=vision_heads,
        skipped_positions=skipped_positions,
        compute=compute,
    )
    refuse_existing(output)
    stored = None if dtype == "keep" else getattr(torch, dtype)
    request = open_source(source, changes, dtype=stored, merge_lora=merge_lora, adapter=adapter)
    naming = NAMINGS[to]
    contract = request.found.contract if request.found else None
    if golden is not None and (naming is not None or contract is None):
        raise ValueError("golden actions are compared with a policy's: convert to a policy with a robot")
    if to == "adapter":
        adapters = adapters_of(request.tensors) if dry_run else save_adapters(request.tensors, output)
        if as_json:
            print(json.dumps(to_data(adapters)))
        else:
            told_place = f"nothing was written; {output} would hold" if dry_run else f"{output}:"
            say(f"{told_place} {adapters.num_tensors} adapters")
        return
    conversion = planned(request.tensors, output, naming)
    if not dry_run:
        check_space(output, conversion.num_bytes)
        with counting("converting", len(conversion.tensors), "tensors") as counter:

            def told(name: str) -> None:
                counter.advance(note=name)

            if naming is None:
                files = request.found.files if request.found else {}
                conversion = convert_to_policy(
                    request.tensors, output, contract=contract, files=files, counter=told
                )
            else:
                conversion = convert_to_torch(
                    request.tensors, output, naming, contract=contract, counter=told
                )
        if golden is not None:
            conversion = replace(conversion, actions_distance=distance_to_golden(output, golden))
            write_record(output / REPORT, conversion)
            seal(output)
    if as_json:
        print(json.dumps(to_data(conversion)))
        return
    told_parts = summary(conversion, request.tensors.infos)
    table = Table(title=f"{conversion.model} from {conversion.source_naming} to {conversion.target_naming}")
    for column in ("part", "tensors", "parameters", "dtype"):
        table.add_column(column, justify="left" if column in ("part", "dtype") else "right")
    parts = told_parts["parts"]
    assert isinstance(parts, dict)
    for part, row in parts.items():
        table.add_row(part, str(row["tensors"]), f"{row['parameters']:,}", ", ".join(row["dtypes"]))
    table.add_row("all", str(len(request.tensors.infos)), f"{conversion.num_parameters:,}", "")
    Console().print(table)
    if conversion.actions_distance is not None:
        say(f"largest difference to the golden actions: {conversion.actions_distance:.2e} (robot units)")
    size = readable(conversion.num_bytes)
    if dry_run:
        say(f"nothing was written; {output} would take {size}")
        return
    what = f"a policy for {contract.embodiment.name}" if contract and naming is None else "weights"
    say(f"{output}: {what}, {size}; every tensor is listed in {output / REPORT}")
