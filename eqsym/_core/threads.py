"""How many threads XLA computes with on a CPU."""

import os


# More than the calls of LAPACK for independent determinants that run at a time.
_THREADS = 6


def enlarge_pool() -> None:
    """Keeps a CPU of few cores from waiting forever.

    A call of LAPACK for a batch of matrices runs on one thread of a pool, hands parts
    of the batch to others of the same pool, and blocks until these are done. XLA makes
    the pool as large as there are cores, and runs several independent calls at a time:
    with two cores, two of them wait for each other's thread (jaxlib 0.10). On a single
    core nothing is handed on. Has an effect only before JAX starts its devices.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    if 1 < cores < _THREADS and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(_THREADS))
