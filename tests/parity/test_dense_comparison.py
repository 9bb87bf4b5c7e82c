"""What is judged of dense maps, on figures that are made up; `test_dense.py` has those of real maps."""

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.limits import LIMITS
from vit2onnx.parity.dense_comparison import COUNTS, FIGURES, IMPLEMENTATIONS, MOST_ALLOWED, DenseComparison, keys_of
from vit2onnx.parity.finding import Finding

MAPS = ["patches", "before_norm", "norms.0"]


def comparison(**other: Any) -> DenseComparison:
    """Maps of two photographs that are equal, but for figures by `{implementation}_{map}` in the second one."""
    rows = []
    for image in ("cat", "dog"):
        for name in MAPS:
            for subject in IMPLEMENTATIONS:
                row = {"subject": subject, "image": image, "height": 64, "width": 64, "map": name, "patches": 16}
                row |= dict.fromkeys(keys_of(name), 0.0)
                rows.append(row | (other.get(f"{subject}_{name}", {}) if image == "dog" else {}))
    return DenseComparison("tiny", "dynamic", "ab", ["cat@64x64", "dog@64x64"], MAPS, rows)


def faults(found: DenseComparison) -> list[Finding]:
    return [one for one in found.judge(LIMITS) if not one.passed]


@pytest.mark.parametrize("subject", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_every_figure_is_held_against_its_limit(figure, subject: str):
    limit, name = LIMITS[figure.limit], "norms.0" if figure.key == "norms" else "patches"
    assert faults(comparison(**{f"{subject}_{name}": {figure.key: limit}})) == []
    (finding,) = faults(comparison(**{f"{subject}_{name}": {figure.key: 1.01 * limit}}))
    assert (finding.subject, finding.measure, finding.limit_name) == (subject, figure.words, figure.limit)
    assert finding.place == f"{name} of dog 64x64"
    (finding,) = faults(comparison(**{f"{subject}_{name}": {figure.key: None}}))
    assert math.isnan(finding.measured)


@pytest.mark.parametrize("subject", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("count", COUNTS, ids=lambda count: count.key)
def test_what_is_not_the_same_counts_unless_it_is_a_tie(count, subject: str):
    name = "norms.0" if count.key == "high_norms" else "patches"
    limit = LIMITS["dense_colour"]
    assert faults(comparison(**{f"{subject}_{name}": {count.key: 3, count.margin: limit}})) == []
    (finding,) = faults(comparison(**{f"{subject}_{name}": {count.key: 3, count.margin: 1.01 * limit}}))
    assert (finding.measured, finding.limit, finding.subject, finding.measure) == (3, 0, subject, count.words)
    (finding,) = faults(comparison(**{f"{subject}_{name}": {count.key: None, count.margin: None}}))
    assert math.isnan(finding.measured)


# Of the reference and of the Equinox model, and how large the noise floor is then.
FLOORS = [
    (1.0, 1.0, 1.0),
    (1e-5, 1e-5, 1e-5),
    (1e-5, 4e-5, 4e-5),
    (4e-5, 1e-5, 4e-5),
    (1e-5, 9e-5, 5e-5),
    (1.0, 1e-5, 5e-5),
    (0.0, 1e-5, 0),
]


@pytest.mark.parametrize(("reference", "equinox", "floor"), FLOORS)
def test_a_noise_floor_is_made_by_both(reference: float, equinox: float, floor: float):
    def allowed(size: float) -> bool:
        own = {"transformers_patches": {"gram": reference}, "equinox_patches": {"gram": equinox}}
        return not [one for one in faults(comparison(**own, onnx_patches={"gram": size})) if one.subject == "onnx"]

    most = max(LIMITS["dense_gram"], min(LIMITS["floors"] * floor, MOST_ALLOWED))
    assert allowed(most) and not allowed(1.01 * most)


def test_the_noise_floor_of_a_map_is_its_own():
    own = {f"{subject}_before_norm": {"similarity": 1e-4} for subject in IMPLEMENTATIONS}
    assert faults(comparison(**own)) == []
    (finding,) = faults(comparison(**own, onnx_patches={"similarity": 1e-4}))
    assert (finding.place, finding.limit) == ("patches of dog 64x64", LIMITS["dense_similarity"])


def test_a_reference_without_figures_makes_no_noise_floor():
    (finding,) = faults(comparison(transformers_patches={"colours": None}, onnx_patches={"colours": 2e-5}))
    assert (finding.subject, finding.limit) == ("onnx", LIMITS["dense_colour"])


@pytest.mark.parametrize("subject", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("images", [("cat",), ("cat", "dog")])
def test_an_implementation_that_lacks_a_map_fails(subject: str, name: str, images: tuple[str, ...]):
    found, lacking = comparison(), {(subject, name, image) for image in images}
    rows = [row for row in found.rows if (row["subject"], row["map"], row["image"]) not in lacking]
    told = faults(replace(found, rows=rows))
    assert told and {one.subject for one in told} == {subject} and all(math.isnan(one.measured) for one in told)


def test_nothing_at_all_fails():
    told = faults(replace(comparison(), rows=[]))
    assert len(told) == 2 * (len(FIGURES) + len(COUNTS)) and all(math.isnan(one.measured) for one in told)
