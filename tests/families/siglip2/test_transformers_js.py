"""The files in transformers.js, under its own names. Needs Node and the npm package @huggingface/transformers.

`npm install @huggingface/transformers` in the project's folder, or in the one that VIT2ONNX_NODE_MODULES names, puts it
there; no other test needs it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Spine
from vit2onnx.runners.session import session_of
from vit2onnx.spec.recipe import Recipe

ENTRY = "@huggingface/transformers/dist/transformers.node.mjs"
RECIPES = {
    "SiglipModel": Recipe("model", 23, {"images": None, "texts": None}, "pair"),
    "SiglipVisionModel": Recipe("vision_model", 23, {"batch": None}, "vision"),
    "SiglipTextModel": Recipe("text_model", 23, {"batch": None}, "text"),
}


@pytest.fixture(scope="module")
def package() -> Path:
    folder = Path(os.environ.get("VIT2ONNX_NODE_MODULES", Path(__file__).parents[3] / "node_modules"))
    if shutil.which("node") is None or not (folder / ENTRY).is_file():
        pytest.skip("Node or its package @huggingface/transformers is not installed")
    return folder / ENTRY


def test_the_files_give_the_same_numbers_in_transformers_js(
    spines: Callable[[str], Spine], package: Path, tmp_path: Path
):
    spine = spines("siglip2_base_patch16_224")
    files = tmp_path / "tiny" / "onnx"
    files.mkdir(parents=True)
    for recipe in RECIPES.values():
        shutil.copy(spine.export(recipe), files / f"{recipe.name}.onnx")
    (files.parent / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    rng, size = np.random.default_rng(0), spine.spec.architecture.image_size
    inputs = {
        "input_ids": rng.integers(2, 500, (2, 64)),
        "pixel_values": rng.standard_normal((3, 3, size, size), np.float32),
    }
    given = {
        name: {"shape": inputs[port].shape, "values": inputs[port].ravel().tolist()}
        for name, port in (("ids", "input_ids"), ("pixels", "pixel_values"))
    }
    (tmp_path / "inputs.json").write_text(json.dumps(given))
    script = Path(__file__).with_name("in_transformers_js.mjs")
    done = subprocess.run(
        ["node", script, package, tmp_path, "tiny"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for kind, recipe in RECIPES.items():
        session = session_of(files / f"{recipe.name}.onnx", threads=1)
        names = [port.name for port in session.get_outputs()]
        own = {port.name: inputs[port.name] for port in session.get_inputs()}
        assert {key for key in found if key.startswith(f"{kind}/")} == {f"{kind}/{name}" for name in names}
        for name, expected in zip(names, session.run(names, own), strict=True):
            other = found[f"{kind}/{name}"]
            assert tuple(other["shape"]) == expected.shape
            values = np.array(other["values"]).reshape(expected.shape)
            # Another version of onnxruntime, on as many threads as it likes. Measured 0 on this machine.
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
