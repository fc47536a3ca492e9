"""Where a model's files come from: built into the package, a folder, or the Hugging Face Hub.

The layout is the same in all three places: ``config.json`` and the files it lists with their sha256. A file is handed
out only after its content was checked against that list, so a damaged download never reaches a runtime.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from daps_tokenizer.checks import is_name
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.generator import GeneratorConfig
from daps_tokenizer.errors import (
    ConfigError,
    DapsError,
    HubError,
    ModelFileError,
    ModelNotFoundError,
    OutputExistsError,
    reason_of,
)
from daps_tokenizer.files import sha256_of
from daps_tokenizer.hub_transfer import within_limits
from daps_tokenizer.install import install_command

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import tqdm

Origin = Literal["built-in", "folder", "hub"]
_Config = TypeVar("_Config", TokenizerConfig, GeneratorConfig)

_BUILT_IN_FOLDER = Path(__file__).parent / "pretrained"
_GRAPH_FILES = ["onnx/*.onnx", "onnx/weights.bin", "*.onnx"]  # those of a generator lie next to its weights
# With what config.json lists, these make a model; nothing else is fetched from a repository or sent to one.
_UNLISTED_FILES = ["config.json", "README.md"]
_MOST_FILES = 100
_EXPORT = "`python -m export onnx`"


@dataclass(frozen=True)
class ModelFolder:
    """A model on this disk: its folder, its ``config.json``, and where the folder came from.

    Raises:
        ModelFileError: ``config.json`` lists a file outside the folder, or too many.
    """

    path: Path
    config: TokenizerConfig
    origin: Origin = "folder"
    # Size and time of last change of files whose content was checked.
    _checked: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_listed_files(self.config, str(self.path / "config.json"))

    def file(self, name: str) -> Path:
        """The path of a file of the model, for example ``onnx/encoder.onnx``, after its content was checked.

        It is checked once, and again after it was changed.

        Raises:
            ModelFileError: the file is missing, not listed in ``config.json``, unreadable or damaged.
        """
        path = self.path / name
        if not path.is_file():
            raise ModelFileError(f"{self.path} has no {name}; export it with {_EXPORT}")
        if name not in self.config.files:
            raise ModelFileError(f"{path} has no sha256 in config.json to check it by; export it with {_EXPORT}")
        try:
            found = path.stat()
            state = found.st_size, found.st_mtime_ns
            if self._checked.get(name) == state:
                return path
            sha256 = sha256_of(path)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read ({error.strerror}); expected a readable file") from error
        if sha256 != self.config.files[name]:
            raise ModelFileError(f"{path} is damaged, its sha256 is not the one in config.json; {self._remedy(path)}")
        self._checked[name] = state
        return path

    def _remedy(self, path: Path) -> str:
        if self.origin == "hub":
            # The cache links snapshots to blobs: with only the link gone, the same damaged blob would be linked again.
            return f"delete {path.resolve()} and open the model again to download it anew"
        if self.origin == "built-in":
            return f"install daps-tokenizer again with {install_command()} --force-reinstall"
        return f"copy it anew or export it again with {_EXPORT}"


@dataclass(frozen=True)
class GeneratorFolder(ModelFolder):
    """A generator on this disk; its files are handed out as those of a tokenizer are."""

    config: GeneratorConfig  # type: ignore[assignment]


def check_listed_files(config: TokenizerConfig | GeneratorConfig, source: str) -> None:
    """Refuse files that no model has: outside its folder, by names that are no names, or more than 100.

    Raises:
        ModelFileError: naming ``source`` and the file.
    """
    for name in config.files:
        if not all(map(is_name, name.split("/"))):
            raise ModelFileError(f"{source} lists {name!r}, which is not the name of a file inside the folder")
    if len(config.files) > _MOST_FILES:
        raise ModelFileError(f"{source} lists {len(config.files):,} files; expected at most {_MOST_FILES}")


def built_in_models() -> dict[str, Path]:
    """Name and folder of every tokenizer that comes with the package, sorted by name."""
    return {config.parent.name: config.parent for config in sorted(_BUILT_IN_FOLDER.glob("*/config.json"))}


def built_in_generators() -> dict[str, Path]:
    """Name and folder of every generator that comes with the package, sorted by name."""
    return {config.parent.name: config.parent for config in sorted(_BUILT_IN_FOLDER.glob("generators/*/config.json"))}


def open_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> ModelFolder:
    """Find a model and read its ``config.json``; a model on the Hub is downloaded unless it is cached.

    Args:
        name_or_path: a folder (a :class:`~pathlib.Path`, ``"./folder"``, or any existing path with a separator in it),
            the name of a built-in model, or ``"org/name"`` on the Hub; looked up in that order.
        revision: branch, tag or commit hash on the Hub; the default branch if None.
        cache_dir: where downloads are kept; the Hub client's own cache if None.
        token: access token for private and gated models; the one saved by ``hf auth login`` if None.
        local_files_only: use what is cached and never the network.

    Raises:
        ModelNotFoundError: no model or revision has that name, or it may not be read without a token.
        ModelFileError: the folder's ``config.json`` cannot be read or lists files outside the folder.
        ConfigError: the ``config.json`` is not valid.
        HubError: the Hub cannot be reached and nothing is cached, or the download failed.

    >>> open_model("daps-cifar10").file("onnx/encoder.onnx")  # doctest: +SKIP
    PosixPath('.../daps_tokenizer/pretrained/daps-cifar10/onnx/encoder.onnx')
    """
    folder, origin = _find(name_or_path, TokenizerConfig, revision, cache_dir, token, local_files_only)
    return ModelFolder(folder, _read_config(folder, origin, TokenizerConfig), origin)


def open_generator(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> GeneratorFolder:
    """Find a generator and read its ``config.json``; arguments and errors as of :func:`open_model`."""
    folder, origin = _find(name_or_path, GeneratorConfig, revision, cache_dir, token, local_files_only)
    return GeneratorFolder(folder, _read_config(folder, origin, GeneratorConfig), origin)


def _find(
    name_or_path: str | Path,
    kind: type[_Config],
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | None,
    local_files_only: bool,
) -> tuple[Path, Origin]:
    """Where a tokenizer or a generator is, downloaded where it has to be."""
    built_in = built_in_generators() if kind is GeneratorConfig else built_in_models()
    name = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or name.startswith(".") or Path(name).is_absolute()
    if is_path or ((os.sep in name or "/" in name) and os.path.exists(name)):  # noqa: PTH110 - Path.exists may raise
        _refuse_revision(revision, f"{name} is a folder")
        return Path(name), "folder"
    if name in built_in:
        _refuse_revision(revision, f"{name} is built in")
        return built_in[name], "built-in"
    if name.count("/") != 1:
        raise ModelNotFoundError(_not_found_message(name, list(built_in)))
    with _hub_errors(name, revision):
        options = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        return within_limits(lambda: _download(name, kind, revision=revision, **options)), "hub"


def _download(name: str, kind: type[_Config], *, revision: str | None, **options: Any) -> Path:
    """``config.json`` first, which names the others; so a repository with many files costs no more than its model."""
    from huggingface_hub import hf_hub_download  # not at the top: it takes longer than all our own imports
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file: str, revision: str | None) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, tqdm_class=_bar_named(file), **options))

    try:
        snapshot = fetch("config.json", revision).parent
    except LocalEntryNotFoundError:  # neither cached nor to be fetched
        raise
    except EntryNotFoundError:
        raise ModelNotFoundError(f"{name} is not a model: it has no config.json on the Hub") from None
    config: TokenizerConfig | GeneratorConfig = _read_config(snapshot, "hub", kind)
    check_listed_files(config, str(snapshot / "config.json"))
    for file in (*config.files, "README.md"):
        try:
            fetch(file, snapshot.name)
        except EntryNotFoundError as error:
            # A file that the Hub does not have, or offline not the cache, is an error once it is asked for.
            if isinstance(error, LocalEntryNotFoundError) and not _is_offline(error.__cause__):
                raise
    return snapshot


def copy_folder(folder: ModelFolder, target: Path) -> Path:
    """Copy a model's files, each of them checked, to a new folder; returns its path.

    Raises:
        OutputExistsError: ``target`` exists and is not an empty folder.
        ModelFileError: a file of the model is missing or damaged.
        DapsError: ``target`` cannot be written.
    """
    try:
        _copy_files(folder, Path(os.path.realpath(target)))
    except DapsError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        raise DapsError(
            f"{os.fspath(target)!r}: cannot be written ({reason_of(error)}); give the name of a new folder"
        ) from error
    return target


def _copy_files(folder: ModelFolder, target: Path) -> None:
    is_there = target.exists()
    if is_there and (not target.is_dir() or any(target.iterdir())):
        raise OutputExistsError(f"{target}: already exists; give the name of a new folder")
    sources = {name: folder.file(name) for name in folder.config.files}
    sources |= {name: folder.path / name for name in _UNLISTED_FILES if os.path.lexists(folder.path / name)}
    for source in sources.values():
        _check_belongs(source, folder.path)
    # An empty folder is filled and not replaced: it may be where the user's shell is.
    partial = (target if is_there else target.parent) / f".{secrets.token_hex(8)}.partial"
    try:
        partial.mkdir(parents=True)
        for name, source in sources.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial / name)
        if is_there:
            for path in partial.iterdir():
                path.rename(target / path.name)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_belongs(file: Path, folder: Path) -> None:
    """Refuse to pass on what is no regular file, or a link to a file that is not the model's.

    In the Hub's cache, files are links to the blobs of their repository.

    Raises:
        ModelFileError: naming the file.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots" and (root.parent.parent / "blobs").is_dir():
        root = root.parent.parent
    if not file.is_file() or not file.resolve().is_relative_to(root):
        raise ModelFileError(
            f"{file} is not a regular file inside the model's folder; expected the file itself in place of the link"
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    private: bool = False,
    commit_message: str = "Upload model",
) -> str:
    """Send the folder of a tokenizer or generator to ``repo_id`` on the Hub in one commit; returns that commit's URL.

    Every file is checked before anything is sent. The repository is created if there is none (``private`` counts only
    then), and so is the branch that ``revision`` names. Graphs of an earlier version that this one does not have are
    removed.

    Raises:
        ModelNotFoundError: ``folder`` is not a model, or ``repo_id`` is not ``"org/name"`` or may not be written to.
        ModelFileError: a file of the model is missing, not listed in ``config.json``, unreadable or damaged.
        ConfigError: the ``config.json`` is not valid.
        HubError: the Hub cannot be reached, or refused the upload.
    """
    open_either = open_generator if _is_of_a_generator(Path(folder) / "config.json") else open_model
    model: ModelFolder = open_either(Path(folder))
    for path in sorted(path for pattern in _GRAPH_FILES for path in model.path.glob(pattern)):
        model.file(path.relative_to(model.path).as_posix())  # also one that is not listed, which was forgotten
    if repo_id.count("/") != 1:
        raise ModelNotFoundError(f"{repo_id!r} is not a repository on the Hub; expected 'org/name'")
    with TemporaryDirectory() as scratch, _hub_errors(repo_id, revision):
        from huggingface_hub import HfApi

        checked = copy_folder(model, Path(scratch) / "model")  # what is sent is what was checked, and nothing else
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=checked,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=_GRAPH_FILES,
        )
    return commit.commit_url


