"""YAML that people read: expressions as blocks, keys in their order, nothing quoted without need."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key, no anchors for what is equal."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any, *, head: str = "") -> str:
    r"""YAML of plain dicts, lists, text and numbers.

    Parameters
    ----------
    value
        What is written. Not modified.
    head
        A comment that goes before it, without the marks.

    >>> print(to_yaml({"expr": "a\n+ b"}, head="sums"), end="")
    # sums
    expr: |-
      a
      + b
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.splitlines())
    # A width that no line has: a template that is broken in two is hard to read.
    return comment + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
