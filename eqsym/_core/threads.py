"""How many threads compute on a CPU, and what the others do meanwhile."""

import os


# More than the calls of LAPACK for independent determinants that run at a time.
_THREADS = 6
# Cycles that an idle thread of OpenBLAS asks for work, as a power of 2: some 30
# microseconds.
_PATIENCE = 16


def set_up_threads() -> None:
    """Keeps a CPU of few cores from waiting forever, and from waiting busily.

    A call of LAPACK for a batch of matrices runs on one thread of a pool, hands parts
    of the batch to others of the same pool, and blocks until these are done. XLA makes
    the pool as large as there are cores, and runs several independent calls at a time:
    with two cores, two of them wait for each other's thread (jaxlib 0.10). On a single
    core nothing is handed on. Has an effect only before JAX starts its devices.

    The OpenBLAS of SciPy, which factorizes matrices for JAX, has threads of its own.
    After each call they ask for more work, for 2^26 cycles or 30 ms, before they go to
    sleep: the Gram matrix of a training step would keep all cores busy for so long,
    while XLA computes with them. Has an effect only before SciPy is imported.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_PATIENCE))
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    if 1 < cores < _THREADS and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(_THREADS))


# Here, not at the end of the package: its other modules import SciPy.
set_up_threads()
