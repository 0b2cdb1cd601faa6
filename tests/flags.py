"""Flags of XLA."""

# For what compiles more than it computes: half of the time to compile.
OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}
QUICK = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
