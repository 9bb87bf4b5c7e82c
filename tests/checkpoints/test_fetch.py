"""A checkpoint is in its place when it is verified, with a record of what it is, and not before."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from vit2onnx.checkpoints import download
from vit2onnx.checkpoints.download import link_file
from vit2onnx.checkpoints.fetch import check_sha256_prefix, fetch_official, fetch_synthetic
from vit2onnx.checkpoints.reading import checksum, open_checkpoint
from vit2onnx.checkpoints.sources import Source
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of
from vit2onnx.spec.variant import VariantSpec

SECRET = "s3cr3t"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def release(tiny_spec, tiny_checkpoint) -> VariantSpec:
    """A variant whose official file is the synthetic checkpoint."""
    file = f"dinov3_tiny-{sha256(tiny_checkpoint)[:8]}.pth"
    return replace(tiny_spec, released=replace(tiny_spec.release, file=file))


@pytest.fixture
def official(release, tiny_checkpoint, tmp_path) -> Path:
    """The official file where a user may have it."""
    path = tmp_path / "mine" / release.release.file
    path.parent.mkdir()
    return Path(shutil.copy(tiny_checkpoint, path))


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def server(official) -> Iterator[str]:
    """The address of a server that offers the official file's folder."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(official.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(spec: VariantSpec, source: Source, results: Path, *, check_hash: bool = True) -> dict:
    folder = results.parent / "checkpoints"
    return fetch_official(spec, source, results / "checkpoint", folder=folder, check_hash=check_hash)


def refuse(spec: VariantSpec, source: Source, results: Path, **options: bool) -> str:
    """The sentence with which a source is refused, when that leaves nothing in the results."""
    with pytest.raises(InputError) as caught:
        fetch(spec, source, results, **options)
    assert not results.exists() or list(results.iterdir()) == []
    return str(caught.value)


def test_the_official_file_is_recognised_and_linked_to(release, official, results):
    record = fetch(release, Source("file", str(official)), results)
    assert record == {
        "variant": "dinov3_tiny",
        "weights": "official",
        "origin": {"kind": "file", "name": official.name},
        "layout": "meta",
        "tensors": 38,
        "bytes": official.stat().st_size,
        "sha256": sha256(official),
        "official_file": official.name,
        "identity": f"the publisher's {official.name}",
    }
    assert (results / "checkpoint").readlink() == official
    assert [path.name for path in results.iterdir()] == ["checkpoint"]


def test_the_hash_and_not_the_name_says_which_file_it_is(release, official, results):
    path = official.rename(official.with_name("renamed.bin"))
    assert fetch(release, Source("file", str(path)), results)["official_file"] == release.release.file


def test_another_file_is_not_the_official_one(tiny_spec, release, official, tmp_path):
    fetch_synthetic(tiny_spec, tmp_path / "mine.pth", seed=1, layout="meta")
    record = fetch(release, Source("file", str(tmp_path / "mine.pth")), tmp_path / "results")
    assert record["official_file"] is None
    assert record["identity"] == "a file that is none of those whose hashes are known"


def test_where_no_hash_is_known_no_file_is_known_to_be_the_publishers(spines, tmp_path):
    spec = spines("siglip2_base_patch16_224").spec
    paths = {name: tmp_path / name for name in (spec.release.file, "mine.npz", "mine.safetensors")}
    for seed, path in enumerate(paths.values()):
        layout = "big_vision" if path.suffix == ".npz" else "huggingface"
        fetch_synthetic(spec, path, seed=seed, layout=layout)
    release, named = fetch(spec, Source("file", str(paths[spec.release.file])), tmp_path / "results"), spec.release.file
    assert (release["official_file"], release["layout"]) == (None, "big_vision")
    assert release["identity"] == f"a file named like the publisher's {named}, of a release of which no hash is known"
    # Also in the layout of the publisher's files on the hub, which has every fine-tune.
    for mine in ("mine.npz", "mine.safetensors"):
        with pytest.raises(InputError, match="is none of the publisher's files whose hashes are known"):
            fetch(spec, Source("file", str(paths[mine])), tmp_path / "results")
    other = fetch(spec, Source("file", str(paths["mine.safetensors"])), tmp_path / "results", check_hash=False)
    assert other["identity"] == "a file of a release of which no hash is known"
    # Once somebody states the hash, it counts, and the name does not.
    known = replace(spec, released=replace(spec.release, sha256=sha256(paths["mine.npz"])))
    assert fetch(known, Source("file", str(paths["mine.npz"])), tmp_path / "results")["official_file"] == named
    with pytest.raises(InputError, match="is none of the publisher's files whose hashes are known"):
        fetch(known, Source("file", str(paths[named])), tmp_path / "results")


