"""A download from the Hub that ends: bounded in time and bytes, and nothing it is told becomes a path unchecked.

The Hub's client waits for minutes where a server is silent, for ever where it sends a byte now and then, and makes file
names of what the server says. The endpoint may be any server (``HF_ENDPOINT``), so its answers are checked here, by
hooks in the client's own HTTP session, for the requests of one download.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from daps_tokenizer.errors import HubError

MOST_BYTES = 2**31  # of a file
SILENT_SECONDS = 30.0  # without a byte, while one is waited for
LEAST_RATE = 2**14  # bytes per second, on the average of all time that was spent waiting, after the first minute
FIRST_SECONDS = 60.0
_POLL_SECONDS = 0.5

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r'(?:W/)?"?[0-9A-Za-z_-]{1,128}"?')

_Result = TypeVar("_Result")


def within_limits(download: Callable[[], _Result]) -> _Result:
    """What a function that downloads by the Hub's client returns or raises, if the server keeps to the limits.

    Raises:
        HubError: it was silent, too slow, sent too much, or named a file by what is no hash.
    """
    watch, finished = _Watch(), threading.Event()
    outcome: list[_Result] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            with watch.watching():
                outcome.append(download())
        except BaseException as error:
            failure.append(error)
        finally:
            finished.set()

    # A daemon: a thread that waits for a server must not keep the process from ending.
    threading.Thread(target=work, name="daps-download", daemon=True).start()
    try:
        while not finished.wait(_POLL_SECONDS):
            watch.check()
    except BaseException:
        watch.is_over = True  # the thread ends at the next byte
        raise
    if failure:
        raise failure[0]
    return outcome[0]


class _Watch:
    """How long the requests of a download have waited, and how many bytes came."""

    def __init__(self) -> None:
        self.is_over = False
        self._waiting_since: float | None = None
        self._waited = 0.0
        self._received = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at all requests that this thread makes by the Hub's client."""
        from huggingface_hub import get_session

        hooks, thread = get_session().event_hooks, threading.current_thread()
        added: dict[str, Callable[[Any], None]] = {
            "request": lambda request: self._asked() if threading.current_thread() is thread else None,
            "response": lambda answer: self._answered(answer) if threading.current_thread() is thread else None,
        }
        for kind, hook in added.items():
            hooks[kind].append(hook)
        try:
            yield
        finally:
            for kind, hook in added.items():
                hooks[kind].remove(hook)

    def check(self) -> None:
        """Raise a HubError where the server has been waited for too long."""
        since = self._waiting_since
        waiting = 0.0 if since is None else time.monotonic() - since
        if waiting > SILENT_SECONDS:
            raise HubError(f"the server sent nothing for {SILENT_SECONDS:g} seconds; try again later")
        if self._waited + waiting > FIRST_SECONDS + self._received / LEAST_RATE:
            raise HubError(f"the server sent less than {LEAST_RATE // 1024} KiB a second; try again later")
        if self.is_over:
            raise HubError("the download was given up")

    def _asked(self) -> None:
        self._waiting_since = time.monotonic()

    def _came(self) -> None:
        if self._waiting_since is not None:
            self._waited += time.monotonic() - self._waiting_since
        self._waiting_since = None

    def _answered(self, answer: Any) -> None:
        """Check the head of an answer, and have its body checked as it comes; ``answer`` is a response of httpx."""
        self._came()
        self.check()
        headers = answer.headers
        if answer.request.method == "HEAD" and (answer.status_code == 200 or "://" in headers.get("location", "")):
            etag, commit = headers.get("x-linked-etag") or headers.get("etag", ""), headers.get("x-repo-commit", "")
            if not _ETAG.fullmatch(etag) or not _COMMIT.fullmatch(commit):  # both become names in the cache
                raise HubError(f"the server sent the ETag {etag[:80]!r} and commit {commit[:80]!r}; expected hashes")
        for name in ("x-linked-size", "content-length"):
            if not headers.get(name, "0").isdecimal() or int(headers.get(name, "0")) > MOST_BYTES:
                raise HubError(f"the server offers {headers[name][:40]!r} bytes; expected at most {MOST_BYTES:,}")
        headers.pop("x-xet-hash", None)  # another protocol, which these hooks do not see: the client takes HTTP then
        raw, decoded = answer.iter_raw, answer.iter_bytes
        answer.iter_raw = lambda *size: self._timed(raw(*size))
        answer.iter_bytes = lambda *size, **named: self._bounded(decoded(*size, **named))

    def _timed(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The body as it comes."""
        while True:
            self._asked()
            part = next(parts, None)
            self._came()
            if part is None:
                return
            self._received += len(part)
            self.check()
            yield part

    def _bounded(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The body as it is after decompression."""
        size = 0
        for part in parts:
            size += len(part)
            if size > MOST_BYTES:
                raise HubError(f"the server sent more than {MOST_BYTES:,} bytes")
            yield part
