"""What each operator makes of bounds, as `magnitude` has them. An operator without a rule makes them infinite."""

import vit2onnx.precision.rules.elementwise
import vit2onnx.precision.rules.places
import vit2onnx.precision.rules.products  # noqa: F401  registers rules, as do the two before
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.rules.call import RULES, Call


def apply(call: Call) -> Magnitude:
    """What is known of the first output of a node."""
    rule = RULES.get(call.node.op_type)
    return unknown() if rule is None else rule(call)
