"""Does a long run keep its pace and its memory?

    python benchmarks/long_run.py --minutes 60

Trains LiH in the setting of `examples/lih.py` for some time, and watches the process.
Every minute a row goes to a CSV file: steps, processor time, resident memory, open
files and the size of the run folder. At the end, or after Ctrl-C or SIGTERM, a table of
windows and the drift per hour. Times per step are those of the processor, which other
load on the machine disturbs least.
"""

import argparse
import contextlib
import csv
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
WALKERS = 256
PRETRAINING_STEPS = 300
COLUMNS = ("seconds", "steps", "processor", "resident", "files", "folder")


class Recorder:
    """A thread that writes a row at regular times, and ends the run when time is up, by
    the signal of Ctrl-C. A row has seconds, steps, seconds of the processor, resident
    memory in MB, open files, and the size of the folder in MB."""

    def __init__(self, folder: Path, file: Path, seconds: float, interval: float):
        self.rows: list[tuple[float, ...]] = []
        self._folder, self._file = folder, file
        self._seconds, self._interval = seconds, interval
        self._stopped = threading.Event()
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        with open(self._file, "w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        next_row = self._interval
        while not self._stopped.wait(max(0.0, next_row - self._passed())):
            self._record()
            next_row += self._interval
            if self._passed() >= self._seconds:
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _passed(self) -> float:
        return time.monotonic() - self._start

    def _record(self) -> None:
        row = (
            round(self._passed(), 2),
            steps_done(self._folder / "history.csv"),
            round(time.process_time(), 2),
            round(resident(), 2),
            len(os.listdir("/proc/self/fd")),
            round(size(self._folder), 2),
        )
        self.rows.append(row)
        with open(self._file, "a", newline="") as file:
            csv.writer(file).writerow(row)
        print(*row, flush=True)


def steps_done(history: Path) -> int:
    """The step of the last whole line."""
    with contextlib.suppress(FileNotFoundError), open(history, "rb") as file:
        file.seek(max(0, history.stat().st_size - 4096))
        lines = file.read().split(b"\n")
        last = lines[-2].partition(b",")[0] if len(lines) > 1 else b""
        return int(last) if last.isdigit() else 0
    return 0


def resident() -> float:
    """Of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no line VmRSS.")


def size(folder: Path) -> float:
    """All files of a folder in MB. Files may disappear on the way."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total / 2**20


def drift(times: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of a straight line in percent of the mean per hour, and its standard
    error from the scatter about the line. Seconds."""
    if len(times) < 3:
        return np.nan, np.nan
    hours = (times - np.mean(times)) / 3600
    slope = np.sum(hours * values) / np.sum(hours**2)
    rest = values - np.mean(values) - slope * hours
    error = np.sqrt(np.sum(rest**2) / (len(hours) - 2) / np.sum(hours**2))
    return 100 * slope / np.mean(values), 100 * error / np.mean(values)


def report(rows: list[tuple[float, ...]], window: float, left_out: float) -> str:
    """A table of windows and the drifts; lengths in seconds."""
    lines = [
        "| minutes | steps | steps per second | processor seconds per step | "
        "resident memory [MB] | open files | run folder [MB] |",
        "|---|---|---|---|---|---|---|",
    ]
    table = np.array([(0.0,) * len(COLUMNS), *rows]).reshape(-1, len(COLUMNS))
    seconds, steps, processor, memory = table[:, :4].T
    first = 0
    for end in np.arange(window, seconds[-1] + window / 2, window):
        last = int(np.searchsorted(seconds, end + 1)) - 1
        done = steps[last] - steps[first]
        if done > 0:
            pace = done / (seconds[last] - seconds[first])
            cost = (processor[last] - processor[first]) / done
            lines.append(
                f"| {seconds[first] / 60:.0f} to {seconds[last] / 60:.0f} | {done:.0f} "
                f"| {pace:.2f} | {cost:.4f} | {memory[last]:.0f} | "
                f"{table[last, 4]:.0f} | {table[last, 5]:.1f} |"
            )
        first = last
    kept = np.flatnonzero((seconds > left_out) & (steps > 0))
    if len(kept) > 3:
        middle = (seconds[kept][1:] + seconds[kept][:-1]) / 2
        costs = np.diff(processor[kept]) / np.maximum(np.diff(steps[kept]), 1)
        for name, found in (
            ("resident memory", drift(seconds[kept], memory[kept])),
            ("processor time per step", drift(middle, costs)),
        ):
            lines.append(f"{name}: {found[0]:+.2f} +- {found[1]:.2f} % per hour")
        growth = (memory[kept[-1]] - memory[kept[0]]) * 2**10
        growth /= max(steps[kept[-1]] - steps[kept[0]], 1)
        lines.append(
            f"from minute {seconds[kept[0]] / 60:.1f} to {seconds[kept[-1]] / 60:.1f}; "
            f"memory grew by {growth:.2f} kB per step"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The first of both signals raises `KeyboardInterrupt`, even if the shell makes
    processes in the background ignore Ctrl-C; later ones would disturb the saving."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def train(path: Path) -> None:
    """The run of `examples/lih.py`, without an end."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=LATTICE_CONSTANT, unit="angstrom")
    mean_field = eqs.MeanField.solve(
        crystal, basis="cc-pvdz", path=path / "mean_field.npz"
    )
    network, key = jax.random.split(jax.random.key(0))
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(moves=10),
        eqs.Spring(),
        chunk=64,
    )
    eqs.run(
        vmc,
        eqs.SolidNet(crystal, mean_field.occupation, key=network),
        steps=10**9,
        walkers=WALKERS,
        key=key,
        pretraining=eqs.Pretraining(mean_field, PRETRAINING_STEPS),
        path=path / "run",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="set-up included")
    parser.add_argument("--path", type=Path, default=Path("runs/long_run"))
    parser.add_argument("--interval", type=float, default=60.0, help="of rows, seconds")
    parser.add_argument("--window", type=float, default=10.0, help="minutes")
    parser.add_argument(
        "--left-out", type=float, default=5.0, help="first minutes, of the drift"
    )
    options = parser.parse_args()
    options.path.mkdir(parents=True, exist_ok=True)
    # An earlier run would be prolonged.
    shutil.rmtree(options.path / "run", ignore_errors=True)
    file = options.path / "long_run.csv"
    recorder = Recorder(
        options.path / "run", file, 60 * options.minutes, options.interval
    )
    print(*COLUMNS, flush=True)
    with interruptible():
        try:
            recorder.start()
            train(options.path)
        except KeyboardInterrupt:
            pass
        finally:
            recorder.stop()
    print(f"\nLiH, {WALKERS} walkers, {os.cpu_count()} cores; rows in {file}")
    print(report(recorder.rows, 60 * options.window, 60 * options.left_out))


if __name__ == "__main__":
    main()
