"""Photographs: opening them, refusing those that cannot be used, and preparing them as torchvision does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.images import check_image, load_image, preprocess
from vit2onnx.spec.case import SUFFIXES
from vit2onnx.spec.variant import Preprocessing

FOLDER = Path(__file__).parents[1] / "resources" / "images"
BUNDLED = sorted(FOLDER.glob("*.jpg"))
WEB = Preprocessing("bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SATELLITE = Preprocessing("bilinear", (0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
# A mean and a standard deviation with which `preprocess` gives back the grey levels.
GREY_LEVELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)

# Smaller, larger, non-square both ways, and squeezed in one direction only; (height, width).
SIZES = [(224, 224), (112, 160), (336, 208), (768, 768), (48, 640), (512, 224)]


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resized(image: Image.Image, height: int, width: int, interpolation: str) -> np.ndarray:
    levels = preprocess(image, height, width, Preprocessing(interpolation, *GREY_LEVELS))
    return np.rint(levels).astype(int)


def torch_resized(image: Image.Image, height: int, width: int, interpolation: str, dtype: torch.dtype) -> np.ndarray:
    """Resize as torchvision's `v2.Resize` does: in uint8, or in float and rounded."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(dtype)
    output = torch.nn.functional.interpolate(pixels, (height, width), mode=interpolation, antialias=True)[0]
    return output.float().round().clamp(0, 255).numpy().astype(int)


@pytest.mark.parametrize(
    "preprocessing, black, white",
    [
        (WEB, [-2.11790393, -2.03571429, -1.80444444], [2.24890830, 2.42857143, 2.64000000]),
        (SATELLITE, [-2.01877934, -2.63461538, -2.06993007], [2.67605634, 3.77564103, 4.92307692]),
    ],
)
def test_black_and_white_become_the_published_constants(preprocessing, black, white):
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255))
    pixel_values = preprocess(image, 1, 2, preprocessing)
    assert pixel_values.dtype == np.float32
    assert pixel_values.flags.c_contiguous
    np.testing.assert_allclose(pixel_values[:, 0, 0], black, rtol=3e-7)
    np.testing.assert_allclose(pixel_values[:, 0, 1], white, rtol=3e-7)


@pytest.mark.parametrize("preprocessing", [WEB, SATELLITE])
def test_every_grey_level_is_normalised_to_the_bit_as_torch_does(preprocessing):
    ramp = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], np.roll(ramp, 85)], axis=-1)[None])
    # The steps of torchvision's ToDtype(scale=True) and Normalize.
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32).mul_(1 / 255)
    mean, std = (torch.tensor(c, dtype=torch.float32).view(3, 1, 1) for c in (preprocessing.mean, preprocessing.std))
    expected = expected.sub_(mean).div_(std)
    np.testing.assert_array_equal(preprocess(image, 1, 256, preprocessing), expected.numpy(), strict=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["camera", "coffee"])
def test_resizing_agrees_with_torch_in_float(name, size):
    """Torch rounds once, Pillow in each direction: up to 17 % of the values are one level apart."""
    image = load_image(FOLDER / f"{name}.jpg")
    difference = np.abs(resized(image, *size, "bilinear") - torch_resized(image, *size, "bilinear", torch.float32))
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= 0.3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["camera", "coffee"])
@pytest.mark.parametrize("interpolation, levels", [("bilinear", 1), ("bicubic", 2)])
def test_resizing_agrees_with_torch_in_uint8(name, size, interpolation, levels):
    """The publisher's own path: at most 0.5 % of the values differ; the faults below move 9 % or more."""
    image = load_image(FOLDER / f"{name}.jpg")
    expected = torch_resized(image, *size, interpolation, torch.uint8)
    difference = np.abs(resized(image, *size, interpolation) - expected)
    assert difference.max() <= levels
    assert np.mean(difference > 0) <= 0.02


def rows_first(image: Image.Image, height: int, width: int) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    return image.resize((image.width, height), bilinear).resize((width, height), bilinear)


