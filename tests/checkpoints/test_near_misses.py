"""What looks like a checkpoint and is not taken is told, with the line that takes it and without a credential."""

import shlex
import subprocess
from pathlib import Path

import pytest

from vit2onnx.checkpoints.sources import LINKS_FILE, locate
from vit2onnx.spec.variant import VariantSpec, read_variants

NAME = "dinov3_vits16_pretrain_lvd1689m"
SPEC = VariantSpec.from_mapping(NAME, read_variants(Path("config/variants"))[NAME])
OFFICIAL = SPEC.release.file
PLUS = "dinov3_vits16plus_pretrain_lvd1689m"
QUERY = "?Policy=s3cr3t&Signature=s3cr3t&Key-Pair-Id=s3cr3t"
LINK = f"https://example.test/{OFFICIAL}{QUERY}"
HUB = "home/.cache/huggingface/hub/"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(name: str, content: bytes | str = b"weights") -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def missed(**environ: str) -> str:
    """What is told, when nothing is taken and nothing is shown of a signature."""
    environ = {"HOME": "home", **environ}
    source = locate(SPEC, configured=None, folder=Path("checkpoints"), links_file=LINKS_FILE, environ=environ)
    assert source.kind != "file"
    assert "s3cr3t" not in source.near_misses
    assert all(character.isprintable() or character == "\n" for character in source.near_misses)
    return source.near_misses


def test_where_there_is_nothing_nothing_is_told():
    assert missed() == ""
    for name in (".gitkeep", ".DS_Store", "README.md", "config.json", f".{OFFICIAL}", "notes.txt"):
        put(f"checkpoints/{name}")
    Path("checkpoints/empty").mkdir()
    put(f"home/.cache/torch/hub/checkpoints/{PLUS}-4057cbaa.pth")
    put("home/.cache/torch/hub/checkpoints/resnet50-0676ba61.pth")
    assert missed() == ""


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "my run/best.ckpt",
        "last.PT",
        "a/b/c/x.pth",
        "m/model.safetensors.index.json",
    ],
)
def test_a_file_under_another_name_is_told_with_the_lines_that_take_it(name):
    put(f"checkpoints/{name}")
    if name.startswith("m/"):
        put("checkpoints/m/model-00001-of-00001.safetensors")
    told = missed()
    assert f"checkpoints/{name} (" in told
    assert f'official: {{checkpoints: {{{NAME}: "checkpoints/{name}"}}}}' in told
    assert f"make run CHECKPOINT={shlex.quote('checkpoints/' + name)}" in told


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (f"{OFFICIAL}{QUERY}", OFFICIAL),
        (f"{OFFICIAL}@Policy=s3cr3t&Signature=s3cr3t", OFFICIAL),
        (f"{OFFICIAL}%3FPolicy=s3cr3t", OFFICIAL),
        (f"{OFFICIAL}.1", OFFICIAL),
        (f"{NAME}-08c60483 (1).pth", OFFICIAL),
        (f"{NAME}-08c60483(1).pth", OFFICIAL),
        (f"Copy of {OFFICIAL}", OFFICIAL),
        (OFFICIAL.upper(), OFFICIAL),
        (f"{NAME}.PTH", f"{NAME}.pth"),
        (f"{NAME}-08c60483", OFFICIAL),
        (f"{OFFICIAL}.txt", OFFICIAL),
    ],
)
def test_a_name_that_is_nearly_the_publishers_comes_with_the_line_that_mends_it(name, target):
    put(f"checkpoints/{name}")
    told = missed()
    assert "(not exactly the publisher's name): mv " in told
    subprocess.run(told.partition("): ")[2].splitlines()[0], shell=True, check=True)
    assert [path.name for path in Path("checkpoints").iterdir()] == [target]
    source = locate(SPEC, configured=None, folder=Path("checkpoints"), links_file=LINKS_FILE, environ={"HOME": "home"})
    assert (source.location, source.near_misses) == (f"checkpoints/{target}", "")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (f"{OFFICIAL}.crdownload", b"w", "a download that has not finished"),
        (f"{OFFICIAL}.part", b"w", "a download that has not finished"),
        (f"{OFFICIAL}{QUERY}.tmp", b"w", "a download that has not finished"),
        (OFFICIAL, b"", "a download that has not finished"),
        ("model.safetensors", b"", "a download that has not finished"),
        ("weights.zip", b"w", "an archive: unpack it"),
        (f"{OFFICIAL}.tar.gz", b"w", "mv "),
        (f"{OFFICIAL}/readme", b"w", "a folder without a checkpoint"),
        (f"{PLUS}-4057cbaa.pth", b"w", f"(another variant): make run WEIGHTS=official VARIANT={PLUS}"),
        ("siglip2_b16_256.npz", b"w", "(another variant): make run WEIGHTS=official VARIANT=siglip2_base_patch16_256"),
        (f"{NAME}_head-08c60483.pth", b"w", "not the publisher's name"),
        ("a\nb\x1b[31m.pth", b"w", r"checkpoints/a\nb\x1b[31m.pth"),
        (f"{'x' * 20}{QUERY}", b"w", ""),
        (f"model.pth{QUERY}", b"w", "(not the publisher's name): mv checkpoints/model.pth?* checkpoints/model.pth"),
        ("model.safetensors?download=true", b"w", "mv checkpoints/model.safetensors?* checkpoints/model.safetensors"),
        ("run@epoch=3&lr=1.ckpt", b"w", '689m: "checkpoints/run@epoch=3&lr=1.ckpt"'),
    ],
)
def test_other_kinds_are_told_apart(name, content, says):
    put(f"checkpoints/{name}", content)
    assert says in missed()


