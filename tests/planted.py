"""What the self-test plants and in which models; the lists are of all families that turn images into tokens."""

from collections.abc import Sequence
from itertools import product

from vit2onnx.families.fault import InChain, InGraph, InPreprocessing
from vit2onnx.spec.family import families, interfaces_of, part


def models_of(names: Sequence[str]) -> dict[str, str]:
    """The models of families, each with the variant from which it is made."""
    return {model: variant for name in names for model, variant in part(name, "architecture").MODELS.items()}


def in_chain(names: Sequence[str]) -> list[InChain]:
    """The faults in the chains of families, in the order of the self-test: model by model, interface by interface."""
    return [
        fault
        for name in names
        for chain in product(models_of([name]), interfaces_of(name))
        for fault in part(name, "faults").FAULTS
        if (fault.model, fault.interface) == chain
    ]


def in_preprocessing(names: Sequence[str]) -> list[InPreprocessing]:
    """The faults in the preprocessing of families."""
    return [fault for name in names for fault in part(name, "faults").PREPROCESSING]


FAMILIES = [name for name in families() if "images" in interfaces_of(name)]
FAULTS_OF = [part(name, "faults") for name in FAMILIES]

MODELS = models_of(FAMILIES)
AMPLIFIED = {model: amplify for faults in FAULTS_OF for model, amplify in faults.AMPLIFIED.items()}
IN_CHAIN, IN_PREPROCESSING = in_chain(FAMILIES), in_preprocessing(FAMILIES)
# Of graphs of single images.
IN_GRAPH = [fault for fault in IN_CHAIN if isinstance(fault, InGraph) and fault.interface == "images"]
