"""Train a small generative model on a dataset of codes, and decode what it draws. Needs PyTorch.

    daps-tokenize dataset mnist.npz -o digits --model daps-mnist
    python examples/generate.py digits -o digits.png

The model is a causal transformer p(code_t | code_<t, class): all that a tokenizer leaves to be done. Where items have
labels, each row of the picture is one class. Three minutes of a CPU for 60,000 digits of 8 codes.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer import Tokenizer
from daps_tokenizer.errors import DapsError, OutputExistsError
from daps_tokenizer.files import write_bytes_atomically

BATCH = 128


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
        future = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.blocks(x + self.positions[: x.shape[1]], mask=future, is_causal=True))


def train(prior: Prior, codes: Tensor, labels: Tensor, steps: int) -> None:
    """Maximum likelihood; prints how many bits an item takes."""
    optimiser = torch.optim.AdamW(prior.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(codes), (BATCH,))
        logits = prior(codes[rows], labels[rows])
        nats = F.cross_entropy(logits.flatten(0, 1), codes[rows].flatten(), reduction="sum") / BATCH
        optimiser.zero_grad()
        nats.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: {nats.item() / np.log(2):.1f} bits an item")


@torch.no_grad()
def generate(prior: Prior, labels: Tensor) -> Tensor:
    """Codes (B, N), one after the other."""
    codes = torch.empty(len(labels), 0, dtype=torch.long)
    for _ in range(len(prior.positions)):
        probabilities = prior(codes, labels)[:, -1].softmax(-1)
        codes = torch.cat([codes, torch.multinomial(probabilities, 1)], dim=1)
    return codes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Train a small generative model on a dataset of codes.")
    parser.add_argument("codes", type=Path, help="a folder that daps-tokenize dataset made, of greedy codes")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--each", type=int, default=10, help="images of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("generated.png"))
    chosen = parser.parse_args(arguments)
    if chosen.output.exists():
        raise OutputExistsError(f"{chosen.output} already exists; name another picture with -o")

    record = json.loads((chosen.codes / "dataset.json").read_text())
    items = [json.loads(line) for line in (chosen.codes / "items.jsonl").read_text().splitlines()]
    codes = torch.from_numpy(np.load(chosen.codes / "codes.npy").astype(np.int64))
    labels = torch.tensor([item.get("label", 0) for item in items])
    num_classes = int(labels.max()) + 1

    torch.manual_seed(chosen.seed)
    prior = Prior(record["num_tokens"], record["vocab_size"], num_classes)
    train(prior, codes, labels, chosen.steps)
    drawn = generate(prior, torch.arange(num_classes).repeat_interleave(chosen.each))
    images = Tokenizer.from_pretrained(record["model"]).decode(drawn.numpy())
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