def test_the_name_of_a_variant_that_the_tensors_do_not_fit_counts_for_nothing(release, official, results):
    path = official.rename(official.with_name("dinov3_vits16_pretrain_lvd1689m.pth"))
    other = replace(release, released=replace(release.release, file="dinov3_tiny-0123abcd.pth"))
    assert fetch(other, Source("file", str(path)), results)["official_file"] is None
    # Nor any name where the hash is the release's.
    assert fetch(release, Source("file", str(path)), results)["official_file"] == release.release.file


def test_a_file_that_is_not_what_its_name_says_is_refused(release, official, results):
    wrong = official.rename(official.with_name("dinov3_tiny-0123abcd.pth"))
    sentence = refuse(release, Source("file", str(wrong)), results)
    assert sentence.startswith(f"{wrong} has SHA-256 {sha256(wrong)[:8]}… and not 0123abcd… as its name says")
    assert "set official.check_hash to false" in sentence
    assert wrong.exists()


def test_the_hash_may_be_waived(release, official, results):
    wrong = official.rename(official.with_name("dinov3_tiny-0123abcd.pth"))
    record = fetch(release, Source("file", str(wrong)), results, check_hash=False)
    assert record["sha256"] == sha256(wrong)
    assert (results / "checkpoint").resolve() == wrong


def test_a_flipped_bit_is_found_in_a_file_whose_hash_nobody_states(tiny_spec, official, results):
    content = bytearray(official.read_bytes())
    content[open_checkpoint(official)["norm.weight"].offset] ^= 1
    path = official.with_name("mine.pth")
    path.write_bytes(content)
    sentence = refuse(tiny_spec, Source("file", str(path)), results)
    assert sentence.startswith(f"{path} is damaged: the checksum of archive/data/")
    assert fetch(tiny_spec, Source("file", str(path)), results, check_hash=False)["official_file"] is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "dinov3-12345678901.pth", "dinov3-ABCDEF01.pth", "a-0123abc.pth"]
)
def test_a_name_without_eight_digits_promises_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    check_sha256_prefix(tmp_path / name, sha256_of(tmp_path / name))


def test_a_link_in_the_way_is_replaced_and_its_target_kept(release, official, results):
    results.mkdir()
    other = results.parent / "other"
    other.write_bytes(b"precious")
    (results / "checkpoint").symlink_to(other)
    fetch(release, Source("file", str(official)), results)
    assert (results / "checkpoint").resolve() == official
    assert other.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "content, says",
    [(b"", "is empty"), (b"<html>", "is a web page"), (b"PK\x03\x04abc", "is damaged or truncated")],
    ids=["empty", "web page", "truncated"],
)
@pytest.mark.parametrize("check_hash", [True, False])
def test_what_is_no_checkpoint_is_refused(release, results, content, says, check_hash):
    path = results.parent / "file.pth"
    path.write_bytes(content)
    assert f"{path} {says}" in refuse(release, Source("file", str(path)), results, check_hash=check_hash)


def test_a_link_is_kept_in_the_folder_and_its_signature_nowhere(release, official, server, results, capfd):
    source = Source("link", f"{server}/{official.name}?Policy={SECRET}&Signature={SECRET}")
    record = fetch(release, source, results)
    kept = results.parent / "checkpoints" / official.name
    assert kept.read_bytes() == official.read_bytes()
    assert (results / "checkpoint").readlink() == kept
    assert record["origin"] == {"kind": "link", "name": f"{server}/{official.name}"}
    assert record["official_file"] == official.name
    assert [path.name for path in kept.parent.iterdir()] == [official.name]
    assert SECRET not in json.dumps(record) + "".join(capfd.readouterr())


