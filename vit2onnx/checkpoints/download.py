"""Bring a checkpoint here, over an e-mailed link or from the Hugging Face hub.

The query of an e-mailed link is a credential. `requests` quotes it in its exceptions and `urllib3` in its
log, so none of those exceptions leaves this module, not even as a cause, and nothing is logged meanwhile.
"""

import itertools
import logging
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import unquote

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm import tqdm

from vit2onnx.checkpoints.bounds import check_bytes, check_room, sizes_of
from vit2onnx.checkpoints.causes import Cause, cause_on_disk, cause_on_network, logging_off
from vit2onnx.checkpoints.hub import download_huggingface
from vit2onnx.checkpoints.names import without_query
from vit2onnx.checkpoints.sources import Source
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VariantSpec

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = (10, 60)  # to connect, to receive the next bytes
LOG = logging.getLogger("vit2onnx")


class _InterruptedError(Exception):
    """The transfer ended before the file did, by a cause that may pass."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


def obtain(spec: VariantSpec, source: Source, *, folder: Path) -> Path:
    """The path of the checkpoint at `source`, which is downloaded if need be; from a link, into `folder`.

    Says before a download, and if it fails, which files and links were found and not taken.
    """
    if source.kind == "file":
        return Path(source.location)
    if source.near_misses:
        LOG.info(source.near_misses)
        print(source.near_misses, file=sys.stderr)
    sizes = sizes_of(spec.parameters)
    try:
        if source.kind == "huggingface":
            copy = f"timm/{spec.release.timm}" if spec.release.timm else ""
            return download_huggingface(source.location, token=os.environ.get("HF_TOKEN"), sizes=sizes, copy=copy)
        path = folder / PurePosixPath(unquote(source.shown)).name
        download_link(source.location, path, sizes=sizes)
    except InputError as error:
        if not source.near_misses:
            raise
        # On one line, as messages are.
        raise InputError(f"{error} {'; '.join(map(str.strip, source.near_misses.splitlines()))}.") from None
    return path


def download_link(
    url: str,
    destination: Path,
    *,
    sizes: range,
    progress: bool = True,
    attempts: int = 5,
    wait_seconds: float = 2.0,
) -> None:
    """Download an e-mailed link to `destination`, which appears only when it is complete.

    `sizes` are the bytes that the file may have. What has arrived stays in `<destination>.part`, from which the next
    attempt or run resumes, and `<destination>.part.from` says whose part it is. `wait_seconds` doubles after each
    broken attempt. Raises `InputError`, without the link's query, when the link is refused, leads to a web page or to a
    file of another size, or when every attempt breaks.
    """
    part = destination.with_name(f"{destination.name}.part")
    origin = destination.with_name(f"{destination.name}.part.from")
    shown = without_query(url)

    def kept() -> str:
        return f"; what was received is kept in {part}, and the next run resumes there" if part.exists() else ""

    def give_up(state: RetryCallState) -> NoReturn:
        error = state.outcome.exception() if state.outcome else None
        cause = f" because {error.cause}" if isinstance(error, _InterruptedError) else ""
        raise InputError(f"{shown}: the download broke {attempts} times, at last{cause}{kept()}.")

    def attempt() -> None:
        try:
            return _receive(url, part, origin, sizes, progress)
        except (InputError, _InterruptedError):
            raise
        # Any, because an exception of any kind may quote the link.
        except Exception as error:
            cause = cause_on_disk(error, str(part.parent)) or cause_on_network(error, url)
        if cause.lasting:
            raise InputError(f"{shown}: {cause}{kept()}.")
        raise _InterruptedError(cause)

    destination.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(_InterruptedError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=wait_seconds),
        retry_error_callback=give_up,
    )
    with logging_off():
        retrying(attempt)
    _check_received(part, origin, shown, sizes)
    part.replace(destination)
    origin.unlink()


def link_file(target: Path, destination: Path) -> None:
    """Make `destination` a symbolic link to `target`, in place of what was there."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    link = destination.with_name(f"{destination.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target.absolute())
    link.replace(destination)


def _receive(url: str, part: Path, origin: Path, sizes: range, progress: bool) -> None:
    """Append to `part` what it lacks, or write it anew where that cannot be."""
    shown = without_query(url)
    resumable = part.exists() and origin.exists() and origin.read_text() == shown
    start = part.stat().st_size if resumable else 0
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are then those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        status, content_range = response.status_code, response.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", content_range)
        if start and status in (206, 416):
            if content_range == f"bytes */{start}":  # nothing is left to receive
                return
            if span is None or int(span[1]) != start:
                part.unlink()
                raise _interrupted(f"the server does not continue a part of {start} bytes")
        _check_status(status, url)
        # Not unpacked, because a little that is packed can be without an end, and has no ranges.
        if response.headers.get("Content-Encoding", "").lower() not in ("", "identity"):
            raise InputError(
                f"{shown} comes packed ({response.headers['Content-Encoding'][:20]!r}), by the server or by a proxy;"
                " download it in a browser and put it in checkpoints/."
            )
        if status == 200:
            start = 0
        length = response.headers.get("Content-Length", "")
        total = int(span[2]) if span else int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0
        chunks = response.iter_content(CHUNK_BYTES)
        first = next(chunks, b"")
        opening = b"" if start else first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
        content_type = response.headers.get("Content-Type", "").lower()
        if content_type.startswith("text/html") or opening.startswith((b"<!doctype html", b"<html")):
            raise InputError(
                f"{shown} leads to a web page, not to a checkpoint: open the link in a browser to see why, or"
                " put the file in checkpoints/."
            )
        if total:
            check_bytes(total, shown, sizes)
            check_room(total - start, part, "free some space there and run again")
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
                if file.tell() >= sizes.stop:
                    break
            file.flush()
            os.fsync(file.fileno())
            received = file.tell()
    _check_received(part, origin, shown, range(sizes.stop))
    if total and received != total:
        raise _interrupted(f"the file ended after {received} of {total} bytes")


def _check_received(part: Path, origin: Path, shown: str, sizes: range) -> None:
    """Delete what has arrived, and raise `InputError`, if it cannot be a checkpoint."""
    try:
        check_bytes(part.stat().st_size, f"What comes from {shown}", sizes)
    except InputError:
        part.unlink()
        origin.unlink()
        raise


def _interrupted(text: str) -> _InterruptedError:
    return _InterruptedError(Cause(text, "run again", lasting=False))


def _check_status(status: int, url: str) -> None:
    shown = without_query(url)
    if status == 407:
        raise InputError(f"{shown}: {cause_on_network(OSError('407 Proxy Authentication Required'), url)}.")
    if status in (401, 403, 410):
        raise InputError(
            f"{shown} answered {status}: the link has expired, is incomplete or was refused; ask the"
            " publisher for a new e-mail and paste it at the end of config/links.txt or into VIT2ONNX_LINKS."
        )
    if status in (408, 429) or status >= 500:
        raise _interrupted(f"the server answered {status}")
    if status not in (200, 206):
        raise InputError(f"{shown} answered {status}: no file is at this link; compare it with the publisher's e-mail.")
