"""What ships: the fastest variant that passes; else the unoptimized model when it is correct; else nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ortforge.api.wording import STATUSES
from ortforge.portable.statuses import CORRECT
from ortforge.report.ships import best_per_model, what_ships

from .report_sample import sample_report

PLAIN = "m/none@stock:cpu/here"


def variant(recipe: str, status: str, ratio: float | None = None, *, half: float = 0.01, **more: Any) -> dict[str, Any]:
    timing = None
    if ratio is not None:
        outcome = "baseline" if recipe == "none" else "faster" if ratio > 1.03 else "slower" if ratio < 0.97 else "same"
        timing = {"ratio": ratio, "low": ratio - half, "high": ratio + half, "outcome": outcome, "noise": 0.03}
        timing["baseline"] = "" if recipe == "none" else PLAIN
    place = {"model": "m", "target": "stock", "ep": "cpu", "device": "here"}
    cell = {
        "id": f"m/{recipe}@stock:cpu/here",
        "recipe": recipe,
        "status": status,
        "reasons": ["Why."],
        "timing": timing,
    }
    return {**place, **cell, "bytes": 1000, "load_s": 0.04, **more}


def shipped(*cells: dict[str, Any]) -> tuple[str | None, str]:
    (entry,) = what_ships({"cells": list(cells)})["m"]
    return entry["cell"], entry["why"]


def test_the_fastest_variant_that_passes_ships() -> None:
    cell, why = shipped(
        variant("none", "pass", 1.0),
        variant("int8", "pass", 1.83),
        variant("fp16", "pass", 1.2),
        variant("static", "inaccurate", 2.2),
    )
    assert cell == "m/int8@stock:cpu/here"
    assert "fastest of 3" in why
    assert "1.83" in why


def test_the_unoptimized_model_ships_when_no_recipe_passes() -> None:
    cell, why = shipped(variant("none", "pass", 1.0), variant("int8", "inaccurate", 2.0))
    assert cell == PLAIN
    assert '"int8" inaccurate' in why


def test_an_unoptimized_model_that_is_slower_than_another_runtime_is_still_correct_here() -> None:
    assert shipped(variant("none", "slower", 1.0), variant("int8", "crashed"))[0] == PLAIN


def test_a_passing_variant_slower_than_the_unoptimized_model_does_not_ship() -> None:
    cell, why = shipped(variant("none", "slower", 1.0), variant("int4", "pass", 0.6))
    assert cell == PLAIN
    assert "faster than every recipe that passes" in why


def test_nothing_ships_and_it_says_why() -> None:
    cell, why = shipped(variant("none", "crashed"), variant("int8", "blocked"))
    assert cell is None
    assert '"none" crashed, "int8" blocked' in why
    cell, why = shipped(variant("none", "unsupported"))
    assert (cell, why) == (None, "Unsupported. Why.")


def test_of_a_run_without_the_unoptimized_model_it_is_said_that_this_would_ship() -> None:
    absent = "The unoptimized model, which ships in place of what gains nothing, is not among the cells of this run."
    assert shipped(variant("int8", "slower", 0.8)) == (None, f"Slower. Why. {absent}")
    many = shipped(variant("int8", "slower", 0.8, reasons=["So."]), variant("fp16", "inaccurate", 1.0))
    assert many == (None, f'No variant passes here: "int8" slower, "fp16" inaccurate. {absent}')
    assert shipped(variant("int8", "inaccurate", 2.0)) == (None, "Inaccurate. Why.")
    assert absent not in shipped(variant("none", "inaccurate", 1.0), variant("int8", "slower", 0.8))[1]


def test_of_variants_whose_speed_cannot_be_told_apart_the_smallest_ships() -> None:
    large = variant("fp16", "pass", 1.52, half=0.05)
    small = variant("int8", "pass", 1.50, half=0.05, bytes=500)
    (entry,) = what_ships({"cells": [variant("none", "pass", 1.0), large, small]})["m"]
    assert entry["cell"] == small["id"]
    assert entry["equals"] == [large["id"]]
    assert "cannot be told" in entry["why"]
    assert "smallest" in entry["why"]


def test_of_equals_of_one_size_the_quickest_to_load_ships_and_else_the_unoptimized_one() -> None:
    plain = variant("none", "pass", 1.0)
    assert shipped(plain, variant("saved", "pass", 1.01, load_s=0.012))[0] == "m/saved@stock:cpu/here"
    assert shipped(plain, variant("saved", "pass", 1.01, load_s=0.041))[0] == PLAIN


def test_without_timings_a_passing_variant_still_ships() -> None:
    assert shipped(variant("none", "crashed"), variant("int8", "pass"))[0] == "m/int8@stock:cpu/here"


def test_without_timings_no_variant_is_called_faster() -> None:
    cell, why = shipped(variant("none", "pass"), variant("int8", "pass", bytes=500))
    assert cell == "m/int8@stock:cpu/here"
    assert "nothing was timed" in why
    assert "smallest" in why


def test_each_runtime_of_each_model_gets_its_own_answer() -> None:
    ships = what_ships(sample_report())
    assert [entry["cell"] for entry in ships["minilm"]] == ["minilm/int8@stock:cpu/here"]
    assert [(entry["target"], entry["cell"] is None) for entry in ships["silero-vad"]] == [
        ("stock", False),
        ("openvino", True),
        ("gpu", True),
    ]
    assert all(entry["why"] for entries in ships.values() for entry in entries)


VARIANTS = st.lists(
    st.tuples(st.sampled_from(STATUSES), st.none() | st.floats(0.1, 10), st.floats(0, 0.09), st.integers(1, 10**9)),
    min_size=1,
    max_size=6,
)


@given(VARIANTS)
def test_only_correct_cells_ever_ship(drawn: list[tuple[str, float | None, float, int]]) -> None:
    recipes = ["none", "a", "b", "c", "d", "e"]
    cells = [
        variant(recipe, status, ratio, half=half, bytes=size)
        for recipe, (status, ratio, half, size) in zip(recipes, drawn, strict=False)
    ]
    cell, why = shipped(*cells)
    by_id = {entry["id"]: entry for entry in cells}
    assert why
    correct = [
        entry
        for entry in cells
        if entry["status"] == "pass" or (entry["recipe"] == "none" and entry["status"] in CORRECT)
    ]
    assert (cell is None) == (not correct)
    assert cell is None or by_id[cell] in correct


def test_a_recipe_not_shown_to_gain_does_not_replace_the_unoptimized_model_and_is_named() -> None:
    cells = [variant("none", "pass", 1.0), variant("int8", "undecided", 1.3, half=0.6, bytes=250)]
    (entry,) = what_ships({"cells": cells})["m"]
    assert entry["cell"] == PLAIN
    assert entry["alternatives"] == ["m/int8@stock:cpu/here"]
    assert 'Correct, not shown to be faster here: "int8".' in entry["why"]


def test_an_unproven_variant_never_ships_and_what_is_missing_is_said() -> None:
    missing = 'Output "boxes" is empty for all 12 samples.'
    alone = variant("none", "unproven", 1.0, reasons=[missing])
    assert shipped(alone) == (None, f"Unproven. {missing}")
    int8 = variant("int8", "unproven", 3.0, reasons=[missing], bytes=250)
    (entry,) = what_ships({"cells": [variant("none", "pass", 1.0), int8]})["m"]
    assert (entry["cell"], entry["unproven"]) == (PLAIN, ["m/int8@stock:cpu/here"])
    assert f'"int8" is unproven: {missing}' in entry["why"]
    assert shipped(variant("none", "inaccurate"), int8)[0] is None


def test_the_unoptimized_model_ships_whatever_its_speed() -> None:
    for status in CORRECT:
        assert shipped(variant("none", status, 1.0), variant("int8", "inaccurate", 2.0))[0] == PLAIN
        assert shipped(variant("none", status), variant("int8", "no-gain"))[0] == PLAIN


def test_a_contended_timing_never_selects() -> None:
    fast = variant("int8", "pass", 2.0, bytes=250)
    fast["timing"]["trust"] = "contended"
    cell, why = shipped(variant("none", "pass", 1.0), fast)
    assert cell == PLAIN
    assert '"int8" pass, contended' in why
    quiet = variant("fp16", "pass", 1.2)
    assert shipped(variant("none", "pass", 1.0), fast, quiet)[0] == "m/fp16@stock:cpu/here"
    # Where nothing else is correct it ships for that.
    assert shipped(variant("none", "inaccurate", 1.0), fast)[0] == "m/int8@stock:cpu/here"


# The best combination


def place(target: str, recipe: str, status: str, ratio: float | None, **more: Any) -> dict[str, Any]:
    """Make a cell whose ratio is that to the matrix's baseline, ``stock``."""
    cell = variant(recipe, status, ratio, **more)
    cell |= {"target": target, "id": f"m/{recipe}@{target}:cpu/{cell['device']}"}
    if cell["timing"] and (target, recipe) != ("stock", "none"):
        outcome = "faster" if (ratio or 1) > 1.03 else "slower" if (ratio or 1) < 0.97 else "can't tell"
        base = f"m/none@{'stock' if recipe == 'none' else target}:cpu/{cell['device']}"
        cell["timing"] |= {"baseline": base, "outcome": outcome}
        cell["overall"] = {name: cell["timing"][name] for name in ("ratio", "low", "high")}
    return cell


