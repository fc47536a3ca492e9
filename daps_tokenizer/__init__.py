"""Images and robot motion to discrete codes and back.

>>> from daps_tokenizer import Tokenizer
>>> tok = Tokenizer.from_pretrained("daps-cifar10")
>>> codes = tok.encode("examples/cat.png")
>>> tok.decode_to_pil(codes)[0].save("reconstruction.png")  # doctest: +SKIP
"""

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
    ModelFileError,
    ModelNotFoundError,
    OutputExistsError,
    UnsupportedError,
)
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.search.base import Search, SearchResult
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.tokenizer import Distribution, Likelihood, Tokenizer

__version__ = "0.1.0"

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
    "HubError",
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
]
