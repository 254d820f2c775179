"""The two pages for people, as self-contained HTML: the start page and the API's documentation. Pure.

Owns:   rendering an OpenAPI document and a few facts; the style sheet.
Not:    where the facts come from (rest_pages).
Invariants: no script, nothing is loaded from elsewhere; every text is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """\
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:var(--soft);padding:.7rem;overflow:auto}
table{border-collapse:collapse;margin:.3rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
summary{cursor:pointer;padding:.2rem 0}details details{margin-left:1.5rem}details>table{margin-left:1.5rem}
.verb{display:inline-block;min-width:4.5rem;font-weight:600}.soft{opacity:.7}
"""


def page(title: str, body: str) -> str:
    """A whole document."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{body}</body></html>\n"
    )


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts."""
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows) + "</table>"


def links(items: Mapping[str, str]) -> str:
    """href -> what is there."""
    rows = "".join(
        f'<tr><td><a href="{escape(href)}"><code>{escape(href)}</code></a><td>{escape(what)}'
        for href, what in items.items()
    )
    return f"<table>{rows}</table>"


def documentation(document: Mapping[str, Any]) -> str:
    """The API's documentation from its OpenAPI document."""
    info = document["info"]
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(verb, path, operation))
    # The mesh's own first: the objects' groups are many and alike.
    order = sorted(groups, key=lambda tag: (tag not in ("mesh/v1", "pages"), tag))
    contents = " · ".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in order)
    sections = "".join(f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(groups[tag])}' for tag in order)
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return page(
        f"{info['title']} API",
        f"<h1>{escape(info['title'])} API</h1><p>Version {escape(info['version'])}. {escape(info['description'])} "
        'As a machine reads it: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<p>{contents} · <a href='#schemas'>schemas</a></p>{sections}<h2 id=schemas>schemas</h2>{schemas}",
    )


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = operation.get("parameters", ())
    rows = [(item["name"], item["in"], str(item.get("description", ""))) for item in parameters]
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        rows.append(("body", "body", ", ".join(f"{media}: {_name(item['schema'])}" for media, item in body.items())))
    for status, response in operation["responses"].items():
        schema = next((_name(item["schema"]) for item in response.get("content", {}).values()), "")
        rows.append((str(status), "answer", f"{response['description']} {schema}".strip()))
    return (
        f"<details><summary><span class=verb>{escape(verb.upper())}</span><code>{escape(path)}</code> "
        f"<span class=soft>{escape(str(operation.get('summary', '')))}</span></summary>{table(rows)}</details>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (field, _name(own) + ("" if field in required else " (optional)"), str(own.get("description", "")))
        for field, own in schema.get("properties", {}).items()
    ]
    text = escape(str(schema.get("description", "")))
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{f'<p>{text}</p>' if text else ''}{table(rows) if rows else f'<p>{escape(_name(schema))}</p>'}</details>"
    )


def _name(schema: Mapping[str, Any]) -> str:
    """A schema in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for joined, word in (("allOf", " and "), ("anyOf", " or "), ("oneOf", " or ")):
        if joined in schema:
            return word.join(_name(part) for part in schema[joined])
    if schema.get("type") == "array":
        return f"list of {_name(schema['items'])}" if "items" in schema else "list"
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    values = schema.get("additionalProperties")
    return f"map to {_name(values)}" if isinstance(values, Mapping) and values else str(schema.get("type", "any"))
