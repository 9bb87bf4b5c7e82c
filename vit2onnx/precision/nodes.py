"""What a node of a graph says besides its inputs: attributes, and constants that it takes."""

from typing import Any

import numpy as np
import onnx_ir as ir


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute of a node: a number, a text, a tuple of such, a tensor or a graph."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant; nothing if the value is none."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return None
    return np.asarray(attribute(node, "value").numpy())
