"""Ways are compared scene by scene: by hand, on episodes that were made up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from studies.paired_latency import LATENCIES, against, main
from studies.real_time_chunking import Outcome


def row(successes: list[bool]) -> list[Outcome]:
    given = {"task": "reach", "steps": 9, "held": 0, "seams": (), "inside": (), "jerk": 0.0}
    return [Outcome(index=index, success=success, **given) for index, success in enumerate(successes)]


def test_scenes_that_differ_the_same_way_leave_no_doubt_and_mixed_ones_do() -> None:
    never, always = row([False] * 20), row([True] * 20)
    found = against({4: always, 6: never}, {4: never, 6: never})
    assert (found["difference"], found["scenes"]) == (0.5, 20)
    assert found["interval_95%"] == [0.5, 0.5]
    mixed = against({4: row([True, False] * 10)}, {4: row([False, True] * 10)})
    assert mixed["difference"] == 0.0
    low, high = mixed["interval_95%"]
    assert low == pytest.approx(-0.44, abs=0.1)  # a mean of 20 signs: 1.96 / sqrt(20)
    assert high == pytest.approx(0.44, abs=0.1)


def test_scenes_that_one_of_them_lacks_do_not_count() -> None:
    assert (
        against({4: row([True] * 3), 6: row([True] * 2)}, {4: row([False] * 3), 6: row([False] * 3)})[
            "scenes"
        ]
        == 2
    )


def test_files_are_read_and_missing_ones_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="expected episodes of 'naive'"):
        main([str(tmp_path)])
    (tmp_path / "episodes").mkdir()
    for way, success in (("naive", False), ("guided_identity", True)):
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in row([success] * 3))
        for latency in LATENCIES:
            (tmp_path / "episodes" / f"{way}-{latency}.jsonl").write_text(lines, encoding="utf-8")
    main([str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["guided identity"]
    assert found["guided identity"]["difference"] == 1.0
