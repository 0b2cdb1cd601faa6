"""Methods that `jax.jit` takes as well as `eqx.filter_jit`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx


class _Method(eqx.Module):
    """A method bound to its module, for `jax.jit` too, which asks for a hash."""

    function: Callable = eqx.field(static=True)
    owner: eqx.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.owner, *args, **kwargs)

    def __hash__(self) -> int:
        return hash((self.function, id(self.owner)))

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, _Method)
            and other.function is self.function
            and other.owner is self.owner
        )


class pure:
    """Marks a method that `jax.jit` takes as well as `eqx.filter_jit`. Methods of
    Equinox are modules, whose hash is of their arrays, which have none."""

    function: Callable
    __doc__: str | None

    def __init__(self, function: Callable):
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable:
        return self.function if instance is None else _Method(self.function, instance)
