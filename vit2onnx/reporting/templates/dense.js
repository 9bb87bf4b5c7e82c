// Shows how similar all patches are to the chosen one. A choice is a photograph, a row and a column; without one, every
// photograph is compared with its own reference patch, as the page was made.
const dense = JSON.parse(document.getElementById("dense-data").textContent);
dense.photographs = [...document.querySelectorAll("script.photograph")].map((script) => JSON.parse(script.textContent));
const bytesOf = (text) => {
  const found = atob(text), bytes = new Uint8Array(found.length);
  for (let i = 0; i < found.length; i += 1) bytes[i] = found.charCodeAt(i);
  return bytes;
};
const scale = bytesOf(dense.colours);
let choice = null;

// What a model has of a photograph, read when it is first asked for.
const mapsOf = (photograph, model) => {
  const one = dense.photographs[photograph].models[model];
  if (typeof one.features === "string") {
    one.features = new Int8Array(bytesOf(one.features).buffer);
    one.smoothness = new Float32Array(bytesOf(one.smoothness).buffer);
    one.norms = new Float32Array(bytesOf(one.norms).buffer);
    one.width = one.features.length / one.norms.length;
    one.lengths = Float64Array.from(one.norms, (_, patch) => Math.sqrt(dot(one, patch, one, patch)));
  }
  return one;
};
const dot = (a, first, b, second) => {
  let sum = 0;
  for (let i = 0, p = first * a.width, q = second * b.width; i < a.width; i += 1) sum += a.features[p + i] * b.features[q + i];
  return sum;
};
const cosine = (a, first, b, second) => {
  const lengths = a.lengths[first] * b.lengths[second];
  return lengths ? dot(a, first, b, second) / lengths : 0;
};
const patchOf = (place) => place.row * dense.photographs[place.photograph].columns + place.column;
// The patch that a photograph is compared with, in a model: the chosen one, or the photograph's own.
const origin = (photograph, model) => {
  if (choice) return choice;
  const [row, column] = mapsOf(photograph, model).reference;
  return { photograph, row, column };
};
// The similarities of all patches of a photograph, in a model.
const similarities = (photograph, model) => {
  const one = mapsOf(photograph, model), from = origin(photograph, model);
  const other = mapsOf(from.photograph, model), patch = patchOf(from);
  return Float64Array.from(one.norms, (_, i) => cosine(other, patch, one, i));
};

const pictures = [...document.querySelectorAll(".picture")].map((box) => ({
  box, photograph: Number(box.dataset.photograph), model: Number(box.dataset.model), kind: box.dataset.kind,
  image: box.querySelector("img"), marker: box.querySelector(".marker"),
  lines: [...box.closest("figure").querySelectorAll("[data-line]")].map((line) => ({ line, said: line.textContent })),
}));
// A single patch has no smoothness, and norms without a median have no multiples.
const fixed = (value, digits) => Number.isNaN(value) ? "not defined" : value.toFixed(digits);
const placeInWords = ({ photograph, row, column }) => `${dense.photographs[photograph].name}, row ${row}, column ${column}`;

const paint = (picture) => {
  const { rows, columns } = dense.photographs[picture.photograph];
  if (!picture.canvas) {
    picture.canvas = document.createElement("canvas");
    [picture.canvas.width, picture.canvas.height] = [columns, rows];
    picture.image.after(picture.canvas);
  }
  const values = similarities(picture.photograph, picture.model);
  const context = picture.canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i += 1) {
    const level = 3 * Math.round(255 * Math.min(Math.max(values[i], 0), 1));
    pixels.data.set([scale[level], scale[level + 1], scale[level + 2], 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const told = [`to ${placeInWords(choice)}`, `mean ${mean.toFixed(3)}`];
  picture.lines.forEach(({ line }, i) => { line.textContent = told[i]; });
};
const show = () => {
  for (const picture of pictures) {
    const { photograph, model, marker, kind } = picture;
    const { rows, columns } = dense.photographs[photograph], from = origin(photograph, model);
    marker.hidden = from.photograph !== photograph;
    marker.style.left = `${100 * from.column / columns}%`;
    marker.style.top = `${100 * from.row / rows}%`;
    if (kind !== "similarity") continue;
    if (choice) paint(picture);
    else picture.lines.forEach(({ line, said }) => { line.textContent = said; });
    picture.image.hidden = Boolean(choice);
    if (picture.canvas) picture.canvas.hidden = !choice;
  }
  document.getElementById("reset").disabled = !choice;
  document.getElementById("chosen").textContent = choice
    ? `Chosen: ${placeInWords(choice)}; ${figuresAt(choice, dense.models.map((_, model) => mapsOf(choice.photograph, model)))}`
    : "Every photograph is compared with its own reference patch.";
};
// Smoothness and norm of a place, in one model or in several.
const figuresAt = (place, models) => {
  const patch = patchOf(place);
  const told = models.map((one) => `smoothness ${fixed(one.smoothness[patch], 3)}, norm ${fixed(one.norms[patch], 2)} times the median`);
  return models.length > 1 ? told.map((one, i) => `${dense.models[i]}: ${one}`).join("; ") : told[0];
};
const point = (place, model) => {
  const from = origin(place.photograph, model);
  const one = mapsOf(place.photograph, model), other = mapsOf(from.photograph, model);
  const similarity = cosine(other, patchOf(from), one, patchOf(place)).toFixed(3);
  const name = dense.models.length > 1 ? ` (${dense.models[model]})` : "";
  document.getElementById("pointer").textContent =
    `Under the pointer: ${placeInWords(place)}${name}; similarity ${similarity}, ${figuresAt(place, [one])}`;
};

const limited = (value, count) => Math.min(Math.max(value, 0), count - 1);
const placeAt = ({ box, photograph }, event) => {
  const { rows, columns } = dense.photographs[photograph], area = box.getBoundingClientRect();
  const column = limited(Math.floor((event.clientX - area.left) / area.width * columns), columns);
  const row = limited(Math.floor((event.clientY - area.top) / area.height * rows), rows);
  return { photograph, row, column };
};
const choose = (place) => {
  choice = place;
  show();
};
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
for (const picture of pictures) {
  const { box, photograph, model } = picture, { rows, columns } = dense.photographs[photograph];
  box.addEventListener("click", (event) => choose(placeAt(picture, event)));
  box.addEventListener("pointermove", (event) => point(placeAt(picture, event), model));
  box.addEventListener("pointerleave", () => { document.getElementById("pointer").textContent = ""; });
  box.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = STEPS[event.key];
    if (!step && event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    if (!step) return choose(null);
    // From where the frame is; in another photograph than the chosen one, from the reference patch.
    const one = mapsOf(photograph, model), is = choice?.photograph === photograph;
    const [row, column] = is ? [choice.row, choice.column] : one.reference;
    choose({ photograph, row: limited(row + step[0], rows), column: limited(column + step[1], columns) });
  });
}
document.getElementById("reset").addEventListener("click", () => choose(null));
