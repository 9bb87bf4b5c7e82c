"""Where a checkpoint is looked for, and how a link is read out of an e-mail."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from vit2onnx.checkpoints.heads import SUFFIXES
from vit2onnx.checkpoints.sources import Source, find_link, find_local, hub_sha256, locate
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[2]
NAME = "dinov3_vits16_pretrain_lvd1689m"
SPEC = VariantSpec.from_mapping(NAME, read_variants(ROOT / "config" / "variants")[NAME])
OFFICIAL = SPEC.release.file
LINK = f"https://example.test/dinov3_vits16/{OFFICIAL}?Policy=eyJ_&Signature=s3cr3t~-_&Key-Pair-Id=K1"
PLUS = "https://example.test/dinov3_vits16plus/dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth?Signature=plus"
HEAD = "https://example.test/dinov3_vits16/dinov3_vits16_pretrain_lvd1689m_head-08c60483.pth?Signature=head"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def find(root: Path, *, configured: Path | None = None, **environ: str) -> Path | None:
    return find_local(
        SPEC,
        configured=configured,
        folder=root / "checkpoints",
        environ={"HOME": str(root / "home"), **environ},
    )


def link_in(root: Path, text: str, **environ: str) -> str | None:
    links_file = root / "links.txt"
    links_file.write_text(text)
    return find_link(SPEC, links_file=links_file, environ=environ)


def test_the_order_is_configured_then_folder_then_caches_then_link_then_hub(tmp_path):
    places = [
        touch(tmp_path / "mine" / "any name.pt"),
        touch(tmp_path / "checkpoints" / OFFICIAL),
        touch(tmp_path / "home" / ".cache" / "torch" / "hub" / "checkpoints" / OFFICIAL),
    ]
    environ = {"HOME": str(tmp_path / "home"), "VIT2ONNX_LINKS": LINK}

    def located(configured: Path | None) -> Source:
        return locate(
            SPEC,
            configured=configured,
            folder=tmp_path / "checkpoints",
            links_file=tmp_path / "links.txt",
            environ=environ,
        )

    assert located(places[0]) == Source("file", str(places[0]))
    for place in places[1:]:
        assert located(None) == Source("file", str(place))
        place.unlink()
    assert located(None) == Source("link", LINK)
    del environ["VIT2ONNX_LINKS"]
    assert located(None) == Source("huggingface", "facebook/dinov3-vits16-pretrain-lvd1689m")


SNAPSHOT = "models--facebook--dinov3-vits16-pretrain-lvd1689m/snapshots/0123abc/model.safetensors"


@pytest.mark.parametrize(
    ("variable", "value", "file"),
    [
        (None, None, f"home/.cache/torch/hub/checkpoints/{OFFICIAL}"),
        (None, None, f"home/.cache/torch/hub/dinov3/weights/{OFFICIAL}"),
        (None, None, f"home/.cache/equimo/dinov3/{OFFICIAL}"),
        (None, None, f"home/.cache/huggingface/hub/{SNAPSHOT}"),
        ("TORCH_HOME", "elsewhere", f"elsewhere/hub/checkpoints/{OFFICIAL}"),
        ("XDG_CACHE_HOME", "elsewhere", f"elsewhere/torch/hub/checkpoints/{OFFICIAL}"),
        ("XDG_CACHE_HOME", "elsewhere", f"elsewhere/huggingface/hub/{SNAPSHOT}"),
        ("HF_HOME", "elsewhere", f"elsewhere/hub/{SNAPSHOT}"),
        ("HF_HUB_CACHE", "elsewhere", f"elsewhere/{SNAPSHOT}"),
        ("HUGGINGFACE_HUB_CACHE", "elsewhere", f"elsewhere/{SNAPSHOT}"),
        ("TORCH_HOME", "", f"home/.cache/torch/hub/checkpoints/{OFFICIAL}"),
    ],
)
def test_each_usual_cache_is_searched(tmp_path, variable, value, file):
    environ = {variable: str(tmp_path / value) if value else ""} if variable else {}
    assert find(tmp_path, **environ) is None
    path = touch(tmp_path / file)
    assert find(tmp_path, **environ) == path


def in_shards(folder: Path, *shards: str, index: str | None = None) -> Path:
    """A checkpoint in two files, of which some are there."""
    for shard in shards:
        touch(folder / shard)
    path = touch(folder / "model.safetensors.index.json")
    names = {"a": "model-1-of-2.safetensors", "b": "model-1-of-2.safetensors", "c": "model-2-of-2.safetensors"}
    path.write_text(json.dumps({"weight_map": names}) if index is None else index)
    return path


SHARDS = ("model-1-of-2.safetensors", "model-2-of-2.safetensors")


def test_a_checkpoint_in_shards_is_found_by_its_index(tmp_path):
    snapshot = (tmp_path / "home/.cache/huggingface/hub" / SNAPSHOT).parent
    index = in_shards(snapshot, *SHARDS)
    assert find(tmp_path) == index
    assert find(tmp_path, configured=snapshot) == index
    assert find(tmp_path, configured=index) == index
    whole = touch(snapshot / "model.safetensors")
    assert find(tmp_path) == whole


@pytest.mark.parametrize(
    "index",
    [
        None,
        "",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "sub/x.safetensors"}}',
        '{"weight_map": {"a": "absent.bin"}}',
        '{"weight_map": ' + "[" * 100_000,
        json.dumps({"weight_map": {str(number): f"{number}.safetensors" for number in range(2000)}}),
    ],
)
def test_an_index_that_lacks_files_or_is_none_is_passed_over(tmp_path, index):
    snapshot = (tmp_path / "home/.cache/huggingface/hub" / SNAPSHOT).parent
    in_shards(snapshot, *SHARDS[: 1 if index is None else 2], index=index)
    touch(snapshot.parent / "x.safetensors")
    touch(snapshot / "sub" / "x.safetensors")
    assert find(tmp_path) is None


def test_the_cache_states_the_sha256_of_what_is_in_it(tmp_path):
    repository = tmp_path / "models--facebook--dinov3"
    snapshot = repository / "snapshots" / "0123abc"
    (snapshot / "sub").mkdir(parents=True)
    digits = "0123456789abcdef" * 4
    touch(repository / "blobs" / digits)
    for name, blob, found in [
        ("model.safetensors", f"../../blobs/{digits}", digits),
        ("sub/model.safetensors", f"../../../blobs/{digits}", digits),
        ("absolute.safetensors", str(repository / "blobs" / digits), digits),
        ("config.json", f"../../blobs/{digits[:40]}", None),
        ("elsewhere", f"../../other/{digits}", None),
    ]:
        (snapshot / name).symlink_to(blob)
        assert hub_sha256(snapshot / name) == found
    assert hub_sha256(touch(snapshot / "copied.safetensors")) is None
    assert hub_sha256(snapshot / "absent") is None
    (tmp_path / "model.safetensors").symlink_to(repository / "blobs" / digits)
    assert hub_sha256(tmp_path / "model.safetensors") is None


def test_a_cache_variable_may_begin_with_a_tilde(tmp_path):
    path = touch(tmp_path / "home" / "torch" / "hub" / "checkpoints" / OFFICIAL)
    assert find(tmp_path, TORCH_HOME="~/torch") == path


@pytest.mark.parametrize(
    "name", [OFFICIAL, *(f"{NAME}{suffix}" for suffix in SUFFIXES), f"{NAME}-deadbeef.safetensors"]
)
def test_a_file_of_the_variant_is_recognised_by_its_name(tmp_path, name):
    path = touch(tmp_path / "checkpoints" / name)
    assert find(tmp_path) == path


@pytest.mark.parametrize(
    "name",
    [
        f"{OFFICIAL}.part",
        f"{OFFICIAL}.1f2e.partial",
        f"{OFFICIAL}?Signature=s3cr3t",
        f"{NAME}_head-08c60483.pth",
        f"{NAME}-08c6048.pth",
        "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth",
        "model.safetensors",
    ],
)
def test_other_files_are_not_taken_for_the_variant(tmp_path, name):
    touch(tmp_path / "checkpoints" / name)
    assert find(tmp_path) is None


def test_empty_files_directories_and_broken_links_are_passed_over(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / OFFICIAL).mkdir(parents=True)
    (folder / f"{NAME}.pth").touch()
    (folder / f"{NAME}.pt").symlink_to(tmp_path / "gone.pt")
    assert find(tmp_path) is None


def test_the_official_name_goes_first_and_then_the_alphabet(tmp_path):
    folder = tmp_path / "checkpoints"
    official = touch(folder / OFFICIAL)
    for name in (f"{NAME}-ffffffff.pth", f"{NAME}-00000000.pth", f"{NAME}.pth"):
        touch(folder / name)
    assert find(tmp_path) == official
    official.unlink()
    assert find(tmp_path) == folder / f"{NAME}-00000000.pth"


def test_a_configured_path_may_be_relative_or_begin_with_a_tilde(tmp_path, monkeypatch):
    path = touch(tmp_path / "home" / "weights.pth")
    monkeypatch.chdir(tmp_path)
    assert find(tmp_path, configured=Path("~/weights.pth")) == path
    assert find(tmp_path, configured=Path("home/weights.pth")) == Path("home/weights.pth")


@pytest.mark.parametrize("name", [OFFICIAL, "model.safetensors"])
def test_a_configured_directory_is_searched(tmp_path, name):
    path = touch(tmp_path / "mine" / name)
    assert find(tmp_path, configured=tmp_path / "mine") == path


def test_a_wrong_configured_path_is_an_error_even_if_a_cache_would_serve(tmp_path):
    touch(tmp_path / "checkpoints" / OFFICIAL)
    with pytest.raises(InputError, match=rf"configured for {NAME} does not exist: .*gone\.pth"):
        find(tmp_path, configured=tmp_path / "gone.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.pth").touch()
    os.mkfifo(tmp_path / "pipe.pth")
    others = (Path("/"), tmp_path / "empty", tmp_path / "nothing.pth", tmp_path / "pipe.pth", Path("/dev/zero"))
    for configured in (touch(tmp_path / "weights.zip"), *others):
        with pytest.raises(InputError, match="holds no checkpoint"):
            find(tmp_path, configured=configured)


def test_a_configured_name_that_holds_a_signature_is_refused_without_it(tmp_path):
    for name in ("gone.pth?Signature=s3cr3t", touch(tmp_path / f"{OFFICIAL}?Policy=s3cr3t").name):
        with pytest.raises(InputError, match=r"\.pth; ") as caught:
            find(tmp_path, configured=tmp_path / name)
        assert "s3cr3t" not in str(caught.value)


def test_a_cache_that_cannot_be_listed_is_passed_over(tmp_path):
    touch(tmp_path / "home")
    assert find(tmp_path) is None


def test_each_variant_finds_its_own_link_in_one_email(tmp_path):
    email = f"Dear user,\n\nbackbones:\n- {PLUS}\n- {LINK}\n- {HEAD}\n\nDetails: https://example.test/dinov3/\n"
    assert link_in(tmp_path, email) == LINK
    plus = dataclasses.replace(SPEC, name="dinov3_vits16plus_pretrain_lvd1689m")
    assert find_link(plus, links_file=tmp_path / "links.txt", environ={}) == PLUS
    assert link_in(tmp_path, f"{PLUS} {HEAD}") is None
    assert link_in(tmp_path, f"https://example.test/?file={OFFICIAL}") is None


def test_a_release_goes_by_its_publishers_name_too(tmp_path):
    name = "siglip2_so400m_patch14_384"
    spec = VariantSpec.from_mapping(name, read_variants(ROOT / "config" / "variants")[name])
    url = f"{spec.release.url}{spec.release.file}"
    assert spec.release.file == "siglip2_so400m14_384.npz"
    environ = {"HOME": str(tmp_path / "home"), "VIT2ONNX_LINKS": url}

    def located(configured: Path | None = None) -> Source:
        folder, links_file = tmp_path / "checkpoints", tmp_path / "links.txt"
        return locate(spec, configured=configured, folder=folder, links_file=links_file, environ=environ)

    assert located() == Source("link", url)
    environ["VIT2ONNX_LINKS"] = url.replace("384", "224")
    assert located() == Source("huggingface", "google/siglip2-so400m-patch14-384")
    snapshot = tmp_path / "home/.cache/huggingface/hub/models--google--siglip2-so400m-patch14-384/snapshots/0123"
    touch(snapshot / "model-00001-of-00001.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert located() == Source("file", str(snapshot / "model.safetensors.index.json"))
    for found in (f"{name}.safetensors", "siglip2_so400m14_384.npz"):
        touch(tmp_path / "checkpoints" / "siglip2_so400m14_224.npz")
        path = touch(tmp_path / "checkpoints" / found)
        assert located() == Source("file", str(path))
    (tmp_path / "mine").mkdir()
    path = touch(tmp_path / "mine" / "any.npz")
    assert located(path) == located(path.parent) == Source("file", str(path))


def test_the_last_link_and_the_environment_prevail(tmp_path):
    newer = LINK.replace("s3cr3t", "newer")
    assert link_in(tmp_path, f"{LINK}\n{newer}\n") == newer
    assert link_in(tmp_path, newer, VIT2ONNX_LINKS=f"Dear user, {LINK}") == LINK
    assert link_in(tmp_path, newer, VIT2ONNX_LINKS=PLUS) == newer


def test_a_link_that_is_cut_off_is_passed_over(tmp_path):
    for cut in (LINK.partition("&")[0], LINK.partition("-08c6")[0], f"{LINK[:60]}\n\n{LINK[60:]}"):
        assert link_in(tmp_path, f"{cut}\n\nGood bye") is None
        assert link_in(tmp_path, f"{LINK}\n\n{cut}") == LINK


def test_a_links_file_may_be_large_or_none(tmp_path):
    assert link_in(tmp_path, f"{LINK}\n" + "a" * (1 << 25)) == LINK
    (tmp_path / "folder").mkdir()
    assert find_link(SPEC, links_file=tmp_path / "folder", environ={}) is None


def test_without_links_there_is_none(tmp_path):
    assert find_link(SPEC, links_file=tmp_path / "links.txt", environ={}) is None


def test_a_source_never_shows_its_signature():
    source = Source("link", LINK.replace("https://", "https://user:s3cr3t@"))
    for text in (repr(source), str(source), f"{source}", repr([source]), source.shown):
        assert "s3cr3t" not in text
        assert "Policy" not in text
        assert f"https://example.test/dinov3_vits16/{OFFICIAL}" in text
