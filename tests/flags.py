"""Flags of XLA."""

# For what compiles more than it computes: without the expensive passes.
OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
}
QUICK = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
