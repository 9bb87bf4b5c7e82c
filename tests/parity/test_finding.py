"""One judged statement: a limit lets itself pass, and what is no number fails and says so."""

import json
import math

import pytest

from vit2onnx.parity.finding import Finding


@pytest.mark.parametrize(
    ("measured", "passed", "sentence"),
    [
        (1e-5, True, "onnx - transformers, max: 1.00e-05 <= 1.00e-05"),
        (math.nextafter(1e-5, 1), False, "onnx - transformers, max: 1.00e-05 > 1.00e-05"),
        (math.nan, False, "onnx - transformers, max: not finite (limit 1.00e-05)"),
        (math.inf, False, "onnx - transformers, max: not finite (limit 1.00e-05)"),
    ],
)
def test_a_finding_is_judged_by_its_figures(measured: float, passed: bool, sentence: str):
    finding = Finding("reference", "max", measured, 1e-5, "onnx", "transformers")
    assert (finding.passed, finding.sentence) == (passed, sentence)


def test_words_take_the_place_of_figures():
    finding = Finding("sanity", "finite", 1.0, 0.0, "onnx", place="cat", detail="NaN in an output")
    assert json.loads(json.dumps(finding.as_data())) == {
        **{"leg": "sanity", "subject": "onnx", "other": "", "measure": "finite", "place": "cat"},
        **{"detail": "NaN in an output", "sentence": "onnx, finite (worst at cat): NaN in an output"},
        **{"passed": False, "measured": 1.0, "limit": 0.0, "limit_name": ""},
    }


def test_a_finding_that_was_written_and_read_is_judged_the_same():
    for measured in (1e-6, 1.0, math.nan):
        finding = Finding("truth", "max", measured, 1e-5, "onnx", "truth", "cat", limit_name="floors")
        data = json.loads(json.dumps(finding.as_data(), allow_nan=False))
        again = Finding.from_data(data | {"passed": True})
        assert (again.passed, again.sentence) == (finding.passed, finding.sentence)
