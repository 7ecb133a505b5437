"""multipart/form-data (RFC 7578 on RFC 2046): the fields of a form, from its complete body.

The body is scanned once with ``bytes.find``: a parser that stops at every possible start of a boundary takes seconds
for a body of nothing else.
"""

import re

from python_multipart.multipart import parse_options_header

from service.errors import BadRequest, BodyTooLarge, InvalidField

#: Most parts of one form: more than any request has fields and files.
MAX_PARTS = 128

#: Most bytes of the headers of one part, and of the padding behind a boundary.
MAX_PART_HEAD, MAX_PADDING = 8192, 256

#: The first line of a form: two dashes and the boundary (RFC 2046, section 5.1.1), two more if it is the last.
_FIRST_LINE = re.compile(rb"--([0-9A-Za-z'()+_,./:=? -]{0,69}?[0-9A-Za-z'()+_,./:=?-])(?:--)?[ \t]*\r\n")
_FOLD = re.compile(r"\r\n[ \t]+")

#: Transfer encodings that do not change bytes; a form has no others (RFC 7578, section 4.7).
_IDENTITIES = ("", "7bit", "8bit", "binary")


def boundary_of(body: bytes, content_type: str) -> bytes | None:
    """The boundary of a form: that in its Content-Type, if ``body`` contains it, else that in its first line.

    None where ``body`` is not a form. Raises BadRequest where its first line is not a valid boundary.
    """
    kind, options = parse_options_header(content_type[:MAX_PART_HEAD])
    named = options.get(b"boundary")
    if kind == b"multipart/form-data" and named:
        delimiter = b"--" + named
        if body.startswith(delimiter) or b"\r\n" + delimiter in body:
            return named
    found = _FIRST_LINE.match(body)
    if found is not None:
        return found[1]
    if body.startswith(b"--"):
        raise BadRequest("The body looks like a form (multipart/form-data), but its first line is not a boundary.")
    return None


def form_fields(body: bytes, boundary: bytes, max_text_bytes: int) -> list[tuple[str, str | bytes]]:
    """The fields in order: text as str, files as bytes.

    Text before the first boundary and after the last is ignored. Raises BadRequest where the form is incomplete or has
    too many parts, BodyTooLarge where its text exceeds ``max_text_bytes``, and InvalidField.
    """
    fields = [_field(part) for part in _parts(body, boundary)]
    if sum(len(value) for _, value in fields if isinstance(value, str)) > max_text_bytes:
        raise BodyTooLarge(max_text_bytes)
    return [(name, value) for name, value in fields if name != "_charset_"]


def _parts(body: bytes, boundary: bytes) -> list[bytes]:
    """The parts between boundaries; every line that starts with the delimiter is one (RFC 2046, section 5.1.1)."""
    delimiter = b"\r\n--" + boundary
    parts: list[bytes] = []
    # The first boundary may start the body; otherwise a preamble precedes it.
    begin = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if begin == -1:
        raise BadRequest("The form is invalid: it has no boundary.")
    at = begin + len(delimiter)
    while body[at : at + 2] != b"--":
        line_end = body.find(b"\r\n", at, at + MAX_PADDING)
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise BadRequest("The form is invalid: a boundary is followed by other text on its line.")
        following = body.find(delimiter, line_end)
        if following < 0:
            raise BadRequest("The form is incomplete: its last boundary is missing.")
        if len(parts) == MAX_PARTS:
            raise BadRequest(f"The form has too many parts: up to {MAX_PARTS} are allowed.")
        parts.append(body[line_end + 2 : following])
        at = following + len(delimiter)
    return parts


def _field(part: bytes) -> tuple[str, str | bytes]:
    """The name and the value of a part."""
    end = part.find(b"\r\n\r\n", 0, MAX_PART_HEAD)
    headers = _headers(part[:end].decode("latin-1")) if end >= 0 else {}
    disposition, options = parse_options_header(headers.get("content-disposition", ""))
    if disposition != b"form-data" or b"name" not in options:
        raise BadRequest('The form is invalid: a part has no "Content-Disposition: form-data" with a name.')
    # Some clients name a repeatable field image[].
    name, content = options[b"name"].decode(errors="replace").removesuffix("[]"), part[end + 4 :]
    if headers.get("content-transfer-encoding", "").lower() not in _IDENTITIES:
        raise BadRequest("The form is invalid: a part has a Content-Transfer-Encoding, which forms must not use.")
    if b"filename" in options:
        return name, content
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidField.of(name[:80], "is not valid UTF-8") from None
    if name == "_charset_" and text.lower() not in ("", "utf-8", "utf8"):
        raise InvalidField.of(name, "is not supported", "utf-8")
    return name, text


def _headers(head: str) -> dict[str, str]:
    """The headers of a part by lower-case name."""
    lines = [line.partition(":") for line in _FOLD.sub(" ", head).split("\r\n") if line]
    if not all(colon for _, colon, _ in lines):
        raise BadRequest("The form is invalid: a header of a part has no colon.")
    return {name.strip().lower(): value.strip() for name, _, value in lines}
