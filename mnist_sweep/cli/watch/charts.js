// The curves and the scores, on canvases: a thousand trials stay fluent, and what has been drawn takes no memory.
"use strict";

/** The colours of the style sheet, for canvases. */
const colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "muted", "line", "grid", "faint", "accent", "winner", "card", "blue", "bad"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
}
readColours();
const dark = matchMedia("(prefers-color-scheme: dark)");

// Lines that are drawn in one frame: without a GPU, a browser takes a tenth of a second for a thousand.
const LINES_PER_FRAME = 80;

/** A place for a chart: canvases for what stays, and one above them for what moves. */
function canvases(place, draw, count = 2) {
  const layers = [...Array(count).keys()].map(() => place.appendChild(document.createElement("canvas")).getContext("2d"));
  const area = { layers, width: 0, height: 0 };
  function fit() {
    const [width, height, ratio] = [place.clientWidth, place.clientHeight, Math.min(devicePixelRatio || 1, 2)];
    if (!width || (width === area.width && height === area.height && ratio === area.ratio)) return;
    Object.assign(area, { width, height, ratio });
    for (const layer of layers) {
      layer.canvas.width = width * ratio;
      layer.canvas.height = height * ratio;
    }
    draw(true);
  }
  area.clear = (k) => {
    layers[k].setTransform(area.ratio, 0, 0, area.ratio, 0, 0);
    layers[k].clearRect(0, 0, area.width, area.height);
  };
  area.fit = fit;
  new ResizeObserver(fit).observe(place);
  return area;
}

const LEFT = 52, RIGHT = 10, TOP_EDGE = 10, BOTTOM = 24;

/** Round limits around a range, so that they rarely change. */
function rounded(low, high) {
  if (!(low < high)) [low, high] = [low - Math.abs(low || 1) * 0.05, high + Math.abs(high || 1) * 0.05];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => power * m >= rough);
  const [first, last] = [Math.floor(low / step), Math.ceil(high / step)];
  const marks = [];
  for (let k = first; k <= last; k++) marks.push(Number((k * step).toPrecision(12)));
  return { low: first * step, high: last * step, marks };
}

function frame(area, xs, ys, xMarks) {
  const pen = area.layers[0];
  area.clear(0);
  pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  pen.fillStyle = colours.muted;
  pen.strokeStyle = colours.grid;
  pen.lineWidth = 1;
  pen.globalAlpha = 0.5;
  pen.beginPath();
  for (const mark of ys.marks) {
    const y = Math.round(area.y(mark)) + 0.5;
    pen.moveTo(LEFT, y);
    pen.lineTo(area.width - RIGHT, y);
  }
  pen.stroke();
  pen.globalAlpha = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const mark of ys.marks) pen.fillText(number(mark), LEFT - 7, area.y(mark));
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  for (const mark of xMarks) pen.fillText(number(mark), area.x(mark), area.height - 7);
}

function scales(area, xs, ys) {
  const [width, height] = [area.width - LEFT - RIGHT, area.height - TOP_EDGE - BOTTOM];
  area.x = (v) => LEFT + ((v - xs[0]) / Math.max(xs[1] - xs[0], 1e-9)) * width;
  area.y = (v) => TOP_EDGE + (1 - Math.max(0, Math.min(1, (v - ys.low) / (ys.high - ys.low)))) * height;
}

const wholeMarks = (low, high) => rounded(low, Math.max(high, low + 1)).marks.filter((v) => v >= low && v <= high && Number.isInteger(v));

// ---- the objective of each epoch, of every trial

function curvesChart(place, model, point) {
  let limits = "", drawn = new Map(), ys = null, near = null, more = 0;
  const area = canvases(place, draw);

  /** The curves' range: without the worst of the worst, which would press all others into one line. */
  function range() {
    const lows = [], highs = [];
    let last = 1;
    for (const curve of model.curves.values()) {
      if (curve.low === Infinity) continue;
      lows.push(curve.low);
      highs.push(curve.high);
      last = Math.max(last, curve.of);
    }
    const at = (values, part) => values.sort((a, b) => a - b)[Math.round(part * (values.length - 1))];
    if (!lows.length) return null;
    const some = lows.length > 8;
    const [low, high] = model.maximize
      ? [at(lows, some ? 0.12 : 0), at(highs, 1)] : [at(lows, 0), at(highs, some ? 0.88 : 1)];
    return { ...rounded(low, high), last };
  }

  function trace(pen, curve, from = 0) {
    let down = false;
    for (let i = from; i < curve.values.length; i++) {
      const value = curve.values[i];
      if (value === null) { down = false; continue; }
      const [x, y] = [area.x(curve.first + i), area.y(value)];
      if (down) pen.lineTo(x, y);
      else pen.moveTo(x, y);
      down = true;
    }
    // A single epoch is a dot.
    if (curve.values.length === 1) pen.arc(area.x(curve.first), area.y(curve.values[0] ?? 0), 1.5, 0, 7);
  }

  function draw(all = false) {
    if (!area.width) return;
    const found = range();
    if (!found) { area.clear(0); area.clear(1); return; }
    const now = `${found.low} ${found.high} ${found.last} ${model.metric}`;
    if (all || now !== limits) {
      [limits, ys] = [now, found];
      scales(area, [1, Math.max(found.last, 2)], ys);
      frame(area, [1, found.last], ys, wholeMarks(1, found.last));
      drawn = new Map();
    }
    // Ended curves are drawn once.
    const pen = area.layers[0];
    pen.strokeStyle = colours.faint;
    pen.lineWidth = 1;
    pen.globalAlpha = model.trials.size > 500 ? 0.12 : model.trials.size > 100 ? 0.25 : 0.5;
    let count = 0;
    pen.beginPath();
    for (const [n, curve] of model.curves) {
      if (drawn.get(n) === curve.version || model.isRunning(n)) continue;
      if (++count > LINES_PER_FRAME) { more ||= requestAnimationFrame(() => { more = 0; draw(); }); break; }
      drawn.set(n, curve.version);
      trace(pen, curve);
      if (count % 40 === 0) { pen.stroke(); pen.beginPath(); }
    }
    pen.stroke();
    pen.globalAlpha = 1;
    over();
  }

  function bold(n, colour, width) {
    const curve = model.curves.get(n), pen = area.layers[1];
    if (!curve || !ys) return;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.beginPath();
    trace(pen, curve);
    pen.stroke();
  }

  function over() {
    if (!area.width || !ys) return;
    area.clear(1);
    for (const n of model.running) bold(n, colours.blue, 1.8);
    if (model.best !== null) bold(model.best, colours.winner, 2.6);
    if (model.lit !== null) bold(model.lit, colours.ink, 2.6);
  }

  place.addEventListener("pointermove", (event) => {
    if (!ys) return;
    const box = place.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let least = 14;
    near = null;
    for (const [n, curve] of model.curves) {
      const i = Math.round((px - LEFT) / ((area.x(2) - area.x(1)) || 1)) + 1 - curve.first;
      const value = curve.values[Math.min(i, curve.values.length - 1)];
      if (i < 0 || i >= curve.values.length || value === null || value === undefined) continue;
      const distance = Math.abs(area.y(value) - py);
      if (distance < least) [least, near] = [distance, n];
    }
    point(near);
  });
  place.addEventListener("pointerleave", () => point(null));
  return { draw, over, refit: area.fit };
}

