"""The guide to flow matching against the studies' own files: numbers, claims, figures, commands and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.studies.quotes import QUOTE, Studies, agrees, prose

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "flow-matching.md"
STUDIES = Studies(ROOT / "docs" / "images" / "flow")
TEXT = GUIDE.read_text(encoding="utf-8")
read, look_up = STUDIES.read, STUDIES.look_up


def test_every_quoted_number_is_the_study_s() -> None:
    quotes = list(QUOTE.finditer(TEXT))
    assert len(quotes) > 60
    assert [line for quote in quotes for line in STUDIES.wrong(quote)] == []


@pytest.mark.parametrize(
    "text",
    [
        "0.06<!--navigation/flow matching/distance-->",
        "0.05 (0.04–0.07)<!--navigation/flow matching/distance-->",
        "0.05 %<!--navigation/flow matching/distance-->",
        "−0.05<!--navigation/flow matching/distance-->",
    ],
)
def test_a_wrong_number_is_found(text: str) -> None:
    """The distance is 0.0534 (0.0447 to 0.0621)."""
    (quote,) = QUOTE.finditer(text)
    assert STUDIES.wrong(quote)


def test_a_quote_is_taken_apart() -> None:
    text = "about −1,234.5 % (−2,000–3.25 %)<!--a/b c/0-->"
    (quote,) = QUOTE.finditer(text)
    assert quote.groupdict() == {
        "value": "−1,234.5",
        "percent": " %",
        "low": "−2,000",
        "high": "3.25",
        "place": "a/b c/0",
    }
    assert agrees("−1,234.5", -1234.46, percent=False)
    assert not agrees("−1,234.5", -1234.44, percent=False)
    assert agrees("12", 0.1249, percent=True)


def test_no_comment_is_left_without_a_number() -> None:
    assert TEXT.count("<!--") == len(list(QUOTE.finditer(TEXT)))


def test_every_measured_number_names_its_source() -> None:
    """Whatever has a decimal point, a % or a × in the prose is a measurement, and measurements are quoted."""
    assert re.findall(r"\d+\.\d+[^\n]{0,30}|\d+ ?[%×][^\n]{0,30}", prose(TEXT)) == []
    assert re.findall(r"\d+\.\d+", prose("It is 0.05 here, `0.06` there."))


@pytest.mark.parametrize("path", sorted(STUDIES.folder.glob("*.json")), ids=lambda path: path.stem)
def test_every_figure_is_shown_with_its_command(path: Path) -> None:
    shown = TEXT.index(f"](images/flow/{path.stem}.png)")
    command = TEXT.index(f"python -m studies.toys.{path.stem} docs/images/flow", shown)
    assert TEXT.count("![", shown, command) <= 1
    assert (ROOT / "studies" / "toys" / f"{path.stem}.py").exists()


def test_links_lead_somewhere_and_names_are_there() -> None:
    """A link whose text is code names something that the file defines."""
    links = re.findall(r"\[(`?)([^\]]*?)`?\]\(([^)#]+)\)", TEXT)
    assert len(links) > 30
    for code, name, target in links:
        if target.startswith("http"):
            continue
        path = GUIDE.parent / target
        assert path.exists(), target
        if code and path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
            for part in name.split("."):
                assert re.search(rf"^\s*(?:def|class) {part}\b|^{part}\b.* =", source, re.MULTILINE), name


def high(place: str) -> float:
    return look_up(place)["interval"][1]


def low(place: str) -> float:
    return look_up(place)["interval"][0]


FIELDS = ("eight Gaussians, exact", "checkerboard, learnt")


def gap(field: str, solver: str, evaluations: int) -> float:
    """Return how much further a solver's samples are from the data than those of Euler's method."""
    rows = read("solvers_and_steps")["fields"][field]["solvers"]
    ours, euler = (rows[name][str(evaluations)]["distance"]["mean"] for name in (solver, "euler"))
    return ours - euler


def error_at(density: str, time: str) -> float:
    return look_up(f"time_density/targets/eight Gaussians/{density}/error_by_time/{time}")["mean"]


FD = "flow_and_diffusion/tasks"
"""Where flow and diffusion are compared."""

CLAIMS = {
    "a squared error collides, the flow and diffusion of the velocity hardly": lambda: (
        high("navigation/flow matching/collisions")
        < high("navigation/diffusion of velocity/collisions")
        < 0.05
        < 1.0
        == look_up("navigation/squared error/collisions")["mean"]
    ),
    "the flow goes left about as often as the expert": lambda: (
        abs(
            look_up("navigation/flow matching/left_of_those_that_pass")["mean"]
            - look_up("navigation/data_left")
        )
        < 0.03
    ),
    "the cloud is never further from the probability path than chance": lambda: (
        max(row["mean"] for row in look_up("navigation/distance_to_the_probability_path").values())
        == look_up("navigation/distance_to_the_probability_path/1.0")["mean"]
    ),
    "five to ten times faster than diffusion of the noise, and slower than that of the velocity": lambda: (
        low(f"{FD}/navigation/equal_quality/diffusion of noise/times_the_flow") > 5
        and high(f"{FD}/navigation/equal_quality/diffusion of velocity/times_the_flow") < 1
    ),
    "the flow's paths are longer than diffusion's on the checkerboard": lambda: (
        high(f"{FD}/checkerboard/diffusion of velocity/length_over_distance")
        < high(f"{FD}/checkerboard/diffusion of noise/length_over_distance")
        < low(f"{FD}/checkerboard/flow/length_over_distance")
    ),
    "nothing beats the flow in five to fifty evaluations": lambda: all(
        high(f"{FD}/{task}/diffusion_minus_flow/{method}/{steps}") > 0
        for task in ("checkerboard", "navigation")
        for method in ("diffusion of noise", "diffusion of velocity")
        for steps in (5, 10, 20, 50)
    ),
    "the naive coupling does not get better with steps, the conditional one is unbiased": lambda: (
        low("couplings/minus_independent/naive/20") > 0.2
        and high("couplings/minus_independent/conditional/20") < 0.02
        and look_up("couplings/couplings/naive/steps/20/per_class")["mean"]
        > look_up("couplings/couplings/naive/steps/1/per_class")["mean"]
    ),
    "in two evaluations Heun is behind Euler, in four it depends, in twenty nobody sees it": lambda: (
        all(gap(field, "heun", 2) > 0 for field in FIELDS)
        and gap("eight Gaussians, exact", "heun", 4) > 0 > gap("checkerboard, learnt", "heun", 4)
        and all(abs(gap(field, "heun", 20)) < 0.01 for field in FIELDS)
    ),
    "midpoint is better than Heun at two and four evaluations on the learnt field": lambda: all(
        gap("checkerboard, learnt", "midpoint", n) < gap("checkerboard, learnt", "heun", n) for n in (2, 4)
    ),
    "Beta errs least next to the noise, most next to the actions": lambda: (
        error_at("Beta(1.5, 1)", "0.975") < error_at("uniform", "0.975") < error_at("logit-normal", "0.975")
        and error_at("Beta(1.5, 1)", "0.125")
        > max(error_at("uniform", "0.125"), error_at("logit-normal", "0.125"))
        and error_at("Beta(1.5, 1)", "0.125") > 100 * error_at("Beta(1.5, 1)", "0.975")
    ),
    "uniform times are better on the eight Gaussians and the checkerboard, the chunks do not tell": lambda: (
        high("time_density/targets/eight Gaussians/minus_beta/uniform/10") < 0
        and high("time_density/targets/checkerboard/minus_beta/uniform/10") < 0
        and low("time_density/targets/navigation/minus_beta/uniform/10")
        < 0
        < high("time_density/targets/navigation/minus_beta/uniform/10")
    ),
    "reflow and distillation in one step reach the flow in sixteen or nearly": lambda: all(
        high(f"one_step/tasks/{task}/one_step_minus_flow_in_16/{method}") < 0.02
        for task in ("checkerboard", "navigation")
        for method in ("reflow", "consistency")
    ),
    "one step of plain flow matching is never enough": lambda: all(
        low(f"one_step/tasks/{task}/one_step_minus_flow_in_16/flow") > 0.4
        for task in ("checkerboard", "navigation")
    ),
    "bins jitter, FAST blurs": lambda: all(
        low(f"discretised/kinds/{kind}/bins/256/roughness")
        > 2 * high(f"discretised/kinds/{kind}/FAST/10.0/roughness")
        and low(f"discretised/kinds/{kind}/FAST/10.0/error")
        > 3 * high(f"discretised/kinds/{kind}/bins/256/error")
        for kind in ("smooth reach", "fine circle")
    ),
    "a learnt flow errs more than 256 bins, and less than learnt bins": lambda: all(
        high(f"discretised/kinds/{kind}/bins/256/error")
        < low(f"discretised/kinds/{kind}/learnt flow/error")
        < high(f"discretised/kinds/{kind}/learnt flow/error")
        < low(f"discretised/kinds/{kind}/learnt bins/error")
        for kind in read("discretised")["kinds"]
    ),
    "normalising again costs a tenth of the error": lambda: all(
        high(f"discretised/kinds/fine circle, relative/{form}/error")
        < 0.1 * look_up(f"discretised/kinds/fine circle/{form}/error")["mean"]
        for form in ("learnt flow", "learnt bins", "bins/256", "FAST/10.0")
    ),
    "scale 1 draws from the class": lambda: look_up("guidance/scale_of_the_least_distance") == 1.0,
    "guidance narrows more than the sharpened density, learnt guidance more still": lambda: (
        look_up("guidance/learnt/5.0/diversity")["mean"]
        < look_up("guidance/exact/5.0/diversity")["mean"]
        < low("guidance/sharpened/5.0/diversity")
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_the_guide_says_in_words_follows_from_the_numbers(claim: str) -> None:
    assert CLAIMS[claim]()
