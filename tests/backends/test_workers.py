"""The ONNX backend's own threads: denormal floats are zero there, and nowhere else."""

import os
import platform
import threading

import numpy as np
import pytest

from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.workers import Workers, flush_denormals

KNOWN = platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"
needs_known_platform = pytest.mark.skipif(not KNOWN, reason="how to flush denormals is known for glibc on x86-64 only")


def smallest() -> float:
    """A denormal float32 as this thread's arithmetic has it."""
    return float((np.array([1e-39], np.float32) * np.float32(1.0))[0])


@needs_known_platform
def test_denormals_are_zero_in_the_workers_and_not_in_the_thread_that_calls() -> None:
    workers = Workers(2)
    assert workers.map(lambda _: smallest(), range(4)) == [0.0] * 4
    assert smallest() > 0


@needs_known_platform
def test_encoding_and_scoring_leave_the_callers_arithmetic_alone() -> None:
    def use_a_model() -> float:
        tok = Tokenizer.from_pretrained("daps-mnist")
        image = np.zeros((28, 28, 1), np.uint8)
        tok.log_prob(image, tok.encode(image))
        return smallest()

    assert use_a_model() > 0


@pytest.mark.skipif(KNOWN, reason="known here")
def test_elsewhere_nothing_changes() -> None:
    assert not flush_denormals()
    assert smallest() > 0


def test_results_come_in_the_order_of_the_items() -> None:
    assert Workers(3).map(lambda item: item * item, range(20)) == [item * item for item in range(20)]


def test_an_error_reaches_the_caller_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        Workers(1).run(lambda: 1 // 0)


def test_there_are_no_more_threads_than_asked_for() -> None:
    workers, barrier = Workers(2), threading.Barrier(2, timeout=10)

    def meet(_: int) -> int:
        barrier.wait()  # two at once must be there, or this breaks
        return threading.get_ident()

    assert len(set(workers.map(meet, range(6)))) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    workers = Workers(1)
    workers.run(smallest)
    child = os.fork()
    if child == 0:
        os._exit(workers.run(lambda: 7))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
