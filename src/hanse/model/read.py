"""Bytes of a TOML file become a value, such as a `Fleet`, or one error that says where, what and how to mend it.

Here: TOML, shapes and field names; decoding stops at the first wrong shape, and all fields of no meaning are told beside it. Not here: wrong meanings, of which
`model.check` lists all at once for a fleet.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec

from hanse.errors import ConfigError, all_of
from hanse.model.fleet import Fleet, Value

V = TypeVar("V", bound=Value)
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A fleet of 1,000 sites with all their links is under 2 MB; more than this is another file by mistake."""

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>.*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>.*)`$")
_PATTERNS: Final = {
    "'^[a-z0-9][a-z0-9-]{0,62}$'": "1 to 63 of a-z, 0-9 and hyphen, not beginning with a hyphen",
    "'^[A-Z]{2}$'": "two capital letters (ISO 3166-1 alpha-2)",
}


def read_fleet(path: Path) -> Fleet:
    """Read and decode a fleet file.

    Raises:
        ConfigError: where it cannot be read, is no TOML, or has a field of a wrong name or shape.
    """
    return read_toml(path, Fleet, noun="fleet")


def parse_fleet(content: bytes, *, source: str) -> Fleet:
    """Decode the text of a fleet file; `source` names it where the error is about the whole.

    Raises:
        ConfigError: as `read_fleet`.
    """
    return parse_toml(content, Fleet, source=source, noun="fleet")


def read_toml(path: Path, kind: type[V], *, noun: str) -> V:
    """Read and decode a file that an operator writes; `noun` names it in errors about the whole.

    Raises:
        ConfigError: where it cannot be read, is no TOML, or has a field of a wrong name or shape.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ConfigError(str(path), got=f"{size} bytes", allowed=f"at most {FILE_BYTES_MAX}")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            str(path), got=error.strerror or str(error), fix=f"name a {noun} file that can be read"
        ) from error
    return parse_toml(content, kind, source=str(path), noun=noun)


def parse_toml(content: bytes, kind: type[V], *, source: str, noun: str) -> V:
    """Decode a text; `source` names it where the error is about the whole.

    Raises:
        ConfigError: as `read_toml`.
    """
    document = toml_of(content, source=source)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        found = explained(error, document, kind, noun)
        unknown = _unknown_fields(document, kind, "")
        others = [one for one in unknown if one.where != found.where]
        raise all_of([found, *others]) from error


def _unknown_fields(value: object, kind: Any, path: str) -> list[ConfigError]:
    """Fields of no meaning in a table and all below it."""
    fields = _fields_at("", kind)
    if (
        not fields
        or not isinstance(value, dict)
        or not kind.__struct_config__.forbid_unknown_fields
    ):
        return []
    known = {field.encode_name: _item(field.type) for field in fields}
    found = []
    for name, below in value.items():
        if name not in known:
            found.append(_unknown(name, path, list(known)))
        elif isinstance(below, list):
            for i, one in enumerate(below):
                found += _unknown_fields(one, known[name], f"{_joined(path, name)}[{i}]")
        else:
            found += _unknown_fields(below, known[name], _joined(path, name))
    return found


def explained(
    error: msgspec.ValidationError, document: object, kind: type, noun: str
) -> ConfigError:
    """What msgspec found in a document, in the words of whoever wrote it; `noun` names it where the error is about the whole."""
    return _explained(str(error), document, kind, noun)


def toml_of(content: bytes, *, source: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ConfigError: it is none; `source` names it.
    """
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(source, got=str(error), allowed="UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: numbers of thousands of digits, dates that no calendar has, brackets without end.
        raise ConfigError(source, got=str(error), allowed="TOML (https://toml.io)") from None


def _explained(message: str, document: object, kind: type, noun: str) -> ConfigError:
    """What msgspec found, in the words of the file."""
    match = _AT.match(message)
    assert match is not None, message
    what, path = match["what"], match["path"] or ""
    if unknown := _UNKNOWN.match(what):
        return _unknown_field(unknown["field"], path, kind)
    if missing := _MISSING.match(what):
        where = _joined(path, missing["field"])
        return ConfigError(where, got="nothing", allowed="a value", fix=f"add {missing['field']}")
    got = _value_at(document, path)
    if what.startswith("Invalid enum value"):
        return _not_a_choice(path, got, kind)
    allowed = what.split(", got `")[0].removeprefix("Expected ").replace("`", "")
    if allowed == "bool":
        allowed = "true or false"
    for pattern, words in _PATTERNS.items():
        allowed = allowed.replace(f"str matching regex {pattern}", words)
    return ConfigError(path or noun, got=repr(got), allowed=allowed)


def _unknown_field(field: str, path: str, kind: type) -> ConfigError:
    return _unknown(field, path, [known.encode_name for known in _fields_at(path, kind)])


def _unknown(field: str, path: str, names: list[str]) -> ConfigError:
    near = difflib.get_close_matches(field, names, n=1, cutoff=0.6)
    fix = f"did you mean {near[0]!r}?" if near else "remove it"
    return ConfigError(
        _joined(path, field), got="a field of no meaning", allowed=", ".join(names), fix=fix
    )


def _not_a_choice(path: str, got: object, root: type) -> ConfigError:
    head, _, last = path.rpartition(".")
    name = re.sub(r"\[\d+\]$", "", last)
    kind = next((f.type for f in _fields_at(head, root) if f.encode_name == name), None)
    if last.endswith("]"):
        kind = _item(kind)
    choices = [str(choice) for choice in get_args(kind)]
    near = difflib.get_close_matches(str(got), choices, n=1, cutoff=0.5)
    return ConfigError(
        path,
        got=repr(got),
        allowed="one of " + ", ".join(repr(choice) for choice in choices),
        fix=f"did you mean {near[0]!r}?" if near else None,
    )


def _fields_at(path: str, kind: Any) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Fields of the table at a path such as `site[3].power`."""
    for step in path.split(".") if path else ():
        name = step.split("[")[0]
        field = next((f for f in msgspec.structs.fields(kind) if f.encode_name == name), None)
        if field is None:
            return ()
        kind = _item(field.type)
    return msgspec.structs.fields(kind) if hasattr(kind, "__struct_fields__") else ()


def _item(kind: Any) -> Any:
    """The table inside `tuple[T, ...]` or `T | None`, without what is said of it beside."""
    arguments = [a for a in get_args(kind) if a not in (Ellipsis, type(None))]
    found = arguments[0] if arguments else kind
    return _item(found) if get_origin(found) is Annotated else found


def _value_at(document: object, path: str) -> object:
    value: Any = document
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    return value


def _joined(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field
