"""FAST tokens are those of the reference, and what they cost in precision is bounded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from pizero.data.action_tokens import FastTokenizer, extract_action_ids
from pizero.data.text import SentencePieceTokenizer
from tests.golden_weights import GOLDEN, arrays

FOLDER = GOLDEN / "preprocessing"
GOLDEN_TOKENS = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
FAST = GOLDEN_TOKENS["fast"]
PUBLISHED = Path(__file__).parents[2].parent / "shared" / "tokenizers"


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.load(
        FOLDER / "fast_bpe_tokenizer.json", scale=float(FAST["scale"]), min_token=FAST["min_token"]
    )


@pytest.fixture(scope="module")
def pieces() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.load(FOLDER / "mini_paligemma_tokenizer.model", sha256=None)


def chunks() -> np.ndarray:
    return arrays("preprocessing/fast_processor.npz")["test_chunks"]


def test_tokens_are_the_reference_s(tokenizer: FastTokenizer) -> None:
    assert tokenizer.vocab_size == FAST["vocab_size"]
    for chunk, ids in zip(chunks(), FAST["tokens"], strict=True):
        assert tokenizer.encode(chunk) == ids


def test_decoded_chunks_are_the_reference_s(tokenizer: FastTokenizer) -> None:
    decoded = arrays("preprocessing/fast_processor.npz")["decoded"]
    for ids, expected in zip(FAST["tokens"], decoded, strict=True):
        np.testing.assert_allclose(tokenizer.decode(ids, 10, 4), expected, atol=1e-12)


def test_a_truncated_sequence_is_refused_where_the_reference_gives_zeros(tokenizer: FastTokenizer) -> None:
    assert not arrays("preprocessing/fast_processor.npz")["decoded_truncated"].any()
    ids = FAST["tokens"][0]
    with pytest.raises(ValueError, match=r"10 × 4 = 40 coefficients, found \d+"):
        tokenizer.decode(ids[:-1], 10, 4)
    exact = tokenizer.decode(ids, 10, 4)
    kept = len(tokenizer.bpe.decode(ids[:5]))
    coefficients = dct(exact, axis=0, norm="ortho").ravel()
    coefficients[kept:] = 0.0
    relaxed = tokenizer.decode(ids[:5], 10, 4, strict=False)
    np.testing.assert_allclose(dct(relaxed, axis=0, norm="ortho").ravel(), coefficients, atol=1e-9)
    assert 0 < kept < 40
    longer = tokenizer.decode([*ids, ids[0]], 10, 4, strict=False)
    np.testing.assert_array_equal(longer, exact)


def test_fitting_gives_the_reference_s_tokenizer(tokenizer: FastTokenizer) -> None:
    train = arrays("preprocessing/fast_processor.npz")["train_chunks"]
    options = {"scale": float(FAST["scale"]), "vocab_size": FAST["vocab_size"]}
    fitted = FastTokenizer.fit(train, whole_alphabet=False, **options)
    assert fitted.min_token == FAST["min_token"]
    ours, theirs = (json.loads(each.bpe.to_str()) for each in (fitted, tokenizer))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    for chunk, ids in zip(chunks(), FAST["tokens"], strict=True):
        assert fitted.encode(chunk) == ids


def test_a_saved_folder_is_read_again(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "fast")
    again = FastTokenizer.load_folder(tmp_path / "fast")
    assert (again.scale, again.min_token) == (tokenizer.scale, tokenizer.min_token)
    assert [again.encode(chunk) for chunk in chunks()] == FAST["tokens"]
    with pytest.raises(ValueError, match="exists already"):
        tokenizer.save(tmp_path / "fast")
    config = tmp_path / "fast" / "processor_config.json"
    config.write_text(json.dumps({"scale": 10, "min_token": -30, "vocab_size": 7}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"says 7 tokens, tokenizer.json has 400"):
        FastTokenizer.load_folder(tmp_path / "fast")
    config.write_text(json.dumps({"scale": 10}), encoding="utf-8")
    with pytest.raises(ValueError, match="min_token"):
        FastTokenizer.load_folder(tmp_path / "fast")
    config.unlink()
    with pytest.raises(ValueError, match=r"found no processor_config.json"):
        FastTokenizer.load_folder(tmp_path / "fast")


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match="found no file there"):
        FastTokenizer.load(path, scale=10.0, min_token=0)
    for data in (b"", b"{}", b"\xff\xfe", b'{"model": {"type": "pickle"}}'):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a tokenizer's JSON"):
            FastTokenizer.load(path, scale=10.0, min_token=0)
        with pytest.raises(
            ValueError, match=f"expected sha256 abc, found {hashlib.sha256(data).hexdigest()}"
        ):
            FastTokenizer.load(path, scale=10.0, min_token=0, sha256="abc")


def test_ids_that_there_are_not_are_refused(tokenizer: FastTokenizer) -> None:
    for bad in (-1, 400):
        with pytest.raises(ValueError, match="expected FAST ids below 400"):
            tokenizer.decode([0, bad], 10, 4, strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_a_broken_character_is_no_action(strict: bool) -> None:
    """Half a character would be decoded as U+FFFD, an action of thousands of units."""
    learnt = np.random.default_rng(0).uniform(-1, 1, (40, 6, 3))
    fitted = FastTokenizer.fit(learnt, vocab_size=600)
    ids = fitted.encode(learnt[0])
    (half,) = fitted.bpe.encode(chr(300)).ids[:1]
    assert fitted.bpe.decode([half]) == "\ufffd"
    with pytest.raises(ValueError, match=r"whole coefficients, found 1 that are broken"):
        fitted.decode([half, *ids], 6, 3, strict=strict)
    beyond = [*ids, half]
    if strict:
        with pytest.raises(ValueError, match="18 coefficients, found 19"):
            fitted.decode(beyond, 6, 3)
    else:
        np.testing.assert_array_equal(fitted.decode(beyond, 6, 3, strict=False), fitted.decode(ids, 6, 3))


@pytest.mark.parametrize("number", [1e300, -1e300, 6e4, 5600.0])
def test_outliers_are_cut_and_do_not_crash(tokenizer: FastTokenizer, number: float) -> None:
    """Coefficients in the surrogates' range make the reference crash."""
    ids = tokenizer.encode(np.full((10, 4), number / 100))
    assert tokenizer.decode(ids, 10, 4, strict=False).shape == (10, 4)
    with pytest.raises(ValueError, match="finite"):
        tokenizer.encode(np.full((10, 4), np.nan))


