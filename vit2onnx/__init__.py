"""Vision-transformer checkpoints to verified ONNX files. `vit2onnx.weights.archive.load_model` loads a model file."""

__version__ = "0.1.0"
