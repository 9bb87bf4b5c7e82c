"""What runtimes say of an operator that they lack. Standard library only."""

import re
from collections.abc import Mapping

# Patterns by runtime, the first that is found counts; its first group is what is lacking.
LACKING: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (
        # A file of an operator set or format that is too new; the operators are not looked at then.
        r"([Oo]pset \d+) is under development",
        r"(model IR version: \d+)",
        r"Could not find an implementation for (\w+)",
        r"\b(\w+)\(-?\d+\) is not a registered function/op",
        r"No Op registered for (\w+)",
    ),
    # `-- Attention-23 with a message`, `for operations: onnx.Attention-23`
    "openvino": (r"(?:-- |for operations: (?:ai\.)?(?:onnx\.)?)(\w+)-\d+",),
    # `Node [DynamicQuantizeLinear@ai.onnx]:(…) parse error`, and the layer that an error at run time comes from.
    "opencv": (r"Node \[(\w+)", r"(\w+)LayerImpl::"),
    # The operator, or the node at which it stops.
    "tract": (r"Unimplemented\((\w+)\)", r"(?:node|Evaluating) #\d+ \"[^\"]*\" (\w+)"),
    "mnn": (r"Op Not Support: (?:ONNX::)?(\w+)",),
    # pnnx goes on without what it lacks.
    "ncnn": (r"(?m)^todo (\w+)",),
}


def operator_in(runtime: str, message: str) -> str | None:
    """The first operator, or operator set, that a message of a runtime calls unknown; `None` if it names none."""
    found = (re.search(pattern, message) for pattern in LACKING[runtime])
    match = next(filter(None, found), None)
    return match[1].replace("Opset", "opset") if match else None
