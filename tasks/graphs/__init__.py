"""ONNX graphs written node by node, and weights in bytes: what the model and the sentence encoder share."""
