"""Write the parts of docs/API.md that the OpenAPI document knows: `python -m scripts.api_docs`, from the root.

A part stands between `<!-- operations -->` or `<!-- fields of POST /path -->` and `<!-- end -->`, and is replaced.
`<!-- fields of POST /path, else as POST /other -->` leaves out what both have alike.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.app import create_app
from service.settings import Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "API.md"
_PART = re.compile(r"(<!-- (operations|fields of [^>]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)

#: Operations are listed in this order of their tags; those with others last.
_TAGS = ("images", "models", "jobs", "operations")

Schema = Mapping[str, Any]


def openapi() -> Schema:
    """The OpenAPI document of the service, whatever it serves."""
    return create_app(Settings()).openapi()


def rewritten(text: str, document: Schema) -> str:
    """``text`` with every part as ``document`` has it. Raises KeyError for an operation that there is not."""
    return _PART.sub(lambda part: f"{part[1]}\n{_part(part[2], document)}\n\n{part[3]}", text)


def _part(name: str, document: Schema) -> str:
    if name == "operations":
        return _table(("request", "what it does"), _operations(document))
    operation, _, other = name.removeprefix("fields of ").partition(", else as ")
    fields = _fields(document, operation)
    known = _fields(document, other) if other else {}
    own = {name: field for name, field in fields.items() if known.get(name) != field}
    table = _table(("field", "allowed", "default", "meaning"), [_row(name, field) for name, field in own.items()])
    alike = ", ".join(f"`{name}`" for name in fields if name not in own)
    return f"{table}\n\nAs in `{other}`: {alike}." if alike else table


def _operations(document: Schema) -> list[tuple[str, str]]:
    """Every operation, and the first sentence that is said of it."""
    found = [
        (operation["tags"][0], f"`{method.upper()} {path}`", _first_sentence(operation["description"]))
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    found.sort(key=lambda each: _TAGS.index(each[0]) if each[0] in _TAGS else len(_TAGS))
    return [(request, text) for _, request, text in found]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


def _fields(document: Schema, operation: str) -> dict[str, Schema]:
    """The fields of the JSON body, each with whether it is ``required``."""
    method, path = operation.split(" ")
    schema = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    schema = _inlined(schema.get("anyOf", [schema])[0], document)  # of several bodies, the first
    required = schema.get("required", ())
    return {name: {**field, "required": name in required} for name, field in schema["properties"].items()}


def _inlined(node: Any, document: Schema) -> Any:  # noqa: ANN401  (any JSON value)
    """``node`` with the components that it refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            found = document["components"]["schemas"][node["$ref"].rsplit("/", 1)[1]]
            return {**_inlined(found, document), **{key: node[key] for key in node if key != "$ref"}}
        return {key: _inlined(value, document) for key, value in node.items()}
    return [_inlined(value, document) for value in node] if isinstance(node, list) else node


def _row(name: str, field: Schema) -> tuple[str, str, str, str]:
    default = field.get("default")
    told = "" if default in (None, {}) else f"`{default if isinstance(default, str) else json.dumps(default)}`"
    return f"`{name}`", allowed(field), "required" if field["required"] else told, description(field)


def description(field: Schema) -> str:
    """What a field's schema says of it, which may stand in one of several forms that it takes."""
    forms = field.get("anyOf", ())
    return str(field.get("description") or next((form["description"] for form in forms if "description" in form), ""))


def allowed(schema: Schema) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return _either([form for form in schema["anyOf"] if form.get("type") != "null"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _range(schema)
    if kind == "array":
        return _list(schema)
    if kind == "object":
        return _object(schema)
    return {"boolean": "`true`, `false`", "string": "a text"}.get(str(kind), "any JSON")


def _either(forms: Sequence[Schema]) -> str:
    """One of several forms; a list of what may also stand alone is short."""
    one = " or ".join(allowed(form) for form in forms if form.get("type") != "array")
    lists = [allowed(form) for form in forms if form.get("type") == "array"]
    lists = ["a list of them" if text == f"a list, each {one}" else text for text in lists]
    return " or ".join([*([one] if one else []), *lists])


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if schema.get("exclusiveMaximum") == 2**32:
        high = "2^32 - 1"
    if low is None and "exclusiveMinimum" in schema:
        low = f"above {_number(schema['exclusiveMinimum'])}"
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    if low is None and high is None:
        return noun
    return f"{_number(low)} to {_number(high)}" if high is not None else f"{noun} from {_number(low)}"


def _number(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _list(schema: Schema) -> str:
    low, high = schema.get("minItems"), schema.get("maxItems")
    length = "" if high is None else f" of {low}" if low == high else f" of {low or 0} to {high}"
    return f"a list{length}, each {allowed(schema.get('items', {}))}"


def _object(schema: Schema) -> str:
    if "properties" in schema:
        return "an object of " + ", ".join(f"`{name}`" for name in schema["properties"])
    most = f", up to {schema['maxProperties']}" if "maxProperties" in schema else ""
    return f"an object of texts{most}"


def _table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), openapi()))
