// Runs the three files of a folder in transformers.js, under its own names, and prints all outputs as JSON.
// node in_transformers_js.mjs PACKAGE FOLDER NAME: the package's entry, and the folder and name of the model.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [entry, folder, name] = process.argv.slice(2);
const { env, SiglipModel, SiglipTextModel, SiglipVisionModel, Tensor } = await import(pathToFileURL(entry).href);
env.allowRemoteModels = false;
env.localModelPath = `${folder}/`;

const { ids, pixels } = JSON.parse(readFileSync(`${folder}/inputs.json`, "utf-8"));
const input_ids = new Tensor("int64", BigInt64Array.from(ids.values.map(BigInt)), ids.shape);
const pixel_values = new Tensor("float32", Float32Array.from(pixels.values), pixels.shape);
const found = {};
for (const [kind, inputs] of [
  [SiglipModel, { input_ids, pixel_values }],
  [SiglipVisionModel, { pixel_values }],
  [SiglipTextModel, { input_ids }],
]) {
  const model = await kind.from_pretrained(name, { dtype: "fp32" });
  for (const [output, tensor] of Object.entries(await model(inputs))) {
    found[`${kind.name}/${output}`] = { shape: tensor.dims, values: Array.from(tensor.data) };
  }
}
console.log(JSON.stringify(found));