@pytest.mark.parametrize(
    "fault",
    [
        rows_first,
        lambda image, height, width: image.resize((width, height), Image.Resampling.BICUBIC),
        lambda image, height, width: image.resize((width, height), Image.Resampling.HAMMING),
        lambda image, height, width: image.resize((width, height), Image.Resampling.NEAREST),
    ],
    ids=["rows first", "bicubic", "hamming", "nearest"],
)
@pytest.mark.parametrize("size", [(224, 224), (768, 768)])
def test_a_fault_in_resizing_would_show(fault, size):
    image = load_image(FOLDER / "camera.jpg")
    faulty = np.asarray(fault(image, *size)).transpose(2, 0, 1).astype(int)
    assert np.mean(faulty != torch_resized(image, *size, "bilinear", torch.uint8)) > 0.02


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_of_the_right_size_is_not_resampled(interpolation):
    image = noise(48, 80)
    np.testing.assert_array_equal(resized(image, 48, 80, interpolation), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("height, width", [(64, 160), (160, 64)])
def test_height_and_width_keep_their_places(height, width):
    image = Image.new("RGB", (100, 50), (255, 0, 0))
    image.paste((0, 0, 255), (50, 0, 100, 50))
    output = resized(image, height, width, "bilinear")
    assert output.shape == (3, height, width)
    assert (output[:, :, 0] == [[255], [0], [0]]).all()
    assert (output[:, :, -1] == [[0], [0], [255]]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    original = Image.new("RGB", (20, 10), (255, 255, 255))
    original.paste((0, 0, 0), (0, 0, 5, 10))
    original.convert(mode).save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(original))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_taken_for_a_photograph_can_be_opened(tmp_path, suffix):
    noise(20, 24).save(tmp_path / f"a{suffix}")
    assert load_image(tmp_path / f"a{suffix}").size == (24, 20)


@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_and_colours_kept(tmp_path):
    Image.new("RGBA", (20, 10), (10, 20, 30, 0)).save(tmp_path / "alpha.png")
    palette = Image.new("P", (20, 10))
    palette.putpalette([10, 20, 30])
    # Pillow warns of a transparency given as bytes, one per palette entry.
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    for name in ("alpha.png", "palette.png"):
        assert load_image(tmp_path / name).getpixel((5, 5)) == (10, 20, 30)


def test_a_rotation_in_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(10, 20).save(tmp_path / "rotated.jpg", exif=exif)
    assert load_image(tmp_path / "rotated.jpg").size == (20, 10)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused(tmp_path, dtype):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((10, 20), 1000, dtype)).save(path)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*more than 8 bits .*\.$"):
        load_image(path)


PHOTOGRAPH = (FOLDER / "chelsea.jpg").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        PHOTOGRAPH[:200],
        PHOTOGRAPH[: len(PHOTOGRAPH) // 2],
    ],
    ids=["empty", "web page", "header only", "truncated"],
)
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: this is not a complete, .*give an intact .*\.$"):
        load_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path / 'cat.jpg'))}: there is no such .*\.$"):
        load_image(tmp_path / "cat.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    noise(20, 20).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 199)
    with pytest.raises(InputError, match=r"bomb\.png: .*more than 398 pixels.*make it smaller\.$"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("height, width", [(15, 64), (64, 15)])
def test_an_image_smaller_than_a_patch_is_refused(height, width):
    with pytest.raises(InputError, match=rf"^small\.png: .* {height} pixels high and {width} wide, .*\.$"):
        check_image(Path("small.png"), noise(height, width), 16)


def test_an_image_of_one_patch_is_accepted():
    check_image(Path("patch.png"), noise(16, 16), 16)


def test_the_bundled_photographs_have_every_shape_and_are_small():
    shapes = {(image.width > image.height) - (image.width < image.height) for image in map(load_image, BUNDLED)}
    assert shapes == {-1, 0, 1}
    assert len(BUNDLED) >= 4
    assert max(path.stat().st_size for path in BUNDLED) < 150_000


def test_the_bundled_photographs_are_listed_with_size_and_free_licence():
    rows = [line.split(" | ") for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    listed = {row[0].strip("| `"): (row[2], row[4]) for row in rows}
    assert sorted(listed) == [path.name for path in BUNDLED]
    for path in BUNDLED:
        size, licence = listed[path.name]
        image = load_image(path)
        assert size.startswith(f"{image.width} x {image.height}, ")
        assert re.match(r"public domain$|\[CC0\]", licence)
