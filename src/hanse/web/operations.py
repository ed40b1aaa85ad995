"""What an HTTP side answers, said once: routes are made from it, and so is its OpenAPI document.

Here: `Operation`, `routes`, `document` (OpenAPI 3.1). Not here: which operations there are (`app`, `live.control_api`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanse import __version__

JSON: Final = "application/json"
HTML: Final = "text/html"
PLAIN: Final = "text/plain"
EVENTS: Final = "text/event-stream"
_SCHEMAS: Final = "#/components/schemas/{name}"
_CONVERTER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One status of an operation; `form` is the type of a JSON body."""

    text: str
    media: str = JSON
    form: Any = None


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    path: str
    """As Starlette writes it."""
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, Answer]
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    """Name -> what it does; all may be left out."""
    body: Any = None
    """Type of the JSON that is sent."""
    secret: bool = False
    """Asks for `authorization: Bearer`."""


def routes(operations: Sequence[Operation]) -> list[Route]:
    """One route a path, so that a wrong method is told every right one."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = one.endpoint
    return [Route(path, _chosen(known), methods=list(known)) for path, known in paths.items()]


def _chosen(known: Mapping[str, Endpoint]) -> Endpoint:
    async def answer(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await known[method](request)

    return answer


def document(title: str, operations: Sequence[Operation], common: Mapping[int, Answer]) -> bytes:
    """The OpenAPI document; `common` are answers that any operation may give."""
    forms = [one.body for one in operations if one.body is not None]
    forms += [a.form for one in operations for a in one.answers.values() if a.form is not None]
    forms += [answer.form for answer in common.values() if answer.form is not None]
    schemas, components = msgspec.json.schema_components(forms, ref_template=_SCHEMAS)
    named = {id(form): schema for form, schema in zip(forms, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        at = paths.setdefault(_CONVERTER.sub(r"{\1}", one.path), {})
        at[one.method.lower()] = _operation(one, common, named)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": __version__},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(
    one: Operation, common: Mapping[int, Answer], named: Mapping[int, Any]
) -> dict[str, Any]:
    text = {"type": "string"}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in _CONVERTER.findall(one.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": what, "schema": text}
        for name, what in one.query.items()
    ]
    said: dict[str, Any] = {
        "summary": one.summary,
        "parameters": parameters,
        "responses": {
            str(status): {
                "description": answer.text,
                "content": {answer.media: {"schema": named.get(id(answer.form), text)}},
            }
            for status, answer in {**common, **one.answers}.items()
        },
    }
    if one.body is not None:
        content = {JSON: {"schema": named[id(one.body)]}}
        said["requestBody"] = {"required": True, "content": content}
    if one.secret:
        said["security"] = [{"bearer": []}]
    return said
