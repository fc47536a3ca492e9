"""One file per kind of generator, behind one small protocol; :data:`GENERATORS` finds them by name."""

from __future__ import annotations

from train.generators.base import GeneratorMethod
from train.generators.causal import Causal
from train.generators.flow import Flow

GENERATORS: dict[str, type[GeneratorMethod]] = {"flow": Flow, "causal": Causal}

__all__ = ["GENERATORS", "GeneratorMethod"]
