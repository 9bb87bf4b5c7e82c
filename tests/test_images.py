"""Photographs: opening them, refusing those that cannot be used, and preparing them as torchvision does."""

import io
import os
import re
import socket
import struct
import subprocess
import tracemalloc
import zlib
from dataclasses import replace
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


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, *, content: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG that says of itself what it likes; its pixels are `content`, unpacked, or what there is of it."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(content, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + pixels + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int = 8, *, compression: int = 1, tile: int = 0, kind: int = 1) -> bytes:
    """An RGB TIFF, all zeros."""
    size = width * height * 3 * bits // 8
    tags = {256: width, 257: height, 259: compression, 262: 2, 277: 3}
    tags |= {322: tile, 323: tile, 324: 300, 325: size} if tile else {273: 300, 278: height, 279: size}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", tag, 3, 3, at) for tag, at in ((258, 280), (339, 286))]
    directory = struct.pack("<H", len(entries)) + b"".join(
        sorted(entries, key=lambda one: struct.unpack("<H", one[:2]))
    )
    content = (b"II*\0" + struct.pack("<I", 8) + directory).ljust(280, b"\0")
    return content + struct.pack("<HHH", bits, bits, bits) + struct.pack("<HHH", kind, kind, kind) + bytes(8 + size)


def lossless_webp(width: int, height: int) -> bytes:
    """A WebP of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP", lossless=True)
    content = bytearray(file.getvalue())
    content[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(content)


def progressive_jpeg(scans: int) -> bytes:
    """A grey JPEG with any number of scans."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (png(13_350, 13_350), "more than 110000000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "more than 110000000 pixels"),
        (png(10_000, 10_000), "too small for a photograph of 10000 x 10000 pixels"),
        (png(16, 6_000_000), "too small for a photograph of 6000000 x 16 pixels"),
        (lossless_webp(16_383, 16_383), "more than 110000000 pixels"),
        (lossless_webp(7000, 7000), "more than 27500000 pixels"),
        (lossless_webp(5000, 5000), "too small for a photograph of 5000 x 5000 pixels"),
        (tiff(64, 64, tile=24_000), "more than 110000000 pixels"),
        (progressive_jpeg(1000), "not a complete, readable image"),
        (PHOTOGRAPH[:300] + bytes(10**7), "not a complete, readable image"),
        (png(64, 64, more=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 9))), "not a complete, readable image"),
        (png(64, 64, more=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8), 9))), "not a complete, readable image"),
    ],
    ids=[
        "png",
        "largest",
        "flat",
        "narrow",
        "webp",
        "large-webp",
        "flat-webp",
        "tile",
        "scans",
        "no-scan",
        "profile",
        "text",
    ],
)
def test_a_small_file_that_needs_much_is_refused_from_its_head(tmp_path, content, sentence):
    (tmp_path / "bomb.jpg").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"bomb\.jpg: .*{sentence}.*\.$"):
            load_image(tmp_path / "bomb.jpg")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("error")
def test_a_photograph_of_a_hundred_megapixels_is_taken(tmp_path):
    Image.new("L", (11_648, 8736), 90).save(tmp_path / "large.jpg", quality=1)
    assert load_image(tmp_path / "large.jpg").size == (11_648, 8736)


@pytest.mark.parametrize("crop_pct", [None, 0.9])
def test_a_narrow_photograph_is_not_enlarged_without_end(crop_pct):
    """Widened first, it would be of 224 times so many pixels."""
    image = Image.new("RGB", (1, 1_000_000))
    with pytest.raises(InputError, match="is too narrow for an input of 224 x 224"):
        preprocess(image, 224, 224, replace(WEB, crop_pct=crop_pct))


@pytest.mark.parametrize(
    "content",
    [
        png(8, 8, 16, 2, content=bytes(8 * 49)),
        png(8, 8, 16, 6, content=bytes(8 * 65)),
        png(8, 8, 16, 4, content=bytes(8 * 33)),
        png(8, 8, 16, 0, content=bytes(8 * 17)),
        tiff(8, 8, 16),
        tiff(8, 8, 12),
        tiff(8, 8, 32, kind=3),
    ],
    ids=["RGB PNG", "RGBA PNG", "grey alpha PNG", "grey PNG", "16-bit TIFF", "12-bit TIFF", "float TIFF"],
)
def test_a_photograph_keeps_its_depth_or_is_refused(tmp_path, content):
    (tmp_path / "deep").write_bytes(content)
    with pytest.raises(InputError, match=r"8 bits per channel\.$"):
        load_image(tmp_path / "deep")


def test_a_deep_avif_is_refused(tmp_path):
    noise(64, 64).save(tmp_path / "photo.avif")
    content = (tmp_path / "photo.avif").read_bytes()
    assert load_image(tmp_path / "photo.avif").size == (64, 64)
    place = content.index(b"av1C") + 6
    (tmp_path / "photo.avif").write_bytes(content[:place] + bytes([content[place] | 0x40]) + content[place + 1 :])
    with pytest.raises(InputError, match="8 bits per channel"):
        load_image(tmp_path / "photo.avif")


@pytest.mark.parametrize("kind", ["EPS", "GIF", "ICO", "JPEG2000", "PPM", "PDF", "TGA", "PCX", "SGI", "DDS"])
def test_what_is_no_photograph_is_refused_whatever_its_name(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program is started"))
    noise(64, 64).save(tmp_path / "file", kind)
    (tmp_path / "file").rename(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match=r"photo\.jpg: this is not a complete, readable image"):
        load_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_several_pictures_in_one_file_are_refused(tmp_path, kind):
    first, *others = (Image.new("RGB", (64, 64), (80 * index, 0, 0)) for index in range(3))
    first.save(tmp_path / "moving", kind, save_all=True, append_images=others)
    with pytest.raises(InputError, match=r"moving: this file holds several pictures; save the one that you mean"):
        load_image(tmp_path / "moving")


def test_a_preview_behind_a_photograph_of_a_camera_is_passed_over(tmp_path):
    photograph, preview = Image.new("RGB", (64, 48), (90, 0, 0)), Image.new("RGB", (8, 6))
    photograph.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[preview])
    assert load_image(tmp_path / "photo.jpg").getcolors() == [(64 * 48, (90, 0, 0))]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "sparse", "sparse webp", "sparse jpeg"])
def test_what_never_ends_is_no_photograph(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("photo.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            listener.bind(str(path))
        else:
            head = {"sparse": b"", "sparse webp": lossless_webp(8, 8), "sparse jpeg": PHOTOGRAPH}[kind]
            path.write_bytes(head)
            os.truncate(path, 10**12)
        with pytest.raises(InputError, match=r"^photo\.jpg"):
            load_image(path)


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
