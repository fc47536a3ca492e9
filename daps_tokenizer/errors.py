"""Every error this package raises on purpose.

One base class, so that a program can catch :class:`DapsError` and show its message: one line that names the file or the
argument, and says what would be accepted. The command line prints that line and exits with 2. Each is also the built-in
error that a Python programmer would look for: ``except ValueError`` catches an :class:`InputError`.
"""


class DapsError(Exception):
    """Base of all errors raised on purpose by daps-tokenizer."""


class ConfigError(DapsError, ValueError):
    """A ``config.json`` that is not valid: unknown key, unknown format version, impossible sizes."""


class ModelNotFoundError(DapsError, FileNotFoundError):
    """No model has that name: not built in, not a folder, not on the Hub (or not reachable and not cached)."""


class ModelFileError(DapsError, OSError):
    """A model was found but one of its files is missing, damaged, or not what ``config.json`` says it is."""


class HubError(DapsError, OSError):
    """The Hugging Face Hub could not be reached, refused access, or sent something damaged."""


class InputError(DapsError, ValueError):
    """An input that cannot be encoded: unreadable, wrong shape or type, too large, not finite; or a wrong option."""


class CodesError(DapsError, ValueError):
    """Codes that do not fit the model: out of range, wrong length, made by another model."""


class CodesFileError(CodesError):
    """A file that is not a ``.daps`` file, is cut short, or was changed after it was written."""


class BackendError(DapsError, RuntimeError):
    """A runtime that is not installed, not usable on this machine, or not known."""


class UnsupportedError(DapsError, NotImplementedError):
    """What this kind of model does not have: probabilities of a quantiser's codes, codes of a Gaussian VAE."""


class OutputExistsError(DapsError, FileExistsError):
    """An output file exists already and may not be overwritten."""


class InUseError(DapsError, BlockingIOError):
    """Another process writes to the same folder."""
