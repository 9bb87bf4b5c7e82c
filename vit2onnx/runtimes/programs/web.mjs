// Runs a graph in onnxruntime-web. Node calls this file with the paths of onnxruntime-web's module, of a JSON file of
// all files by name, and of the file to write; a browser calls `inBrowser`.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
  int8: Int8Array, bool: Uint8Array,
};

// The outputs of all sets of inputs, or the error and the step at which it came. `read` gives a file as a Uint8Array.
async function runAll(ort, read) {
  const seconds = { run: [] }, sets = [];
  let step = "opening";
  try {
    const list = JSON.parse(new TextDecoder().decode(await read("list.json")));
    const externalData = [];
    for (const path of list.external) externalData.push({ path, data: await read(`external/${path}`) });
    const graph = await read("graph.onnx");
    let before = performance.now();
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], externalData });
    seconds.open = (performance.now() - before) / 1000;
    step = "running";
    for (const inputs of list.sets) {
      const feeds = {};
      for (const [name, { file, type, dims }] of Object.entries(inputs)) {
        feeds[name] = new ort.Tensor(type, new ARRAYS[type]((await read(file)).slice().buffer), dims);
      }
      before = performance.now();
      const made = await session.run(feeds);
      seconds.run.push((performance.now() - before) / 1000);
      sets.push(Object.fromEntries(list.outputs.map((name) => [name, plain(made[name])])));
    }
    return { sets, seconds };
  } catch (error) {
    return { step, sets, seconds, error: String(error?.message ?? error) };
  }
}

function plain({ type, dims, data }) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  }
  return { type, dims: [...dims], data: btoa(text) };
}

export async function inBrowser() {
  const ort = await import("/dist/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/dist/";
  ort.env.wasm.numThreads = 1;
  const read = async (name) => new Uint8Array(await (await fetch(`/${name}`)).arrayBuffer());
  await fetch("/made.json", { method: "POST", body: JSON.stringify(await runAll(ort, read)) });
}

if (typeof process !== "undefined" && process.versions?.node) {
  const { readFile, writeFile } = await import("node:fs/promises");
  const { pathToFileURL } = await import("node:url");
  const [module, index, made] = process.argv.slice(2);
  const ort = await import(pathToFileURL(module));
  ort.env.wasm.numThreads = 1;
  const files = JSON.parse(await readFile(index, "utf8"));
  const read = async (name) => new Uint8Array(await readFile(files[name]));
  await writeFile(made, JSON.stringify(await runAll(ort, read)));
  process.exit(0);
}
