"""The package has the right graph under each name, says of it what is so, and tools of Hugging Face load it as it is.

The last tests run the code of model cards in transformers.js. They need Node and its package @huggingface/transformers,
in the project's folder or in the one that VIT2ONNX_NODE_MODULES names; no other test needs it.
"""

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.image_processing_backends import PilBackend

from tests.checkpoints.own_models import model_of, own_spec
from tests.conftest import DISTINCT, RELEASED, Spine
from tests.handover.conftest import STATIC, change_json
from tests.toy_tokenizer import write_tokenizer
from vit2onnx.errors import InputError
from vit2onnx.files import read_json, sha256_of, write_json
from vit2onnx.handover.alone import verify_alone
from vit2onnx.handover.package.card import worst_findings
from vit2onnx.handover.package.config import model_config, processor_config
from vit2onnx.handover.package.files import PackageFile, lacking, loading, names_of, package_files
from vit2onnx.handover.package.folder import write_package
from vit2onnx.images import load_image, preprocess, preprocess_naflex
from vit2onnx.onnx_file import PASSPORT_FORMAT, passport_beside
from vit2onnx.parity.metrics import token_cosines
from vit2onnx.runners.session import session_of
from vit2onnx.runtimes.register import BROWSER
from vit2onnx.spec.family import part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.texts import Tokenizer

VIT, V2, CONVNEXT = (
    "dinov3_vits16_pretrain_lvd1689m",
    "dinov2_vits14_pretrain",
    "dinov3_convnext_tiny_pretrain_lvd1689m",
)
SIGLIP, NAFLEX = "siglip2_base_patch16_224", "siglip2_base_patch16_naflex"
# Its embeddings are wider than its text tower.
GIANT = "siglip2_giant_opt_patch16_384"
PHOTOGRAPH = Path(__file__).parents[2] / "resources" / "images" / "chelsea.jpg"
FREE = {"batch": None, "height": None, "width": None}
FIXED = {"batch": 1, "height": 224, "width": 224}
DYNAMIC = Recipe("dynamic", 23, FREE)
TOWERS = (
    Recipe("joint", 23, {"images": None, "texts": None}, "pair"),
    Recipe("seen", 23, {"batch": None}, "vision"),
    Recipe("read", 23, {"batch": None}, "text"),
)
ENTRY = "@huggingface/transformers/dist/transformers.node.mjs"


def chosen(name: str, *recipes: Recipe) -> dict[str, str]:
    return {file.name: file.recipe.name for file in package_files(RELEASED[name], recipes)}


def test_recipes_are_chosen_by_interface_precision_and_free_sizes():
    static, packed = Recipe("static", 23, FIXED), Recipe("packed", 23, {}, "packed")
    half, whole = replace(DYNAMIC, name="half", precision="float16"), replace(static, name="int8", precision="int8")
    assert chosen(VIT, static, packed, DYNAMIC, half, whole) == {
        "model.onnx": "dynamic",
        "model_fp16.onnx": "half",
        "model_quantized.onnx": "int8",
    }
    assert chosen(VIT, static, replace(static, name="second")) == {"model.onnx": "static"}
    assert chosen(VIT, DYNAMIC, replace(DYNAMIC, name="plain", operators="portable")) == {"model.onnx": "plain"}
    assert chosen(VIT, static, replace(STATIC, name="pairs of images")) == {"model.onnx": "static"}
    assert chosen(SIGLIP, DYNAMIC, *TOWERS) == {
        "vision_model.onnx": "seen",
        "text_model.onnx": "read",
        "model.onnx": "joint",
    }


def test_a_package_without_a_graph_is_refused_with_a_recipe_for_one():
    with pytest.raises(InputError) as refused:
        package_files(RELEASED[VIT], [Recipe("packed", 23, {}, "packed"), *TOWERS])
    assert str(refused.value).endswith(
        "for example model: {interface: images, batch: dynamic, height: dynamic, width: dynamic, opset: 23}."
    )
    with pytest.raises(InputError, match=r"there is no vit2onnx/families/toy/package\.py"):
        names_of(replace(RELEASED[VIT], family="toy"))


