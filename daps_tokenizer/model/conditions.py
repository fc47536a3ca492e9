"""What a causal generator is told besides a label, and how it reads codes by the code books of their tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from daps_tokenizer.config.generator import Condition
from daps_tokenizer.model.transformer import full_precision


class Conditions(NamedTuple):
    """Values (R, size) of each condition, in the order of the config, and which of them are known, (R, conditions)."""

    values: Sequence[Tensor]
    known: Tensor


class ConditionEncoder(nn.Module):
    """Numbers of a condition -> a share of what all blocks are conditioned on, and positions before the first code."""

    def __init__(self, condition: Condition, numbers: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(numbers, 2 * size), nn.SiLU(), nn.Linear(2 * size, size))
        self.tokens = nn.Linear(size, (1 + condition.tokens) * size)
        self.absent = nn.Parameter(torch.zeros(1 + condition.tokens, size))

    def forward(self, numbers: Tensor, known: Tensor) -> Tensor:
        """Numbers (R, n) and whether they are known (R,) -> (R, 1 + tokens, H); the share comes first."""
        encoded = self.tokens(self.layers(numbers)).unflatten(-1, self.absent.shape)
        return torch.where(known[:, None, None] > 0, encoded, self.absent.to(encoded.dtype))


class BookReader(nn.Module):
    """Codes as the entries of code books that they stand for: what is near in a book is near for the network.

    Logits get a quadratic function of the entry, chosen by the hidden state: that of a Gaussian over coefficients.
    """

    books: Tensor

    def __init__(self, num_tokens: int, vocab_size: int, book_size: int, size: int) -> None:
        super().__init__()
        self.register_buffer("books", torch.zeros(num_tokens, vocab_size, book_size))  # standardised
        terms = book_size + book_size * (book_size + 1) // 2
        self.read = nn.Parameter(torch.empty(num_tokens, book_size, size))
        self.write = nn.Parameter(torch.zeros(num_tokens, size, terms))
        self.frequency = nn.Parameter(torch.zeros(num_tokens, vocab_size))
        nn.init.normal_(self.read, std=book_size**-0.5)

    def entries(self, codes: Tensor) -> Tensor:
        """Codes (R, T) of the first T positions -> (R, T, D)."""
        return self.books[torch.arange(codes.shape[1], device=codes.device), codes.long()]

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (R, T) of the first T positions -> (R, T, H)."""
        return torch.einsum("rtd,tdh->rth", self.entries(codes), self.read[: codes.shape[1]])

    def embed_one(self, codes: Tensor, position: Tensor) -> Tensor:
        """Codes (R,) of one position, an int64 () -> (R, H)."""
        entries = self.books.index_select(0, position[None])[0].index_select(0, codes.long())
        return entries @ self.read.index_select(0, position[None])[0]

    def logits(self, hidden: Tensor, position: Tensor | None) -> Tensor:
        """Hidden states (R, T, H) of all positions, or (R, 1, H) of one -> (R, T, V), in float32."""
        books: Tensor = self.books
        write: Tensor = self.write
        frequency: Tensor = self.frequency
        if position is not None:
            books, write, frequency = (each.index_select(0, position[None]) for each in (books, write, frequency))
        pairs = torch.triu_indices(books.shape[-1], books.shape[-1], device=books.device)
        terms = torch.cat([books, books[..., pairs[0]] * books[..., pairs[1]]], dim=-1)
        with full_precision(hidden):  # logits, as those of Head
            chosen = torch.einsum("rth,thq->rtq", hidden.float(), write)
            return torch.einsum("rtq,tvq->rtv", chosen, terms) + frequency


def standardised_books(table: Tensor, num_tokens: int) -> Tensor:
    """A tokenizer's code books (V, N · D) -> (N, V, D), each number with mean 0 and standard deviation 1."""
    books = table.T.unflatten(0, (num_tokens, -1)).transpose(1, 2).float()
    return (books - books.mean(1, keepdim=True)) / books.std(1, keepdim=True).clamp_min(1e-6)
