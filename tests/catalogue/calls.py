"""A rule as one would write it: the call that makes it, with what differs from its definition's defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import trainfn as tf
from trainfn.rule import Link, Partition
from trainfn.schedules import huggingface


def call(rule: tf.Rule) -> str:
    """The call, in the words of `trainfn`."""
    links = [_partition(link) if isinstance(link, Partition) else _link(link) for link in rule.links]
    return links[0] if len(links) == 1 else f"chain({', '.join(links)})"


def written(text: str) -> Callable[..., Any]:
    """A function from how it is written, which is its name from then on, so that a page can show it."""
    function: Callable[..., Any] = eval(text)
    function.__name__ = text
    return function


def _link(link: Link) -> str:
    given, defaults = {**dict(link.options), **link.hyper}, link.definition.defaults
    inner = [] if link.inner is None else [call(link.inner)]
    changed = [f"{k}={spelt(given[k])}" for k, default in defaults.items() if not _is_same(given[k], default)]
    return f"{link.definition.name}({', '.join(inner + changed)})"


def _partition(link: Partition) -> str:
    names, calls = link.policy.names, [call(rule) for rule in link.rules]
    has_otherwise = link.policy.otherwise is not None
    cases = list(zip(names, calls, strict=True))[: -1 if has_otherwise else None]
    inside = "{" + ", ".join(f"{name}: {made}" for name, made in cases) + "}"
    return f"partition({inside}, otherwise={calls[-1]})" if has_otherwise else f"partition({inside})"


def call_of_schedule(schedule: tf.Schedule) -> str:
    """The same of a schedule; transformers' by their names."""
    parameters = inspect.signature(schedule.function).parameters
    arguments: list[str] = []
    for k, value in schedule.arguments.items():
        if parameters[k].kind is inspect.Parameter.VAR_POSITIONAL:
            arguments += map(spelt, value)
        elif not _is_same(value, parameters[k].default):
            arguments.append(f"{k}={spelt(value)}")
    name = schedule.name
    if not hasattr(tf, name):
        theirs = next((n for n, family in huggingface.SCHEDULES.items() if family.__name__ == name), None)
        if theirs is not None:
            name, arguments = "get_schedule", [repr(theirs), *arguments]
    return f"{name}({', '.join(arguments)})"


def _is_same(value: Any, default: Any) -> bool:
    is_flag = isinstance(value, bool) or isinstance(default, bool)
    return value is default or (value == default and (type(value) is type(default) or not is_flag))


def spelt(value: Any) -> str:
    """A value, numbers without what says nothing: 2 for 2.0, 1e-8 for 1e-08."""
    if isinstance(value, tf.Schedule):
        return call_of_schedule(value)
    if isinstance(value, list):
        return f"[{', '.join(map(spelt, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(spelt, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        is_plain = value == 0 or 1e-4 < abs(value) < 1e6
        short = f"{value:g}" if is_plain else f"{value:.6e}".replace(".000000", "")
        short = short if float(short) == value else repr(value)
        return re.sub(r"e([+-])0", r"e\1", short).replace("e+", "e")
    return repr(value)
