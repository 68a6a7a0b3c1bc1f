// SPDX-License-Identifier: Apache-2.0
// Follows units through the layers as pliant.analysis.sampling_points does, and draws them over the photograph.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const state = { stack: 0, row: 0, column: 0, held: false, over: -1, chosen: -1 };
let layers = [], fields = null;

// ---- data

async function bytes(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function unpackLayer(layer) {
  const all = await bytes(layer.data), cells = layer.rows * layer.columns;
  const samples = layer.groups * layer.taps.length * cells, count = 2 * samples;
  const offsets = new Float32Array(count);
  for (let i = 0; i < count; i++) offsets[i] = (((all[i] | (all[count + i] << 8)) << 16) >> 16) * layer.step;
  return { ...layer, cells, offsets, masks: all.subarray(2 * count) };
}

async function unpackAll() {
  layers = await Promise.all(DATA.layers.map(unpackLayer));
  if (DATA.fields.data) fields = await bytes(DATA.fields.data);
  for (const found of DATA.detections) {
    if (found.field) found.fieldBytes = await bytes(found.field);
    if (found.saliency) found.saliencyBytes = await bytes(found.saliency);
  }
}

// ---- samples

// The samples of output cells [row, column, weight], in cells of the layer's input: [y, x, weight].
function samplesOf(layer, cells, plain) {
  const found = [], taps = layer.taps.length, groups = plain ? 1 : layer.groups;
  for (const [row, column, weight] of cells) {
    const cell = row * layer.columns + column;
    for (let g = 0; g < groups; g++) for (let k = 0; k < taps; k++) {
      const sample = g * taps + k, at = 2 * sample * layer.cells + cell;
      const dy = plain ? 0 : layer.offsets[at], dx = plain ? 0 : layer.offsets[at + layer.cells];
      const mask = plain ? 1 : (layer.masks[sample * layer.cells + cell] / 255) * layer.maskLimit;
      found.push([row * layer.stride[0] + layer.taps[k][0] + dy, column * layer.stride[1] + layer.taps[k][1] + dx, weight * mask]);
    }
  }
  return found;
}

// Gives each sample to the four cells of the layer below around it, and sums what a cell gets.
function sharedOut(samples, above, layer) {
  const sums = new Map();
  const same = above.inputSize[0] === layer.rows && above.inputSize[1] === layer.columns;
  const moved = (p, axis) => (same ? p : ((p + 0.5) * above.inputStride[axis]) / layer.outputStride[axis] - 0.5);
  for (const [sy, sx, weight] of samples) {
    const y = moved(sy, 0), x = moved(sx, 1), top = Math.floor(y), left = Math.floor(x);
    for (let i = 0; i < 2; i++) for (let j = 0; j < 2; j++) {
      const row = top + i, column = left + j;
      const share = weight * (i ? y - top : 1 - y + top) * (j ? x - left : 1 - x + left);
      if (!share || row < 0 || column < 0 || row >= layer.rows || column >= layer.columns) continue;
      const key = row * layer.columns + column;
      sums.set(key, (sums.get(key) || 0) + share);
    }
  }
  return [...sums].map(([key, weight]) => [Math.floor(key / layer.columns), key % layer.columns, weight]);
}

function follow(plain) {
  const stack = DATA.stacks[state.stack].layers.map((i) => layers[i]);
  let samples = samplesOf(stack[0], [[state.row, state.column, 1]], plain);
  for (let i = 1; i < stack.length; i++) samples = samplesOf(stack[i], sharedOut(samples, stack[i - 1], stack[i]), plain);
  const lowest = stack[stack.length - 1];
  return samples.map(([y, x, weight]) => ({
    y: ((y + 0.5) * lowest.inputStride[0]) / DATA.size[0], x: ((x + 0.5) * lowest.inputStride[1]) / DATA.size[1], weight,
    inside: y >= 0 && x >= 0 && y <= lowest.inputSize[0] - 1 && x <= lowest.inputSize[1] - 1,
  }));
}

const topLayer = () => layers[DATA.stacks[state.stack].layers[0]];
const unitPlace = () => ({
  y: ((state.row + 0.5) * topLayer().outputStride[0]) / DATA.size[0], x: ((state.column + 0.5) * topLayer().outputStride[1]) / DATA.size[1],
});
// Cells that the photograph covers: the input may be padded below and on the right.
const limits = () => [
  Math.min(topLayer().rows, Math.max(1, Math.ceil(DATA.size[0] / topLayer().outputStride[0]))),
  Math.min(topLayer().columns, Math.max(1, Math.ceil(DATA.size[1] / topLayer().outputStride[1]))),
];

function moveTo(row, column) {
  const [rows, columns] = limits();
  state.row = Math.max(0, Math.min(rows - 1, row));
  state.column = Math.max(0, Math.min(columns - 1, column));
}

function moveToPlace(y, x) {
  moveTo(Math.floor((y * DATA.size[0]) / topLayer().outputStride[0]), Math.floor((x * DATA.size[1]) / topLayer().outputStride[1]));
}

function nearestField() {
  if (!fields) return -1;
  const layer = layers.find((l) => l.name === DATA.fields.layer), here = unitPlace();
  let best = -1, least = Infinity;
  DATA.fields.cells.forEach(([row, column], i) => {
    const y = ((row + 0.5) * layer.outputStride[0]) / DATA.size[0] - here.y;
    const x = ((column + 0.5) * layer.outputStride[1]) / DATA.size[1] - here.x;
    const distance = (y * DATA.size[0]) ** 2 + (x * DATA.size[1]) ** 2;
    if (distance < least) { least = distance; best = i; }
  });
  return best;
}

function boxUnder(y, x) {
  let best = -1, least = Infinity;
  DATA.detections.forEach(({ box }, i) => {
    const [x1, y1, x2, y2] = box, py = y * DATA.size[0], px = x * DATA.size[1], area = (x2 - x1) * (y2 - y1);
    if (px >= x1 && px <= x2 && py >= y1 && py <= y2 && area < least) { least = area; best = i; }
  });
  return best;
}

const shownDetection = () => (state.chosen >= 0 ? state.chosen : $("boxes").checked ? state.over : -1);

// ---- drawing

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

function picture(values, [height, width], paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(paint(values[i]), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

function heat(value) {
  const at = (value / 255) * (VIRIDIS.length - 1), low = Math.min(VIRIDIS.length - 2, Math.floor(at)), part = at - low;
  return [...VIRIDIS[low].map((c, i) => c + part * (VIRIDIS[low + 1][i] - c)), Math.min(255, 60 + value)];
}

function haloed(context, width, style, path) {
  for (const [stroke, line] of [["rgba(0,0,0,.75)", width + 2], [style, width]]) {
    context.strokeStyle = stroke; context.lineWidth = line;
    context.beginPath(); path(); context.stroke();
  }
}

function rectangle(context, box, w, h) {
  const [x1, y1, x2, y2] = box.map((v, i) => (i % 2 ? (v / DATA.size[0]) * h : (v / DATA.size[1]) * w));
  context.rect(x1, y1, x2 - x1, y2 - y1);
}

function drawRegion(context, w, h) {
  DATA.detections.forEach(({ box }, i) => {
    if (!$("boxes").checked && i !== state.chosen) return;
    context.setLineDash(i === shownDetection() ? [] : [6, 4]);
    haloed(context, i === shownDetection() ? 3 : 1.5, colour("box"), () => rectangle(context, box, w, h));
    context.setLineDash([]);
  });
  const found = DATA.detections[shownDetection()];
  if (!found || !found.bins) return;
  const byEffect = $("effects").checked && found.effects, values = byEffect ? found.effects : found.weights;
  const most = Math.max(...values, 1e-6), order = [...values.keys()].sort((i, j) => values[i] - values[j]);
  for (const i of order) { // the strongest on top
    const share = Math.max(0, values[i] / most), root = Math.sqrt(share);
    context.globalAlpha = byEffect ? 1 : 0.15 + 0.85 * share;
    const style = byEffect ? `rgb(${heat(255 * root).slice(0, 3).map(Math.round)})` : colour("bin");
    haloed(context, byEffect ? 0.5 + 2.5 * root : 1.5, style, () => rectangle(context, found.bins[i], w, h));
  }
  context.globalAlpha = 1;
}

function drawMaps(context, w, h) {
  const found = DATA.detections[shownDetection()];
  if (found && found.saliencyBytes && $("saliency").checked) {
    context.drawImage(picture(found.saliencyBytes, found.shape, (v) => [12, 12, 16, v ? 0 : 200]), 0, 0, w, h);
  }
  if (!$("field").checked) return;
  if (found && found.fieldBytes) {
    context.drawImage(picture(found.fieldBytes, found.shape, heat), 0, 0, w, h);
    return;
  }
  const near = nearestField();
  if (near < 0) return;
  const [height, width] = DATA.fields.shape, size = height * width;
  context.drawImage(picture(fields.subarray(near * size, (near + 1) * size), DATA.fields.shape, heat), 0, 0, w, h);
}

function drawUnit(context, w, h) {
  const small = topLayer().taps.length * DATA.stacks[state.stack].layers.length > 9;
  if ($("plain").checked) {
    const side = small ? 5 : 9;
    const places = new Map(follow(true).map(({ y, x }) => [`${Math.round(y * h)},${Math.round(x * w)}`, [y * h, x * w]]));
    for (const [y, x] of places.values()) haloed(context, 1.2, colour("plain"), () => context.rect(x - side / 2, y - side / 2, side, side));
  }
  if ($("points").checked) {
    const samples = follow(false), most = Math.max(...samples.map((s) => Math.abs(s.weight)), 1e-9);
    context.fillStyle = colour("point"); context.strokeStyle = "#fff"; context.lineWidth = 1;
    for (const { y, x, weight } of samples) {
      const share = Math.abs(weight) / most;
      context.globalAlpha = 0.06 + 0.94 * share;
      context.beginPath(); context.arc(x * w, y * h, small ? 3 : 5, 0, 7); context.fill();
      if (share > 0.25) context.stroke();
    }
    context.globalAlpha = 1;
  }
  const here = unitPlace(), x = here.x * w, y = here.y * h;
  haloed(context, 2.5, colour("unit"), () => { context.moveTo(x - 9, y); context.lineTo(x + 9, y); context.moveTo(x, y - 9); context.lineTo(x, y + 9); });
}

function draw() {
  const canvas = $("drawing"), w = $("photo").clientWidth, h = $("photo").clientHeight, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  drawMaps(context, w, h); drawRegion(context, w, h); drawUnit(context, w, h);
  describe();
}

// ---- words

function unitFacts() {
  const layer = topLayer(), samples = follow(false), grid = follow(true);
  const mean = (list, of) => list.reduce((sum, s) => sum + of(s), 0) / Math.max(1, list.length);
  const spread = (list) => { // pixels of the photograph, weighted: the standard deviation around the mean place
    const total = list.reduce((sum, s) => sum + s.weight, 0) || 1;
    const at = (of) => list.reduce((sum, s) => sum + s.weight * of(s), 0) / total;
    const y = at((s) => s.y), x = at((s) => s.x), [height, width] = DATA.image.original;
    return Math.sqrt(at((s) => ((s.y - y) * height) ** 2 + ((s.x - x) * width) ** 2));
  };
  const here = unitPlace(), facts = [
    ["Layers", DATA.stacks[state.stack].layers.map((i) => layers[i].name).join(", then ")],
    ["Cell", `row ${state.row}, column ${state.column} of ${layer.rows} x ${layer.columns}`],
    ["Pixel", `x ${Math.round(here.x * DATA.image.original[1])}, y ${Math.round(here.y * DATA.image.original[0])}`],
    ["Samples", `${samples.length}, ${Math.round(100 * mean(samples, (s) => (s.inside ? 0 : 1)))} % outside the map`],
    ["Spread", `${spread(samples).toFixed(1)} pixels; plain grid ${spread(grid).toFixed(1)}`],
  ];
  if (DATA.stacks[state.stack].layers.length === 1 && layer.modulated) {
    const weights = samples.map((s) => s.weight);
    facts.push(["Modulation", `${Math.min(...weights).toFixed(2)} to ${Math.max(...weights).toFixed(2)}, at most ${layer.maskLimit}`]);
  }
  const near = nearestField();
  if (near >= 0) facts.push(["Field of", `row ${DATA.fields.cells[near][0]}, column ${DATA.fields.cells[near][1]} of ${DATA.fields.layer}`]);
  return facts;
}

function regionText() {
  const found = DATA.detections[shownDetection()];
  if (!found) return "";
  const parts = [`${found.label}, score ${found.score}.`];
  if (found.bins) {
    const [least, most] = [Math.min(...found.weights), Math.max(...found.weights)].map((weight) => weight.toFixed(2));
    parts.push(`${found.bins.length} bins, ${least === most ? `all of weight ${least}` : `weights ${least} to ${most}`}.`);
  }
  if (found.effects) parts.push(`It depends most on the bin in row ${found.strongest[0]}, column ${found.strongest[1]}.`);
  if (found.saliency) parts.push(`Saliency region: ${(100 * found.share).toFixed(1)} % of the image, error ${found.error}.`);
  return parts.join(" ");
}

function describe() {
  $("unit").replaceChildren(...unitFacts().flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name; text.textContent = value;
    return [term, text];
  }));
  $("region").textContent = regionText();
  document.querySelectorAll("#list button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === state.chosen)));
  document.body.dataset.row = state.row; document.body.dataset.column = state.column;
  document.body.dataset.held = state.held; document.body.dataset.detection = shownDetection();
}

// Only what keys and clicks change is read out: the pointer would never let a screen reader finish.
function say() {
  $("say").textContent = unitFacts().map(([name, value]) => `${name}: ${value}`).join(". ") + ". " + regionText();
}

// ---- controls

function placeOf(event) {
  const bounds = $("photo").getBoundingClientRect();
  return [(event.clientY - bounds.top) / bounds.height, (event.clientX - bounds.left) / bounds.width];
}

function onPointer(event) {
  const [y, x] = placeOf(event);
  if (y < 0 || x < 0 || y > 1 || x > 1) return;
  state.over = boxUnder(y, x);
  if (!state.held) moveToPlace(y, x);
  draw();
}

function onClick(event) {
  const [y, x] = placeOf(event);
  const near = () => { moveToPlace(y, x); state.over = boxUnder(y, x); };
  if (event.pointerType === "touch") near();
  else { if (state.held) near(); state.held = !state.held; }
  draw(); say();
}

function onKey(event) {
  const step = event.shiftKey ? 5 : 1;
  const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
  if (moves[event.key]) { moveTo(state.row + moves[event.key][0], state.column + moves[event.key][1]); state.held = true; }
  else if (event.key === "Enter" || event.key === " ") state.held = !state.held;
  else if (event.key === "Escape") { state.held = false; state.chosen = -1; state.over = -1; }
  else return;
  const here = unitPlace();
  if (event.key !== "Escape") state.over = boxUnder(here.y, here.x);
  event.preventDefault();
  draw(); say();
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(dark));
  draw();
}

function fillControls() {
  DATA.stacks.forEach(({ name }, i) => $("stack").append(new Option(name, i)));
  DATA.detections.forEach((found, i) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `${found.label} ${found.score.toFixed(2)}`;
    button.addEventListener("click", () => { state.chosen = state.chosen === i ? -1 : i; draw(); say(); });
    item.append(button); $("list").append(item);
  });
  $("found").hidden = !DATA.detections.length;
  $("boxes").parentElement.hidden = $("saliency").parentElement.hidden = !DATA.detections.length;
  $("effects").parentElement.hidden = !DATA.detections.some((found) => found.effects);
  $("field").parentElement.hidden = !fields && !DATA.detections.some((found) => found.field);
  if (DATA.leftOut.length) $("left").textContent = `No room in this page for ${DATA.leftOut.length} layers: ${DATA.leftOut.join(", ")}.`;
}

function listen() {
  $("figure").addEventListener("pointermove", onPointer);
  $("figure").addEventListener("pointerleave", () => { state.over = -1; draw(); });
  $("figure").addEventListener("click", onClick);
  $("figure").addEventListener("keydown", onKey);
  $("stack").addEventListener("change", () => {
    const here = unitPlace();
    state.stack = Number($("stack").value);
    moveToPlace(here.y, here.x); draw(); say();
  });
  for (const id of ["points", "plain", "field", "boxes", "effects", "saliency"]) $(id).addEventListener("change", draw);
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  window.addEventListener("resize", draw);
}

async function start() {
  $("photo").src = DATA.image.src; $("photo").width = DATA.image.width; $("photo").height = DATA.image.height;
  $("figure").style.setProperty("--ratio", DATA.image.width / DATA.image.height);
  await Promise.all([$("photo").decode(), unpackAll()]);
  fillControls(); listen();
  moveToPlace(0.5, 0.5);
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  document.body.dataset.ready = "true";
}

start();
