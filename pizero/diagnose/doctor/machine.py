"""What this machine can do: Python and packages, processor, memory, disk, GPU, video codecs, drawing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from pizero.data.video import FFmpegError, decode_video, encode_video
from pizero.diagnose.doctor.findings import Finding, Findings, in_order, several

EXTRAS: dict[str, tuple[str, ...]] = {
    "orbax": ("tensorstore", "zstandard"),
    "metaworld": ("metaworld", "mujoco"),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LITTLE_MEMORY, LITTLE_DISK = 4 << 30, 5 << 30
"""Bytes. A run of the small recipe takes about 2 GB of memory, and with its dataset about as much of disk."""
DRAWING_SECONDS = 60
DRAWING = """
import mujoco
scene = "<worldbody><light pos='0 0 3'/><geom size='.2'/></worldbody>"
model = mujoco.MjModel.from_xml_string(f"<mujoco>{scene}</mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
raise SystemExit(0 if picture.max() > picture.min() else "the picture is of one colour")
"""
"""Draws a ball; it runs in a process of its own, for a driver that fails takes the process with it."""


def examine_machine(folder: Path, *, drawing: bool = True) -> tuple[Finding, ...]:
    """Return all that is found about this machine, the gravest first; `folder` is where disk space is wanted.

    Two frames are written and read back with each codec in a temporary folder, and `drawing` tries a
    simulator's renderer in another process.
    """
    findings = Findings()
    installed = {normalised(one.metadata["Name"] or ""): one.version for one in metadata.distributions()}
    findings.add("machine", platform.node() or "machine", _described(), "")
    check_packages(installed, findings)
    _check_gpu(findings)
    if not _has_bfloat16():
        findings.add(
            "no-bfloat16",
            platform.machine(),
            "the processor has no bfloat16 instructions",
            "models compute in float32 here, or slowly",
        )
    _check_space(folder, findings)
    check_threads(os.environ, os.cpu_count() or 1, findings)
    for codec in ("h264", "av1"):
        _check_codec(codec, findings)
    if drawing and "mujoco" in installed:
        _check_drawing(findings)
    return in_order(findings.found)


def normalised(name: str) -> str:
    """Return a package's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def check_packages(
    installed: Mapping[str, str], findings: Findings, *, required: Iterable[str] | None = None
) -> None:
    """Compare what is installed with what is required, and look for combinations that do not work.

    `required` are PEP 508 lines, by default those of the installed pizero.
    """
    if required is None and "pizero" not in installed:
        findings.add(
            "packages-not-checked", "pizero", "it runs without being installed", "pip install pizero"
        )
        required = ()
    for line in metadata.requires("pizero") or [] if required is None else required:
        requirement, _, marker = line.partition(";")
        name = normalised(re.split(r"[\s<>=!~\[(]", requirement.strip())[0])
        if marker.strip():
            continue
        least = re.search(r">=\s*([\d.]+)", requirement)
        if name not in installed:
            findings.add(
                "package-missing", name, "it is not installed", f"pip install '{requirement.strip()}'"
            )
        elif least and version_of(installed[name]) < version_of(least.group(1)):
            findings.add(
                "package-too-old",
                name,
                f"{installed[name]}, needed is {least.group(1)}",
                f"pip install '{requirement.strip()}'",
            )
    for extra, names in EXTRAS.items():
        missing = [name for name in names if name not in installed]
        if missing:
            findings.add(
                "extra-missing", extra, f"{several(missing)} not installed", f"pip install 'pizero[{extra}]'"
            )
    for names, reason, advice in COMBINATIONS:
        if all(
            name in installed and least <= version_of(installed[name]) < below for name, least, below in names
        ):
            shown = several(f"{name} {installed[name]}" for name, _, _ in names)
            findings.add("package-combination", shown, reason, advice)


COMBINATIONS: tuple[tuple[tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...], str, str], ...] = (
    (
        (("numpy", (2,), (99,)), ("torch", (1,), (2, 3))),
        "this PyTorch was built for NumPy 1 and cannot exchange arrays with NumPy 2",
        "pip install -U torch",
    ),
    (
        (("numpy", (2,), (99,)), ("pyarrow", (1,), (16,))),
        "this pyarrow was built for NumPy 1",
        "pip install -U pyarrow",
    ),
    (
        (("metaworld", (3, 1), (3, 2)), ("mujoco", (3, 3, 1), (99,))),
        "Meta-World 3.1 is written for mujoco 3.3.0",
        "pip install 'pizero[metaworld]'",
    ),
)
"""Packages with the versions (from, below) that do not work together, why, and what to do."""


