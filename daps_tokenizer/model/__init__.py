"""The networks, in PyTorch: only ``backends/torch.py``, ``export`` and ``train`` import this."""
