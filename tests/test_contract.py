"""The contract: equal if and only if its hash is, and two that differ say in what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from pizero.contract import Contract, FieldStatistics, Statistics
from pizero.records import read_record, write_record
from pizero.robots import NAVIGATION2D, Camera, Dimension, Embodiment
from tests.examples import contract, contracts


def test_the_hash_is_of_this_text() -> None:
    """Written out by hand, so that no later version can change the meaning of a hash inside an old policy."""
    numbers = FieldStatistics(
        mean=(0.5,), std=(0.25,), minimum=(0.0,), maximum=(1.0,), q01=(0.125,), q99=(0.875,), count=10
    )
    record = Contract(
        embodiment=Embodiment(
            name="dot",
            state=(Dimension(name="x", unit="m", kind="position", low=0.0, high=1.0),),
            actions=(Dimension(name="dx", unit="m/s", kind="velocity", low=-1.0, high=1.0),),
            cameras=(Camera(name="top", height=8, width=6),),
            rate=10.0,
        ),
        image_size=8,
        max_tokens=12,
        horizon=2,
        normalization="zscore",
        statistics=Statistics(state=numbers, actions=numbers),
    )
    field = (
        '{"count":10,"floor":[],"maximum":[1.0],"mean":[0.5],"minimum":[0.0],"q01":[0.125],"q99":[0.875],"std":[0.25],'
        '"type":"FieldStatistics"}'
    )
    text = (
        '{"absent_valid":false,"action_tokens":null,"convention":"native","embodiment":{"actions":[{"high":1.0,'
        '"kind":"velocity","low":-1.0,"name":"dx","type":"Dimension","unit":"m/s"}],"cameras":[{"height":8,'
        '"name":"top","required":true,"type":"Camera","width":6}],"name":"dot","rate":10.0,'
        '"state":[{"high":1.0,"kind":"position","low":0.0,"name":"x","type":"Dimension","unit":"m"}],'
        '"type":"Embodiment"},"epsilon":1e-06,"horizon":2,"image_size":8,"instruction":"","max_tokens":12,'
        '"normalization":"zscore","padded_prompt_state":false,"prompt":"pi0","slots":[],"statistics":'
        f'{{"absolute":[],"action_form":"recorded","actions":{field},"convention":"native","horizon":1,"state":{field},"type":"Statistics"}},'
        '"tokenizer":null,"type":"Contract","width":0}'
    )
    assert json.loads(text)["type"] == "Contract"
    assert record.sha256 == hashlib.sha256(text.encode()).hexdigest()


@given(contracts(), contracts())
def test_contracts_differ_if_and_only_if_their_hashes_do(one: Contract, other: Contract) -> None:
    assert one.diff(one) == []
    assert (one.diff(other) == []) == (one.sha256 == other.sha256)


def test_a_difference_names_the_place_and_both_values() -> None:
    ours = contract()
    cameras = (Camera(name="top", height=32, width=48),)
    theirs = replace(ours, horizon=7, embodiment=replace(NAVIGATION2D, cameras=cameras))
    assert ours.diff(theirs) == ["embodiment.cameras[0].width: 32 ≠ 48", "horizon: 3 ≠ 7"]
    assert theirs.diff(ours) == ["embodiment.cameras[0].width: 48 ≠ 32", "horizon: 7 ≠ 3"]


def test_cameras_in_another_order_are_another_contract() -> None:
    two = (Camera(name="left", height=8, width=8), Camera(name="right", height=8, width=8))
    one = replace(contract(), embodiment=replace(NAVIGATION2D, cameras=two))
    other = replace(contract(), embodiment=replace(NAVIGATION2D, cameras=two[::-1]))
    assert one.sha256 != other.sha256
    assert len(one.diff(other)) == 2


def test_statistics_of_other_displacements_are_refused() -> None:
    statistics = replace(contract().statistics, action_form="displacement", horizon=4)
    with pytest.raises(ValueError, match=r"displacements over 4 actions, expected 3: .*`pizero stats`"):
        replace(contract(), statistics=statistics)
    assert replace(contract(), statistics=replace(statistics, horizon=3)).horizon == 3


def test_quantiles_that_are_not_there_are_never_made_up() -> None:
    """A checkpoint's mode stands in its contract: z-score statistics cannot serve a quantile policy."""
    whole = contract().statistics
    bare = replace(whole, actions=replace(whole.actions, q01=(), q99=()))
    replace(contract(), statistics=bare, normalization="zscore")
    with pytest.raises(ValueError, match=r"quantile normalisation of the actions .* needs q01 and q99"):
        replace(contract(), statistics=bare, normalization="quantile")


def test_statistics_of_another_size_or_convention_are_refused() -> None:
    whole = contract().statistics
    short = replace(whole, state=replace(whole.state, mean=whole.state.mean[1:]))
    with pytest.raises(ValueError, match=r"zscore normalisation of the state .* needs mean and std of"):
        replace(contract(), statistics=short, normalization="zscore")
    with pytest.raises(ValueError, match="numbers in the convention 'aloha', expected 'native'"):
        replace(contract(), statistics=replace(whole, convention="aloha"))


def test_a_statistics_file_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    write_record(path, contract().statistics)
    written = json.loads(path.read_text())
    del written["state"]["std"]
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="missing field 'std'"):
        read_record(Statistics, path)
