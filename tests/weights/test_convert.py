"""Checkpoints of every naming become the same policy, and nothing that is wrong becomes one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.cli.convert import convert
from pizero.policy.policy import Policy
from pizero.records import read_record
from pizero.weights.convert import REPORT, Conversion
from pizero.weights.folder import MANIFEST, check_seal, read_policy
from pizero.weights.own_tensors import OwnTensors
from tests.golden_weights import GOLDEN, arrays, from_openpi, golden_config
from tests.orbax_writer import write_orbax

TOKENIZER = GOLDEN / "preprocessing" / "mini_paligemma_tokenizer.model"
ALOHA = GOLDEN / "policy" / "pi0_aloha"
LIBERO = GOLDEN / "policy" / "pi05_libero"
OPTIONS: dict[str, dict[str, Any]] = {
    "pi0_aloha": {"preset": "pi0_aloha_towel", "horizon": 6, "max_tokens": 40},
    "pi05_libero": {"preset": "pi05_libero", "prompt": "pi05", "horizon": 6, "max_tokens": 96},
}


def convert_golden(kind: str, source: Path, output: Path, **changes: Any) -> Conversion:
    """Convert a checkpoint of one of the end-to-end robots, and return the report."""
    folder = GOLDEN / "policy" / kind
    options = {
        "statistics": folder / "norm_stats.json",
        "tokenizer": TOKENIZER,
        "compute": "float32",
        **OPTIONS[kind],
        **changes,
    }
    convert(source, output, **options)
    return read_record(Conversion, output / REPORT)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def aloha_orbax(tmp_path: Path) -> Path:
    """Return an Orbax folder of the end-to-end ALOHA weights."""
    write_orbax(tmp_path / "jax" / "params", arrays("policy/pi0_aloha/params_jax.safetensors"))
    return tmp_path / "jax"


@pytest.mark.parametrize("kind", OPTIONS)
def test_end_to_end_actions_through_an_orbax_checkpoint(kind: str, tmp_path: Path) -> None:
    """Raw observation → transforms → model → robot units gives what openpi's `Policy.infer` returned."""
    write_orbax(tmp_path / "jax" / "params", arrays(f"policy/{kind}/params_jax.safetensors"))
    golden = GOLDEN / "policy" / kind / "golden.npz"
    report = convert_golden(kind, tmp_path / "jax", tmp_path / "policy", golden=golden)
    assert report.actions_distance is not None
    assert report.actions_distance <= 1e-4
    check_seal(tmp_path / "policy", (REPORT, "contract.json"), "a policy folder")
    expected = sum(array.size for array in arrays(f"policy/{kind}/params_jax.safetensors").values())
    assert report.num_parameters == expected == sum(np.prod(t.shape) for t in report.tensors)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("pi0_aloha", {"action_form": "recorded"}),
        ("pi0_aloha", {"normalization": "quantile"}),
        ("pi0_aloha", {"instruction": "fold the shirt"}),
        ("pi05_libero", {"prompt": "pi0"}),
        ("pi05_libero", {"normalization": "zscore"}),
        ("pi05_libero", {"action_form": "relative"}),
    ],
)
def test_a_wrong_preset_is_seen_in_the_golden_actions(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    golden = GOLDEN / "policy" / kind / "golden.npz"
    write_orbax(tmp_path / "jax", arrays(f"policy/{kind}/params_jax.safetensors"))
    report = convert_golden(kind, tmp_path / "jax", tmp_path / "policy", golden=golden, **changes)
    assert report.actions_distance is not None
    assert report.actions_distance > 1e-3


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_jax_weights_in_openpi_s_torch_names_are_openpi_s_own_file(kind: str, tmp_path: Path) -> None:
    """Tensor by tensor the file that openpi's PyTorch port saved of the same weights, by hash; and back."""
    write_orbax(tmp_path / "jax", arrays(f"{kind}/params_jax.safetensors"), value_suffix=False)
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    convert(tmp_path / "jax", tmp_path / "ours", **options)
    convert(tmp_path / "jax", tmp_path / "torch", to="openpi", **options)
    written = weights_of(tmp_path / "torch")
    digests = json.loads((GOLDEN / "torch_digests.json").read_text(encoding="utf-8"))[kind]
    found = {
        name: [list(tensor.shape), hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]]
        for name, tensor in sorted(written.items())
    }
    assert found == digests
    convert(tmp_path / "torch", tmp_path / "back", vision_heads=4, **options)
    assert_same_weights(tmp_path / "ours", tmp_path / "back")
    config = json.loads((tmp_path / "torch" / "config.json").read_text(encoding="utf-8"))
    assert config["action_horizon"] == 6
    convert(tmp_path / "ours", tmp_path / "again", to="openpi", **options)
    assert_same_weights(tmp_path / "torch", tmp_path / "again")


