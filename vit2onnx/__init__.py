"""Vision-transformer checkpoints to verified ONNX files. `vit2onnx.weights.model_file.load_model` loads a model file."""

__version__ = "0.1.0"
