"""Docstrings of classes that tell the arguments of their constructors."""

import inspect
from collections.abc import Iterable
from typing import Any


def describe_arguments(values: Iterable[Any]) -> None:
    """Moves the docstring of `__init__` of each class to the end of its own, which
    is what `help`, a notebook's question mark and editors show first."""
    for cls in values:
        if not inspect.isclass(cls):
            continue
        init = vars(cls).get("__init__")
        if init is None or init.__doc__ in (None, object.__init__.__doc__):
            continue
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{inspect.getdoc(init)}"
        init.__doc__ = None
