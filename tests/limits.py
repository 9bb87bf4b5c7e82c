"""The limits of the config, and verdicts by them."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.verdict import Verdict, numbers_of
from vit2onnx.parity.verdict import judge as judge_outputs

BY_PRECISION = yaml.safe_load((Path(__file__).parents[1] / "config" / "limits.yaml").read_text())["limits"]
LIMITS, PREPARED = numbers_of(BY_PRECISION["float32"]), numbers_of(BY_PRECISION["preprocessing"])
# Those that judge images with texts alone.
OF_PAIRS = {"embedding", "logit", "probability"}
# Those that judge dense maps alone.
OF_MAPS = {"dense_map", "dense_similarity", "dense_gram", "dense_colour", "dense_feature"}


def judge(comparison: Comparison, limits: Mapping[str, float] = LIMITS) -> Verdict:
    """The verdict on the outputs of a graph alone."""
    return Verdict(judge_outputs(comparison, limits))
