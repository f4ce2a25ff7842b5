"""The contract of a converted checkpoint: its preset, changes to it, its statistics and its tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pizero.contract import ActionTokens, Contract, Statistics, TokenFile
from pizero.data.action_tokens import FastTokenizer
from pizero.data.openpi import fit_statistics, read_norm_stats
from pizero.data.text import PALIGEMMA_SHA256, SentencePieceTokenizer, find_paligemma_tokenizer
from pizero.models.build import ModelConfig
from pizero.models.pi0_fast import Pi0FASTConfig
from pizero.nn.siglip import SigLIPConfig
from pizero.robots import find_embodiment
from pizero.weights.folder import sha256_of
from pizero.weights.published import Preset

TOKENIZER, ACTION_TOKENIZER = "tokenizer.model", "action_tokenizer.json"
NUM_SKIPPED = 128
"""openpi leaves the last ids of the text vocabulary, PaliGemma's segmentation tokens, alone."""


@dataclass(frozen=True, kw_only=True)
class FoundContract:
    """A contract, and the files that it names, by their names in the policy folder."""

    contract: Contract
    files: dict[str, Path]


def changed(preset: Preset, **changes: Any) -> Preset:
    """Return a preset with those of the changes that are not None."""
    known = {field.name for field in fields(Preset)}
    assert set(changes) <= known
    return replace(preset, **{name: value for name, value in changes.items() if value is not None})


def find_statistics(source: Path, asset: str, given: Path | None) -> Path:
    """Return the `norm_stats.json` of a checkpoint: the given one, or that of its assets.

    ValueError says where it was looked for, and which others there are.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"expected statistics at {given}, found no file there")
        return given
    folder = source if source.is_dir() else source.parent
    places = [folder / "assets", folder.parent / "assets"]
    for assets in places:
        if asset and (assets / asset / "norm_stats.json").is_file():
            return assets / asset / "norm_stats.json"
    found = sorted(path for assets in places if assets.is_dir() for path in assets.rglob("norm_stats.json"))
    if len(found) == 1 and not asset:
        return found[0]
    wanted = f"assets/{asset or '*'}/norm_stats.json"
    there = f"there are {', '.join(map(str, found))}; choose one" if found else "there are none; give one"
    raise ValueError(
        f"expected {wanted} in {folder} or beside it, but {there} with --statistics FILE, or convert the "
        f"weights alone with --weights-only"
    )


def build_contract(
    preset: Preset,
    config: ModelConfig,
    statistics: Path,
    *,
    tokenizer: Path | None,
    action_tokenizer: Path | None,
    bytes_prompt: bool = False,
    decoding: str = "strict",
) -> FoundContract:
    """Return the contract of a checkpoint that was trained as `preset` says.

    ValueError if the statistics, the tokenizers or the preset do not fit the model or the robot.
    """
    embodiment = find_embodiment(preset.robot)
    state, actions = read_norm_stats(statistics)
    check_fit(preset, config)
    text, files = find_text_tokenizer(config, tokenizer, bytes_prompt=bytes_prompt)
    tokens = None
    if isinstance(config, Pi0FASTConfig):
        vocabulary = config.backbone.vocab_size
        if text is not None:
            vocabulary = SentencePieceTokenizer.load(files[text.name], sha256=text.sha256).vocab_size
        tokens, more = find_action_tokens(action_tokenizer, vocabulary, decoding=decoding)
        files |= more
    vision = config.backbone.vision
    assert isinstance(vision, SigLIPConfig)
    contract = Contract(
        embodiment=embodiment,
        convention=preset.convention,
        slots=preset.slots,
        absent_valid=preset.absent_valid,
        image_size=vision.image_size,
        prompt=preset.prompt,
        instruction=preset.instruction,
        tokenizer=text,
        max_tokens=preset.max_tokens,
        horizon=preset.horizon,
        width=0 if isinstance(config, Pi0FASTConfig) else config.action_dim,
        action_tokens=tokens,
        normalization=preset.normalization,
        statistics=Statistics(
            state=fit_statistics(state, embodiment.state_dim),
            actions=fit_statistics(actions, embodiment.action_dim),
            convention=preset.convention,
            action_form=preset.action_form,
            horizon=preset.horizon,
        ),
    )
    return FoundContract(contract=contract, files=files)


def check_fit(preset: Preset, config: ModelConfig) -> None:
    """Raise ValueError if a model cannot be what a preset describes."""
    model = type(config).__name__.removesuffix("Config")
    if preset.model != model:
        raise ValueError(
            f"the weights are those of a {model}, the preset's of a {preset.model}: choose another preset"
        )
    if (preset.prompt == "pi0_fast") != (model == "Pi0FAST") or (model, preset.prompt) == ("Pi0", "pi05"):
        raise ValueError(f"a {model} was not trained on prompts of the form {preset.prompt!r}")
    if config.horizon != preset.horizon:
        raise ValueError(f"the model's horizon is {config.horizon}, the preset's {preset.horizon}")


def find_text_tokenizer(
    config: ModelConfig, given: Path | None, *, bytes_prompt: bool
) -> tuple[TokenFile | None, dict[str, Path]]:
    """Return PaliGemma's tokenizer, checked by its hash where the model has PaliGemma's vocabulary."""
    if bytes_prompt:
        return None, {}
    path = find_paligemma_tokenizer(given)
    sha256 = sha256_of(path)
    if config.backbone.vocab_size == 257_152 and sha256 != PALIGEMMA_SHA256:
        raise ValueError(
            f"{path} is not PaliGemma's tokenizer: expected sha256 {PALIGEMMA_SHA256}, found {sha256}; "
            f"copy it again from one of the places in docs/published-checkpoints.md"
        )
    return TokenFile(name=TOKENIZER, sha256=sha256), {TOKENIZER: path}


def find_action_tokens(
    folder: Path | None, text_vocabulary: int, *, decoding: str
) -> tuple[ActionTokens, dict[str, Path]]:
    """Return the FAST tokenizer of a folder in the published layout; ValueError if there is none."""
    if folder is None:
        raise ValueError(
            "a π0-FAST writes actions with a FAST tokenizer: give its folder with --action-tokenizer "
            "(`hf download physical-intelligence/fast --local-dir fast` gets the published one)"
        )
    fast = FastTokenizer.load_folder(folder)
    path = folder / "tokenizer.json"
    tokens = ActionTokens(
        file=TokenFile(name=ACTION_TOKENIZER, sha256=sha256_of(path)),
        scale=fast.scale,
        min_token=fast.min_token,
        first_id=text_vocabulary - 1 - NUM_SKIPPED,
        decoding="relaxed" if decoding == "relaxed" else "strict",
    )
    return tokens, {ACTION_TOKENIZER: path}
