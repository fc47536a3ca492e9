"""Every error this package raises on purpose.

One base class, so that a program can catch :class:`DapsError` and show its message: one line that names the file or the
argument, and says what would be accepted. The command line prints that line and exits with 2. Each is also the built-in
error that a Python programmer would look for: ``except ValueError`` catches an :class:`InputError`.
"""

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as a shell has it

_LONGEST_MESSAGE = 500
_KEPT_END = 150  # what would be accepted comes last


def printable(text: str) -> str:
    """Text as one line that a terminal only shows: what is no printable character is escaped.

    Names in messages come from files, archives and servers, whose control characters could move the cursor, hide what
    was printed, or worse.

    >>> printable("\x1b[2J café")
    '\\x1b[2J café'
    """
    line = " ".join(text.splitlines())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line: what the system says, else the text of the error, else its type."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what a library says, which may go on for pages; else the type of its error."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


class DapsError(Exception):
    """Base of all errors raised on purpose by daps-tokenizer. Its message is one printable line of bounded length.

    ``exit_code`` is that of a command which ends with the error.
    """

    exit_code = 2

    def __str__(self) -> str:
        message = printable(super().__str__())
        if len(message) <= _LONGEST_MESSAGE:
            return message
        return f"{message[: _LONGEST_MESSAGE - _KEPT_END - 5]} ... {message[-_KEPT_END:]}"


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
