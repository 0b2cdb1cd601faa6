"""An argument of the wrong kind is told what to type instead."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
import pytest

from eqsym._core import AbstractModule, check_kind, checked, checked_but, Numbers


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


class Box(AbstractModule):
    tool: Tool = Tool()

    @checked
    def fits(self, other: "Box") -> bool:
        return other is not self


@checked
def build(
    tool: Tool,
    size: int = 1,
    *,
    places: Numbers | None = None,
    parts: Sequence[Tool] = (),
    by_name: Mapping[str, Tool] | None = None,
    anything: Any = None,
) -> int:
    """Builds."""
    return size


@checked
class Case(eqx.Module):
    tool: Tool
    share: float = eqx.field(default=0.5, static=True, converter=float)


def said(call, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_annotations_are_checked(unchecked):
    start = "`tool` must be an instance of `Tool`, got"
    assert build(Fine(), np.int64(2), places=[[1, 2.0]], anything=build) == 2
    assert build(Tool(), parts=[Fine()], by_name={"a": Tool()}) == 1
    assert said(build, 3.5) == f"{start} 3.5."
    assert said(build, Tool).startswith(f"{start} the class `Tool`. Make an instance")
    assert said(build, Tool(), 2.0) == "`size` must be an integer, got 2.0: write 2."
    assert said(build, Tool(), True) == "`size` must be an integer, got True."
    for wrong in ("1", Tool(), [[1], [1, 2]], [None]):
        assert "`places` must be numbers" in said(build, Tool(), places=wrong)
    assert said(build, Tool(), parts=[Tool(), 3]).startswith("`parts[1]` must be an in")
    assert said(build, Tool(), by_name={"a": 3}).startswith("`by_name['a']` must be an")
    assert build.__name__ == "build" and build.__doc__ == "Builds."


def test_what_is_likely_meant_is_told(unchecked):
    assert said(build, 3, Tool()).endswith("`tool` and `size` are exchanged.")
    assert said(build, Box()).endswith("of `Box`. Give its `tool`.")
    alone = dict(parts=Tool()), dict(by_name=Tool())
    one, other = (said(build, Tool(), **given) for given in alone)
    assert one.endswith("Put it in a list: `parts=[...]`.")
    assert other.endswith('Give it a name: `{"name": ...}`.')


def test_fields_and_methods_are_checked_too(unchecked):
    assert Case(Tool(), 1).share == 1.0
    assert said(Case, 3).startswith("`tool` must be an instance of `Tool`")
    assert said(Case, Tool(), "1") == "`share` must be a number, got '1'."
    assert Box().fits(Box())
    assert said(Box().fits, Tool()).startswith("`other` must be an instance of `Box`")


def test_python_says_what_is_missing():
    with pytest.raises(TypeError, match="missing 1 required positional"):
        build()


def test_functions_may_have_words_of_their_own():
    @checked_but("tool")
    def other(tool: Tool, size: int):
        return tool

    assert other(3, 1) == 3
    assert "`size`" in said(other, 3, None)
