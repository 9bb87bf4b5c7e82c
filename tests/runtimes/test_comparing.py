"""How far outputs are apart: every set, every output and every row that means something."""

import numpy as np
import pytest

from vit2onnx.errors import InternalError
from vit2onnx.runtimes.comparing import EQUAL, difference, in_words, row_of
from vit2onnx.runtimes.programs.protocol import DONE
from vit2onnx.runtimes.running import Run

WANTED = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
GIVEN = [{"x": np.zeros(1, np.float32)}]


def verdict_of(values: np.ndarray, wanted: np.ndarray = WANTED) -> str:
    made = Run({"step": DONE, "seconds_to_open": 1.0}, [{"y": values}])
    return row_of("graph", "fake", made, [{"y": wanted}], GIVEN).verdict


def test_rounding_is_equal_and_lower_precision_is_near() -> None:
    assert verdict_of(WANTED + np.float32(4e-6)) == "equal"
    lower = WANTED.view(np.uint32) & np.uint32(0xFFFF0000)
    assert verdict_of(lower.view(np.float32)) == "near"


def test_large_values_may_differ_by_a_share() -> None:
    large = 1000 * WANTED
    assert verdict_of(large * np.float32(1 + EQUAL / 2), large) == "equal"
    assert verdict_of(large * np.float32(1 + EQUAL * 2), large) == "near"


def test_one_wrong_row_is_seen() -> None:
    values = WANTED.copy()
    values[0, 3] = values[0, 3, ::-1]
    assert verdict_of(values) == "wrong"
    values[0, 3] = 0
    assert verdict_of(values) == "wrong"


def test_the_worst_of_all_sets_and_outputs_counts() -> None:
    right, off = {"y": WANTED, "z": WANTED}, {"y": WANTED, "z": WANTED + np.float32(0.5)}
    for found in ([right, off], [off, right]):
        assert difference(found, [right, right], GIVEN * 2).largest == pytest.approx(0.5, rel=1e-6)


def test_rows_behind_the_mask_mean_nothing() -> None:
    given = [{"pixel_attention_mask": np.array([[1, 1, 1, 0, 0]], np.int32)}]
    values = WANTED.copy()
    values[0, 3:] = np.nan
    assert difference([{"y": values}], [{"y": WANTED}], given).largest == 0
    values[0, 2] += 1
    assert difference([{"y": values}], [{"y": WANTED}], given).largest == pytest.approx(1, rel=1e-6)


def test_nothing_compared_is_an_error() -> None:
    with pytest.raises(InternalError, match="no output was compared"):
        difference([], [], [])


def test_placement_names_the_nodes_that_are_elsewhere() -> None:
    placement = {"CPUExecutionProvider": {"Shape": 2, "Gather": 1}, "CUDAExecutionProvider": {"MatMul": 70}}
    assert in_words(placement) == "70 CUDA; 3 CPU (Gather, Shape)"