def test_the_whole_alphabet_loses_nothing_that_was_never_seen() -> None:
    """Coefficients that the reference's tokenizer drops shift all that follow; ours keeps them."""
    rng = np.random.default_rng(0)
    learnt = np.where(rng.random((40, 6, 3)) < 0.5, -1.0, 1.0) * 0.9
    chunk = rng.uniform(-0.3, 0.3, (6, 3))
    whole, reference = (FastTokenizer.fit(learnt, whole_alphabet=flag) for flag in (True, False))
    assert np.linalg.norm(whole.decode(whole.encode(chunk), 6, 3) - chunk) <= 0.05 * np.sqrt(18)
    with pytest.raises(ValueError, match="the model did not write a whole chunk"):
        reference.decode(reference.encode(chunk), 6, 3)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_error_of_a_chunk_is_bounded(horizon: int, action_dim: int, seed: int) -> None:
    """Each coefficient is off by half a step at the most, and the transform keeps lengths."""
    rng = np.random.default_rng(seed)
    learnt = rng.uniform(-1, 1, (20, horizon, action_dim))
    fitted = FastTokenizer.fit(learnt, vocab_size=1024)
    for chunk in learnt:
        error = np.linalg.norm(fitted.decode(fitted.encode(chunk), horizon, action_dim) - chunk)
        assert error <= 0.5 / 10 * np.sqrt(horizon * action_dim) + 1e-9


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 16 tokens can tell"):
        FastTokenizer.fit([np.linspace(-9, 9, 40).reshape(10, 4)], vocab_size=16)
    with pytest.raises(ValueError, match="found none"):
        FastTokenizer.fit([])


