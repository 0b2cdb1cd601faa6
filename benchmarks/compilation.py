"""Runs a script and says where its processor time goes, and what it compiles.

    JAX_ENABLE_COMPILATION_CACHE=0 python benchmarks/compilation.py \
        examples/lih.py --path /tmp/lih

A row for the time up to every message of eqsym's log: processor seconds of all threads,
programs compiled, and seconds by the clock of tracing, lowering and compiling them.
With another checkout in `PYTHONPATH`, that one is measured.
"""

import collections
import logging
import runpy
import sys
import time

import jax


PARTS = {
    "jaxpr_trace_duration": "trace",
    "jaxpr_to_mlir_module_duration": "lower",
    "backend_compile_duration": "compile",
}


class Rows(logging.Handler):
    """Prints a row for each message."""

    def __init__(self):
        super().__init__()
        self.since, self.programs = 0.0, 0
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.total: dict[str, float] = collections.defaultdict(float)
        self.longest: list[tuple[float, str]] = []

    def listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        part = PARTS.get(event.split("/")[-1])
        if part is None:
            return
        self.seconds[part] += duration_secs
        if part == "compile":
            self.programs += 1
            self.longest.append((duration_secs, str(kwargs.get("fun_name", "?"))))

    def row(self, message: str) -> None:
        now = time.process_time()
        found = {"processor": now - self.since, "programs": self.programs}
        found |= {part: self.seconds[part] for part in PARTS.values()}
        for name, value in found.items():
            self.total[name] += value
        self.since, self.programs = now, 0
        self.seconds.clear()
        self.show(found, message)

    def show(self, found: dict[str, float], message: str) -> None:
        parts = "".join(f"{found[part]:9.2f}" for part in PARTS.values())
        print(
            f"{found['processor']:9.2f}{found['programs']:9.0f}{parts}  {message[:60]}",
            flush=True,
        )

    def emit(self, record: logging.LogRecord) -> None:
        self.row(record.getMessage())


def main() -> None:
    script, *arguments = sys.argv[1:]
    rows = Rows()
    logger = logging.getLogger("eqsym")
    logger.setLevel(logging.INFO)
    logger.addHandler(rows)
    jax.monitoring.register_event_duration_secs_listener(rows.listen)
    names = ("processor", "programs", *PARTS.values())
    print("".join(f"{name:>9}" for name in names) + "  up to")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    rows.row("the end")
    rows.show(rows.total, "in all")
    for seconds, name in sorted(rows.longest, reverse=True)[:12]:
        print(f"{seconds:9.2f} s to compile {name}")


if __name__ == "__main__":
    main()
