"""Limits by precision: those of the graph, and those of models, which are in single precision in every run."""

from tests.limits import BY_PRECISION
from vit2onnx.spec.limits import OF_MODELS, limits_of


def test_a_graph_in_single_precision_has_the_limits_of_models() -> None:
    found = limits_of(BY_PRECISION, "float32")
    assert found == BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]


def test_a_graph_in_a_small_precision_has_its_own_beside_those_of_models() -> None:
    for precision in ("float16", "int8"):
        found, own, single = limits_of(BY_PRECISION, precision), BY_PRECISION[precision], BY_PRECISION["float32"]
        assert {name: found[name] for name in own} == own
        assert {name: found[f"{name}{OF_MODELS}"] for name in own} == {name: single[name] for name in own}
        # What no small precision changes, such as that models agree in double precision.
        assert found["floors_double"] == single["floors_double"]
        assert found["residual"] == BY_PRECISION["preprocessing"]["residual"]


def test_smaller_precisions_are_given_more_room() -> None:
    for name, limit in BY_PRECISION["int8"].items():
        distances = [abs((name == "cosine") - BY_PRECISION[one][name]["limit"]) for one in ("float16", "int8")]
        assert distances[0] < distances[1], name
        assert limit["why"]
