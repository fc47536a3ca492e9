"""Transposed convolutions as convolutions: the same numbers."""

import torch
from torch import nn

from daps_tokenizer.hub import open_model
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from export.upsampling import UpsamplingConvolution, with_convolutions


def test_a_transposed_convolution_and_its_norm_are_one_convolution() -> None:
    torch.manual_seed(0)
    transposed, norm = nn.ConvTranspose2d(8, 5, kernel_size=4, stride=2, padding=1), nn.BatchNorm2d(5).eval()
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(2, 8, 6, 7)
    torch.testing.assert_close(UpsamplingConvolution(transposed, norm)(x), norm(transposed(x)))
    torch.testing.assert_close(UpsamplingConvolution(transposed, None)(x), transposed(x))


def test_a_model_reconstructs_the_same_and_is_left_as_it_was() -> None:
    folder = open_model("daps-cifar10")
    model = Autoencoder(folder.config).eval()
    load_weights(model, folder.file("model.safetensors"))
    codes = torch.randint(folder.config.vocab_size, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            with_convolutions(model).generative(codes), model.generative(codes), rtol=1e-4, atol=1e-4
        )
    assert any(isinstance(module, nn.ConvTranspose2d) for module in model.generative.modules())


def test_a_model_without_transposed_convolutions_is_passed_on() -> None:
    model = Autoencoder(open_model("daps-mnist").config)
    assert type(with_convolutions(model).generative) is type(model.generative)
