"""Options of XLA for what compiles more than it computes."""

import ast
import functools
import os
import subprocess
import sys


_WANTED = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}

# As an option of one compilation, what XLA does not know is an exception. As a flag of
# the process, it is the end of the process.
_PROBE = """
import sys, jax
known = {}
for name, value in eval(sys.argv[1]).items():
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        continue
    known[name] = value
print(known)
"""

# Seconds of work, so processes started from this one are told.
_TOLD = "EQSYM_XLA_OPTIONS"


@functools.cache
def options() -> dict:
    """Those that the installed XLA knows: they come and go with its versions."""
    if _TOLD not in os.environ:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment.pop("XLA_FLAGS", None)
        os.environ[_TOLD] = subprocess.run(
            [sys.executable, "-c", _PROBE, repr(_WANTED)],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return ast.literal_eval(os.environ[_TOLD])


def quick() -> str:
    """The options as flags of a process."""
    return " ".join(f"--{k}={str(v).lower()}" for k, v in options().items())
