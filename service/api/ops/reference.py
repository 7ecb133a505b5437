"""GET /docs: the OpenAPI document as a page for people. It takes nothing from outside, and runs no script."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse}td{padding:.2rem 1rem .2rem 0;vertical-align:top}"
    "code{font-size:.95em}section{border-top:1px solid #8888;margin-top:2rem}"
)


@router.get("/docs", response_class=HTMLResponse)
async def page(request: Request) -> HTMLResponse:
    """Every operation with its fields."""
    document: Mapping[str, Any] = request.app.openapi()
    body = "".join(_page(document))
    return HTMLResponse(f"<!doctype html><html lang=en><meta charset=utf-8>{body}</html>", headers=_HEADERS)


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f"<title>{escape(info['title'])}</title><style>{_STYLE}</style><h1>{escape(info['title'])}</h1>"
    yield f"<p>{escape(info['description'])} For programs: <a href=openapi.json>openapi.json</a>.</p>"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>{_fields(operation)}"
            yield f"<p>Answers: {_answers(operation)}</p></section>"


def _fields(operation: Mapping[str, Any]) -> str:
    """The fields of the query and the path, then those of the body."""
    found = {each["name"]: each.get("description") or each["schema"] for each in operation.get("parameters", ())}
    content = operation.get("requestBody", {}).get("content", {})
    found |= next((media["schema"]["properties"] for media in content.values() if "schema" in media), {})
    rows = (f"<tr><td><code>{escape(name)}</code><td>{escape(_text(field))}" for name, field in found.items())
    return f"<table>{''.join(rows)}</table>"


def _text(field: str | Mapping[str, Any]) -> str:
    """What a field's schema says of it, which may stand in one of several forms that it takes."""
    if isinstance(field, str):
        return field
    forms = field.get("anyOf", ())
    return str(field.get("description") or next((form["description"] for form in forms if "description" in form), ""))


def _answers(operation: Mapping[str, Any]) -> str:
    """Status codes, and the types of a success."""
    types = operation["responses"].get("200", {}).get("content", {})
    return escape(f"{', '.join(operation['responses'])}; 200 as {', '.join(types)}")
