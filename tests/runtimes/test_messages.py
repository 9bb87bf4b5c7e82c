"""Which operator a runtime lacks, in its own words as it has said them."""

import pytest

from vit2onnx.runtimes.programs.messages import operator_in

SAID = [
    (
        "onnxruntime",
        "ONNX Runtime only guarantees support for models stamped with official released onnx opset versions."
        " Opset 23 is under development and support for this is limited.",
        "opset 23",
    ),
    (
        "onnxruntime",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Attention(23) node with name"
        " 'blocks.0/attn/Attention'",
        "Attention",
    ),
    ("onnxruntime", "Fatal error: ai.onnx:RotaryEmbedding(-1) is not a registered function/op", "RotaryEmbedding"),
    ("onnxruntime", "Unsupported model IR version: 12, max supported IR version: 10", "model IR version: 12"),
    (
        "openvino",
        "FrontEnd API failed with OpConversionFailure:\nModel wasn't fully converted. Failed operations detailed log:\n"
        "-- Attention-23 with a message:\nCheck failed",
        "Attention",
    ),
    ("opencv", "Node [DynamicQuantizeLinear@ai.onnx]:(onnx_node!n) parse error: unsupported", "DynamicQuantizeLinear"),
    ("opencv", "in function 'virtual bool cv::dnn::RotaryEmbeddingLayerImpl::getMemoryShapes(", "RotaryEmbedding"),
    ("tract", 'Translating node #46 "embed/Reshape" Reshape ToTypedTranslator\n\nCaused by:\n shape', "Reshape"),
    ("tract", 'Evaluating #20 "embed/Div_3" Div\n\nCaused by:\n    Can\'t divide 80 by 2+20*(width)/14', "Div"),
    ("mnn", "[13:50:08] :220: These Op Not Support: ONNX::Attention | ONNX::RotaryEmbedding ", "Attention"),
    ("ncnn", "############# pass_level5\ntodo RotaryEmbedding\ntodo Attention\n", "RotaryEmbedding"),
    ("tract", "out of memory", None),
]


@pytest.mark.parametrize(("runtime", "message", "operator"), SAID, ids=lambda value: str(value)[:24])
def test_the_first_operator_is_found(runtime: str, message: str, operator: str | None) -> None:
    assert operator_in(runtime, message) == operator
