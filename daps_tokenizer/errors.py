"""Every error this package raises on purpose.

One base class, so that a program can catch :class:`DapsError` and show its message: it is one line, names the file or
the argument, and says what would be accepted. The command line prints exactly that line and exits with 2.
"""


class DapsError(Exception):
    """Base of all errors raised on purpose by daps-tokenizer."""


class ConfigError(DapsError):
    """A ``config.json`` that is not valid: unknown key, unknown format version, impossible sizes."""


class ModelNotFoundError(DapsError):
    """No model goes by that name: not built in, not a folder, not on the Hub (or not reachable and not cached)."""


class ModelFileError(DapsError):
    """A model was found but one of its files is missing, damaged, or not what ``config.json`` says it is."""


class HubError(DapsError):
    """The Hugging Face Hub could not be reached, refused access, or sent something damaged."""


class InputError(DapsError):
    """An input that cannot be encoded: unreadable, wrong shape or type, too large, not finite."""


class CodesError(DapsError):
    """Codes that do not fit the model: out of range, wrong length, made by another model."""


class CodesFileError(CodesError):
    """A ``.daps`` file that is not one, is cut short, or was changed after it was written."""


class BackendError(DapsError):
    """A runtime that is not installed, not usable on this machine, or not known."""


class UnsupportedError(DapsError):
    """What this kind of model does not have: probabilities of a quantiser's codes, codes of a Gaussian VAE."""


class OutputExistsError(DapsError):
    """An output file is already there and was not to be overwritten."""