def best(*cells: dict[str, Any]) -> dict[str, Any]:
    (answer,) = best_per_model({"cells": list(cells)})["m"]
    return answer


def test_the_best_combination_of_a_model_is_the_fastest_against_the_baseline() -> None:
    answer = best(
        place("stock", "none", "pass", 1.0),
        place("older", "none", "slower", 0.7),
        place("openvino", "none", "pass", 1.5),
        place("openvino", "fp16", "pass", 1.9),
    )
    assert (answer["cell"], answer["recipe"], answer["target"]) == ("m/fp16@openvino:cpu/here", "fp16", "openvino")
    assert answer["speed"]["ratio"] == 1.9
    assert answer["speed"]["outcome"] == "faster"
    assert "fastest of 3 combinations" in answer["why"]


def test_of_combinations_of_one_speed_the_smallest_ships_and_the_others_are_named() -> None:
    answer = best(place("stock", "none", "pass", 1.0), place("older", "none", "no-gain", 1.01, bytes=500))
    assert (answer["target"], answer["equals"]) == ("older", ["m/none@stock:cpu/here"])
    assert "cannot be told from that of the unoptimized model on stock:cpu" in answer["why"]
    assert best(place("stock", "none", "pass", 1.0), place("older", "none", "no-gain", 1.01))["target"] == "stock"


