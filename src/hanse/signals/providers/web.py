"""GET over HTTP with limits: time, size, and errors that say what to do but never a key.

Here: one request, JSON and XML out of it, and `WebFault`, which knows how long the server wants to be left alone. Not
here: when to ask again (`live`). Addresses in errors carry no query, since two providers take their key there; headers
and bodies are never shown.
"""

from __future__ import annotations

import http.client
import math
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import msgspec

from hanse import __version__
from hanse.errors import ConfigError, FeedError
from hanse.model.told import UNREADABLE

TIMEOUT_S: Final = 20.0
"""ENTSO-E answers a day in seconds, and nobody waits for a feed: the last good value serves meanwhile."""
BYTES_MAX: Final = 16_000_000
"""A year of quarter hours for twenty fuels in ENTSO-E's XML is 40 MB; a day or a week, which is asked for, far below."""
USER_AGENT: Final = f"hanse/{__version__}"
FIXES: Final = {
    400: "check zone and region in the feed's setting",
    401: "check the key: its variable or file is named in the feed's setting",
    403: "check what the key's plan includes, and its zone",
    404: "check zone and region in the feed's setting",
    429: "ask less often: raise every_s",
}


class WebFault(FeedError):
    """A request that gave no usable answer."""

    status: int = 0
    """HTTP status, 0 where there was none."""
    retry_after_s: float = 0.0
    """How long the server asks to be left alone."""


def get(
    url: str,
    *,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    now_s: float,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """The body of a 200; everything else is a `WebFault`."""
    where = place(url)
    full = f"{url}?{urlencode(query)}" if query else url
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(where, got="another scheme", allowed="http or https")
    request = urllib.request.Request(full, headers={"User-Agent": USER_AGENT, **(headers or {})})  # noqa: S310
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            body: bytes = answer.read(BYTES_MAX + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(where, error, now_s) from None
    except (OSError, http.client.HTTPException) as error:
        # The reason of a URLError names the cause; its text never holds the address or a header.
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError | socket.timeout)
        got = f"no answer in {timeout_s:g} s" if late else f"{type(reason).__name__}"
        raise WebFault(where, got=got, allowed="an answer", fix="it is tried again") from None
    if len(body) > BYTES_MAX:
        raise WebFault(where, got=f"more than {BYTES_MAX} bytes", allowed="less")
    return body


def json_of(body: bytes, url: str) -> Any:
    """A JSON document."""
    try:
        return msgspec.json.decode(body)
    except UNREADABLE as error:
        raise WebFault(place(url), got=f"bad JSON ({error})", allowed="JSON") from None


def xml_of(body: bytes, url: str) -> ElementTree.Element:
    """An XML document without declarations of its own, which could grow without end."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise WebFault(place(url), got="a document type of its own", allowed="plain XML")
    try:
        return ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        raise WebFault(place(url), got=f"bad XML ({error})", allowed="XML") from None


def place(url: str) -> str:
    """Host and path only."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{parts.path}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys in headers must not follow a redirection to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _refused(where: str, error: urllib.error.HTTPError, now_s: float) -> WebFault:
    fault = WebFault(
        where,
        got=f"status {error.code}",
        allowed="200",
        fix=FIXES.get(error.code, "it is tried again"),
    )
    fault.status = error.code
    fault.retry_after_s = _retry_after_s(error.headers.get("Retry-After"), now_s)
    return fault


def _retry_after_s(header: str | None, now_s: float) -> float:
    """Seconds or an HTTP date (RFC 9110, 10.2.3); what cannot be read counts as none."""
    if not header:
        return 0.0
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - now_s
        except (TypeError, ValueError):
            return 0.0
    return max(0.0, wait_s) if math.isfinite(wait_s) else 0.0
