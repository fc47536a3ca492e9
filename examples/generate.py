"""Train a small generative model on a dataset of codes, and decode what it draws. Needs PyTorch.

    daps-tokenize dataset mnist.npz -o digits --model daps-mnist
    python examples/generate.py digits -o digits.png

The model is a causal transformer p(code_t | code_<t, class). Where items have labels, each row of the picture is one
class. Several samples of an image are training examples of their own. Three minutes of a CPU for 60,000 digits of 8
codes.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from daps_tokenizer import DapsError, InputError, OutputExistsError, Tokenizer
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.install import install_command

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError:
    sys.exit(f"error: this example needs PyTorch, which is not installed; install it with {install_command('torch')}")


class Prior(nn.Module):
    """p(z | class) over N codes of a vocabulary of V: the class comes first, then the codes."""

    def __init__(self, num_tokens: int, vocab_size: int, num_classes: int, hidden_size: int = 128) -> None:
        super().__init__()
        self.codes = nn.Embedding(vocab_size, hidden_size)
        self.classes = nn.Embedding(num_classes, hidden_size)
        self.positions = nn.Parameter(0.02 * torch.randn(num_tokens, hidden_size))
        block = nn.TransformerEncoderLayer(hidden_size, 4, 4 * hidden_size, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 3, nn.LayerNorm(hidden_size), enable_nested_tensor=False)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Codes (B, t) so far and labels (B,) -> logits of codes 0 to t, (B, t + 1, V); at most N of them."""
        x = torch.cat([self.classes(labels)[:, None], self.codes(codes)], dim=1)[:, : len(self.positions)]
        future = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.head(self.blocks(x + self.positions[: x.shape[1]], mask=future, is_causal=True))


def train(prior: Prior, codes: Tensor, labels: Tensor, steps: int, batch: int = 128) -> None:
    """Maximum likelihood on codes (rows, N) and labels (rows,); prints how many bits an item takes."""
    optimiser = torch.optim.AdamW(prior.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(codes), (batch,), device=codes.device)
        logits = prior(codes[rows], labels[rows])
        nats = F.cross_entropy(logits.flatten(0, 1), codes[rows].flatten(), reduction="sum") / batch
        optimiser.zero_grad()
        nats.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: {nats.item() / np.log(2):.1f} bits an item", flush=True)


@torch.no_grad()
def generate(prior: Prior, labels: Tensor) -> Tensor:
    """Codes (B, N), one after the other."""
    codes = torch.empty(len(labels), 0, dtype=torch.long, device=labels.device)
    for _ in range(len(prior.positions)):
        probabilities = prior(codes, labels)[:, -1].softmax(-1)
        codes = torch.cat([codes, torch.multinomial(probabilities, 1)], dim=1)
    return codes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Train a small generative model on a dataset of codes.")
    parser.add_argument("codes", type=Path, help="a folder that daps-tokenize dataset wrote")
    parser.add_argument("--model", help="the tokenizer, if the one that made the codes is not built in")
    parser.add_argument("--steps", type=int, default=2000, help="how many steps to train")
    parser.add_argument("--batch", type=int, default=128, help="how many items each step sees")
    parser.add_argument("--device", default="cpu", help="where to train and draw: cpu or cuda")
    parser.add_argument("--each", type=int, default=10, help="how many images of each class to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("generated.png"))
    chosen = parser.parse_args(arguments)
    if chosen.output.exists():
        raise OutputExistsError(f"{chosen.output} already exists; name another picture with -o")
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {chosen.device}: PyTorch finds no GPU here; use --device cpu")

    code_set = CodeSet.open(chosen.codes)
    record = code_set.record
    values = np.asarray(code_set.values, np.int64).reshape(-1, record["num_tokens"])
    codes = torch.from_numpy(values).to(chosen.device)
    labels = torch.from_numpy(np.asarray(code_set.labels).clip(min=0)).to(chosen.device)  # one class if none is known
    labels = labels.repeat_interleave(len(codes) // len(labels))  # of each sample
    num_classes = int(labels.max()) + 1

    torch.manual_seed(chosen.seed)
    prior = Prior(record["num_tokens"], record["vocab_size"], num_classes).to(chosen.device)
    train(prior, codes, labels, chosen.steps, chosen.batch)
    drawn = generate(prior, torch.arange(num_classes, device=chosen.device).repeat_interleave(chosen.each))
    images = Tokenizer.from_pretrained(chosen.model or record["model"]).decode(drawn.cpu().numpy())
    height, width, channels = images.shape[1:]
    grid = images.reshape(num_classes, chosen.each, height, width, channels).swapaxes(1, 2)
    picture = io.BytesIO()
    Image.fromarray(grid.reshape(num_classes * height, chosen.each * width, channels).squeeze()).save(picture, "png")
    write_bytes_atomically(chosen.output, picture.getvalue(), overwrite=False)
    print(chosen.output)


if __name__ == "__main__":
    try:
        main()
    except (DapsError, OSError) as error:
        sys.exit(f"error: {error}")
