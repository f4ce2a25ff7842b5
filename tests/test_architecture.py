"""The house rules that a machine can check: imports point down, and nothing here can run foreign code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROWS: tuple[tuple[str, ...], ...] = (
    ("names", "durable"),
    (
        "types",
        "records",
        "progress",
        "processes",
        "serving.messages",
        "serving.envelope",
        "serving.structure",
    ),
    ("embodiment",),
    ("robots", "results", "nn", "generative", "serving.client", "serving.recording"),
    ("contract",),
    ("models", "data"),
    ("weights", "recordings"),
    ("policy",),
    ("training", "planning"),
    ("recipes", "fast", "envs", "serving.server", "diagnose"),
    ("cli", "studies", "benchmarks"),
    ("__main__",),
)
"""The rooms from bottom to top. A room may import any room of a lower row, and no other of its own row."""

NARROWER: dict[str, set[str]] = {
    "nn": {"types"},
    "generative": set(),
    "models": {"types", "names", "nn", "generative"},
    "serving.client": {"names", "serving.messages", "serving.envelope"},
}
"""Rooms that may import less than their row allows: layers know no files, processes no networks."""

WITHOUT_TORCH = (
    "types",
    "contract",
    "embodiment",
    "robots",
    "names",
    "records",
    "planning.chat",
    "planning.following",
    "planning.scripted",
    "planning.typed",
    "planning.worker",
    "serving.messages",
    "serving.envelope",
    "serving.structure",
    "serving.client",
)
REPLACEABLE_DEPENDENCIES = (
    "av",
    "gymnasium",
    "h5py",
    "imagecodecs",
    "metaworld",
    "msgpack",
    "mujoco",
    "ray",
    "rerun",
    "sentencepiece",
    "tensorstore",
    "tokenizers",
    "zarr",
    "zstandard",
)
MODULES_THAT_UNPICKLE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "os.system"}
MAX_LINES = 400

ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


PACKAGE = sources("pizero")
ALL = sources("pizero", "tests", "studies", "benchmarks")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str | None:
    """Return the room of a dotted module; None for what is outside the house, or the bare package."""
    first, *rest = module.split(".")
    if first in ("studies", "benchmarks", "tests"):
        return first
    if first != "pizero" or rest in ([], ["serving"]):
        return None
    return ".".join(rest[:2]) if rest[0] == "serving" else rest[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield every imported module, wherever the import stands; `from a import b` may mean `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level
            elif node.module in ("pizero", "pizero.serving"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def wrong_imports(module: str, source: str) -> list[str]:
    """Return one sentence for each import of `module` that does not point down."""
    room = room_of(module)
    if room is None:
        return []
    if room not in ROW_OF:
        return [f"{room} has no row: add it to ROWS"]
    wrong = []
    for imported in imports_of(ast.parse(source)):
        target = room_of(imported)
        if imported.startswith("."):
            wrong.append("relative import")
        elif target is None or target == room:
            continue
        elif target not in ROW_OF or ROW_OF[target] >= ROW_OF[room]:
            wrong.append(f"{room} imports {target}, which is not below it")
        elif room in NARROWER and target not in NARROWER[room]:
            wrong.append(f"{room} imports {target}, but may know only {sorted(NARROWER[room])}")
    return wrong


def dangers(source: str) -> list[str]:
    """Return what could execute the content of a file or of a string."""
    tree = ast.parse(source)
    found = [name for name in imports_of(tree) if name.split(".")[0] in MODULES_THAT_UNPICKLE]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found += sorted(named & FORBIDDEN_CALLS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in FORBIDDEN_CALLS else []
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                found += [keyword.arg] if keyword.arg in ("shell", "allow_pickle") and not off else []
    return found


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_imports_point_down(path: Path) -> None:
    module = relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert wrong_imports(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_nothing_can_execute_a_file(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


def test_init_files_are_empty() -> None:
    assert [relative(path) for path in PACKAGE if path.name == "__init__.py" and path.read_bytes()] == []


def test_every_folder_of_the_package_has_its_init_file() -> None:
    assert {relative(path.parent) for path in PACKAGE if not (path.parent / "__init__.py").exists()} == set()


def test_files_are_short() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("dependency", REPLACEABLE_DEPENDENCIES)
def test_a_replaceable_dependency_is_imported_in_one_place(dependency: str) -> None:
    importers = {
        relative(path)
        for path in PACKAGE
        for name in imports_of(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] == dependency
    }
    assert len(importers) <= 1, importers


def test_the_vocabulary_and_the_client_need_no_torch() -> None:
    present = [name for name in WITHOUT_TORCH if (ROOT / f"pizero/{name.replace('.', '/')}.py").exists()]
    statement = (
        f"import sys, {', '.join(f'pizero.{name}' for name in present)}; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pizero.data.loader", "from pizero.models.pi0 import Pi0"),
        ("pizero.data.loader", "def late():\n    import pizero.models.pi0"),
        ("pizero.nn.gemma", "from pizero.robots import Embodiment"),
        ("pizero.nn.gemma", "from pizero import records"),
        ("pizero.generative.flow", "from pizero.types import Inputs"),
        ("pizero.models.pi0", "from pizero.contract import Contract"),
        ("pizero.policy.policy", "from pizero.training.loop import train"),
        ("pizero.envs.evaluate", "from pizero.fast.engine import accelerate"),
        ("pizero.serving.client", "from pizero.serving.server import serve"),
        ("pizero.serving.client", "from pizero.serving import server"),
        ("pizero.training.loop", "from tests.small import small_model"),
        ("pizero.data.loader", "from .images import resize"),
        ("pizero.attic.old", "import numpy"),
    ],
)
def test_the_import_rule_catches(module: str, source: str) -> None:
    assert wrong_imports(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "pizero.data.loader",
            "import torch\nfrom pizero.types import Batch\nfrom pizero.data.images import resize",
        ),
        ("pizero.envs.evaluate", "from pizero.policy.policy import Policy"),
        ("pizero.serving.server", "from pizero.serving import messages"),
        ("pizero.nn.gemma", "from pizero.types import Inputs"),
    ],
)
def test_the_import_rule_lets_pass(module: str, source: str) -> None:
    assert wrong_imports(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load(path)",
        "from torch import load",
        "eval('1')",
        "import yaml\nyaml.load(text)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import subprocess\nsubprocess.run(line, shell=flag)",
    ],
)
def test_the_rule_against_executing_files_catches(source: str) -> None:
    assert dangers(source)


def test_the_rule_against_executing_files_lets_pass() -> None:
    assert dangers("model.eval()\nnumpy.load(path, allow_pickle=False)\nimport json") == []
