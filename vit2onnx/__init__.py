"""From vision-transformer checkpoints to verified ONNX files. `weights.model_file.load_model` loads a model."""

__version__ = "0.1.0"
