"""Bring a checkpoint here, over an e-mailed link or from the Hugging Face hub.

The query of an e-mailed link is a credential. `requests` quotes it in its exceptions and `urllib3` in its
log, so none of those exceptions leaves this module, not even as a cause, and nothing is logged meanwhile.
"""

import itertools
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NoReturn

import requests
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,  # the root of its HTTP client's errors, a failed connection included
)
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm import tqdm

from vit2onnx.checkpoints.names import HUGGINGFACE_FILE, without_query
from vit2onnx.errors import InputError

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = (10, 60)  # to connect, to receive the next bytes


class _Interrupted(requests.RequestException):
    """The transfer ended before the file did."""


def download_link(
    url: str, destination: Path, *, progress: bool = True, attempts: int = 5, wait_seconds: float = 2.0
) -> None:
    """Download an e-mailed link to `destination`, which appears only when it is complete.

    What has arrived stays in `<destination>.part`, from which the next attempt or run resumes, and
    `<destination>.part.from` says whose part it is. `wait_seconds` doubles after each broken attempt.
    Raises `InputError`, without the link's query, when the link is refused or leads to a web page, or when
    every attempt breaks.
    """
    part = destination.with_name(f"{destination.name}.part")
    origin = destination.with_name(f"{destination.name}.part.from")

    def give_up(state: RetryCallState) -> NoReturn:
        error = state.outcome.exception() if state.outcome else None
        reason = error if isinstance(error, _Interrupted) else type(error).__name__
        kept = f"what was received is kept in {part}, and the next run resumes there"
        raise InputError(
            f"{without_query(url)}: the download broke {attempts} times, at last by {reason};"
            f" {kept if part.exists() else 'check the network and run again'}."
        )

    destination.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(requests.RequestException),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=wait_seconds),
        retry_error_callback=give_up,
    )
    with _logging_off():
        retrying(_receive, url, part, origin, progress)
    part.replace(destination)
    origin.unlink()


def download_huggingface(repo_id: str, *, token: str | None) -> Path:
    """Download `model.safetensors` of a repository into Hugging Face's own cache and return its path there.

    Without a token the library's own login serves. Raises `InputError` when the hub does not give the file.
    """
    try:
        with _logging_off():
            return Path(hf_hub_download(repo_id, HUGGINGFACE_FILE, token=token or None))
    except (HTTPError, EntryNotFoundError) as error:
        refused = getattr(error, "response", None) is not None
        way_out = (
            f"if https://huggingface.co/{repo_id} asks for it, accept the licence there and set HF_TOKEN"
            if refused
            else "check the network, and that HF_HUB_OFFLINE is not set, and run again"
        )
        raise InputError(
            f"Hugging Face {'did not give' if refused else 'could not be reached for'} {HUGGINGFACE_FILE} of {repo_id}"
            f" ({type(error).__name__}): {way_out}, or put the official file in checkpoints/; with no access at all,"
            " `weights: synthetic` runs the whole workflow."
        ) from None


def link_file(target: Path, destination: Path) -> None:
    """Make `destination` a symbolic link to `target`, in place of what was there."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    link = destination.with_name(f"{destination.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target.absolute())
    link.replace(destination)


def _receive(url: str, part: Path, origin: Path, progress: bool) -> None:
    """Append to `part` what it lacks, or write it anew where that cannot be."""
    shown = without_query(url)
    resumable = part.exists() and origin.exists() and origin.read_text() == shown
    start = part.stat().st_size if resumable else 0
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are then those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        status, content_range = response.status_code, response.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        if start and status in (206, 416):
            if content_range == f"bytes */{start}":  # nothing is left to receive
                return
            if span is None or int(span[1]) != start:
                part.unlink()
                raise _Interrupted(f"a part of {start} bytes that the server does not continue")
        _check_status(status, shown)
        if status == 200:
            start = 0
        total = int(span[2]) if span else int(response.headers.get("Content-Length", 0))
        chunks = response.iter_content(CHUNK_BYTES)
        first = next(chunks, b"")
        opening = b"" if start else first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
        content_type = response.headers.get("Content-Type", "").lower()
        if content_type.startswith("text/html") or opening.startswith((b"<!doctype html", b"<html")):
            raise InputError(
                f"{shown} leads to a web page, not to a checkpoint: open the link in a browser to see why, or"
                " put the file in checkpoints/."
            )
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                desc=PurePosixPath(shown).name,
                initial=start,
                total=total or None,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            origin.write_text(shown)
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            received = file.tell()
    if total and received != total:
        raise _Interrupted(f"an end after {received} of {total} bytes")


def _check_status(status: int, shown: str) -> None:
    if status in (401, 403, 410):
        raise InputError(
            f"{shown} answered {status}: the link has expired, is incomplete or was refused; ask the"
            " publisher for a new e-mail and paste it at the end of config/links.txt or into VIT2ONNX_LINKS."
        )
    if status in (408, 429) or status >= 500:
        raise _Interrupted(f"status {status}")
    if status not in (200, 206):
        raise InputError(f"{shown} answered {status}: no file is at this link; compare it with the publisher's e-mail.")


@contextmanager
def _logging_off() -> Iterator[None]:
    """Not by the level of one logger, because a level set on a child of it would prevail."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
