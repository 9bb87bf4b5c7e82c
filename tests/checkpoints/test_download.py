"""Downloads against a server on this machine that breaks, refuses and lies in the ways that servers do."""

import errno
import gzip
import logging
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.checkpoints.servers import BODY, CHUNK_BYTES, HALF, QUERY, SECRET, Server, serving
from vit2onnx.checkpoints.bounds import sizes_of
from vit2onnx.checkpoints.download import download_link, link_file, obtain
from vit2onnx.checkpoints.sources import Source
from vit2onnx.errors import InputError

SIZES = range(1, 1 << 20)
AWAY = f"https://away.invalid/model-08c60483.pth{QUERY}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "results" / "checkpoint.pth"


@pytest.fixture(autouse=True)
def nothing_shows_the_signature(caplog, capfd) -> Iterator[None]:
    """With every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "urllib3.connectionpool"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield
    captured = capfd.readouterr()
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert SECRET not in "\n".join([*logged, captured.out, captured.err])


def download(url: str, destination: Path, attempts: int = 3) -> None:
    download_link(url, destination, sizes=SIZES, attempts=attempts, wait_seconds=0)


def refusal(url: str, destination: Path, attempts: int = 3) -> str:
    """The sentence with which a download is refused, when nothing that hangs on it shows the signature."""
    with pytest.raises(InputError) as caught:
        download(url, destination, attempts)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not destination.exists()
    return str(caught.value)


def files(destination: Path) -> list[str]:
    return sorted(path.name for path in destination.parent.iterdir())


def test_a_link_is_downloaded_with_a_bar_that_names_the_file(server, destination, capfd):
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert files(destination) == ["checkpoint.pth"]
    bar = capfd.readouterr().err
    assert "model-08c60483.pth: 100%" in bar
    assert SECRET not in bar


def test_the_bar_can_be_turned_off(server, destination, capfd):
    download_link(server.url(), destination, sizes=SIZES, progress=False)
    assert capfd.readouterr().err == ""


def test_logging_works_again_afterwards(server, destination, caplog):
    download(server.url(), destination)
    logging.getLogger("urllib3").debug("back")
    assert "back" in caplog.messages


def test_a_broken_connection_resumes_where_it_broke(server, destination):
    server.breaks = 1
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_connection_that_keeps_breaking_leaves_a_part_for_the_next_run(server, destination):
    server.breaks = 1
    message = refusal(server.url(), destination, attempts=1)
    assert "broke 1 times" in message
    assert "checkpoint.pth.part, and the next run resumes" in message
    assert (destination.parent / "checkpoint.pth.part").read_bytes() == BODY[:HALF]
    download(server.url().replace(SECRET, "renewed"), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert files(destination) == ["checkpoint.pth"]


def test_a_killed_process_leaves_only_a_part(server, destination):
    server.stalls = True
    code = "import sys, pathlib; from vit2onnx.checkpoints.download import download_link as download\n"
    code += "download(sys.argv[1], pathlib.Path(sys.argv[2]), sizes=range(1 << 20))"
    process = subprocess.Popen([sys.executable, "-c", code, server.url(), str(destination)])
    part = destination.with_name("checkpoint.pth.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == HALF) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert files(destination) == ["checkpoint.pth.part", "checkpoint.pth.part.from"]
    server.stalls = False
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_without_ranges_starts_over(server, destination):
    server.breaks, server.honours_ranges = 1, False
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_range_from_another_byte_starts_over(server, destination):
    server.breaks, server.range_offset = 1, 5
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_a_range_that_ends_early_is_continued(server, destination):
    server.breaks, server.range_bytes = 1, CHUNK_BYTES
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + CHUNK_BYTES}-"]


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_that_cannot_be_continued_is_complete_or_starts_over(server, destination, extra):
    server.breaks = 1
    refusal(server.url(), destination, attempts=1)
    destination.with_name("checkpoint.pth.part").write_bytes(BODY + extra)
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges[1:] == [f"bytes={len(BODY + extra)}-"] + [None] * bool(extra)


def test_a_part_of_another_file_is_not_resumed(server, destination):
    server.breaks = 1
    refusal(server.url("other-01234567.pth"), destination, attempts=1)
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None, None]


def test_a_part_of_unknown_origin_is_not_resumed(server, destination):
    destination.parent.mkdir()
    destination.with_name("checkpoint.pth.part").write_bytes(b"unknown")
    download(server.url(), destination)
    assert destination.read_bytes() == BODY
    assert server.ranges == [None]


def test_a_wrong_length_is_an_error(server, destination):
    server.headers = {"Content-Length": str(len(BODY) + 1)}
    server.honours_ranges = False
    assert "broke 2 times" in refusal(server.url(), destination, attempts=2)


def test_an_answer_without_a_length_is_taken_as_it_is(server, destination):
    server.headers = {"Content-Length": None}
    download(server.url(), destination)
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 410])
def test_an_expired_link_asks_for_a_new_email(server, destination, status):
    server.status = status
    message = refusal(server.url(), destination)
    assert f"model-08c60483.pth answered {status}: the link has expired" in message
    assert "config/links.txt" in message
    assert len(server.ranges) == 1
    assert files(destination) == []


def test_a_link_that_expires_keeps_the_part(server, destination):
    server.breaks = 1
    refusal(server.url(), destination, attempts=1)
    server.status = 403
    refusal(server.url(), destination)
    assert destination.with_name("checkpoint.pth.part").read_bytes() == BODY[:HALF]


def test_a_missing_file_is_refused_at_once(server, destination):
    server.status = 404
    assert "answered 404: no file is at this link" in refusal(server.url(), destination)
    assert len(server.ranges) == 1


def test_a_busy_server_is_asked_again(server, destination):
    server.status = 503
    assert "broke 3 times, at last because the server answered 503; run again" in refusal(server.url(), destination)
    assert len(server.ranges) == 3


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html; charset=utf-8", b"Sign in"),
        ("application/octet-stream", b"\xef\xbb\xbf\n <!DOCTYPE html><title>Sign in</title>"),
        ("application/octet-stream", b"<HTML>Sign in"),
    ],
)
def test_a_web_page_is_refused(server, destination, content_type, body):
    server.headers, server.body = {"Content-Type": content_type}, body
    assert "leads to a web page, not to a checkpoint" in refusal(server.url(), destination)
    assert files(destination) == []


def test_a_web_page_does_not_replace_a_part(server, destination):
    server.breaks = 1
    refusal(server.url(), destination, attempts=1)
    server.honours_ranges, server.body = False, b"<html>Sign in"
    refusal(server.url(), destination)
    assert destination.with_name("checkpoint.pth.part").read_bytes() == BODY[:HALF]


def test_a_refused_connection_says_so(server, destination):
    url = server.url()
    server.shutdown()
    server.server_close()
    message = refusal(url, destination)
    assert message.endswith("because 127.0.0.1 refused the connection; check the network and run again.")
    assert files(destination) == []


def test_what_was_received_before_is_kept_when_there_is_no_connection(server, destination):
    server.breaks = 1
    refusal(server.url(), destination, attempts=1)
    url = server.url()
    server.shutdown()
    server.server_close()
    part = destination.with_name("checkpoint.pth.part")
    assert f"what was received is kept in {part}, and the next run resumes there." in refusal(url, destination)
    assert part.read_bytes() == BODY[:HALF]


def test_a_silent_server_times_out(server, destination, monkeypatch):
    monkeypatch.setattr("vit2onnx.checkpoints.download.TIMEOUT_SECONDS", (1, 0.1))
    server.stalls = True
    assert "broke 1 times" in refusal(server.url(), destination, attempts=1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x" * 10_000])
def test_a_packed_answer_is_refused_unread(server, destination, encoding):
    server.headers, server.body = {"Content-Encoding": encoding}, gzip.compress(bytes(1 << 24))
    assert "comes packed" in (message := refusal(server.url(), destination))
    assert len(message) < 300
    assert files(destination) == []


def test_an_answer_may_say_that_it_is_not_packed(server, destination):
    server.headers = {"Content-Encoding": "identity"}
    download(server.url(), destination)
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize("length", ["abc", "-1", "", "1e9", "0x10", "٣", "9" * 5000, " 12 12"])
def test_a_length_that_is_none_is_as_none(server, destination, length):
    server.headers = {"Content-Length": length.encode().decode("latin-1")}
    download(server.url(), destination)
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize(
    ("length", "says"), [(str(1 << 20), "at most 1048575"), ("9" * 18, "at most"), ("0", "at least")]
)
def test_a_length_that_no_checkpoint_has_is_refused_before_anything_is_written(server, destination, length, says):
    server.headers = {"Content-Length": length}
    if length == "0":
        server.headers, server.body = {"Content-Length": None}, b""
    assert says in refusal(server.url(), destination)
    assert files(destination) == []


def test_a_range_of_a_file_that_is_too_large_is_refused(server, destination):
    server.breaks = 1
    refusal(server.url(), destination, attempts=1)
    server.body = bytes(1 << 21)
    assert "at most 1048575" in refusal(server.url(), destination)


@pytest.mark.parametrize("length", [None, "abc"])
def test_a_body_without_an_end_is_cut_and_deleted(server, destination, length):
    server.headers, server.endless = {"Content-Length": length}, True
    assert "at most 1048575" in refusal(server.url(), destination)
    assert files(destination) == []


def test_a_short_body_of_unknown_length_is_refused(server, destination):
    server.headers, server.body = {"Content-Length": None}, b"x"
    with pytest.raises(InputError, match="only 1 bytes; this model's checkpoint has at least 1000"):
        download_link(server.url(), destination, sizes=range(1000, 1 << 20), wait_seconds=0)
    assert files(destination) == []


def test_a_full_disk_is_told_before_the_download_starts(server, destination, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=HALF))
    message = refusal(server.url(), destination)
    assert (
        f"The download needs 0.0 GB, and the disk of {destination.parent} has 0.0 GB left; free some space" in message
    )
    assert files(destination) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk of {} is full"),
        (errno.EDQUOT, "your quota on"),
        (errno.EACCES, "{} cannot be written to"),
    ],
)
def test_a_disk_that_fills_meanwhile_is_told_at_once_and_the_part_kept(server, destination, monkeypatch, number, says):
    def fail(*arguments: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("os.fsync", fail)
    message = refusal(server.url(), destination)
    assert says.format(destination.parent) in message
    assert f"what was received is kept in {destination}.part" in message
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x.pth", "data:,x", "http://[", "gopher://x"]
)
def test_a_redirect_out_of_the_web_is_refused_at_once(server, destination, location):
    server.status, server.headers = 302, {"Location": f"{location}"}
    assert "leads to an address that is none of the web" in refusal(server.url(), destination)
    assert len(server.ranges) == 1


def test_a_redirect_without_an_end_is_refused(server, destination):
    server.status, server.headers = 302, {"Location": server.url()}
    assert "from address to address without an end" in refusal(server.url(), destination)
    assert len(server.ranges) == 31


def test_a_socks_proxy_names_the_packages_that_it_needs(destination, monkeypatch):
    proxy(monkeypatch, f"socks5://user:{SECRET}@127.0.0.1:9", "ALL_PROXY")
    assert "SOCKS proxy, for which Python packages are missing; install them" in refusal(AWAY, destination)


def test_a_proxy_that_asks_for_a_password_says_so(server, destination, monkeypatch):
    proxy(monkeypatch, f"http://user:{SECRET}@127.0.0.1:{server.server_port}", "HTTPS_PROXY")
    message = refusal(AWAY, destination)
    assert f"the proxy 127.0.0.1:{server.server_port} asks for a password; put it into HTTPS_PROXY" in message
    server.status = 407
    assert "the proxy asks for a password" in refusal(server.url(), destination)


def test_a_proxy_that_is_not_there_says_so(destination, monkeypatch):
    proxy(monkeypatch, f"http://user:{SECRET}@127.0.0.1:9", "HTTPS_PROXY")
    message = refusal(AWAY, destination)
    assert "the proxy 127.0.0.1:9 could not be reached or refuses the connection; correct HTTPS_PROXY" in message


@pytest.mark.parametrize(
    "address", [f"abc://user:{SECRET}@h:1", f"http://user:{SECRET}@:8080", f"http://{SECRET}:port"]
)
def test_a_proxy_with_a_wrong_address_says_so(destination, monkeypatch, address):
    proxy(monkeypatch, address, "HTTPS_PROXY")
    assert "the address of the proxy is wrong" in refusal(AWAY, destination)


def test_certificates_that_are_not_there_say_so(destination, monkeypatch):
    proxy(monkeypatch, "", "HTTPS_PROXY")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    assert "the file with trusted certificates is not there" in refusal(AWAY, destination)


def test_a_server_that_does_not_speak_tls_says_so(server, destination):
    message = refusal(server.url().replace("http:", "https:"), destination)
    assert "no secure connection to 127.0.0.1 could be made" in message


def test_what_no_one_foresaw_shows_no_link(destination, monkeypatch):
    def fail(url: str, **options: object) -> None:
        raise RuntimeError(url)

    monkeypatch.setattr("requests.get", fail)
    assert "(RuntimeError)" in refusal(AWAY, destination)


def proxy(monkeypatch: pytest.MonkeyPatch, address: str, variable: str) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, address)


@pytest.mark.parametrize("kind", ["link", "huggingface"])
def test_near_misses_are_told_before_a_download_and_when_it_fails(tmp_path, monkeypatch, capfd, kind):
    def fail(*arguments: object, **options: object) -> None:
        assert "Found and not taken: x" in capfd.readouterr().err
        raise InputError("no")

    for name in ("download_link", "download_huggingface"):
        monkeypatch.setattr(f"vit2onnx.checkpoints.download.{name}", fail)
    spec = SimpleNamespace(parameters=1, release=SimpleNamespace(timm="x"))
    with pytest.raises(InputError, match=r"^no Found and not taken: x\.$"):
        obtain(spec, Source(kind, "https://example.test/a.pth", "Found and not taken: x"), folder=tmp_path)
    with pytest.raises(AssertionError):
        obtain(spec, Source(kind, "https://example.test/a.pth"), folder=tmp_path)


def test_a_checkpoint_has_from_one_byte_per_parameter_to_three_times_its_own():
    assert sizes_of(86_000_000) == range(86_000_000, 3 * 4 * 86_000_000 + (64 << 20))


def test_a_link_replaces_what_was_there(tmp_path):
    target = tmp_path / "mine.pth"
    target.write_bytes(b"weights")
    destination = tmp_path / "results" / "checkpoint.pth"
    for _ in range(2):
        link_file(target, destination)
        assert destination.is_symlink()
        assert destination.read_bytes() == b"weights"
    assert files(destination) == ["checkpoint.pth"]