def test_what_is_lacking_is_said_in_one_sentence():
    files = package_files(RELEASED[VIT], [DYNAMIC, replace(DYNAMIC, precision="int8")])
    assert lacking(RELEASED[VIT], files) == (
        f"The package of {VIT} lacks model_fp16.onnx (interface: images, precision: float16); add such recipes to"
        " exports for a complete one."
    )
    assert lacking(RELEASED[VIT], [*files, PackageFile("model", replace(DYNAMIC, precision="float16"))]) == ""


@pytest.mark.parametrize(
    "precisions, told",
    [
        (["float32", "int8"], {}),
        (["float32"], {"device_config": {"wasm": {"dtype": {"model": "fp32"}}}}),
        (["int8"], {"dtype": {"model": "q8"}, "device_config": {"wasm": {"dtype": {"model": "q8"}}}}),
        (["float16"], {"dtype": {"model": "fp16"}, "device_config": {"wasm": {"dtype": {"model": "fp16"}}}}),
    ],
)
def test_transformers_js_is_told_of_a_precision_only_where_its_own_is_missing(precisions: list[str], told: Any):
    files = [PackageFile("model", replace(DYNAMIC, precision=one)) for one in precisions]
    assert loading(files) == told


@pytest.mark.parametrize("name", [*DISTINCT, SIGLIP, NAFLEX, GIANT, f"{SIGLIP}/vision", f"{NAFLEX}/text"])
def test_config_json_is_that_of_transformers_model(name: str, tmp_path: Path):
    name, _, tower = name.partition("/")
    spec, recognition = RELEASED[name], part(RELEASED[name].family, "recognition")
    if tower:
        others = recognition.NO_TEXT if tower == "vision" else recognition.NO_VISION
        spec = replace(spec, architecture=replace(spec.architecture, **others))
    config = model_config(spec, [PackageFile("model", replace(DYNAMIC, precision=one)) for one in ("float32", "int8")])
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(tmp_path).to_dict()
    wanted = part(spec.family, "references").transformers_model(spec.architecture).config.to_dict()
    # What transformers adds to a model that it has made, and to a file that it has read.
    ignored = {"architectures", "dtype", "_name_or_path", "transformers_version"}
    assert differing(loaded, wanted, ignored) == []
    assert (
        type(part(spec.family, "references").transformers_model(spec.architecture)).__name__ in config["architectures"]
    )
    # The other way round, by the code that reads the configs of users.
    said = recognition.read_config(config)
    assert {key: value for key, value in said.items() if plain(getattr(spec.architecture, key)) != plain(value)} in (
        {},
        # What a release leaves to its kind of layer.
        {"activation": getattr(spec.architecture, "act", None)},
    )


def differing(one: Mapping[str, Any], other: Mapping[str, Any], ignored: set[str]) -> list[str]:
    found = []
    for key in sorted((one.keys() | other.keys()) - ignored):
        if isinstance(one.get(key), dict) and isinstance(other.get(key), dict):
            found += [f"{key}.{inner}" for inner in differing(one[key], other[key], ignored)]
        elif one.get(key) != other.get(key):
            found.append(f"{key}: {one.get(key)} and {other.get(key)}")
    return found


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_a_users_own_config_is_kept(tmp_path: Path):
    model = model_of("dinov2 classifier")
    model.save_pretrained(tmp_path)
    spec = own_spec(tmp_path)
    config = model_config(spec, package_files(spec, [DYNAMIC]))
    kept = json.loads((tmp_path / "config.json").read_text())
    assert config == kept | {"transformers.js_config": {"device_config": {"wasm": {"dtype": {"model": "fp32"}}}}}
    assert config["architectures"] == ["Dinov2ForImageClassification"]


