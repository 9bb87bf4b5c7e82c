"""Bring a checkpoint here from the Hugging Face hub, whole or in shards, into the hub's own cache.

The hub's library and its HTTP client quote tokens and links in their exceptions, so none of those leaves this module.
"""

import re
import warnings
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from vit2onnx.checkpoints.bounds import check_bytes, check_room
from vit2onnx.checkpoints.causes import Cause, cause_on_disk, cause_on_network, chain, logging_off
from vit2onnx.checkpoints.head import LONGEST_HEAD
from vit2onnx.checkpoints.heads import shards_of
from vit2onnx.checkpoints.names import (
    HUGGINGFACE_FILE,
    HUGGINGFACE_INDEX,
    without_query,
)
from vit2onnx.errors import InputError

MOST_SHARDS = 1000
TOKENS = "https://huggingface.co/settings/tokens"


def download_huggingface(repo_id: str, *, token: str | None, sizes: range, copy: str = "") -> Path:
    """Download `model.safetensors` of a repository into Hugging Face's cache and return its path there.

    Where the repository has its tensors in several files, downloads all of them and returns the path of their index.
    `sizes` are the bytes that the checkpoint may have. `copy` is a repository with a copy that needs no request; the
    message of a refusal names it. Without a token the library's own login is used. Raises `InputError` if the hub does
    not give the checkpoint.
    """
    token = cleaned(token)
    try:
        with logging_off(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _download(repo_id, token, sizes)
    except InputError:
        raise
    # Any, because an exception of any kind may quote the token.
    except Exception as error:
        cause = _cause(error, repo_id)
        gated = copy and any(isinstance(one, GatedRepoError) for one in chain(error))
    # The message does not name the copy's path, because the place of the cache depends on the machine.
    open_copy = (
        f" A copy that needs no request: .venv/bin/hf download {copy} {HUGGINGFACE_FILE}; then run again, and the list"
        " of finds that were not taken says how to use it."
        if gated
        else ""
    )
    raise InputError(
        f"Hugging Face did not give {repo_id}: {cause}.{open_copy} Or put the official file in checkpoints/; with"
        " no access at all, `weights: synthetic` runs the whole workflow."
    )


def cleaned(token: str | None) -> str | None:
    """A token without quotes and words that were copied with it. Raises `InputError` if it cannot be a token."""
    token = re.sub(r"^(?i:bearer|HF_TOKEN=)", "", (token or "").strip()).strip(" \t\r\n'\"\u201c\u201d\u2018\u2019`<>")
    if re.search(r"[^\x21-\x7e]", token):
        raise InputError(f"HF_TOKEN has blanks or letters that no token has; copy it again from {TOKENS}.")
    return token or None


def _download(repo_id: str, token: str | None, sizes: range) -> Path:
    get = partial(hf_hub_download, repo_id, token=token)
    try:
        # First, because hf_hub_download tries for twenty seconds to reach a host that cannot be reached.
        get_hf_file_metadata(hf_hub_url(repo_id, HUGGINGFACE_FILE), token=token)
        _check([get(HUGGINGFACE_FILE, dry_run=True)], repo_id, sizes)
    except RemoteEntryNotFoundError:
        pass
    else:
        return Path(get(HUGGINGFACE_FILE))
    _check([get(HUGGINGFACE_INDEX, dry_run=True)], f"{HUGGINGFACE_INDEX} of {repo_id}", range(LONGEST_HEAD))
    index = Path(get(HUGGINGFACE_INDEX))
    # All of one revision, whatever is uploaded meanwhile.
    get = partial(get, revision=index.parent.name)
    shards = shards_of(index)
    if len(shards) > MOST_SHARDS or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in shards):
        raise InputError(f"{index} names too many files, or some that are no shards; use another repository.")
    _check([get(name, dry_run=True) for name in shards], repo_id, sizes)
    for name in shards:
        get(name)
    return index


def _check(files: list[Any], name: str, sizes: range) -> None:
    """Raise `InputError` for files that are too large together, or for which there is no room."""
    if all(file.file_size is not None for file in files):
        check_bytes(sum(file.file_size for file in files), name, sizes)
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    check_room(missing, Path(files[0].local_path), "free some space there, or set HF_HOME to a folder on a larger disk")


