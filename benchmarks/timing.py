"""Prints times, memory and compilation of the parts of an iteration; without eqsym, so
that other programs are measured in the same way."""

import argparse
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np


def add_settings(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Options of networks and walkers that all iterations have."""
    parser.add_argument("--widths", help="per electron and per pair")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--determinants", type=int)
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--moves", type=int)
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(**defaults)


def clock() -> float:
    """Seconds of the processor, which other load disturbs least; by the wall clock if
    an accelerator does the work."""
    on_cpu = jax.default_backend() == "cpu"
    return time.process_time() if on_cpu else time.perf_counter()


def times(
    function: Callable,
    *arguments: Any,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Of single calls, compilation and one warm-up call excluded."""
    jax.block_until_ready(function(*arguments))
    found = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(function(*arguments))
        found.append(clock() - start)
    return found


def seconds(function: Callable, *arguments: Any, **settings: Any) -> float:
    """The median of `times`, with the same settings."""
    return float(np.median(times(function, *arguments, **settings)))


def report(parts: Iterable[tuple[str, Any, tuple]], repeats: int) -> None:
    """A line for each part, a name, a jitted function and its arguments; and the peak
    memory of the process."""
    for name, jitted, arguments in parts:
        start = time.process_time()
        compiled = jitted.lower(*arguments).compile()
        compilation = time.process_time() - start
        # Equinox wraps what JAX compiles.
        memory = getattr(compiled, "compiled", compiled).memory_analysis()
        taken = seconds(compiled, *arguments, repeats=repeats)
        print(
            f"{name:>22}  {taken:8.4f} s, {memory.temp_size_in_bytes / 1e6:7.1f} MB, "
            f"traced and compiled in {compilation:5.1f} s",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':>22}  {peak:8.0f} MiB")
