"""Imported by every Python that torch.sh starts: leaves cuDNN out, whose plans cannot be stood in for."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_cudnn_sdp(False)
