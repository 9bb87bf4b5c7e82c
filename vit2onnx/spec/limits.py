"""Which limits of the config a graph is judged by. Standard library only, because the Snakefile imports this module."""

from collections.abc import Mapping
from typing import Any

# The end of the names of limits of models, which are in single precision whatever the precision of the graph.
OF_MODELS = "_of_models"


def limits_of(by_precision: Mapping[str, Mapping[str, Any]], precision: str) -> dict[str, Any]:
    """The limits of a graph by name, from those of the config: of its precision, and of the preprocessing.

    If the graph is not in single precision, those by which reference and Equinox model are judged end in `OF_MODELS`.
    """
    single, own = by_precision["float32"], by_precision[precision]
    of_models = {} if precision == "float32" else {f"{name}{OF_MODELS}": single[name] for name in own}
    return {**single, **own, **of_models, **by_precision["preprocessing"]}
