"""Values as YAML or JSON for people and programs."""

import json
from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the C one is ten times as fast
    """PyYAML's, but text of several lines is written as such (certificates, manifests), and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def as_yaml(value: Any) -> str:
    """One YAML document, keys in their order."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    )
    return text


def as_json(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def as_document(value: Any, output: str) -> str:
    """`output`: yaml or json."""
    return as_yaml(value) if output == "yaml" else as_json(value)


def as_list(values: Sequence[Any], output: str) -> str:
    """A Kubernetes List of objects."""
    return as_document({"apiVersion": "v1", "kind": "List", "items": list(values)}, output)
