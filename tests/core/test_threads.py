"""Threads: more of XLA than its default if that could wait forever, and fewer of
OpenBLAS that wait busily."""

import os
import subprocess
import sys

import pytest

from eqsym._core.threads import set_up_threads


@pytest.mark.parametrize(
    ("cores", "before", "after"),
    [
        (1, {}, None),
        (2, {}, "6"),
        (5, {}, "6"),
        (6, {}, None),
        (64, {}, None),
        (2, {"PJRT_NPROC": "3"}, "3"),
        (2, {"NPROC": "3"}, None),
    ],
)
def test_threads(monkeypatch, cores, before, after):
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    cpus = set(range(cores))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cpus, raising=False)
    set_up_threads()
    assert os.environ.get("PJRT_NPROC") == after


@pytest.mark.parametrize(("before", "after"), [(None, "16"), ("28", "28")])
def test_a_wait_that_the_user_has_set_stays(monkeypatch, before, after):
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    if before is not None:
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", before)
    set_up_threads()
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == after


# A factorization on two threads, and what they do in a quarter of a second after it.
_IDLE = """
import time
import eqsym
import numpy as np
from scipy.linalg import lapack
matrix = np.eye(256, dtype=np.float32)
taken = []
for i in range(6):
    lapack.spotrf(matrix)
    start = time.process_time()
    time.sleep(0.25)
    taken.append(time.process_time() - start)
print(min(taken))
"""


def _busy() -> float:
    """Processor seconds of threads that have nothing to do, with eqsym."""
    named = {"OPENBLAS_THREAD_TIMEOUT", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    others = {name: value for name, value in os.environ.items() if name not in named}
    done = subprocess.run(
        [sys.executable, "-c", _IDLE],
        env={**others, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def test_idle_threads_of_openblas_go_to_sleep():
    # Without, 0.03 s.
    assert _busy() < 0.01
