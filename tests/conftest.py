"""What all tests share: every call into pizero has its shapes and types checked, and randomness repeats."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait stall a busy machine

import jaxtyping
import pytest
import torch
from hypothesis import settings

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float's equal
jaxtyping.install_import_hook("pizero", CHECKER)  # checks what is imported after this line

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("tests")
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Let freshly made weights and noise be the same on every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the checks off: for input that a user gets wrong, and around torch.compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks compute in float64 throughout: what they do in float32 on purpose they do in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