def test_a_link_to_nothing_is_told():
    Path("checkpoints").mkdir()
    Path("checkpoints", OFFICIAL).symlink_to("gone.pth")
    assert "a link to a file that is gone" in missed()


def test_the_start_of_a_download_of_ours_is_not_told():
    for name in (f"{OFFICIAL}.part", f"{OFFICIAL}.part.from"):
        put(f"checkpoints/{name}")
    assert missed() == ""


def test_at_most_five_are_told_and_the_most_telling_first():
    for number in range(300):
        put(f"checkpoints/a{number}.safetensors")
    put(f"checkpoints/{PLUS}-4057cbaa.pth")
    put(f"checkpoints/{OFFICIAL}.1")
    lines = missed().splitlines()
    assert f"{OFFICIAL}.1" in lines[1]
    assert lines[6] == "  and 297 more"
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"home/.cache/torch/hub/checkpoints/{OFFICIAL}.9f2e.partial", "a download that has not finished"),
        (f"home/.cache/equimo/dinov3/{OFFICIAL}.1", "mv home/.cache/equimo"),
        (
            f"{HUB}models--timm--vit_small_patch16_dinov3.lvd1689m/snapshots/1/model.safetensors",
            "a copy of timm/vit_small",
        ),
        (f"{HUB}models--timm--vit_small_patch16_dinov3_qkvb.lvd1689m/snapshots/1/model.safetensors", "a copy of timm/"),
        (
            f"{HUB}models--facebook--dinov3-vits16-pretrain-lvd1689m/snapshots/1/pytorch_model.bin",
            "pytorch_model.bin (not",
        ),
    ],
)
def test_caches_are_looked_through_too(name, says):
    put(name)
    assert says in missed()


def test_a_revision_that_lacks_files_comes_with_the_command_that_completes_it():
    repository = "facebook/dinov3-vits16-pretrain-lvd1689m"
    folder = f"{HUB}models--{repository.replace('/', '--')}/snapshots/1"
    put(
        f"{folder}/model.safetensors.index.json",
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
    )
    put(f"{folder}/model-1.safetensors")
    assert f"{folder} (lacks files that its index names): hf download {repository}" in missed()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LINK.partition("&Key")[0], f"the link of {NAME} is cut off"),
        (LINK.partition(".pth")[0], f"the link of {NAME} is cut off"),
        (LINK.replace(NAME, PLUS), f"links of other variants only ({PLUS})"),
        ("https://protect-eu.mimecast.com/s/AbCs3cr3t", "links of protect-eu.mimecast.com, which hide"),
        ("https://url.us.m.mimecastprotect.com/s/s3cr3t?domain=llamameta.net", "which hide the publisher's address"),
        (
            "https://u1.ct.sendgrid.example/ls/click?upn=s3cr3t https://click.example.test/s3cr3t",
            "links of click.example",
        ),
        ("Thank you for your interest. https://example.test/", "no link to a checkpoint"),
        ("https://urldefense.proohttps-3a__host-3fsignature-3ds3cr3t~x", "no link to a checkpoint"),
        ("I pasted nothing useful", "no link to a checkpoint"),
        (f"https://click.example.test/s3cr3t {LINK.replace(NAME, PLUS)}", "links of other variants only"),
        (" \n", ""),
    ],
)
def test_why_no_link_serves_is_told(text, says):
    put("config/links.txt", text)
    told = missed()
    assert (f"config/links.txt: {says}" in told or "which hide" in told) if says else told == ""
    assert says in told
    put("config/links.txt", "")
    assert f"VIT2ONNX_LINKS: {says}" in missed(VIT2ONNX_LINKS=text) or not says or "which hide" in says


@pytest.mark.parametrize("name", ["config/links.txt.txt", "config/links.eml", "config/links", "links.txt"])
def test_a_file_that_is_named_nearly_as_the_links_is_told(name):
    put(name, LINK)
    assert f"{name} (not read): mv {name} config/links.txt" in missed()
    Path(name).rename("config/links.txt") if name != "links.txt" else put("config/links.txt", LINK)
    assert missed() == ""


def test_a_link_that_serves_is_not_told_and_a_file_beside_it_is():
    put("config/links.txt", f"{LINK.partition('&Key')[0]}\n\n{LINK}")
    assert missed() == ""
    put("checkpoints/model.safetensors")
    assert "checkpoints/model.safetensors" in missed()
