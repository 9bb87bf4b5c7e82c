"""The Hugging Face hub as a server on this machine: what it gives, and why it does not."""

import errno
import functools
import json
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from huggingface_hub import close_session, hf_hub_download
from huggingface_hub.errors import HTTPError

from tests.checkpoints.servers import BODY, SECRET, Server, serving
from vit2onnx.checkpoints.hub import cleaned, download_huggingface
from vit2onnx.checkpoints.sources import find_local
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VariantSpec, read_variants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "facebook/dinov3-vits16-pretrain-lvd1689m"
SIZES = range(1, 1 << 20)
INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def index_of(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"layer.{number}": name for number, name in enumerate(names)}}).encode()


@pytest.fixture(autouse=True)
def nothing_shows_the_token(caplog, capfd) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    captured = capfd.readouterr()
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert SECRET not in "\n".join([*logged, captured.out, captured.err])


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Server]:
    """A Hugging Face endpoint, with an empty cache and no login."""
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", no_waiting)
    with serving() as server:
        in_cache = functools.partial(hf_hub_download, cache_dir=tmp_path / "hub")
        monkeypatch.setattr("vit2onnx.checkpoints.hub.hf_hub_download", in_cache)
        set_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        server.headers = {"ETag": '"abc"', "X-Repo-Commit": COMMIT}
        close_session()
        yield server
        close_session()


def no_waiting(seconds: float) -> None:
    raise AssertionError("tried once more to reach what cannot be reached")


