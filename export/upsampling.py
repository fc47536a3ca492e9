"""Transposed convolutions in the form that ONNX Runtime runs faster on a CPU.

It computes ConvTranspose as one product and a scatter of overlapping sums, at less than half the rate of its blocked
convolutions. With a kernel of 4, a stride of 2 and a padding of 1, each output is a sum over 2×2 inputs; which, and by
which weights, depends on whether its row and column are odd or even. So a 2×2 convolution to four times the channels
computes all, and only their layout as one large image remains. Measured in docs/notes/speed.md.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import ResNetGenerator

# Output row o = 2p + a − 1 is a sum over the input rows p − 1 and p, by these rows of the kernel.
_KERNEL_ROWS = torch.tensor([[2, 0], [3, 1]])  # [a, which of the two]


class UpsamplingConvolution(nn.Module):
    """What a transposed convolution (kernel 4, stride 2, padding 1) computes, and the BatchNorm after it if any."""

    def __init__(self, transposed: nn.ConvTranspose2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        weight, bias = transposed.weight, transposed.bias
        assert bias is not None
        if norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transpose=True
            )
        before, after = transposed.in_channels, transposed.out_channels
        by_parity = weight[:, :, _KERNEL_ROWS][..., _KERNEL_ROWS]  # (before, after, a, row, b, column)
        self.convolution = nn.Conv2d(before, 4 * after, kernel_size=2, padding=1)
        with torch.no_grad():
            self.convolution.weight.copy_(by_parity.permute(1, 2, 4, 0, 3, 5).reshape(4 * after, before, 2, 2))
            self.convolution.bias.copy_(bias.repeat_interleave(4))  # type: ignore[union-attr]
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """x (B, before, rows, columns) -> (B, after, 2 · rows, 2 · columns)."""
        rows, columns = x.shape[2] + 1, x.shape[3] + 1
        y = self.convolution(x)  # (B, after · a · b, rows, columns)
        # Two transpositions that copy whole rows or swap two axes, in place of one of six axes (or DepthToSpace), which
        # ONNX Runtime does element by element: 1 ms instead of 7 for the last of a photograph.
        y = y.reshape(-1, 2, rows * columns).transpose(1, 2).reshape(-1, 2, rows, 2 * columns).transpose(1, 2)
        return y.reshape(-1, self.after, 2 * rows, 2 * columns)[:, :, 1:-1, 1:-1]


def with_convolutions(model: Autoencoder) -> Autoencoder:
    """The model with its generative model's transposed convolutions replaced, where it has any; a copy."""
    model = copy.deepcopy(model).eval()
    if isinstance(generative := model.generative, ResNetGenerator):
        norms = [*generative.norms, None]
        replaced = [UpsamplingConvolution(*pair) for pair in zip(generative.upsamplings, norms, strict=True)]  # type: ignore[arg-type]
        generative.upsamplings = nn.ModuleList(replaced)
        generative.norms = nn.ModuleList(nn.Identity() for _ in generative.norms)
    return model
