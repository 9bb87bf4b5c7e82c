"""Links are read out of e-mails in every form that mail programs and gateways give them."""

import base64
import codecs
import html
import quopri
import textwrap
import time
from email.message import EmailMessage
from urllib.parse import quote, quote_plus, urlsplit

import pytest

from vit2onnx.checkpoints.links import is_whole, links_in

FILE = "https://dinov3.llamameta.net/dinov3_vits16/dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
POLICY = base64.b64encode(
    b'{"Statement":[{"unique_hash":"a1b2c3","Resource":"https:\\/\\/example.test\\/*"}]}'
).decode()
SIGNATURE = "rZ3~x-Y_9fQp" * 25 + "__"
LINK = f"{FILE}?Policy={POLICY.replace('=', '_')}&Signature={SIGNATURE}&Key-Pair-Id=K15QRJLYKIFSLZ"
ENDS = f"{LINK}&Download-Request-ID=1234567890123456"
PLAIN = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
OTHER = LINK.replace("vits16", "vitb16").replace("08c60483", "73cec8be")
PAGE = f"""<html><body><p>Dear user,</p><a href="{html.escape(LINK)}">ViT-S/16</a><br>
<a href="{html.escape(OTHER)}">ViT-B/16</a></body></html>"""


def wrapped(text: str, width: int, end: str = "\n", indent: str = "") -> str:
    return end.join(indent + text[start : start + width] for start in range(0, len(text), width))


def by_words(text: str, *breaks: str) -> str:
    for place in breaks:
        text = text.replace(place, f"{place}\n")
    return text


def soft(text: str) -> str:
    """Quoted-printable, as mail programs send it."""
    return quopri.encodestring(text.encode()).decode()


def message(subtype: str, encoding: str, charset: str = "utf-8") -> str:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "DINOv3", "noreply@example.test", "you@example.test"
    mail.set_content(
        f"Your links\n{LINK}\n\nGood bye — Meta\n" if subtype == "plain" else PAGE, subtype, charset, encoding
    )
    return mail.as_string()


def safelinks(url: str) -> str:
    data = "&data=05%7C02%7Cyou%40example.test%7C0&sdata=aBc%2Bd%3D&reserved=0"
    return f"https://eur05.safelinks.protection.outlook.com/?url={quote(url, safe='')}{data}"


def proofpoint2(url: str) -> str:
    encoded = quote(url.replace("-", "\0").replace("_", "\1"), safe="/.:")
    encoded = (
        encoded.replace("%00", "-2D").replace("%01", "-5F").replace("%", "-").replace(":", "-3A").replace("/", "_")
    )
    return f"https://urldefense.proofpoint.com/v2/url?u={encoded}&d=DwMFaQ&c=5VD0RT&r=a-b_c&m=x&s=y&e="


def proofpoint3(url: str) -> str:
    """With ~ and & left out, one by one, and a run of underscores at the end of the signature."""
    left = "".join(character for character in url.replace("__&", "\0") if character in "~&\0")
    characters = base64.urlsafe_b64encode(left.replace("\0", "__&").encode()).decode().rstrip("=")
    inner = url.replace("__&", "**B").replace("~", "*").replace("&", "*")
    return f"https://urldefense.com/v3/__{inner}__;{characters}!!Bt8RZUm9aw!abc-_D$"


