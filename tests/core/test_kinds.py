"""An argument of the wrong kind is told what to type instead."""

import re

import equinox as eqx
import numpy as np
import pytest

from eqsym._core import check_kind


class Tool(eqx.Module):
    size: int = 3


class Fine(Tool):
    pass


def refuses(value, message, instead=None):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_kind("tool", value, Tool, "a tool, such as `Fine()`", instead)


def test_the_right_kind_passes():
    check_kind("tool", Fine(), Tool, "a tool")
    check_kind("tool", 3, (Tool, int), "a tool")


def test_the_wrong_kind_is_named():
    start = "`tool` must be a tool, such as `Fine()`, got"
    refuses(0, f"{start} 0.")
    refuses(None, f"{start} None.")
    refuses("fine", f"{start} 'fine'.")
    refuses(np.zeros((3, 2)), f"{start} an array of shape (3, 2).")
    refuses(Fine, f"{start} the class `Fine`. Make an instance of it: `Fine(...)`.")
    refuses(dict, f"{start} the class `dict`.")


def test_known_mistakes_are_told_what_to_type():
    instead = {dict: "Wrap it: `Fine(**tool)`."}
    start = "`tool` must be a tool, such as `Fine()`, got"
    refuses({}, f"{start} an instance of `dict`. {instead[dict]}", instead)
    refuses(dict, f"{start} the class `dict`. {instead[dict]}", instead)
    refuses([], f"{start} [].", instead)
    refuses([{}], f"{start} an instance of `list`.", instead)