@pytest.mark.parametrize("name", [VIT, CONVNEXT, V2, SIGLIP, "siglip2_base_patch16_384"])
def test_transformers_prepares_photographs_by_preprocessor_config_as_we_do(name: str, tmp_path: Path):
    spec = RELEASED[name]
    config = processor_config(spec, package_files(spec, [DYNAMIC, *TOWERS]))
    assert config is not None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = load_image(PHOTOGRAPH)
    if config["image_processor_type"].startswith("DINOv3"):
        # Needs torchvision. Its base on Pillow takes the same keys.
        processor = PilBackend(**{key: value for key, value in config.items() if key != "image_processor_type"})
    else:
        processor = AutoImageProcessor.from_pretrained(tmp_path)
    found = np.asarray(processor(image, return_tensors="np")["pixel_values"])[0]
    close_to_ours(found, spec)


def close_to_ours(found: np.ndarray, spec: VariantSpec, share: float = 0.99, most: float = 1.01) -> None:
    """Pixels are within one grey level, but for a share of them that others round to another, of `most` levels."""
    expected = preprocess(load_image(PHOTOGRAPH), *found.shape[1:], spec.preprocessing)
    levels = np.abs(found - expected) * np.array(spec.preprocessing.std)[:, None, None] * 255
    assert found.shape[1] == (spec.interface("vision").fixed["height"] if spec.family == "siglip2" else 224)
    assert levels.max() < most and (levels < 1.01).mean() > share


def test_naflex_is_prepared_by_preprocessor_config_as_we_do(tmp_path: Path):
    spec = RELEASED[NAFLEX]
    config = processor_config(spec, package_files(spec, TOWERS))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = load_image(PHOTOGRAPH)
    found = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="np")
    expected = preprocess_naflex(image, spec.preprocessing, spec.architecture.patch_size, 256)
    np.testing.assert_array_equal(found["spatial_shapes"][0], expected["spatial_shapes"])
    assert np.abs(found["pixel_values"][0] - expected["pixel_values"]).max() < 1.01 / 127.5


def test_sizes_that_one_file_cannot_describe_are_refused():
    small = replace(DYNAMIC, name="small", sizes=FIXED | {"height": 112}, precision="int8")
    big = Recipe("big", 23, FIXED)
    with pytest.raises(InputError, match="exports has 224 in big and 112 in small"):
        processor_config(RELEASED[VIT], package_files(RELEASED[VIT], [big, small]))
    with pytest.raises(InputError, match="cannot say how photographs are cut to 112x224"):
        processor_config(RELEASED[V2], package_files(RELEASED[V2], [small]))
    squashed = processor_config(RELEASED[VIT], package_files(RELEASED[VIT], [small]))
    assert squashed and squashed["size"] == {"height": 112, "width": 224}
    assert processor_config(RELEASED[SIGLIP], package_files(RELEASED[SIGLIP], TOWERS[2:])) is None


@pytest.fixture
def packaged(graph: Path, tiny_spec: VariantSpec, tmp_path: Path) -> Callable[..., Path]:
    """Writes the package of a proven graph whose weights are in model.eqx."""
    (tmp_path / "verify.py").write_text(verify_alone())

    def write(**given: Any) -> Path:
        folder = tmp_path / "package"
        files = [PackageFile("model", STATIC)]
        write_package(folder, tiny_spec, files, tmp_path, program=tmp_path / "verify.py", **given)
        return folder

    return write


