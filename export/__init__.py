"""``python -m export``: a checkpoint becomes a model folder with ONNX graphs, and a report says how equal they are."""