// ---- the score of each trial, in the order in which they ended

function scoresChart(place, model, point) {
  let places = [];
  const area = canvases(place, draw);

  function draw() {
    if (!area.width) return;
    const points = model.scored;
    places = [];
    area.clear(1);
    if (!points.length) { area.clear(0); return; }
    const sorted = points.map(([, score]) => score).sort((a, b) => a - b);
    const part = sorted.length > 8 ? 0.08 : 0;
    const at = (k) => sorted[Math.round(k * (sorted.length - 1))];
    const ys = model.maximize ? rounded(at(part), at(1)) : rounded(at(0), at(1 - part));
    const most = points.reduce((a, [n]) => Math.max(a, n), 1);
    scales(area, [0, most], ys);
    frame(area, [0, most], ys, wholeMarks(0, most));
    const pen = area.layers[0];
    pen.fillStyle = colours.blue;
    pen.globalAlpha = points.length > 300 ? 0.4 : 0.7;
    pen.beginPath();
    for (const [n, score] of points) {
      const [x, y] = [area.x(n), area.y(score)];
      places.push([n, x, y]);
      if (points.length > 300) pen.rect(x - 1.7, y - 1.7, 3.4, 3.4);
      else { pen.moveTo(x + 2.4, y); pen.arc(x, y, 2.4, 0, 7); }
    }
    pen.fill();
    pen.globalAlpha = 1;
    pen.strokeStyle = colours.winner;
    pen.lineWidth = 2;
    pen.beginPath();
    let best = null;
    for (const [n, score] of points) {
      if (best !== null && (model.maximize ? score <= best : score >= best)) continue;
      if (best === null) pen.moveTo(area.x(n), area.y(score));
      else { pen.lineTo(area.x(n), area.y(best)); pen.lineTo(area.x(n), area.y(score)); }
      best = score;
    }
    pen.lineTo(area.x(most), area.y(best));
    pen.stroke();
    over();
  }

  function over() {
    if (!area.width) return;
    area.clear(1);
    const found = model.lit === null ? null : places.find(([n]) => n === model.lit);
    if (!found) return;
    const pen = area.layers[1];
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(found[1], found[2], 5, 0, 7);
    pen.stroke();
  }

  place.addEventListener("pointermove", (event) => {
    const box = place.getBoundingClientRect();
    let least = 144, near = null;
    for (const [n, x, y] of places) {
      const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (distance < least) [least, near] = [distance, n];
    }
    point(near);
  });
  place.addEventListener("pointerleave", () => point(null));
  return { draw, over, refit: area.fit };
}

/** A small curve without axes, such as that of a running trial. */
function spark(canvas, values, colour) {
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, Math.min(devicePixelRatio || 1, 2)];
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const known = values.filter((v) => v !== null);
  if (!known.length) return;
  const low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
  const x = (i) => 3 + (i / Math.max(values.length - 1, 1)) * (width - 6);
  const y = (v) => (low === high ? height / 2 : height - 4 - ((v - low) / (high - low)) * (height - 8));
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 1.8;
  pen.lineJoin = "round";
  pen.beginPath();
  let down = false;
  values.forEach((v, i) => {
    if (v === null) { down = false; return; }
    if (down) pen.lineTo(x(i), y(v));
    else pen.moveTo(x(i), y(v));
    down = true;
  });
  pen.stroke();
  if (values[values.length - 1] !== null) {
    pen.beginPath();
    pen.arc(x(values.length - 1), y(values[values.length - 1]), 2.6, 0, 7);
    pen.fill();
  }
}
