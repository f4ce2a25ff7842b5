"""Executors give every result, keep few jobs under way, and neither hang nor go on when something breaks."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.recordings.executor import Executor, ProcessExecutor, SerialExecutor
from pizero.recordings.fields import Writing
from pizero.recordings.importing import import_recordings
from pizero.recordings.layouts import RecordingLayout
from pizero.recordings.ray_executor import RayExecutor
from tests.recordings.recorded import TableSource

PNG = Writing(pictures="image")
LAYOUT = RecordingLayout(name="table", state=("state",), action=("action",), fps=10.0)


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise ValueError("not three")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(path: str) -> str:
    """Kill this process the first time that it is asked."""
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


def where(_: int) -> tuple[int, bool, bool]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return os.getpid(), ignored, "torch" in sys.modules


class DyingSource(TableSource):
    """Kills the process that reads episode c, if it is not the one that made the source."""

    def __init__(self) -> None:
        super().__init__({"a": 1, "b": 2, "c": 3, "d": 4}, LAYOUT)
        self.home = os.getpid()

    def read(self, key: str):
        if key == "c" and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(key)


def contents_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert len(paths) >= 6
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayExecutor]:
    ray = pytest.importorskip("ray")
    previous = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), previous]))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield RayExecutor(2)
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if previous is not None:
        os.environ["PYTHONPATH"] = previous


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)], ids=["serial", "processes"])
def test_every_result_comes_once(executor: Executor) -> None:
    assert sorted(executor.run(square, range(20))) == [number * number for number in range(20)]
    assert list(executor.run(square, [])) == []


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)], ids=["serial", "processes"])
def test_an_error_of_a_job_is_raised(executor: Executor) -> None:
    with pytest.raises(ValueError, match="not three"):
        list(executor.run(refuse_three, range(100)))


def test_only_a_few_jobs_are_taken_ahead() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    most = max(len(taken) - number for number, _ in enumerate(ProcessExecutor(2).run(square, jobs())))
    assert len(taken) == 50
    assert most <= 2 * (2 * 2)  # as many under way as are done and not yet taken


def test_a_killed_worker_is_one_clear_error_and_no_hang() -> None:
    with pytest.raises(RuntimeError, match=r"ended from outside.*fewer --workers"):
        list(ProcessExecutor(2).run(die_at_three, range(100)))
    assert [thread for thread in threading.enumerate() if "Executor" in thread.name] == []


def test_workers_are_other_processes_without_torch_that_leave_the_keyboard_to_us() -> None:
    ((process, ignored, has_torch),) = ProcessExecutor(1).run(where, [0])
    assert process != os.getpid()
    assert ignored
    assert not has_torch


def test_workers_end_with_a_parent_that_is_killed() -> None:
    """All of them hold the pipe: it ends when the last is gone, long before the jobs would be done."""
    lines = (
        "import os, time",
        "from pizero.recordings.executor import ProcessExecutor",
        "if __name__ == '__main__':",
        "    for _ in ProcessExecutor(2).run(time.sleep, [0, 3600, 3600, 3600]):",
        "        print('begun', flush=True)",
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "main.py"
        script.write_text("\n".join(lines))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker, found 0"):
        ProcessExecutor(0)


def test_an_import_by_processes_is_an_import(tmp_path: Path) -> None:
    source = TableSource({str(number): number for number in range(6)}, LAYOUT)
    for name, executor in (("serial", SerialExecutor()), ("processes", ProcessExecutor(2))):
        import_recordings(source, tmp_path / name, executor, format_name="table", writing=PNG)
    assert contents_of(tmp_path / "serial") == contents_of(tmp_path / "processes")


def test_an_import_whose_worker_is_killed_goes_on_later(tmp_path: Path) -> None:
    folder, source = tmp_path / "dataset", DyingSource()
    with pytest.raises(RuntimeError, match="what is finished is kept"):
        import_recordings(source, folder, ProcessExecutor(1), format_name="table", writing=Writing())
    assert not folder.exists()
    summary = import_recordings(source, folder, SerialExecutor(), format_name="table", writing=Writing())
    assert summary.kept == 2
    assert len(LeRobotDataset.open(folder).episodes) == 4


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pizero\[ray\]'"):
        list(RayExecutor(1).run(square, [1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_every_result_and_raises_what_a_job_raises(ray_cluster: RayExecutor) -> None:
    assert sorted(ray_cluster.run(square, range(12))) == [number * number for number in range(12)]
    with pytest.raises(ValueError, match="not three"):
        list(ray_cluster.run(refuse_three, range(8)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_does_a_job_again_whose_worker_was_killed(ray_cluster: RayExecutor, tmp_path: Path) -> None:
    assert list(ray_cluster.run(die_once, [str(tmp_path / "mark")])) == ["second time"]
    with pytest.raises(RuntimeError, match="ended from outside"):
        list(ray_cluster.run(die_at_three, [3]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_import_by_ray_is_an_import(ray_cluster: RayExecutor, tmp_path: Path) -> None:
    source = TableSource({str(number): number for number in range(4)}, LAYOUT)
    for name, executor in (("serial", SerialExecutor()), ("ray", ray_cluster)):
        import_recordings(source, tmp_path / name, executor, format_name="table", writing=PNG)
    assert contents_of(tmp_path / "serial") == contents_of(tmp_path / "ray")