def test_a_link_to_a_broken_file_leaves_nothing_in_the_results(release, official, server, results):
    wrong = official.rename(official.with_name("dinov3_tiny-0123abcd.pth"))
    kept = results.parent / "checkpoints" / wrong.name
    sentence = refuse(release, Source("link", f"{server}/{wrong.name}?Signature={SECRET}"), results)
    assert sentence.startswith(f"{kept} has SHA-256 ")
    assert SECRET not in sentence


def test_an_expired_link_leaves_nothing(release, server, results):
    sentence = refuse(release, Source("link", f"{server}/absent.pth?Signature={SECRET}"), results)
    assert f"{server}/absent.pth answered 404" in sentence
    assert list((results.parent / "checkpoints").iterdir()) == []


def from_hub(monkeypatch: pytest.MonkeyPatch, cached: Path) -> Source:
    """A repository whose file is in the hub's cache."""
    monkeypatch.setattr(download, "download_huggingface", lambda *arguments, **options: cached)
    return Source("huggingface", "facebook/dinov3-tiny")


def test_a_hub_file_is_linked_to_and_named_by_its_repository(tiny_spec, tiny_checkpoints, results, monkeypatch):
    cached = tiny_checkpoints["huggingface"]
    record = fetch(tiny_spec, from_hub(monkeypatch, cached), results)
    assert record["origin"] == {"kind": "huggingface", "name": "facebook/dinov3-tiny"}
    assert record["layout"] == "huggingface"
    assert (results / "checkpoint").readlink() == cached


def test_shards_of_the_hub_are_linked_to_by_their_index(tiny_spec, tiny_checkpoints, results, monkeypatch, tmp_path):
    """In a cache, where index and shards are links to blobs."""
    tensors = sorted(load_file(tiny_checkpoints["huggingface"]).items())
    snapshot = tmp_path / "models--facebook--tiny" / "snapshots" / "0123abc"
    weight_map = {}
    for number, shard in enumerate((tensors[:20], tensors[20:]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        weight_map |= dict.fromkeys(dict(shard), name)
        save_file(dict(shard), tmp_path / f"{number}")
        link_file(tmp_path / f"{number}", snapshot / name)
    (tmp_path / "index").write_text(json.dumps({"weight_map": weight_map}))
    index = snapshot / "model.safetensors.index.json"
    link_file(tmp_path / "index", index)
    record = fetch(tiny_spec, from_hub(monkeypatch, index), results)
    assert (record["layout"], record["tensors"]) == ("huggingface", 41)
    assert (results / "checkpoint").readlink() == index
    assert record["sha256"] == checksum(results / "checkpoint")


def test_a_broken_hub_file_leaves_nothing(tiny_spec, tiny_checkpoints, results, monkeypatch):
    broken = results.parent / "model.safetensors"
    broken.write_bytes(tiny_checkpoints["huggingface"].read_bytes()[:-1])
    assert refuse(tiny_spec, from_hub(monkeypatch, broken), results).startswith(f"{broken} is damaged or truncated")


@pytest.mark.parametrize(
    "layout, tensors", [("meta", 38), ("huggingface", 41), ("huggingface5", 41), ("timm", 32), ("timm_qkvb", 36)]
)
def test_synthetic_weights_say_so(tiny_spec, tiny_checkpoints, tmp_path, layout, tensors):
    """Even where the hash would say otherwise."""
    path = tmp_path / "results" / "checkpoint"
    digest = sha256(tiny_checkpoints[layout])
    spec = replace(tiny_spec, released=replace(tiny_spec.release, file=f"dinov3_tiny-{digest[:8]}.pth"))
    record = fetch_synthetic(spec, path, seed=0, layout=layout)
    assert path.read_bytes() == tiny_checkpoints[layout].read_bytes()
    assert record == {
        "variant": "dinov3_tiny",
        "weights": "synthetic",
        "origin": {"kind": "synthetic", "seed": 0},
        "layout": layout,
        "tensors": tensors,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "official_file": None,
        "identity": "synthetic weights, made here",
    }