FORMS = {
    "alone": LINK,
    "windows": f"ViT-S/16:\r\n{LINK}\r\nViT-B/16\r\n",
    "old mac": f"ViT-S/16:\r{LINK}\rThanks\r",
    "a word follows": f"{LINK}\nThanks",
    "a letter follows": f"{LINK}。",
    "in brackets": f"ViT-S/16 <{LINK}>, enjoy",
    "markdown": f"[ViT-S/16]({LINK})",
    "markdown, escaped": f"[ViT-S/16]({LINK.replace('_', chr(92) + '_').replace('~', chr(92) + '~')})",
    "chat": f"<{LINK}|ViT-S/16>",
    "bold": f"**{LINK}**",
    "upper case": LINK.replace("https", "HTTPS"),
    "html": PAGE,
    "html, a sentence": f"<p>The link is {html.escape(LINK)}.</p>",
    "html, hinted": html.escape(LINK).replace("/", "/<wbr>").replace("-", "-<wbr/>"),
    "hidden characters": LINK.replace("_", "_\u200b").replace("&", "\u00ad&"),
    "wrapped at 76": wrapped(f"ViT-S/16: {LINK}", 76),
    "wrapped at 76, a word follows": f"{wrapped(LINK, 76)}\nThanks",
    "wrapped at 60": wrapped(LINK, 60, "\r\n"),
    "wrapped within the last value": wrapped(ENDS, 73),
    "wrapped and indented": wrapped(LINK, 70, indent="    "),
    "wrapped in brackets": f"ViT-S/16 <\n{wrapped(LINK, 70)}>",
    "wrapped, quoted": wrapped(LINK, 70, indent="> "),
    "wrapped, quoted twice": wrapped(LINK, 70, indent="> > "),
    "wrapped, quoted by lines": wrapped(LINK, 70, indent="| "),
    "wrapped at words": by_words(LINK, "vits16/", "lvd1689m-", "?", "Policy=", "&Signature=", "~x-", "&"),
    "wrapped before the query": by_words(LINK, ".pth"),
    "wrapped in html": f'<a href="{wrapped(html.escape(LINK), 75)}">x</a>',
    "soft breaks left over": wrapped(LINK, 75, "=\n"),
    "soft breaks left over, narrow": wrapped(LINK, 21, "=\n"),
    "soft breaks left over by a parameter": LINK.replace("Policy=", "Policy==\n"),
    "quoted-printable": soft(LINK),
    "quoted-printable, windows": soft(LINK).replace("\n", "\r\n"),
    "quoted-printable, quoted": "\n".join(f"> {line}" for line in soft(LINK).splitlines()),
    "quoted-printable page": soft(PAGE),
    "an unencoded link beside it": f"{soft(OTHER)}\n\n{LINK}",
    "eml, plain": message("plain", "8bit"),
    "eml, quoted-printable": message("plain", "quoted-printable"),
    "eml, base64": message("plain", "base64"),
    "eml, page in quoted-printable": message("html", "quoted-printable"),
    "eml, page in base64": message("html", "base64"),
    "eml, page in base64 and UTF-16": message("html", "base64", "utf-16"),
    "eml, below notes": f"My links\n\n{message('plain', 'base64')}",
    "outlook": safelinks(LINK),
    "outlook, html": f'<a href="{html.escape(safelinks(LINK))}">x</a>',
    "outlook, wrapped": wrapped(safelinks(LINK), 76),
    "outlook, quoted-printable": soft(safelinks(LINK)),
    "outlook, of an escaped link": safelinks(html.escape(LINK)),
    "google": f"https://www.google.com/url?q={quote(LINK, safe='')}&source=gmail&ust=1&usg=AOvVaw0",
    "google, with a title": f"https://www.google.com/url?sa=E&q={quote_plus(LINK)}",
    "proofpoint 1": f"https://urldefense.proofpoint.com/v1/url?u={quote(LINK, safe='/')}&k=abc%0A&r=x",
    "proofpoint 2": proofpoint2(LINK),
    "proofpoint 3": proofpoint3(LINK),
    "proofpoint 3, one slash": proofpoint3(LINK).replace("__https://", "__https:/"),
    "proofpoint 3, wrapped": wrapped(proofpoint3(LINK), 72),
    "barracuda": f"https://linkprotect.cudasvc.com/url?a={quote(LINK, safe='')}&c=E,1,x&typo=1",
    "cisco": f"https://secure-web.cisco.com/1aBc-_d/{quote(LINK, safe='')}",
    "sophos": f"https://eu-west-1.protection.sophos.com?d=llamameta.net&u={base64.b64encode(LINK.encode()).decode()}&i=x",
    "a service that does not encode": f"https://redirect.example.test/?{LINK}",
    "encoded in part": f"https://click.example.test/?u={quote(LINK, safe=':')}&x=1",
    "two services": safelinks(proofpoint2(LINK)),
    "encoded twice": f"https://click.example.test/?target={quote(quote(LINK, safe=''), safe='')}",
    "rich text": rf'{{\rtf1\ansi {{\field{{\*\fldinst{{HYPERLINK "{LINK}"}}}}}}}}',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_link_is_read_in_every_form(form):
    found = [link for link in links_in(FORMS[form].encode()) if "vits16" in link and ".pth" in link]
    assert [link.replace("HTTPS", "https") for link in found] in ([LINK], [ENDS])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_file_may_be_in_any_encoding(encoding):
    assert links_in(f"für dich:\n{LINK}\n".encode(encoding)) == [LINK]


def test_big_endian_marks_are_known():
    assert links_in(codecs.BOM_UTF16_BE + LINK.encode("utf-16-be")) == [LINK]


@pytest.mark.parametrize("width", [60, 72, 76, 78, 998])
def test_links_that_are_wrapped_one_below_the_other_stay_apart(width):
    text = "\n".join(wrapped(link, width) for link in (LINK, OTHER, PLAIN, LINK))
    assert links_in(text.encode()) == [LINK, OTHER, PLAIN, LINK]
    assert links_in(textwrap.indent(text, "> ").encode()) == [LINK, OTHER, PLAIN, LINK]


def test_a_link_without_a_signature_ends_with_its_file():
    assert links_in(f"{PLAIN}\nThanks".encode()) == [PLAIN]
    assert links_in(by_words(PLAIN, "vits14/").encode()) == [PLAIN]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no link",
        "http",
        "https://",
        "=" * 100,
        "A" * 4000,
        "https://urldefense.com/v3/__https://x**" + "_;!",
        "https://urldefense.com/v3/__https:/x**9__;AAA!",
        "https://urldefense.proofpoint.com/v2/url?d=1",
        "https://x.test/?u=aHR0c",
        "https://x.test/?u=https%3A%2F%2F",
        "https://[x/a.pth?Policy=1",
        "https://x.test/?u=https%3A%2F%2F%5Bx%5D%5D%20%1b[31m",
        "\0\0\0\0",
    ],
)
def test_nonsense_is_survived(text):
    assert all(urlsplit(link).scheme == "https" and link.isprintable() for link in links_in(text.encode()))


