"""LeRobot in a virtual environment of its own, beside ours: an oracle for what its datasets hold.

    python -m benchmarks.peers.lerobot_environment runs/peers --lerobot 0.4.4    # reads v3.0
    python -m benchmarks.peers.lerobot_environment runs/peers --lerobot 0.3.3    # reads v2.1

LeRobot pins older versions of torch, PyAV and NumPy than ours, and asks for simulators; its dataset code
needs none of that. So it is installed without its dependencies, beside those that its dataset code imports.
Needs Python 3.11 or 3.12, about 1.5 GB of disk for each version, and the network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

VERSIONS = ("0.3.3", "0.4.4")
WITHOUT_DEPENDENCIES = ("lerobot", "torchvision", "accelerate")
DATASET_CODE = (
    "av",
    "datasets",
    "deepdiff",
    "draccus",
    "einops",
    "gymnasium",
    "huggingface_hub",
    "imageio",
    "jsonlines",
    "numpy",
    "packaging",
    "pandas",
    "pillow",
    "psutil",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "setuptools",
    "termcolor",
)
READY = "ready"


def environment_folder(folder: Path, version: str) -> Path:
    """Return where the environment of a LeRobot version lies."""
    return folder / f"lerobot-{version}"


def interpreter(folder: Path, version: str) -> Path:
    """Return the Python of a finished environment; ValueError names the command that makes it."""
    environment = environment_folder(folder, version)
    if not (environment / READY).is_file():
        raise ValueError(
            f"expected LeRobot {version} in {environment}, found none; make it with "
            f"`python -m benchmarks.peers.lerobot_environment {folder} --lerobot {version}`"
        )
    return environment / "bin" / "python"


def build(folder: Path, version: str, torch_index: str) -> Path:
    """Make the environment of a LeRobot version, if it is not there, and return its Python."""
    environment = environment_folder(folder, version)
    python = environment / "bin" / "python"
    if (environment / READY).is_file():
        return python
    venv.create(environment, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--constraint", str(Path(__file__).with_name(f"lerobot-{version}.txt"))]
    subprocess.run([*pip, *(["--extra-index-url", torch_index] if torch_index else []), "torch"], check=True)
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    subprocess.run([*pip, *DATASET_CODE], check=True)
    (environment / READY).touch()
    return python


def main() -> None:
    """Make one environment and print its Python."""
    parser = argparse.ArgumentParser(description="Make an environment that has LeRobot.")
    parser.add_argument("folder", type=Path, help="where the environments lie")
    parser.add_argument("--lerobot", choices=VERSIONS, default="0.4.4")
    parser.add_argument(
        "--torch-index",
        default="https://download.pytorch.org/whl/cpu",
        help="where pip looks for torch besides its usual places; '' for nowhere",
    )
    options = parser.parse_args()
    if not (3, 11) <= sys.version_info < (3, 13):
        raise SystemExit(f"expected Python 3.11 or 3.12, found {sys.version.split()[0]}")
    print(build(options.folder, options.lerobot, options.torch_index))


if __name__ == "__main__":
    main()