def set_endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """As HF_ENDPOINT does, which the library reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def download(token: str | None = SECRET, sizes: range = SIZES) -> Path:
    return download_huggingface(REPOSITORY, token=token, sizes=sizes)


def refusal(token: str | None = SECRET, sizes: range = SIZES) -> str:
    """The sentence with which a download is refused, when nothing that hangs on it shows the token."""
    with pytest.raises(InputError) as caught:
        download(token, sizes)
    message = str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert len(message) < 600
    return message


def test_a_hub_file_stays_in_the_cache(hub, tmp_path):
    path = download()
    assert path.read_bytes() == BODY
    assert path == tmp_path / f"hub/models--{REPOSITORY.replace('/', '--')}/snapshots/{COMMIT}/model.safetensors"
    before = len(hub.ranges)
    assert download() == path
    assert len(hub.ranges) - before == 3  # asks whether there is a newer one, and for no content


def test_shards_are_brought_together_and_found_again(hub, tmp_path):
    hub.files = {INDEX: index_of(*SHARDS, SHARDS[0])} | {name: name.encode() for name in SHARDS}
    hub.etags = True
    path = download()
    assert path.name == INDEX
    assert {name: (path.parent / name).read_text() for name in SHARDS} == {name: name for name in SHARDS}
    name = "dinov3_vits16_pretrain_lvd1689m"
    spec = VariantSpec.from_mapping(name, read_variants(Path("config/variants"))[name])
    environ = {"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    assert find_local(spec, configured=None, folder=tmp_path / "checkpoints", environ=environ) == path
    (path.parent / SHARDS[1]).unlink()
    assert find_local(spec, configured=None, folder=tmp_path / "checkpoints", environ=environ) is None


@pytest.mark.parametrize("name", ["../../x.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "x.bin", "..", ""])
def test_a_shard_by_a_name_that_leads_elsewhere_is_refused(hub, name):
    hub.files, hub.etags = {INDEX: index_of(SHARDS[0], name), SHARDS[0]: b"weights"}, True
    assert re.search("names a shard in another folder|names too many files, or some that are no shards", refusal())
    assert not any(SHARDS[0] in path for path in hub.paths)


def test_shards_are_bounded_together_before_the_first_is_brought(hub):
    hub.files, hub.etags = {INDEX: index_of(*SHARDS)} | dict.fromkeys(SHARDS, bytes(600_000)), True
    assert f"{REPOSITORY} has 1200000 bytes; this model's checkpoint has at most" in refusal()


def test_a_shard_that_is_not_there_is_told(hub):
    hub.files, hub.etags = {INDEX: index_of(*SHARDS), SHARDS[0]: b"weights"}, True
    assert f"the repository lacks {SHARDS[1]}, which its index names" in refusal()


def test_a_file_of_another_size_is_refused_before_it_is_brought(hub):
    assert "at most 999" in refusal(sizes=range(1, 1000))
    assert "only 786449 bytes; this model's checkpoint has at least 1000000" in refusal(sizes=range(10**6, 10**7))


def test_a_full_disk_is_told_before_the_download_starts(hub, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "left; free some space there, or set HF_HOME" in refusal()


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is used up"), (errno.EROFS, "cannot be written to")]
)
def test_a_disk_that_fills_meanwhile_is_told(hub, monkeypatch, number, says):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, "no", SECRET)

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    message = refusal()
    assert says in message
    assert "HF_HOME" in message


@pytest.mark.parametrize(
    ("status", "code", "said", "token", "says"),
    [
        (
            401,
            "GatedRepo",
            "Access to model x is restricted. Please log in.",
            None,
            "its licence has to be accepted first",
        ),
        (403, "GatedRepo", "you are not in the authorized list", SECRET, "the account of the token has no access yet"),
        (
            403,
            "GatedRepo",
            "enable access in your fine-grained token settings",
            SECRET,
            "may not read gated repositories",
        ),
        (403, "GatedRepo", "Your request is awaiting a review", SECRET, "has not been answered yet"),
        (403, "GatedRepo", "Your request has been rejected", SECRET, "was rejected"),
        (401, "GatedRepo", "Invalid credentials in Authorization header", SECRET, "does not accept the token"),
        (401, "", "Invalid username or password.", SECRET, "does not accept the token"),
        (401, "RepoNotFound", "", SECRET, "does not accept the token"),
        (401, "RepoNotFound", "", None, "there is no such repository"),
        (404, "RepoNotFound", "", SECRET, "there is no such repository"),
        (404, "EntryNotFound", "", SECRET, "neither model.safetensors nor model.safetensors.index.json"),
        (403, "", "Access to this resource is disabled.", SECRET, "has been disabled"),
        (403, "", f"no {SECRET}", SECRET, "it refuses access"),
        (429, "", "", None, "too many requests from here; wait some minutes and run again; with HF_TOKEN"),
        (503, "", "", SECRET, "it answered 503"),
        (451, "", "", SECRET, "it answered 451"),
    ],
)
def test_each_refusal_has_its_own_sentence(hub, status, code, said, token, says):
    hub.status, hub.headers = status, {"X-Error-Code": code, "X-Error-Message": said}
    message = refusal(token)
    assert says in message
    assert "weights: synthetic" in message


@pytest.mark.parametrize(("code", "named"), [("GatedRepo", True), ("RepoNotFound", False)])
def test_a_refusal_names_a_copy_that_needs_no_request(hub, code, named):
    hub.status, hub.headers = 403, {"X-Error-Code": code}
    with pytest.raises(InputError) as caught:
        download_huggingface(REPOSITORY, token=SECRET, sizes=SIZES, copy="timm/x")
    assert (".venv/bin/hf download timm/x model.safetensors; then run again" in str(caught.value)) == named


def test_an_offline_hub_says_which_variable_makes_it_so(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and the file is not in the cache; unset it" in refusal()
    assert hub.ranges == []


def test_what_is_no_hub_says_so(hub, monkeypatch):
    hub.headers = {}
    assert "which HF_ENDPOINT names is not the hub; correct or unset HF_ENDPOINT" in refusal()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    assert "what answers at huggingface.co is not the hub; sign in to this network in a browser" in refusal()


def test_an_endpoint_is_shown_without_its_password(hub, monkeypatch):
    hub.status = 418
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"https://u:{SECRET}@hub.example.test/?{SECRET}")
    assert "it answered 418 at https://hub.example.test/, which HF_ENDPOINT names" in refusal()


@pytest.mark.parametrize("address", ["huggingface.co", "ftp://hub.example.test", "http://[", f"{SECRET} x", "https://"])
def test_an_endpoint_that_is_none_says_so(hub, monkeypatch, address):
    set_endpoint(monkeypatch, address)
    assert "HF_ENDPOINT is no address of the web; write it as https://HOST" in refusal()


def test_a_name_that_no_repository_has_says_so(hub):
    with pytest.raises(InputError, match="this is no name of a repository; correct release"):
        download_huggingface("a//b", token=None, sizes=SIZES)


@pytest.mark.parametrize(
    ("variable", "address", "says"),
    [
        (
            "ALL_PROXY",
            f"socks5://u:{SECRET}@127.0.0.1:9",
            "SOCKS proxy, for which Python packages are missing; install",
        ),
        ("HTTP_PROXY", f"abc://u:{SECRET}@127.0.0.1:9", "the address of the proxy is wrong"),
        ("HTTP_PROXY", f"http://u:{SECRET}@127.0.0.1:9", "the proxy 127.0.0.1:9 could not be reached"),
        ("HTTP_PROXY", f"http://u:{SECRET}@nowhere.invalid:9", "the proxy nowhere.invalid:9 could not be reached"),
        ("SSL_CERT_FILE", "/nowhere.pem", "the file with trusted certificates is not there"),
    ],
)
def test_a_way_that_is_closed_has_its_own_sentence(hub, monkeypatch, variable, address, says):
    monkeypatch.setenv(variable, address)
    assert says in refusal()


def test_a_proxy_that_asks_for_a_password_says_so(hub, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:{SECRET}@127.0.0.1:{hub.server_port}")
    set_endpoint(monkeypatch, "https://away.invalid")
    assert f"the proxy 127.0.0.1:{hub.server_port} asks for a password" in refusal()


def test_a_name_that_is_not_found_says_so(hub, monkeypatch):
    set_endpoint(monkeypatch, "https://away.invalid")
    assert "the name away.invalid was not found" in refusal()


@pytest.mark.parametrize("error", [HTTPError, RuntimeError, ValueError, KeyError, OSError])
def test_what_no_one_foresaw_shows_no_token(hub, monkeypatch, error):
    def fail(*arguments: object, **options: object) -> None:
        raise error(f"Bearer {SECRET}")

    monkeypatch.setattr("vit2onnx.checkpoints.hub.hf_hub_download", fail)
    assert f"Hugging Face did not give {REPOSITORY}: " in refusal()


def test_a_failure_of_the_fast_way_names_the_plain_one(hub, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("Xet CAS error")

    monkeypatch.setattr("vit2onnx.checkpoints.hub.hf_hub_download", fail)
    assert "run again with HF_HUB_DISABLE_XET=1" in refusal()


@pytest.mark.parametrize(
    "token",
    ["hf_abc", " hf_abc\n", '"hf_abc"', "'hf_abc'", "Bearer hf_abc", "bearer\thf_abc", "HF_TOKEN=hf_abc", "<hf_abc>"],
)
def test_a_token_is_cleaned_of_what_is_copied_with_it(token):
    assert cleaned(token) == "hf_abc"


@pytest.mark.parametrize("token", ["", None, "  ", '""', "\n"])
def test_no_token_is_none(token):
    assert cleaned(token) is None


@pytest.mark.parametrize(
    "token", [f"hf {SECRET}", f"hf_{SECRET}é", f"hf_{SECRET}\nhf_b", f"\x1b{SECRET}", f"{SECRET}\0"]
)
def test_a_token_that_cannot_be_one_is_refused_unshown(token):
    with pytest.raises(InputError, match="HF_TOKEN has blanks or letters") as caught:
        cleaned(token)
    assert SECRET not in str(caught.value)


def test_a_saved_token_that_cannot_be_one_is_told(hub, tmp_path):
    (tmp_path / "token").write_text(f"hf_{SECRET}é")
    assert "the saved token has letters that no token has" in refusal(None)