def test_a_disturbed_or_missing_speed_does_not_make_a_combination_the_best() -> None:
    stock, fast = place("stock", "none", "pass", 1.0), place("openvino", "none", "undecided", 3.0)
    fast["timing"]["trust"] = "contended"
    assert best(stock, fast)["target"] == "stock"
    # A recipe's ratio is composed with that of the unoptimized model there, which was disturbed.
    composed = place("openvino", "fp16", "pass", 4.0)
    assert best(stock, fast, composed)["target"] == "stock"
    answer = best(stock, place("openvino", "none", "undecided", None))
    assert (answer["target"], answer["speed"]["outcome"]) == ("stock", "baseline")
    smaller = place("openvino", "none", "undecided", None, bytes=500)
    untimed = best(place("stock", "none", "pass", None), smaller)
    assert (untimed["target"], untimed["speed"]) == ("stock", None)


def test_each_device_of_a_model_has_a_best_combination_and_one_without_says_why() -> None:
    here = place("stock", "none", "pass", 1.0)
    gpu = place("stock", "none", "crashed", None) | {"device": "gpu", "id": "m/none@stock:cpu/gpu"}
    answers = best_per_model({"cells": [here, gpu]})["m"]
    assert [(answer["device"], answer["cell"]) for answer in answers] == [("here", here["id"]), ("gpu", None)]
    assert answers[1]["why"] == "Crashed. Why."


@given(VARIANTS, VARIANTS)
def test_the_best_combination_is_one_of_what_ships(
    stock: list[tuple[str, float | None, float, int]], older: list[tuple[str, float | None, float, int]]
) -> None:
    recipes = ["none", "a", "b", "c", "d", "e"]
    cells = [
        place(target, recipe, status, ratio, half=half, bytes=size)
        for target, drawn in (("stock", stock), ("older", older))
        for recipe, (status, ratio, half, size) in zip(recipes, drawn, strict=False)
    ]
    shipping = {entry["cell"] for entry in what_ships({"cells": cells})["m"]} - {None}
    answer = best(*cells)
    assert answer["why"]
    assert answer["cell"] in shipping if shipping else answer["cell"] is None
