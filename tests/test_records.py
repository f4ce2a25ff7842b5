"""Records come back from JSON as they were, and whatever does not fit is an error that says where."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.contract import Contract
from pizero.records import canonical, differences, fingerprint, from_data, read_record, to_data, write_record
from pizero.robots import Embodiment
from pizero.training.config import TrainConfig
from tests.examples import contract, contracts, embodiments, train_configs


@dataclass(frozen=True, kw_only=True)
class Wheel:
    radius: float
    spokes: int = 8


@dataclass(frozen=True, kw_only=True)
class Track:
    length: float


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    name: str
    drive: Wheel | Track
    spare: Wheel | None = None
    wheels: tuple[Wheel, ...] = ()
    color: Literal["red", "green"] = "red"
    electric: bool = False
    notes: dict[str, str] | None = None


CAR = Vehicle(
    name="car",
    drive=Wheel(radius=0.5),
    spare=Wheel(radius=0.4),
    wheels=(Wheel(radius=1.0),),
    notes={"a": "b"},
)

JSON_OF_CAR = (
    '{"color":"red","drive":{"radius":0.5,"spokes":8,"type":"Wheel"},"electric":false,"name":"car",'
    '"notes":{"a":"b"},"spare":{"radius":0.4,"spokes":8,"type":"Wheel"},"type":"Vehicle",'
    '"wheels":[{"radius":1.0,"spokes":8,"type":"Wheel"}]}'
)


def through_json(record: Any) -> Any:
    return json.loads(json.dumps(to_data(record)))


@given(contracts())
def test_a_contract_survives_json(record: Contract) -> None:
    assert from_data(Contract, through_json(record)) == record


@given(train_configs())
def test_a_training_config_survives_json(record: TrainConfig) -> None:
    assert from_data(TrainConfig, through_json(record)) == record


@given(record=train_configs())
def test_a_record_survives_a_file(record: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("records")
    write_record(folder / "config.json", record)
    assert read_record(TrainConfig, folder / "config.json") == record
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_the_canonical_text_is_this() -> None:
    """Fingerprints are compared across machines and versions, so the text must never change."""
    assert canonical(CAR) == JSON_OF_CAR
    assert fingerprint(CAR) == hashlib.sha256(JSON_OF_CAR.encode()).hexdigest()


@given(contracts(), contracts())
def test_fingerprints_are_equal_if_and_only_if_records_are(one: Contract, other: Contract) -> None:
    assert fingerprint(from_data(Contract, through_json(one))) == fingerprint(one)
    assert (fingerprint(one) == fingerprint(other)) == (to_data(one) == to_data(other))


def leaves(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every number and text of some data."""
    if isinstance(data, dict):
        return [leaf for key in data if key != "type" for leaf in leaves(data[key], (*path, key))]
    if isinstance(data, list):
        return [leaf for index, item in enumerate(data) for leaf in leaves(item, (*path, index))]
    return [path]