@pytest.mark.parametrize("kind", ["pi0", "pi05", "pi0_fast"])
def test_lerobot_s_names_and_back(kind: str, tmp_path: Path) -> None:
    write_orbax(tmp_path / "jax", arrays(f"{kind}/params_jax.safetensors"))
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    convert(tmp_path / "jax", tmp_path / "ours", **options)
    convert(tmp_path / "ours", tmp_path / "lerobot", to="lerobot", **options)
    names = set(weights_of(tmp_path / "lerobot"))
    assert all(name.startswith("model.") for name in names)
    convert(tmp_path / "lerobot", tmp_path / "back", vision_heads=4, **options)
    assert_same_weights(tmp_path / "ours", tmp_path / "back")
    assert read_record(Conversion, tmp_path / "back" / REPORT).source_naming == "LeRobot"


def test_the_names_of_lerobot_s_first_port(tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    write_orbax(tmp_path / "jax", arrays("pi0/params_jax.safetensors"))
    convert(tmp_path / "jax", tmp_path / "ours", **options)
    convert(tmp_path / "ours", tmp_path / "lerobot", to="lerobot", **options)
    old = {}
    for name, tensor in weights_of(tmp_path / "lerobot").items():
        renamed = name.replace(".paligemma.model.language_model.", ".paligemma.language_model.model.")
        renamed = renamed.replace(".paligemma.lm_head.", ".paligemma.language_model.lm_head.")
        old[renamed.replace(".paligemma.model.", ".paligemma.")] = tensor
    old["model.paligemma_with_expert.gemma_expert.model.embed_tokens.weight"] = torch.zeros(1024, 48)
    old["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(6)
    old["unnormalize_outputs.buffer_action.std"] = torch.ones(6)
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors")
    convert(tmp_path / "old", tmp_path / "back", vision_heads=4, **options)
    assert_same_weights(tmp_path / "ours", tmp_path / "back")


def test_a_paligemma_archive(tmp_path: Path) -> None:
    archive = {
        "params/" + name.removeprefix("PaliGemma/"): array
        for name, array in arrays("pi0_fast/params_jax.safetensors").items()
    }
    np.savez(tmp_path / "pt_224.npz", **archive)
    convert(tmp_path / "pt_224.npz", tmp_path / "ours", weights_only=True, compute="float32", horizon=6)
    expected = from_openpi(arrays("pi0_fast/params_jax.safetensors"), golden_config("pi0_fast"))
    found = weights_of(tmp_path / "ours")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_pi0_fast_may_decode_as_it_was_trained(tmp_path: Path) -> None:
    write_orbax(tmp_path / "jax", arrays("pi0_fast/params_jax.safetensors"))
    for skipped in (None, 0):
        output = tmp_path / f"skips-{skipped}"
        convert(tmp_path / "jax", output, weights_only=True, skipped_positions=skipped)
        config = json.loads((output / "config.json").read_text(encoding="utf-8"))
        assert config["skipped_positions"] == (1 if skipped is None else 0)
    write_orbax(tmp_path / "pi0", arrays("pi0/params_jax.safetensors"))
    with pytest.raises(ValueError, match="only a π0-FAST writes token after token"):
        convert(tmp_path / "pi0", tmp_path / "out", weights_only=True, skipped_positions=0)


def test_bfloat16_weights_act_alike(aloha_orbax: Path, tmp_path: Path) -> None:
    report = convert_golden(
        "pi0_aloha", aloha_orbax, tmp_path / "half", dtype="bfloat16", golden=ALOHA / "golden.npz"
    )
    assert {tensor.dtype for tensor in report.tensors} == {"bfloat16"}
    assert report.num_bytes == 2 * report.num_parameters
    assert report.actions_distance is not None
    assert 1e-4 < report.actions_distance < 0.5


def test_a_policy_folder_keeps_its_contract_and_can_be_converted_again(
    aloha_orbax: Path, tmp_path: Path
) -> None:
    convert_golden("pi0_aloha", aloha_orbax, tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two", compute="float32")
    one, two = read_policy(tmp_path / "one"), read_policy(tmp_path / "two")
    assert one.contract == two.contract
    assert one.contract.embodiment.name == "aloha"
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert Policy.load(tmp_path / "two").contract.sha256 == one.contract.sha256
    convert(tmp_path / "one", tmp_path / "three", to="openpi")
    statistics = json.loads(
        (tmp_path / "three" / "assets" / "aloha" / "norm_stats.json").read_text(encoding="utf-8")
    )
    original = json.loads((ALOHA / "norm_stats.json").read_text(encoding="utf-8"))
    assert statistics["norm_stats"]["state"]["mean"] == original["norm_stats"]["state"]["mean"][:14]


def test_a_dry_run_writes_nothing_and_refuses_the_same(
    aloha_orbax: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    convert(aloha_orbax, tmp_path / "out", weights_only=True, dry_run=True, horizon=6)
    assert "nothing was written" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(ValueError, match="nothing about a robot"):
        convert(aloha_orbax, tmp_path / "out", dry_run=True)
    with pytest.raises(ValueError, match="exists already"):
        convert(aloha_orbax, aloha_orbax, weights_only=True, dry_run=True)


def test_the_report_as_json(aloha_orbax: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(aloha_orbax, tmp_path / "out", weights_only=True, horizon=6, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "Pi0"
    assert report["source_naming"] == "openpi JAX"
    stacked = [t for t in report["tensors"] if t["name"] == "expert.layers.2.attention.value.weight"]
    assert stacked[0]["source"] == "PaliGemma/llm/layers/attn/kv_einsum_1/w[2, 1]"


def without(golden: dict[str, np.ndarray]) -> None:
    del golden["PaliGemma/llm/layers/mlp_1/linear"], golden["state_proj/kernel"]


def with_more(golden: dict[str, np.ndarray]) -> None:
    golden["PaliGemma/llm/layers/mlp_2/linear"] = golden["PaliGemma/llm/layers/mlp_1/linear"]


def misspelt(golden: dict[str, np.ndarray]) -> None:
    golden["PaliGemma/llm/final_nrom/scale"] = golden.pop("PaliGemma/llm/final_norm/scale")


def transposed(golden: dict[str, np.ndarray]) -> None:
    golden["action_time_mlp_in/kernel"] = golden["action_time_mlp_in/kernel"].T


def misshaped(golden: dict[str, np.ndarray]) -> None:
    golden["PaliGemma/llm/final_norm/scale"] = np.ones(63, dtype=np.float32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without, r"2 missing: PaliGemma/llm/layers/mlp_1/linear \(did you mean .*; state_proj/kernel"),
        (with_more, r"1 unknown: PaliGemma/llm/layers/mlp_2/linear"),
        (
            misspelt,
            r"1 missing: PaliGemma/llm/final_norm/scale.*did you mean 'PaliGemma/llm/final_nrom/scale'",
        ),
        (transposed, r"action_time_mlp_in/kernel: expected \[96, 48\], found \[48, 96\] \(transposed\?\)"),
        (misshaped, r"PaliGemma/llm/final_norm/scale: expected \[64\], found \[63\]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    spoil: Callable[[dict[str, np.ndarray]], None], message: str, tmp_path: Path
) -> None:
    golden = dict(arrays("pi0/params_jax.safetensors"))
    spoil(golden)
    write_orbax(tmp_path / "jax", {name: np.ascontiguousarray(array) for name, array in golden.items()})
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "jax", tmp_path / "out", weights_only=True)
    assert not list(tmp_path.glob("out*"))


def test_two_names_of_one_tensor_must_agree(tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights_only": True, "compute": "float32", "horizon": 6}
    write_orbax(tmp_path / "jax", arrays("pi0/params_jax.safetensors"))
    convert(tmp_path / "jax", tmp_path / "lerobot", to="lerobot", **options)
    tensors = weights_of(tmp_path / "lerobot")
    tensors["model.paligemma_with_expert.paligemma.lm_head.weight"][3, 3] += 1.0
    (tmp_path / "spoilt").mkdir()
    save_file(tensors, tmp_path / "spoilt" / "model.safetensors")
    with pytest.raises(ValueError, match="two names of one tensor, and differ"):
        convert(tmp_path / "spoilt", tmp_path / "out", vision_heads=4, **options)
    assert not list(tmp_path.glob("out*"))


def test_an_unpublished_image_encoder_needs_its_heads(tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights_only": True, "horizon": 6}
    write_orbax(tmp_path / "jax", arrays("pi0/params_jax.safetensors"))
    convert(tmp_path / "jax", tmp_path / "torch", to="openpi", **options)
    with pytest.raises(ValueError, match="--vision-heads"):
        convert(tmp_path / "torch", tmp_path / "out", **options)


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(
    aloha_orbax: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ValueError, match=r"will take 1\.49 MB, and .* has 1\.00 MB left"):
        convert(aloha_orbax, tmp_path / "deep" / "out", weights_only=True)
    assert not (tmp_path / "deep").exists()


def test_an_interruption_leaves_nothing(
    aloha_orbax: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, count = OwnTensors.read, iter(range(1000))

    def interrupted(self: OwnTensors, name: str) -> torch.Tensor:
        if next(count) == 30:
            raise KeyboardInterrupt
        return read(self, name)

    monkeypatch.setattr(OwnTensors, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(aloha_orbax, tmp_path / "out", weights_only=True)
    assert not list(tmp_path.glob("out*"))


def test_an_existing_folder_is_left_alone(aloha_orbax: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("here", encoding="utf-8")
    with pytest.raises(ValueError, match="exists already; nothing was overwritten"):
        convert(aloha_orbax, tmp_path / "out", weights_only=True)
    assert (tmp_path / "out" / "mine").read_text(encoding="utf-8") == "here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "pi0_alhoa_towel"}, "did you mean 'pi0_aloha_towel'"),
        ({"preset": "pi05_droid"}, "those of a Pi0, the preset's of a Pi05"),
        ({"prompt": "pi05"}, "a Pi0 was not trained on prompts of the form 'pi05'"),
        ({"preset": "pi0_base"}, "is a base to fine-tune"),
        ({"robot": "aloah"}, "did you mean 'aloha'"),
        ({"statistics": Path("nowhere.json")}, "expected statistics at nowhere.json"),
        ({"tokenizer": Path("nowhere.model")}, "nowhere.model"),
    ],
)
def test_what_does_not_fit_a_robot_is_refused(
    changes: dict[str, Any], message: str, aloha_orbax: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_golden("pi0_aloha", aloha_orbax, tmp_path / "out", **changes)
    assert not list(tmp_path.glob("out*"))


def test_statistics_that_do_not_fit_are_refused(aloha_orbax: Path, tmp_path: Path) -> None:
    statistics = json.loads((ALOHA / "norm_stats.json").read_text(encoding="utf-8"))
    for field in statistics["norm_stats"].values():
        for name in field:
            field[name] = field[name][:7]
    path = tmp_path / "narrow.json"
    path.write_text(json.dumps(statistics), encoding="utf-8")
    with pytest.raises(ValueError, match="14"):
        convert_golden("pi0_aloha", aloha_orbax, tmp_path / "out", statistics=path)


def test_statistics_are_found_among_the_assets(aloha_orbax: Path, tmp_path: Path) -> None:
    assets = aloha_orbax / "assets" / "trossen"
    assets.mkdir(parents=True)
    (assets / "norm_stats.json").write_bytes((ALOHA / "norm_stats.json").read_bytes())
    convert_golden("pi0_aloha", aloha_orbax, tmp_path / "found", statistics=None)
    convert_golden("pi0_aloha", aloha_orbax, tmp_path / "given")
    found, given = read_policy(tmp_path / "found"), read_policy(tmp_path / "given")
    assert found.contract == given.contract


def test_missing_statistics_are_asked_for(aloha_orbax: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected assets/trossen/norm_stats\.json.*--statistics"):
        convert_golden("pi0_aloha", aloha_orbax, tmp_path / "out", statistics=None)


def test_another_tokenizer_in_the_policy_folder_is_refused(aloha_orbax: Path, tmp_path: Path) -> None:
    convert_golden("pi0_aloha", aloha_orbax, tmp_path / "policy")
    manifest = tmp_path / "policy" / MANIFEST
    changed = json.loads(manifest.read_text(encoding="utf-8"))
    path = tmp_path / "policy" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged"):
        Policy.load(tmp_path / "policy")
    changed["files"]["tokenizer.model"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="sha256"):
        Policy.load(tmp_path / "policy")
