"""Images and robot motion to discrete codes and back.

>>> from daps_tokenizer import Tokenizer
>>> tok = Tokenizer.from_pretrained("daps-cifar10")
>>> codes = tok.encode("examples/cat.png")
>>> tok.decode_to_pil(codes)[0].save("reconstruction.png")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daps_tokenizer.codes.codes import Codes
    from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
    from daps_tokenizer.config import TokenizerConfig
    from daps_tokenizer.errors import (
        BackendError,
        CodesError,
        CodesFileError,
        ConfigError,
        DapsError,
        HubError,
        InputError,
        InUseError,
        ModelFileError,
        ModelNotFoundError,
        OutputExistsError,
        UnsupportedError,
    )
    from daps_tokenizer.generator import Generator
    from daps_tokenizer.motion.clips import Clip
    from daps_tokenizer.motion.generation import sample_motion
    from daps_tokenizer.search.base import Search, SearchResult
    from daps_tokenizer.search.best_of import BestOf
    from daps_tokenizer.search.local import LocalSearch
    from daps_tokenizer.tokenizer import Distribution, Likelihood, Tokenizer

__version__ = "0.1.0"

# Where each name is defined. It is imported when it is first used, so that `daps-tokenize --help` does not wait for it.
_MODULES = {
    "BackendError": "errors",
    "BestOf": "search.best_of",
    "Clip": "motion.clips",
    "ClipLayout": "codes.layouts",
    "Codes": "codes.codes",
    "CodesError": "errors",
    "CodesFileError": "errors",
    "ConfigError": "errors",
    "DapsError": "errors",
    "Distribution": "tokenizer",
    "Generator": "generator",
    "HubError": "errors",
    "InUseError": "errors",
    "InputError": "errors",
    "Likelihood": "tokenizer",
    "LocalSearch": "search.local",
    "ModelFileError": "errors",
    "ModelNotFoundError": "errors",
    "OutputExistsError": "errors",
    "Search": "search.base",
    "SearchResult": "search.base",
    "TileLayout": "codes.layouts",
    "Tokenizer": "tokenizer",
    "TokenizerConfig": "config",
    "UnsupportedError": "errors",
    "sample_motion": "motion.generation",
}

__all__ = [
    "BackendError",
    "BestOf",
    "Clip",
    "ClipLayout",
    "Codes",
    "CodesError",
    "CodesFileError",
    "ConfigError",
    "DapsError",
    "Distribution",
    "Generator",
    "HubError",
    "InUseError",
    "InputError",
    "Likelihood",
    "LocalSearch",
    "ModelFileError",
    "ModelNotFoundError",
    "OutputExistsError",
    "Search",
    "SearchResult",
    "TileLayout",
    "Tokenizer",
    "TokenizerConfig",
    "UnsupportedError",
    "__version__",
    "sample_motion",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
