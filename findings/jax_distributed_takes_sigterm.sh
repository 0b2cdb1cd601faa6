#!/usr/bin/env bash
# JAX 0.10.2: after `jax.distributed.initialize`, also of one process, SIGTERM no longer
# ends the program. A handler below Python catches it (for preemptions, which
# `jax.experimental.multihost_utils.reached_preemption_sync_point` asks for), logs a
# line, and nothing else happens. Python does not know of it: `signal.getsignal` says
# that the default is in place, so that a program that looks whether somebody handles
# SIGTERM, or wants to put the old handler back, is misled. A queue that sends SIGTERM
# before it kills gets no answer from a program that relies on the default.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$scratch/venv/bin/python" -W ignore - <<'PYTHON'
import os, signal, socket, time
import jax


def caught():
    """What the kernel knows of the handlers of this process."""
    for line in open("/proc/self/status"):
        if line.startswith("SigCgt"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
assert not caught()
jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)
assert caught()
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(2)
print("alive two seconds after SIGTERM")
PYTHON
echo "as described"