def test_a_large_text_is_read_in_a_moment():
    lines = [wrapped(LINK, 76), "A" * 76, "https://example.test/" + "a" * 60, f"={'3D' * 30}="] * 1000
    assert links_in("\n".join(lines).encode()).count(LINK) == 1000


@pytest.mark.parametrize(
    "piece",
    [
        "&#",
        "http",
        "https://a",
        "=3D=\n",
        ">|",
        "https://x/?u=https%253A",
        "https://urldefense.com/v3/__",
        "*",
        "https://a\n",
        "https://urldefense.com/v3/__a__;",
        "A" * 40 + "\n",
        "https://a/b.pth?Policy=a\n",
        "aHR0c",
        "a\n",
        "\\_",
        "<wbr ",
    ],
)
def test_no_text_takes_long(piece):
    start = time.process_time()
    links_in((piece * (200_000 // len(piece))).encode())
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        (LINK, True),
        (PLAIN, True),
        (f"{FILE}?Expires=1&Signature=a&Key-Pair-Id=K", True),
        (f"{FILE}?X-Amz-Signature=a", True),
        (FILE[:-6], False),
        (LINK.partition("&")[0], False),
        (LINK.rpartition("&")[0], False),
        (LINK.rpartition("=")[0] + "=", False),
        ("https://example.test/", False),
    ],
)
def test_a_link_that_lacks_a_part_is_not_whole(url, whole):
    assert is_whole(url) == whole
