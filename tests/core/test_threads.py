"""Threads of XLA: more than its default where that could wait forever."""

import os

import pytest

from eqsym._core.threads import enlarge_pool


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
    enlarge_pool()
    assert os.environ.get("PJRT_NPROC") == after