def _read_config(folder: Path, origin: Origin, kind: type[_Config]) -> _Config:
    """The ``config.json`` of a folder.

    Raises:
        ModelNotFoundError: it is no model folder, or one of a tokenizer where a generator is wanted, or the reverse.
        ModelFileError, ConfigError: it cannot be read, or is not valid.
    """
    if origin != "hub" and not _is_folder(folder):
        raise ModelNotFoundError(f"{folder} is not a folder; expected a model folder, which has a config.json")
    config_path = folder / "config.json"
    try:
        return kind.from_file(config_path)
    except ConfigError:
        if _is_of_a_generator(config_path) == (kind is GeneratorConfig):
            raise
        raise ModelNotFoundError(_other_kind_message(str(folder), is_tokenizer=kind is GeneratorConfig)) from None
    except FileNotFoundError:
        raise ModelNotFoundError(f"{folder} is not a model folder: it has no config.json") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{config_path}: not UTF-8 text") from error
    except OSError as error:
        raise ModelFileError(f"{config_path} cannot be read ({error.strerror}); expected a readable file") from error


def _is_of_a_generator(config_path: Path) -> bool:
    """Whether a ``config.json`` names the tokenizer that it draws codes for."""
    try:
        content = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "tokenizer" in content


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for the file system, or a parent that may not be entered
        return False


