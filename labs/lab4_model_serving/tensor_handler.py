"""The handler to pack when clients send the model's own tensors."""

from labs.lab4_model_serving.onnx_handler import OnnxHandler


class TensorHandler(OnnxHandler):
    """``{"inputs": {name: [rows, ...]}}`` in, ``{"outputs": {name: [rows, ...]}}`` out."""
