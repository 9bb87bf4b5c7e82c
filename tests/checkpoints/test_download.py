"""Downloads against a server on this machine that breaks, refuses and lies in the ways that servers do."""

import contextlib
import functools
import logging
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError

from vit2onnx.checkpoints.download import CHUNK_BYTES, download_huggingface, download_link, link_file
from vit2onnx.errors import InputError

SECRET = "s3cr3t"
QUERY = f"?Policy={SECRET}&Signature={SECRET}~-_&Key-Pair-Id={SECRET}"
BODY = random.Random(0).randbytes(3 * CHUNK_BYTES + 17)
HALF = 2 * CHUNK_BYTES  # what has been written when a connection breaks in the third chunk
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "facebook/dinov3-vits16-pretrain-lvd1689m"


class Server(ThreadingHTTPServer):
    """Serves `body`, with ranges, unless its fields say otherwise; lists each request's Range header."""

    daemon_threads = False  # so that closing waits for the last answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.status = 200
        self.headers: dict[str, str | None] = {}  # added to each answer, or with None left out of it
        self.breaks = 0  # how many of the next answers break within the third chunk
        self.stalls = False
        self.honours_ranges = True
        self.range_offset = 0  # an error in where a range starts
        self.range_bytes = len(BODY)  # the most that one answer to a range has
        self.ranges: list[str | None] = []

    def url(self, name: str = "model-08c60483.pth") -> str:
        return f"http://127.0.0.1:{self.server_port}/weights/{name}{QUERY}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.ranges.append(wanted)
        status, body, headers = server.status, server.body, dict(server.headers)
        if status == 200 and wanted and server.honours_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                start += server.range_offset
                stop = min(start + server.range_bytes, len(body))
                status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{len(body)}"
                body = body[start:stop]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if server.breaks > 0:
            server.breaks -= 1
            body = body[: HALF + 100]
        with contextlib.suppress(ConnectionError):  # the client may hang up
            self.wfile.write(body[: HALF + 100])
            while server.stalls:
                time.sleep(0.01)
            self.wfile.write(body[HALF + 100 :])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing, so that the captured stderr is the client's."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stalls = False
        server.shutdown()
        thread.join()


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
    download_link(url, destination, attempts=attempts, wait_seconds=0)


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
    download_link(server.url(), destination, progress=False)
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
    code += "download(sys.argv[1], pathlib.Path(sys.argv[2]))"
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
    assert "broke 3 times, at last by status 503" in refusal(server.url(), destination)
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
    assert message.endswith("broke 3 times, at last by ConnectionError; check the network and run again.")
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


def test_a_link_replaces_what_was_there(tmp_path):
    target = tmp_path / "mine.pth"
    target.write_bytes(b"weights")
    destination = tmp_path / "results" / "checkpoint.pth"
    for _ in range(2):
        link_file(target, destination)
        assert destination.is_symlink()
        assert destination.read_bytes() == b"weights"
    assert files(destination) == ["checkpoint.pth"]


@pytest.fixture
def hub(server, tmp_path, monkeypatch) -> Server:
    """The server as a Hugging Face endpoint, with an empty cache."""
    here = {"endpoint": f"http://127.0.0.1:{server.server_port}", "cache_dir": tmp_path / "cache"}
    monkeypatch.setattr("vit2onnx.checkpoints.download.hf_hub_download", functools.partial(hf_hub_download, **here))
    server.headers = {"ETag": '"abc"', "X-Repo-Commit": COMMIT}
    return server


def test_a_hub_file_stays_in_the_cache(hub, tmp_path):
    path = download_huggingface(REPOSITORY, token=SECRET)
    assert path.read_bytes() == BODY
    assert path.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "GatedRepo", "GatedRepoError"),
        (403, "GatedRepo", "GatedRepoError"),
        (401, "", "HfHubHTTPError"),
        (404, "RepoNotFound", "RepositoryNotFoundError"),
        (404, "EntryNotFound", "RemoteEntryNotFoundError"),
    ],
)
def test_a_refusing_hub_names_the_ways_out(hub, status, code, reason):
    hub.status = status
    hub.headers = {"X-Error-Code": code, "X-Error-Message": "no"}
    assert f"of {REPOSITORY} ({reason})" in hub_refusal()


def test_an_offline_hub_is_a_matter_of_the_network(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "(LocalEntryNotFoundError)" in hub_refusal(offline=True)
    assert hub.ranges == []


def test_a_failed_connection_to_the_hub_is_a_matter_of_the_network(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise HTTPError(f"proxy refused {SECRET}")

    monkeypatch.setattr("vit2onnx.checkpoints.download.hf_hub_download", fail)
    assert "Hugging Face could not be reached for model.safetensors" in hub_refusal(offline=True)


def hub_refusal(*, offline: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        download_huggingface(REPOSITORY, token=SECRET)
    message = str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    licence = (f"https://huggingface.co/{REPOSITORY}", "HF_TOKEN")
    for way_out in ("checkpoints/", "weights: synthetic", *(["check the network"] if offline else licence)):
        assert way_out in message
    assert ("licence" in message) != offline
    return message