@pytest.mark.parametrize("scale", [0.0, -10.0, float("nan"), float("inf")])
def test_what_cannot_be_rounded_is_refused(scale: float, tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="expected a scale above 0"):
        FastTokenizer.fit(chunks(), scale=scale)
    with pytest.raises(ValueError, match="expected a scale above 0"):
        FastTokenizer(tokenizer.bpe, scale=scale, min_token=0)
    with pytest.raises(ValueError, match="expected finite actions"):
        FastTokenizer.fit([np.zeros((3, 2)), np.full((3, 2), np.nan)])


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "no JSON",
        '{"scale": "ten", "min_token": -30, "vocab_size": 400}',
        '{"scale": 10, "min_token": 1e400, "vocab_size": 400}',
        '{"scale": 10, "min_token": -3.7, "vocab_size": 400}',
        '{"scale": 10, "min_token": null, "vocab_size": 400}',
    ],
)
def test_a_processor_config_of_something_else_is_refused(
    config: str, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "fast")
    (tmp_path / "fast" / "processor_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ValueError, match=r"processor_config.json: expected JSON with scale"):
        FastTokenizer.load_folder(tmp_path / "fast")


def test_what_a_folder_says_about_code_is_ignored(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "fast")
    config = tmp_path / "fast" / "processor_config.json"
    told = json.loads(config.read_text(encoding="utf-8"))
    told["auto_map"] = {"AutoProcessor": "evil.Processor"}
    config.write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "fast" / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    assert FastTokenizer.load_folder(tmp_path / "fast").encode(chunks()[0]) == FAST["tokens"][0]


def test_actions_are_found_in_what_a_model_writes(
    tokenizer: FastTokenizer, pieces: SentencePieceTokenizer
) -> None:
    first = GOLDEN_TOKENS["vocab_size"] - 1 - GOLDEN_TOKENS["fast_skip_tokens"]
    for ids, mapped in zip(FAST["tokens"], FAST["paligemma_ids"], strict=True):
        assert [first - index for index in ids] == mapped
        written = [*pieces.encode("Action: "), *mapped, *pieces.encode("|"), 1, 0, 0]
        assert extract_action_ids(written, pieces, first, tokenizer.vocab_size) == ids
        assert extract_action_ids(written[:-4], pieces, first, tokenizer.vocab_size) == ids


def test_extracted_actions_are_openpi_s(tokenizer: FastTokenizer, pieces: SentencePieceTokenizer) -> None:
    """openpi decodes through text; where its tokens survive that, ours are the same."""
    first = GOLDEN_TOKENS["vocab_size"] - 1 - GOLDEN_TOKENS["fast_skip_tokens"]
    compared = 0
    for case in GOLDEN_TOKENS["cases"]:
        golden = case["fast_train"]
        if golden["full"]:  # cut before the actions
            assert not np.any(golden["extracted_actions"])
            with pytest.raises(ValueError, match="the model wrote no actions"):
                extract_action_ids(golden["tokens"], pieces, first, tokenizer.vocab_size)
            continue
        ids = extract_action_ids(golden["tokens"], pieces, first, tokenizer.vocab_size)
        np.testing.assert_allclose(
            tokenizer.decode(ids, 10, 4), np.array(golden["extracted_actions"]), atol=1e-9
        )
        compared += 1
    assert compared == 10


def test_a_model_that_writes_no_actions_is_refused_where_openpi_gives_zeros(
    tokenizer: FastTokenizer, pieces: SentencePieceTokenizer
) -> None:
    golden = GOLDEN_TOKENS["extract_without_action_marker"]
    assert not np.any(golden["actions"])
    with pytest.raises(ValueError, match="the model wrote no actions"):
        extract_action_ids(golden["tokens"], pieces, 1663, tokenizer.vocab_size)
    words = [*pieces.encode("Action: "), *pieces.encode("hello"), 1]
    with pytest.raises(ValueError, match="something else than actions"):
        extract_action_ids(words, pieces, 1663, tokenizer.vocab_size)


@pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published tokenizer's files are not beside the project"
)
def test_the_published_tokenizer() -> None:
    published = FastTokenizer.load_folder(PUBLISHED / "fast")
    assert (published.vocab_size, published.scale, published.min_token) == (2048, 10.0, -354)
    golden = json.loads((PUBLISHED / "fast_golden.json").read_text(encoding="utf-8"))
    for case in golden.values():
        chunk = np.array(case["actions"])
        assert published.encode(chunk) == case["ids"]
        decoded = published.decode(case["ids"], *case["shape"])
        assert np.abs(decoded - chunk).max() == pytest.approx(case["max_err"], abs=1e-9)