def _refuse_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise ModelNotFoundError(f"{what} and has no revision {revision!r}; only a model on the Hub has revisions")


def _other_kind_message(name: str, *, is_tokenizer: bool) -> str:
    if is_tokenizer:
        return f"{name} is a tokenizer; open it with Tokenizer.from_pretrained, or draw codes of it with --uniform"
    return f"{name} is a generator; open it with Generator.from_pretrained, or draw with `daps-tokenize generate`"


def _not_found_message(name: str, built_in: list[str]) -> str:
    if name in [*built_in_models(), *built_in_generators()]:
        return _other_kind_message(name, is_tokenizer=name in built_in_models())
    guesses = difflib.get_close_matches(name.lower(), built_in, n=1) or [f"./{name}"] * _is_folder(Path(name))
    guess = f"did you mean {guesses[0]!r}? " if name and guesses else ""
    names = ", ".join(built_in) or "this package has none"
    forms = f"a built-in model ({names}), a folder ('./folder') or 'org/name' on the Hub"
    return f"no model is named {name!r}; {guess}expected {forms}"


def _bar_named(file: str) -> type[tqdm]:
    """The client's progress bar, with the name of the file in place of its whole address."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"desc": file})

    return Bar


@contextmanager
def _hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the Hub client raises into one of our errors, in one line that names the repository."""
    from huggingface_hub import errors as hub

    sign_in = "pass token=... or run `hf auth login`"
    try:
        yield
    except HubError as error:  # of our own limits
        raise HubError(f"{repo_id}: {error}") from error
    except DapsError:
        raise
    except hub.HFValidationError as error:
        raise ModelNotFoundError(
            f"{repo_id!r} is not a repository on the Hub; expected 'org/name' of letters, digits, '-', '_' and '.'"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{repo_id} has no revision {revision!r} on the Hub; expected a branch, a tag or a commit hash"
        ) from error
    except hub.GatedRepoError as error:
        raise ModelNotFoundError(f"{repo_id} is gated on the Hub; ask for access there, then {sign_in}") from error
    except hub.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{repo_id} is neither a folder here nor a model on the Hub; if it is private or gated, {sign_in}"
        ) from error
    except hub.LocalEntryNotFoundError as error:
        raise HubError(f"{repo_id}: no complete copy is cached and {_why_not_downloaded(error.__cause__)}") from error
    except hub.HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise ModelNotFoundError(f"{repo_id}: {_answer(error)}; {sign_in}") from error
        raise HubError(f"{repo_id}: {_answer(error)}") from error
    except Exception as error:
        # The client lets through errors of its HTTP library (which changed between its releases), of its storage
        # library and of the operating system. Only its calls run in here, so all of them are failures of the transfer.
        raise HubError(f"{repo_id}: the transfer failed ({_one_line(error)}); try again") from error


def _is_offline(cause: BaseException | None) -> bool:
    """Whether nothing was asked of the Hub, since the caller or the environment forbids it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return cause is None or isinstance(cause, OfflineModeIsEnabled)


def _why_not_downloaded(cause: BaseException | None) -> str:
    from huggingface_hub import errors as hub

    if cause is None or _is_offline(cause):
        return "local_files_only=True or HF_HUB_OFFLINE=1 forbids a download; open it once without them"
    if isinstance(cause, hub.HfHubHTTPError):
        return f"{_answer(cause)}; try again later"
    return f"there is no network ({_one_line(cause)}); open it once with a connection"


def _answer(error: HfHubHTTPError) -> str:
    details = f" ({' '.join(error.server_message.split())})" if error.server_message else ""
    return f"the Hub answered {error.response.status_code}{details}"


def _one_line(error: BaseException) -> str:
    text = str(error).replace("Please retry with `force_download=True`.", "")  # an option of the client, not of ours
    return f"{type(error).__name__}: {' '.join(text.split())}"
