"""A file is what its hash, its tensors and its name say, and not what it is given for.

Files of full size are stood for by the names and shapes of their tensors, which is all that is looked at.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import RELEASED
from vit2onnx.checkpoints.fetch import describe
from vit2onnx.checkpoints.identity import check_identity, known_variants
from vit2onnx.checkpoints.reading import Opened
from vit2onnx.errors import InputError
from vit2onnx.weights.keytable import LazyTensor

NOT_A_HASH = "0" * 64
FILE = Path("/mine/model.bin")


def full(name: str) -> str:
    """As in `dinov3_vitl16_pretrain_sat493m` for `vitl16_sat493m`."""
    arch, data = name.rsplit("_", 1)
    return f"dinov3_{arch}_pretrain_{data}"


@pytest.fixture(scope="module")
def identify(released, published):
    """Check that the tensors of a variant in a layout are what they are given for."""

    def run(name: str, given_for: str, layout: str, path: Path = FILE, sha256: str = NOT_A_HASH) -> None:
        def read():
            raise AssertionError("read")

        shapes = published(released[full(name)])[layout]
        tensors = {key: LazyTensor(shape, "float32", read) for key, shape in shapes.items()}
        check_identity(released[full(given_for)], Opened(path, tensors), sha256)

    return run


def test_the_variants_of_the_project_are_known():
    assert known_variants() == RELEASED


@pytest.mark.parametrize("name", ["vits16_lvd1689m", "vitl16_sat493m", "convnext_tiny_lvd1689m"])
def test_every_layout_of_a_variant_is_itself(identify, published, released, name):
    for layout in published(released[full(name)]):
        identify(name, name, layout)


@pytest.mark.parametrize(
    "name, given_for, layout, fault",
    [
        ("vitl16_sat493m", "vitl16_lvd1689m", "meta", "tensor local_cls_norm.bias 1024 is not known"),
        ("vitl16_lvd1689m", "vitl16_sat493m", "meta", "tensor local_cls_norm.weight 1024 is missing"),
        ("vits16_lvd1689m", "vits16plus_lvd1689m", "meta", "tensor blocks.0.mlp.w1.weight 1536x384 is missing"),
        ("vits16plus_lvd1689m", "vits16_lvd1689m", "huggingface", "tensor layer.0.mlp.gate_proj.bias 1536 is not"),
        ("vitb16_lvd1689m", "vits16_lvd1689m", "timm", "is 768 instead of 384"),
        ("convnext_small_lvd1689m", "convnext_tiny_lvd1689m", "meta", "is not known"),
        ("convnext_tiny_lvd1689m", "convnext_small_lvd1689m", "timm", "is missing"),
        (
            "convnext_base_lvd1689m",
            "vitb16_lvd1689m",
            "huggingface",
            "holds no dinov3_vit checkpoint in a known layout",
        ),
        ("vitb16_lvd1689m", "convnext_base_lvd1689m", "meta", "holds no dinov3_convnext checkpoint in a known layout"),
    ],
)
def test_another_variants_file_is_named_as_what_it_is(identify, name, given_for, layout, fault):
    with pytest.raises(InputError) as caught:
        identify(name, given_for, layout)
    sentence = str(caught.value)
    assert sentence.startswith(f"{FILE} ")
    assert fault in sentence
    assert (
        f" It is a {full(name)}, or another model of its shape; name that variant (VARIANT=, or the config)."
        in sentence
    )


# Releases of one architecture; Meta's of ViT-L alone show by their tensors.
TWINS = [
    ("vitl16_sat493m", "vitl16_lvd1689m", "huggingface"),
    ("vitl16_lvd1689m", "vitl16_sat493m", "timm"),
    ("vit7b16_lvd1689m", "vit7b16_sat493m", "huggingface"),
    ("vit7b16_sat493m", "vit7b16_lvd1689m", "meta"),
]


def test_a_twin_goes_by_any_of_its_names(identify, released):
    name, given_for, layout = TWINS[0]
    release = released[full(name)].release
    arch = release.timm.partition(".")[0]
    names = [
        Path(f"/mine/{release.file}"),
        Path(f"/mine/{full(name)}.pth"),
        Path(f"/cache/models--{release.huggingface.replace('/', '--')}/snapshots/0123/model.safetensors"),
        Path(f"/cache/models--timm--{release.timm}/blobs/0123"),
        Path(f"/cache/models--timm--{arch}_qkvb.{release.timm.partition('.')[2]}/blobs/0123"),
    ]
    for path in names:
        with pytest.raises(InputError) as caught:
            identify(name, given_for, layout, path)
        assert str(caught.value).startswith(f"{path} calls itself {full(name)}, not {full(given_for)}, and its tensors")
    identify(name, name, layout, names[-1])


@pytest.mark.parametrize("name, given_for, layout", TWINS[1:3])
def test_other_twins_go_by_their_names_too(identify, name, given_for, layout):
    with pytest.raises(InputError, match=f"calls itself {full(name)}, not {full(given_for)}"):
        identify(name, given_for, layout, Path(f"/mine/{full(name)}.pth"))


@pytest.mark.parametrize("name, given_for, layout", TWINS[:3])
def test_a_twin_that_says_nothing_is_taken_for_what_it_is_given_for(identify, name, given_for, layout):
    """There is no way to tell, and a fine-tuned model of the user's must pass."""
    identify(name, given_for, layout)
    # Its own name prevails over that of a folder.
    identify(name, given_for, layout, Path(f"/from/{full(name)}/{full(given_for)}.pth"))


def test_a_name_within_a_longer_word_is_none(identify):
    name, given_for, layout = TWINS[0]
    for path in (f"/mine/my{full(name)}.pth", f"/mine/{full(name)}ish.pth"):
        identify(name, given_for, layout, Path(path))


def test_a_twin_is_known_by_its_hash(identify, released):
    for name, given_for, layout in TWINS:
        release = released[full(name)].release
        with pytest.raises(InputError) as caught:
            identify(name, given_for, layout, FILE, Path(release.file).stem[-8:] + "0" * 56)
        assert (
            str(caught.value)
            == f"{FILE} is not {full(given_for)} but {full(name)}: it is the publisher's {release.file}."
        )


def test_a_model_of_no_release_is_named_as_none(spines, released):
    tiny = spines("dinov3_vits16_pretrain_lvd1689m")
    for layout in ("meta", "huggingface"):
        path = tiny.checkpoints[layout]
        with pytest.raises(InputError) as caught:
            describe(released[tiny.spec.name], path, origin={"kind": "file", "name": path.name}, weights="official")
        assert str(caught.value).startswith(f"{path} is no complete {tiny.spec.name} in {layout} layout: tensor ")
        assert str(caught.value).endswith("It is none of the other variants either.")


def test_synthetic_weights_are_asked_no_name(tiny_spec, tiny_checkpoint, tmp_path):
    path = tmp_path / "dinov3_vitb16_pretrain_lvd1689m.pth"
    path.symlink_to(tiny_checkpoint)
    assert describe(tiny_spec, path, origin={}, weights="synthetic")["identity"] == "synthetic weights, made here"


def test_two_variants_may_be_of_one_release(identify, released, monkeypatch: pytest.MonkeyPatch):
    """Such as a copy that asks for other periods."""
    name = full("vits16_lvd1689m")
    copy = replace(released[name], name="copied")
    monkeypatch.setattr("vit2onnx.checkpoints.identity.known_variants", lambda: {**released, "copied": copy})
    identify("vits16_lvd1689m", "vits16_lvd1689m", "meta", FILE, Path(copy.release.file).stem[-8:] + "0" * 56)
