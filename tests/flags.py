"""Flags of XLA."""

# For what compiles more than it computes: without the expensive passes.
QUICK = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