def check_threads(environment: Mapping[str, str], num_cores: int, findings: Findings) -> None:
    """Compare the settings of numeric libraries with the number of cores."""
    for name in THREAD_VARIABLES:
        value = environment.get(name, "")
        if value.isdigit() and int(value) > num_cores:
            findings.add(
                "threads-oversubscribed",
                name,
                f"{value} threads on {num_cores} cores",
                f"set {name}={num_cores}",
            )


def _described() -> str:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    memory = f", {_memory() / 2**30:.0f} GB of memory" if _memory() else ""
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores{memory}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__} {cuda}, "
        f"{torch.get_num_threads()} threads"
    )


def _memory() -> int:
    """Return the bytes of memory, or 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _has_bfloat16() -> bool:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.machine() == "arm64"
    words = set(path.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def _check_gpu(findings: Findings) -> None:
    if not torch.cuda.is_available():
        what = "no CUDA device that PyTorch can use"
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            what = "there is an NVIDIA driver, but this PyTorch is built without CUDA"
        findings.add(
            "no-gpu", "GPU", what, "small models train on a CPU; for large ones install PyTorch with CUDA"
        )
        return
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        try:
            ones = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
            works = float((ones @ ones)[0, 0]) == 64.0
            reason = "it computes wrongly"
        except RuntimeError as error:
            works, reason = False, str(error).splitlines()[0]
        if works:
            findings.add("machine", f"cuda:{index}", f"{name}, {free >> 30} of {total >> 30} GB free", "")
        else:
            findings.add(
                "gpu-unusable", f"cuda:{index}", f"{name}: {reason}", "install a PyTorch for this GPU"
            )


def _check_space(folder: Path, findings: Findings) -> None:
    memory, disk = _memory(), shutil.disk_usage(folder).free
    if 0 < memory < LITTLE_MEMORY:
        findings.add("memory-low", "memory", f"{memory / 2**30:.1f} GB", "train with a smaller batch")
    if disk < LITTLE_DISK:
        findings.add(
            "disk-full", folder, f"{disk / 2**30:.1f} GB are free", "a run and its dataset need about 5 GB"
        )


def _check_codec(codec: str, findings: Findings) -> None:
    """Write a few frames and read them back; the middle of the picture must keep its colour."""
    frames = [np.full((64, 64, 3), (200, 20 * index, 40), np.uint8) for index in range(4)]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "try.mp4"
        try:
            encode_video(path, frames, fps=10, codec="h264" if codec == "h264" else "av1")
            back = list(decode_video(path))
        except (FFmpegError, ValueError, OSError) as error:
            code = "codec-broken" if codec == "h264" else "codec-missing"
            findings.add(code, codec, str(error), "pip install -U av")
            return
    away = [
        int(np.abs(one.astype(int)[32, 32] - two[32, 32]).max())
        for one, two in zip(frames, back, strict=False)
    ]
    if len(back) != len(frames) or max(away) > 40:
        findings.add(
            "codec-broken",
            codec,
            f"{len(back)} frames came back, {max(away)} levels away",
            "pip install -U av",
        )


def _check_drawing(findings: Findings) -> None:
    """Draw in another process, as the simulators do it: by `MUJOCO_GL`, or EGL where there is no screen."""
    has_screen = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    backend = os.environ.get("MUJOCO_GL", "" if has_screen else "egl")
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRAWING],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DRAWING_SECONDS,
            check=False,
        )
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
        works = done.returncode == 0
    except subprocess.TimeoutExpired:
        works, reason = False, f"no picture after {DRAWING_SECONDS} s"
    if not works:
        findings.add(
            "rendering-broken",
            f"MUJOCO_GL={backend}",
            reason,
            "on Debian or Ubuntu install `libegl1 libgl1-mesa-dri libopengl0` and set MUJOCO_GL=egl",
        )
