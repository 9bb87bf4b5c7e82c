"""What common mistakes in preparing a text cost, in transformers' SigLIP with random weights.

    python -m benchmarks.text_mistakes --depth 12

Prints a table in Markdown: how far each mistake takes the embeddings of texts and their logits, and how many pairs of
texts change their order, by which of them fits a photograph better. Nothing is downloaded, so the weights are random:
norms that are not one, large biases and a temperature of 110. The table shows that a mistake matters. How much it costs
in a released model is another question. The tokenizer is a small one that works like Gemma's.
"""

import argparse
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as Library
from transformers import SiglipConfig, SiglipModel

from tests.toy_tokenizer import vocabulary, write_tokenizer
from vit2onnx.images import load_image, preprocess
from vit2onnx.spec.variant import Preprocessing
from vit2onnx.texts import Tokenizer, text_input

ROOT = Path(__file__).parents[1]
LENGTH, SIZE, PAD, EOS, BOS = 64, 64, 0, 1, 2
TEXTS = {
    "3 to 8 tokens": ("Cat", "A dog", "Red fox", "The sea", "Coffee", "Night", "Two men", "No one"),
    "24 to 27 tokens": (
        "A photo of a Grey Cat at night",
        "The Eiffel Tower in the rain",
        "A cup of Coffee on a table",
        "Astronaut in an orange suit",
        "A man with a camera, London",
        "Snow on Mount Fuji, Japan",
        "An old Boat on the Baltic Sea",
        "Three Children play Football",
    ),
    "53 to 61 tokens": (
        "A Tabby cat looks at the camera and does not like what it sees",
        "Portrait of an Astronaut before the flag and a small Shuttle",
        "On Sunday, an Espresso and a spoon stand on a wooden table, hot",
        "A photographer at work with his tripod in front of MIT, Boston",
        "Wide view of the Alps in winter, with a Train in the far valley",
        "Page 3 of a German newspaper from 1921 with an ad for Persil",
        "The number 7 of the Red Team scores, and all of Lisbon cheers",
        "A drawing by Anna, age 5: Mum, Dad, the Dog and a yellow Sun",
    ),
}
# The token ids of several texts.
Rows = list[list[int]]


def value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A random parameter under which mistakes cannot hide: nothing is zero, and nothing is one."""
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if name in ("logit_scale", "logit_bias"):
        return np.full(shape, 4.7 if name == "logit_scale" else -16.5, np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.2 * noise
    if name.endswith("bias"):
        return 0.2 * noise
    if "token_embedding" in name or "position_embedding" in name:
        return 0.3 * noise
    return noise if name.endswith("probe") else noise / np.sqrt(np.prod(shape[1:], dtype=np.float32))


def made_model(depth: int, seed: int) -> SiglipModel:
    """A narrow SigLIP of both towers."""
    tower = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": depth, "num_attention_heads": 3}
    special = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS}
    text = tower | special | {"vocab_size": len(vocabulary()), "max_position_embeddings": LENGTH}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=tower | {"image_size": SIZE})).eval()
    state = model.state_dict()
    model.load_state_dict({key: torch.from_numpy(value(key, tuple(it.shape), seed)) for key, it in state.items()})
    return model


def crops(count: int) -> np.ndarray:
    """Parts of the bundled photographs, prepared."""
    random, half = np.random.default_rng(0), (0.5, 0.5, 0.5)
    photographs = [load_image(path) for path in sorted((ROOT / "resources" / "images").glob("*.jpg"))]
    prepared = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        side = int(random.integers(100, min(image.size)))
        left, top = (int(random.integers(0, whole - side + 1)) for whole in image.size)
        part = image.crop((left, top, left + side, top + side))
        prepared.append(preprocess(part, SIZE, SIZE, Preprocessing("bilinear", half, half)))
    return np.stack(prepared)


def unit(vectors: torch.Tensor) -> np.ndarray:
    """Brought to length one."""
    length_one: np.ndarray = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    return length_one


def mistakes(
    model: SiglipModel, tokenizer: Tokenizer, library: Library
) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """By name, other ways from texts to embeddings; the first is the right one."""

    def run(rows: np.ndarray, mask: np.ndarray | None = None, mean: bool = False) -> np.ndarray:
        given = {} if mask is None else {"attention_mask": torch.from_numpy(mask)}
        output = model.text_model(torch.from_numpy(rows), **given)
        return unit(output.last_hidden_state.mean(1) if mean else output.pooler_output)

    def ids(texts: list[str]) -> Rows:
        return [tokenizer.ids(text) for text in texts]

    def filled(rows: Rows, length: int = LENGTH, **special: int) -> np.ndarray:
        return np.stack([text_input(row, length, **special) for row in rows])

    def ended_by(rows: Rows, last: int) -> np.ndarray:
        made = filled(rows)
        made[made == EOS] = last
        return made

    def longest(texts: list[str]) -> int:
        return min(LENGTH, max(map(len, ids(texts))))

    def cased(texts: list[str]) -> Rows:
        return [library.encode(text).ids for text in texts]

    return {
        "none": lambda texts: run(filled(ids(texts))),
        "not in lower case": lambda texts: run(filled(cased(texts))),
        "padded to the longest text instead of 64": lambda texts: run(filled(ids(texts), longest(texts))),
        "attention mask given": lambda texts: run(filled(ids(texts)), (filled(ids(texts)) != PAD).astype(np.int64)),
        "pad id 1 instead of 0": lambda texts: run(filled(ids(texts), pad=EOS)),
        "no EOS at the end": lambda texts: run(ended_by(ids(texts), PAD)),
        "BOS at the beginning": lambda texts: run(filled([[BOS, *row] for row in ids(texts)])),
        "mean of last_hidden_state for pooler_output": lambda texts: run(filled(ids(texts)), mean=True),
    }


def table(model: SiglipModel, tokenizer: Tokenizer, library: Library, images: np.ndarray) -> Iterator[str]:
    """The lines of the table."""
    scale, bias = float(model.logit_scale.exp()), float(model.logit_bias)
    image_embeds = unit(model.get_image_features(torch.from_numpy(images)).pooler_output)
    ways = mistakes(model, tokenizer, library)
    heads = ("mistake", "texts", "cosine, mean", "cosine, least", "embedding, max Δ", "logit, max Δ", "pairs reordered")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name, way in list(ways.items())[1:]:
        for kind, texts in TEXTS.items():
            right, wrong = ways["none"](list(texts)), way(list(texts))
            cosines = (right * wrong).sum(axis=1)
            logits = [scale * image_embeds @ embeds.T + bias for embeds in (right, wrong)]
            order = [one[:, :, None] < one[:, None, :] for one in logits]
            figures = (cosines.mean(), cosines.min(), np.abs(right - wrong).max(), np.abs(logits[0] - logits[1]).max())
            words = " | ".join(f"{figure:.{digits}f}" for figure, digits in zip(figures, (3, 3, 3, 1), strict=True))
            yield f"| {name} | {kind} | {words} | {(order[0] != order[1]).mean():.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.text_mistakes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth", type=int, default=12, help="blocks of each tower")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--images", type=int, default=64, help="parts of photographs to be ranked")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = write_tokenizer(Path(folder) / "toy")
        model, images = made_model(asked.depth, asked.seed), crops(asked.images)
        print(*table(model, Tokenizer(path), Library.from_file(str(path)), images), sep="\n")
    print(f"\nRandom weights: depth {asked.depth}, width 192, seed {asked.seed}; no released model was asked.")


if __name__ == "__main__":
    main()