def test_a_package_can_be_verified_where_it_is(packaged: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "package"
    shutil.move(packaged(), elsewhere)
    files = {str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*") if path.is_file()}
    of_graph = {f"onnx/{name}" for name in ("model.onnx", "model.passport.json", "model.sample.npz", "model.eqx")}
    assert files == of_graph | {"README.md", "config.json", "preprocessor_config.json", "verify.py"}
    command = ["python", "-I", "verify.py", "onnx/model.onnx"]
    assert command[2:] == re.findall(r"```bash\npython (.*)\n```", (elsewhere / "README.md").read_text())[0].split()
    command[0] = sys.executable
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("is verified against its passport\n"), done.stdout + done.stderr


def test_earlier_content_is_deleted_and_results_are_not_touched(packaged: Callable[..., Path], graph: Path):
    before = sha256_of(graph), graph.stat().st_mtime_ns
    folder = packaged()
    (folder / "onnx" / "model_fp16.onnx").write_text("of an earlier config")
    (folder / ".." / ".package.new").mkdir()
    assert not (packaged() / "onnx" / "model_fp16.onnx").exists()
    assert (sha256_of(graph), graph.stat().st_mtime_ns) == before
    assert not (folder / ".." / ".package.new").exists()
    shutil.rmtree(folder)
    assert graph.is_file()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda passport: passport.update(precision="int8"), "is that of dinov3_tiny, static, int8"),
        (lambda passport: passport.update(variant="other"), "is that of other, static, float32"),
        (lambda passport: passport["file"].update(sha256="0" * 64), "is not the file of its passport"),
    ],
)
def test_a_graph_that_is_not_the_one_of_its_passport_is_refused(
    packaged: Callable[..., Path], graph: Path, change: Callable[..., Any], sentence: str
):
    change_json(graph.with_suffix(".passport.json"), change)
    with pytest.raises(InputError, match=sentence):
        packaged()
    assert not (graph.parent / "package").exists()


def test_a_graph_without_a_passport_is_refused(packaged: Callable[..., Path], graph: Path):
    graph.with_suffix(".passport.json").unlink()
    with pytest.raises(InputError, match=r"static\.passport\.json is missing"):
        packaged()


def test_the_card_tells_licence_and_base_model_of_real_weights_only(packaged: Callable[..., Path], graph: Path):
    card = (packaged() / "README.md").read_text()
    assert "random numbers" in card and "licen" not in card.lower()
    assert front_matter(card).keys() == {"library_name", "pipeline_tag", "tags"}
    change_json(graph.with_suffix(".passport.json"), lambda passport: passport["checkpoint"].update(weights="official"))
    licence = graph.with_name("LICENSE.md")
    licence.write_text("the licence")
    folder = packaged(licence=licence)
    card = (folder / "README.md").read_text()
    assert front_matter(card) | {"tags": []} == {
        "library_name": "transformers.js",
        "pipeline_tag": "image-feature-extraction",
        "tags": [],
        "license": "other",
        "license_name": "dinov3-license",
        "license_link": "LICENSE.md",
        "base_model": "facebook/dinov3-vits16-pretrain-lvd1689m",
    }
    assert "random numbers" not in card
    assert (folder / "LICENSE.md").read_text() == "the licence"


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_figures_are_the_worst_on_the_file_itself():
    def finding(subject: str, limit_name: str, measured: float) -> dict[str, Any]:
        return {"subject": subject, "limit_name": limit_name, "measured": measured}

    near, far = finding("onnx", "cosine", 2e-7), finding("onnx", "cosine", 1e-7)
    others = [finding("equinox", "cosine", 1.0), finding("onnx", "", 0.0)]
    assert worst_findings({"parity": {"findings": [far, near, *others]}}) == [near]


def write_results(spine: Spine, recipes: tuple[Recipe, ...], folder: Path) -> list[PackageFile]:
    """Graphs of a small model in a folder, each with a passport that says what a package asks for."""
    for recipe in recipes:
        graph = folder / f"{recipe.name}.onnx"
        # Other precisions are told, not computed.
        shutil.copy(spine.export(replace(recipe, precision="float32", activations=None)), graph)
        graph.with_suffix(".sample.npz").write_bytes(b"")
        file = {"name": graph.name, "bytes": graph.stat().st_size, "sha256": sha256_of(graph), "external": []}
        told = {"variant": spine.spec.name, "export": recipe.name, "precision": recipe.precision, "file": file}
        finding = {"subject": "onnx", "other": "truth", "limit_name": "floors", "measure": "error"}
        told |= {"parity": {"findings": [finding | {"measured": 1.5, "limit": 10.0}]}, "passport": PASSPORT_FORMAT}
        told |= {"checkpoint": {"weights": "own", "identity": "a checkpoint | of mine"}}
        write_json(graph.with_suffix(".passport.json"), told)
    return package_files(spine.spec, recipes)