def _cause(error: Exception, repo_id: str) -> Cause:
    """Why the hub did not give a file, by the exception, the response's status, and some words of the hub."""
    errors = list(chain(error))

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in errors)

    page = f"https://huggingface.co/{repo_id}"
    own = constants.ENDPOINT != "https://huggingface.co"
    if own and not re.fullmatch(r"https?://[\w.:@-]+(/\S*)?", constants.ENDPOINT):
        return Cause("HF_ENDPOINT is no address of the web", "write it as https://HOST, or unset it")
    at = f" at {without_query(constants.ENDPOINT)}, which HF_ENDPOINT names" if own else ""
    if refusal := next((one for one in errors if isinstance(one, HfHubHTTPError)), None):
        return _cause_of_refusal(refusal, page, at)
    if is_any(OfflineModeIsEnabled) or (constants.is_offline_mode() and is_any(LocalEntryNotFoundError)):
        return Cause("HF_HUB_OFFLINE is set, and the file is not in the cache", "unset it and run again")
    if is_any(FileMetadataError):
        return Cause(
            f"what answers{at or ' at huggingface.co'} is not the hub",
            "correct or unset HF_ENDPOINT" if own else "sign in to this network in a browser, or name its proxy",
        )
    if is_any(HFValidationError):
        return Cause("this is no name of a repository", "correct release.huggingface in the variant's file")
    if is_any(UnicodeEncodeError) or "Illegal header value" in " ".join(map(str, errors)):
        return Cause("the saved token has letters that no token has", f"copy it again from {TOKENS} and set HF_TOKEN")
    if cause := cause_on_disk(error, f"Hugging Face's cache, {constants.HF_HUB_CACHE},"):
        return Cause(cause.text, f"{cause.way_out}, or set HF_HOME to another folder")
    if any("xet" in f"{type(one).__module__} {type(one).__name__} {one}".lower() for one in errors):
        return Cause(
            "its fast way of download failed", "run again with HF_HUB_DISABLE_XET=1, which takes the plain way"
        )
    cause = cause_on_network(error, constants.ENDPOINT)
    return Cause(cause.text, f"{cause.way_out}; HF_ENDPOINT is set" if own else cause.way_out)


def _cause_of_refusal(error: Any, page: str, at: str) -> Cause:
    response = error.response
    status, said = response.status_code, str(response.headers.get("X-Error-Message", "")).lower()
    has_token = "authorization" in response.request.headers
    give_token = f"make a token at {TOKENS} and set HF_TOKEN"
    if isinstance(error, RemoteEntryNotFoundError):
        name = PurePosixPath(response.request.url.path).name
        if name != HUGGINGFACE_INDEX:
            return Cause(f"the repository lacks {name}, which its index names{at}", "run again later")
        return Cause(
            f"the repository has neither {HUGGINGFACE_FILE} nor {HUGGINGFACE_INDEX}{at}",
            f"download its checkpoint from {page} and name it in official: checkpoints",
        )
    if status == 401 and ("invalid" in said or (has_token and not isinstance(error, GatedRepoError))):
        return Cause(f"it does not accept the token{at}", f"{give_token} anew; the old one has expired or is mistyped")
    if isinstance(error, GatedRepoError):
        if not has_token:
            return Cause("its licence has to be accepted first", f"accept it at {page}, {give_token}")
        if "fine-grained" in said:
            return Cause(
                "the token may not read gated repositories",
                f"allow it at {TOKENS} to read public gated repositories that you can access",
            )
        if "awaiting" in said or "pending" in said:
            return Cause("your request for access has not been answered yet", f"see {page}, and run again when it is")
        if "rejected" in said:
            return Cause("your request for access was rejected", "use another source")
        return Cause(
            "the account of the token has no access yet", f"accept the licence at {page} with the account of HF_TOKEN"
        )
    if isinstance(error, DisabledRepoError):
        return Cause("the repository has been disabled", "use another source")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return Cause(
            f"there is no such repository{at}, or it is private",
            "correct release.huggingface in the variant's file"
            + ("" if has_token else f", or accept the licence if {page} asks for it, {give_token}"),
        )
    if status in (401, 403):
        return Cause(f"it refuses access{at} ({status})", f"accept the licence at {page}, {give_token}")
    if status == 407:
        return cause_on_network(OSError("407 Proxy Authentication Required"), constants.ENDPOINT)
    if status == 429:
        way_out = "wait some minutes and run again" + ("" if has_token else "; with HF_TOKEN more is allowed")
        return Cause("it has had too many requests from here", way_out)
    return Cause(f"it answered {status}{at}", "run again later", lasting=False)
