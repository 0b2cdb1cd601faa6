"""What a rule for an operation of JAX is given."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from .derivatives import Differentiated


class Operation(NamedTuple):
    """One operation to differentiate: what it does to arrays, its parameters, and the
    number of coordinates."""

    bind: Callable[..., Array]
    params: dict[str, Any]
    coordinates: int


def varies(value: Any) -> bool:
    return isinstance(value, Differentiated)


def plain(value: Any) -> Any:
    return value.value if varies(value) else value