def write(spine: Spine, recipes: tuple[Recipe, ...], folder: Path, **given: Any) -> Path:
    """A package of a small model, called as the model."""
    results, package = folder / "results", folder / spine.spec.name
    results.mkdir()
    (results / "verify.py").write_text("")
    files = write_results(spine, recipes, results)
    write_package(package, spine.spec, files, results, program=results / "verify.py", **given)
    assert read_json(passport_beside(package / "onnx" / files[0].name))["variant"] == spine.spec.name
    shutil.copy(PHOTOGRAPH, package / "photo.jpg")
    return package


def code_of(package: Path, language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)\n```", (package / "README.md").read_text(), re.S)
    return str(code)


@pytest.mark.parametrize("name", [VIT, V2, SIGLIP, NAFLEX])
def test_the_python_code_of_the_card_gives_the_features(
    spines: Callable[[str], Spine], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spine = spines(name)
    package = write(spine, (DYNAMIC,) if "dino" in name else TOWERS, tmp_path)
    monkeypatch.chdir(package)
    found: dict[str, Any] = {}
    exec(code_of(package, "python"), found)
    image, spec = load_image(PHOTOGRAPH), spine.spec
    if name == NAFLEX:
        given = {port: x[None] for port, x in preprocess_naflex(image, spec.preprocessing, 16, 256).items()}
    else:
        side = spec.architecture.image_size if name == SIGLIP else 224
        given = {"pixel_values": preprocess(image, side, side, spec.preprocessing)[None]}
    session = session_of(next((package / "onnx").glob("[mv]*el.onnx" if "dino" in name else "vision*.onnx")), threads=1)
    outputs = [port.name for port in session.get_outputs()]
    for output, expected in zip(outputs, session.run(outputs, given), strict=True):
        # Photographs differ by a grey level here and there.
        assert token_cosines(found[output], expected).min() > 0.9999


@pytest.fixture(scope="module")
def node_modules() -> Path:
    folder = Path(os.environ.get("VIT2ONNX_NODE_MODULES", Path(__file__).parents[2] / "node_modules"))
    if shutil.which("node") is None or not (folder / ENTRY).is_file():
        pytest.skip("Node or its package @huggingface/transformers is not installed")
    return folder


def run_node(package: Path, node_modules: Path, code: str) -> dict[str, np.ndarray]:
    """What some code in transformers.js, run offline beside a package, keeps in `told`."""
    outside = package.parent
    (outside / "node_modules").symlink_to(node_modules)
    (outside / "offline.mjs").write_text(
        f'import {{ env }} from "@huggingface/transformers";\n'
        f"env.allowRemoteModels = false;\nenv.localModelPath = {json.dumps(f'{outside}/')};\n"
    )
    write = (
        "\nconst all = Object.entries(told).map(([key, x]) =>"
        " [key, { shape: x.dims, type: x.type, values: Array.from(x.data, Number) }]);"
        "\nconsole.log(JSON.stringify(Object.fromEntries(all)));\n"
    )
    (outside / "usage.mjs").write_text(code + write)
    command = ["node", "--import", str(outside / "offline.mjs"), str(outside / "usage.mjs")]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return arrays_of(json.loads(done.stdout.splitlines()[-1]))


def arrays_of(told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that JavaScript has sent, as arrays."""
    return {key: np.array(x["values"]).astype(x["type"]).reshape(x["shape"]) for key, x in told.items()}


def check_outputs(graph: Path, found: Mapping[str, np.ndarray], prefix: str) -> None:
    """transformers.js computes what onnxruntime computes of the same inputs."""
    session = session_of(graph, threads=1)
    names = [port.name for port in session.get_outputs()]
    given = {port.name: found[port.name] for port in session.get_inputs()}
    assert {key for key in found if key.startswith(prefix)} == {f"{prefix}{name}" for name in names}
    for name, expected in zip(names, session.run(names, given), strict=True):
        # Another version of onnxruntime, on as many threads as it likes.
        np.testing.assert_allclose(found[f"{prefix}{name}"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [VIT, V2, "dinov2_vits14_reg4_pretrain", CONVNEXT, SIGLIP])
def test_the_code_of_the_card_gives_the_features_in_transformers_js(
    spines: Callable[[str], Spine], node_modules: Path, name: str, tmp_path: Path
):
    spine = spines(name)
    tokenizer = write_tokenizer(tmp_path / "tokenizer", model_type="siglip")
    is_dino = "dino" in name
    package = write(spine, (DYNAMIC,) if is_dino else TOWERS, tmp_path, tokenizer=tokenizer)
    assert (package / "tokenizer.json").exists() is not is_dino
    stems = ["model"] if is_dino else ["vision_model", "text_model", "model"]
    kept = ", ".join(["pixel_values", *([] if is_dino else ["input_ids"])])
    code = code_of(package, "js") + f"\nconst told = {{ {kept} }};\n"
    for stem in stems:
        code += f"for (const [key, x] of Object.entries({stem}_outputs)) told[`{stem}/${{key}}`] = x;\n"
    if not is_dino:
        # Fills texts up by what the package's tokenizer_config.json says; the user's names no length.
        code += 'import { pipeline } from "@huggingface/transformers";\n'
        code += 'const classify = await pipeline("zero-shot-image-classification", name, { dtype: "fp32" });\n'
        code += 'if ((await classify("photo.jpg", ["a cat", "a cup"])).length !== 2) throw new Error();\n'
    found = run_node(package, node_modules, code)
    # Measured: sharp is up to 9 levels from Pillow at a few edges, and within one at 998 of 1000 values.
    close_to_ours(found["pixel_values"][0], spine.spec, share=0.995, most=12)
    if not is_dino:
        texts = ["a photo of a cat", "a photo of a cup"]
        np.testing.assert_array_equal(found["input_ids"], Tokenizer(tokenizer).inputs(texts))
        theirs = AutoTokenizer.from_pretrained(package)(texts, padding="max_length", max_length=64)
        np.testing.assert_array_equal(found["input_ids"], theirs["input_ids"])
    for stem in stems:
        check_outputs(package / "onnx" / f"{stem}.onnx", found, f"{stem}/")


@pytest.mark.parametrize("precision, dtype", [("float32", "fp32"), ("float16", "fp16"), ("int8", "q8")])
def test_transformers_js_finds_the_only_file_without_being_asked_for_a_precision(
    spines: Callable[[str], Spine], node_modules: Path, precision: str, dtype: str, tmp_path: Path
):
    package = write(spines(VIT), (replace(DYNAMIC, precision=precision),), tmp_path)
    code = f"""
import {{ AutoModel, pipeline }} from "@huggingface/transformers";
const model = await AutoModel.from_pretrained("{package.name}");
if (model.sessions.model.config.dtype !== "{dtype}") throw new Error(JSON.stringify(model.sessions.model.config));
const extract = await pipeline("image-feature-extraction", "{package.name}");
const told = {{ pooled: await extract("photo.jpg", {{ pool: true }}) }};
"""
    assert run_node(package, node_modules, code)["pooled"].shape == (1, spines(VIT).spec.architecture.embed_dim)


# Runs code.mjs offline, and sends what it keeps in `told` back.
PAGE = """<!doctype html>
<script type="importmap">{"imports": {"@huggingface/transformers": "/node_modules/%s"}}</script>
<script type="module">
import { env } from "@huggingface/transformers";
Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/" });
env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
let said;
try {
  const { told } = await import("/code.mjs");
  const all = Object.entries(told);
  said = Object.fromEntries(all.map(([key, x]) => [key, { shape: x.dims, type: x.type, values: Array.from(x.data) }]));
} catch (error) {
  said = { error: String(error.stack ?? error) };
}
await fetch("/", { method: "POST", body: JSON.stringify(said) });
</script>"""


def run_browser(package: Path, node_modules: Path, code: str) -> dict[str, np.ndarray]:
    """What some code in transformers.js, run in a headless Chromium beside a package, keeps in `told`."""
    browser = next(filter(None, map(shutil.which, BROWSER)), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    outside, answers = package.parent, queue.Queue[str]()
    (outside / "node_modules").symlink_to(node_modules)
    (outside / "code.mjs").write_text(f"{code}\nexport {{ told }};\n")
    (outside / "page.html").write_text(PAGE % Path(ENTRY).with_name("transformers.js"))

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(outside))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html"
        arguments = ["--headless", "--no-sandbox", f"--user-data-dir={outside / 'profile'}", address]
        process = subprocess.Popen([browser, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = json.loads(answers.get(timeout=120))
        finally:
            process.kill()
            process.wait()
            server.shutdown()
    assert "error" not in found, found["error"]
    return arrays_of(found)


def test_a_browser_takes_the_quantised_file_by_its_own_default(
    spines: Callable[[str], Spine], node_modules: Path, tmp_path: Path
):
    recipes = (DYNAMIC, replace(DYNAMIC, name="small", precision="int8", activations="dynamic"))
    package = write(spines(VIT), recipes, tmp_path)
    code = f"""
import {{ AutoModel, AutoProcessor, RawImage }} from "@huggingface/transformers";
const name = "{package.name}";
const processor = await AutoProcessor.from_pretrained(name), model = await AutoModel.from_pretrained(name);
if (model.sessions.model.config.dtype !== "q8") throw new Error(model.sessions.model.config.dtype);
const {{ pixel_values }} = await processor(await RawImage.read(`/${{name}}/photo.jpg`));
const told = {{ pixel_values, ...(await model({{ pixel_values }})) }};
"""
    found = run_browser(package, node_modules, code)
    session = session_of(package / "onnx" / "model.onnx", threads=1)
    for port, expected in zip(
        session.get_outputs(), session.run(None, {"pixel_values": found["pixel_values"]}), strict=True
    ):
        assert token_cosines(found[port.name], expected).min() > 0.999


def test_transformers_js_opens_naflex_by_its_base_class(
    spines: Callable[[str], Spine], node_modules: Path, tmp_path: Path
):
    package = write(spines(NAFLEX), TOWERS, tmp_path)
    assert "knows neither the model type `siglip2`" in (package / "README.md").read_text()
    code = f"""
import {{ AutoModel, Tensor }} from "@huggingface/transformers";
const model = await AutoModel.from_pretrained("{package.name}", {{ model_file_name: "vision_model" }});
const pixel_values = new Tensor("float32", new Float32Array(64 * 768).fill(0.5), [1, 64, 768]);
const pixel_attention_mask = new Tensor("int32", new Int32Array(64).fill(1, 0, 60), [1, 64]);
const spatial_shapes = new Tensor("int64", BigInt64Array.from([6n, 10n]), [1, 2]);
const told = {{ pixel_values, pixel_attention_mask, spatial_shapes }};
for (const [key, x] of Object.entries(await model({{ ...told }}))) told[`vision_model/${{key}}`] = x;
"""
    found = run_node(package, node_modules, code)
    check_outputs(package / "onnx" / "vision_model.onnx", found, "vision_model/")


def test_a_graph_of_photographs_needs_no_processor_in_transformers_js(
    spines: Callable[[str], Spine], node_modules: Path, tmp_path: Path
):
    spine = spines(VIT)
    recipes = (DYNAMIC, Recipe("whole", 23, FIXED | {"batch": None}, "photographs"))
    package = write(spine, recipes, tmp_path)
    code = code_of(package, "js") + "\nconst told = { photographs };\n"
    code += "for (const [key, x] of Object.entries(photographs_model_outputs)) told[`photographs_model/${key}`] = x;\n"
    found = run_node(package, node_modules, code)
    np.testing.assert_array_equal(found["photographs"][0], np.asarray(load_image(PHOTOGRAPH)))
    check_outputs(package / "onnx" / "photographs_model.onnx", found, "photographs_model/")
