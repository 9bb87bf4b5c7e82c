"""Read links out of an e-mail, as mail programs and gateways wrap, encode and rewrite them."""

import base64
import binascii
import codecs
import html
import quopri
import re
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import parse_qs, unquote, urlsplit

from vit2onnx.checkpoints.heads import SUFFIXES

URL = r"(?a:[\w.~:/?#@!$&*+,;=%-]+)"
LINK = f"(?i:https?://){URL}"
LONGEST = 1 << 14
# Byte order marks; the longer ones first, because UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Mail programs put these into links: soft hyphens, characters of no width, HTML's <wbr>, Markdown's backslashes.
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200d\u2060\ufeff]|<wbr */?>|\\(?=[_&~*=?#.-])", re.IGNORECASE)
BASE64 = re.compile(r"^[A-Za-z0-9+/]{40,}={0,2}(?:\n[A-Za-z0-9+/]+={0,2})*$", re.MULTILINE)
# Proofpoint's letters for numbers of characters: A for two, B for three, and so on.
RUNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def links_in(data: bytes) -> list[str]:
    """All links in a text, an e-mail or its source, in order, as they were before any mail program changed them."""
    text = INVISIBLE.sub("", re.sub(r"\r+\n?", "\n", _text(data)))
    # Without indents, and the marks by which a reply quotes.
    text = re.sub(r"^(?:[ \t]*[>|])*[ \t]*", "", text, flags=re.MULTILINE)
    return [link for block in re.split(r"\n{2,}", text) for link in _links_in_block(block)]


def is_whole(url: str) -> bool:
    """Whether a link leads to a file and lacks no part of a signature."""
    path, _, query = url.partition("?")
    given = dict(re.findall(r"([\w-]+)=([^&]+)", query)).keys()
    signed = not given & {"Policy", "Key-Pair-Id"} or (
        {"Signature", "Key-Pair-Id"} <= given and given & {"Policy", "Expires"}
    )
    named = url == path or re.fullmatch(r"([\w-]+=[^&]+(&|$))+", query)
    return path.endswith(SUFFIXES) and bool(named and signed)


def _text(data: bytes) -> str:
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    start = data[:1000]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(start) > 1 and start[first::2].count(0) * 4 > len(start):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def _links_in_block(block: str) -> Iterator[str]:
    """The links in the lines between two empty ones, which all have the same encoding."""
    for encoded in BASE64.findall(block):
        decoded = _from_base64(encoded)
        if "http" in _text(decoded):
            yield from links_in(decoded)
    # In quoted-printable, each = stands before two digits or a line's end.
    if "=3D" in block.upper() and not re.search(r"=(?![0-9A-Fa-f]{2}|[ \t]*\n|$)", block):
        block = quopri.decodestring(block.encode()).decode("utf-8", "replace")
    for url in re.findall(LINK, _unescaped("\n".join(_unwrapped(block)))):
        # Matched again, because what was encoded in it can be anything.
        if len(url) <= LONGEST and (original := re.match(LINK, _original(url))):
            yield original[0].rstrip(".,:;!?*")


def _from_base64(text: str) -> bytes:
    text = re.sub(r"[\s=]", "", text)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if set(text) & set("-_") else None)
    except binascii.Error:
        return b""


def _unescaped(text: str) -> str:
    """A text without HTML's entities. Not by html.unescape at once, which also rewrites parameters such as "&copy="."""
    return re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), text)


def _unwrapped(block: str) -> list[str]:
    """The lines of a block, joined where a line's end cuts a link."""
    lines = [line.rstrip() for line in block.split("\n")]
    joined, width = [lines[0]], 0
    for before, line in pairwise(lines):
        begun = max(joined[-1].lower().rfind(scheme) for scheme in ("http://", "https://"))
        url = joined[-1][begun:] if begun >= 0 else ""
        if len(url) <= LONGEST and re.fullmatch(LINK, url) and _goes_on(url, line, len(before) == width):
            # A break of quoted-printable, unless it is the = between a parameter and its value.
            own = re.search("[?&](Policy|Signature|Key-Pair-Id|Expires)=$", url) and line[0] != "="
            joined[-1] = (url if own else url.removesuffix("=")).join((joined[-1][:begun], line))
            width = width or len(before)
        else:
            joined.append(line)
            width = 0
    return joined


def _goes_on(url: str, line: str, full: bool) -> bool:
    """Whether a link goes on in the next line. `full` says that the line before is as long as the link's first line."""
    if not re.match(URL, line) or (re.match("(?i)https?:", line) and not url.endswith("/__")):
        return False
    torn = line[0] in "?&=%" or (url.endswith(".pt") and re.match(r"h\b", line))
    alone = not re.search(r"\s", line)
    return bool(not is_whole(_unescaped(url)) or torn or (alone and (full or url[-1] in "?&=%")))


def _original(url: str) -> str:
    """The link within one that a gateway or a search engine has put around it, if it holds one that can be read."""
    for _ in range(5):  # services around services
        inner = _proofpoint2(url) or _proofpoint3(url) or _nested(url)
        if not inner:
            break
        url = _unescaped(inner)
    return url


def _nested(url: str) -> str:
    """A link in a parameter or at the end of the path, plain, percent-encoded or in base64."""
    if found := re.search(r"(?i)(https?(?::|%(?:25)*3A)(?:/|%(?:25)*2F){2}).*", url[8:]):
        if "%" not in found[1]:
            return found[0]
        inner = re.split("[&#]", found[0])[0]
        while not re.match("(?i)https?://", inner):
            inner = unquote(inner)
        return inner
    # Base64 of "http".
    if found := re.search(r"[=/](aHR0c[\w+/-]+)", url[8:]):
        return _text(_from_base64(found[1]))
    return ""


def _proofpoint2(url: str) -> str:
    if not re.match(r"https://urldefense(\.proofpoint)?\.com/v2/", url):
        return ""
    (inner,) = parse_qs(urlsplit(url).query).get("u", [""])
    return unquote(inner.translate(str.maketrans("-_", "%/")))


def _proofpoint3(url: str) -> str:
    """A link in which * stands for one character, and ** with a letter for several, which follow in base64."""
    found = re.match(r"https?://urldefense\.\w+/v3/__(.+?)__;(.*?)!", url)
    if not found:
        return ""
    characters = iter(_from_base64(found[2]).decode("utf-8", "replace"))

    def restore(token: re.Match[str]) -> str:
        count = RUNS.index(token[1]) + 2 if token[1] else 1
        return "".join(next(characters, "") for _ in range(count))

    inner = re.sub(r"\*(?:\*([\w-]))?", restore, unquote(found[1]), flags=re.ASCII)
    return re.sub(r"^(https?:/)(?!/)", r"\1/", inner)