def parent_of(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


@given(embodiments(), st.data())
def test_changing_any_one_value_changes_the_fingerprint_and_is_named(
    record: Embodiment, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(leaves(to_data(record))))
    changed = through_json(record)
    parent, key = parent_of(changed, path), path[-1]
    old = parent[key]
    if isinstance(old, str):
        parent[key] = old + " (other)" if key != "kind" else "joint" if old == "position" else "position"
    elif isinstance(old, bool):
        parent[key] = not old
    else:
        parent[key] = old - 2 if key == "low" else old + 2
    other = from_data(Embodiment, changed)
    assert fingerprint(other) != fingerprint(record)
    lines = differences(to_data(record), to_data(other))
    assert len(lines) == 1
    assert lines[0] == f"{_spelled(path)}: {old!r} ≠ {parent[key]!r}"


def _spelled(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


@given(embodiments(), st.data())
def test_a_missing_value_is_named(record: Embodiment, data: st.DataObject) -> None:
    broken = through_json(record)
    needed = [path for path in leaves(broken) if isinstance(path[-1], str) and path[-1] != "required"]
    path = data.draw(st.sampled_from(needed))
    del parent_of(broken, path)[path[-1]]
    with pytest.raises(ValueError, match=f"missing field '{path[-1]}'") as caught:
        from_data(Embodiment, broken)
    assert _spelled(path[:-1]) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nmae",), "x", "Vehicle: unknown field 'nmae': did you mean 'name'? Known: color, drive, electric"),
        (
            ("drive", "spoke"),
            3,
            "drive: unknown field 'spoke': did you mean 'spokes'? Known: radius, spokes.",
        ),
        (("name",), 3, "name: expected str, found 3"),
        (("drive",), 3, "drive.type: None is not known: Known: Track, Wheel."),
        (("drive", "type"), "Weel", "drive.type: 'Weel' is not known: did you mean 'Wheel'?"),
        (("drive", "radius"), "wide", "drive.radius: expected float, found 'wide'"),
        (("drive", "radius"), True, "drive.radius: expected float, found True"),
        (("drive", "radius"), None, "drive.radius: expected float, found None"),
        (("drive", "spokes"), 8.5, "drive.spokes: expected int, found 8.5"),
        (("drive", "spokes"), True, "drive.spokes: expected int, found True"),
        (("wheels", 0, "spokes"), "8", "wheels[0].spokes: expected int, found '8'"),
        (("wheels", 0), 8, "wheels[0]: expected an object with the fields of Wheel, found 8"),
        (("wheels",), {"radius": 1.0}, "wheels: expected a list, found {'radius': 1.0}"),
        (("spare",), [], "spare: expected an object with the fields of Wheel, found []"),
        (("color",), "rde", "color: expected one of 'red', 'green', found 'rde'"),
        (("electric",), 1, "electric: expected bool, found 1"),
        (("notes", "a"), 1, "notes.a: expected str, found 1"),
        (("notes",), ["a"], "notes: expected an object, found ['a']"),
        (("type",), "Boat", "Vehicle: expected a Vehicle, found a Boat"),
        (("spare", "type"), "Track", "spare: expected a Wheel, found a Track"),
    ],
    ids=lambda value: str(value),
)
def test_what_does_not_fit_is_named(path: tuple[str | int, ...], value: Any, message: str) -> None:
    data = through_json(CAR)
    parent_of(data, path)[path[-1]] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        from_data(Vehicle, data)
    assert str(caught.value).startswith(message)


def test_a_whole_number_is_a_float_where_one_is_expected() -> None:
    wheel = from_data(Wheel, {"radius": 2})
    assert wheel == Wheel(radius=2.0)
    assert isinstance(wheel.radius, float)


def test_data_that_is_read_is_not_changed() -> None:
    data = through_json(CAR)
    before = copy.deepcopy(data)
    from_data(Vehicle, data)
    assert data == before


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_not_written(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(Wheel(radius=number))
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "wheel.json", Wheel(radius=number))
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the file .*absent\.json, found none"):
        read_record(Wheel, tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"radius": 1')
    with pytest.raises(ValueError, match=r"cut\.json is not JSON"):
        read_record(Wheel, tmp_path / "cut.json")
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(ValueError, match=r"latin\.json is not JSON"):
        read_record(Wheel, tmp_path / "latin.json")
    (tmp_path / "other.json").write_text('{"diameter": 1.0}')
    with pytest.raises(ValueError, match=r"other\.json: Wheel: unknown field 'diameter'"):
        read_record(Wheel, tmp_path / "other.json")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, CAR)
    with pytest.raises(TypeError):
        write_record(path, replace(CAR, notes={"a": object()}))
    assert read_record(Vehicle, path) == CAR


def test_differences_name_what_one_side_lacks() -> None:
    ours, theirs = to_data(contract()), to_data(contract())
    del theirs["image_size"]
    theirs["extra"] = 1
    assert differences(ours, theirs) == ["image_size: 16 ≠ '(absent)'", "extra: '(absent)' ≠ 1"]
    assert differences(ours, ours) == []
