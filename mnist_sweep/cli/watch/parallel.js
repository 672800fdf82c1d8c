// The parallel coordinates: the report's axes, with the lines on a canvas, as trials come all the time.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const AXIS_TOP = 46, AXIS_HEIGHT = 210, NONE_ROOM = 28, EDGE = 46, NARROWEST = 84;
const SHADES = 24;

function part(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function parallelChart(place, model, point, filtered) {
  const svg = part(place, "svg", { class: "axes", role: "group", "aria-label": "Parallel coordinates: a line for each trial, an axis for each hyperparameter and score" });
  let axes = [], gap = NARROWEST, made = "", lines = new Map();
  // Lines are drawn on a hidden canvas, some in each frame, which then takes the place of the other.
  const area = canvases(place, () => draw(), 3);
  let back = 0, painting = 0, again = false;

  const bottom = AXIS_TOP + AXIS_HEIGHT;
  const x = (k) => EDGE + k * gap;
  const y = (axis, height) => (height === null ? bottom + NONE_ROOM : AXIS_TOP + (axis.flip ? height : 1 - height) * AXIS_HEIGHT);

  /** The axes of the hyperparameters, with their whole domains, then those of the scores so far. */
  function makeAxes() {
    const found = model.space.map((hyperparameter, k) => axisFrom(hyperparameter, k)).filter(Boolean);
    const names = [model.metric, ...(model.order.others || [])];
    names.forEach((heading, k) => {
      const values = model.rows.map((row) => (k ? (model.order.scores[row.n] || [])[k - 1] : row.score)).filter((v) => typeof v === "number");
      if (values.length < 2) return;
      const sorted = values.sort((a, b) => a - b);
      const kind = heading.includes("accuracy") ? "error" : sorted[0] > 0 && sorted[sorted.length - 1] > 20 * sorted[0] ? "log" : "linear";
      const limits = kind === "linear" ? rounded(sorted[0], sorted[sorted.length - 1]) : { low: sorted[0], high: sorted[sorted.length - 1] };
      found.push({ heading, flip: k === 0 && !model.maximize, ...scaleOf(kind, limits.low, limits.high), of: (row) => (k ? (model.order.scores[row.n] || [])[k - 1] ?? null : row.score) });
    });
    return found;
  }

  function axisFrom(hyperparameter, k) {
    const { short: heading, axis: kind, options, values, low, high } = hyperparameter;
    const of = (row) => (row.v[k] === undefined ? null : row.v[k]);
    if (low !== undefined) {
      return { heading, of, ...scaleOf(kind, low, high), flip: false };
    }
    const known = options ? values : [...new Set(model.rows.map(of).filter((v) => v !== null))].sort();
    if (known.length < 2) return null;
    if (kind === "linear") return { heading, of, ...scaleOf("linear", Math.min(...known), Math.max(...known)), flip: false };
    const texts = options || known.map(String);
    const places = new Map(known.map((value, i) => [value, (i + 0.5) / known.length]));
    return {
      heading, of, choice: known.length, flip: false, texts,
      height: (v) => places.get(v) ?? null,
      ticks: texts.map((text, i) => [(i + 0.5) / texts.length, text]),
    };
  }

  const heightOf = (axis, row) => {
    const value = axis.of(row);
    const height = value === null || value === undefined ? null : axis.height(value);
    return height === null ? null : Math.max(0, Math.min(1, height));
  };

  function draw() {
    if (!area.width || model.rows.length < 2) return;
    const before = new Map(axes.filter((axis) => axis.range).map((axis) => [axis.heading, axis.range]));
    const next = makeAxes();
    gap = Math.max(NARROWEST, (place.parentNode.clientWidth - 2 * EDGE - 1) / Math.max(next.length - 1, 1));
    const key = JSON.stringify([next.map((axis) => [axis.heading, axis.ticks]), gap]);
    if (key !== made) {
      made = key;
      axes = next;
      for (const axis of axes) axis.range = before.get(axis.heading) || null;
      frames();
    } else {
      next.forEach((axis, k) => Object.assign(axes[k], { of: axis.of, height: axis.height }));
    }
    const width = 2 * EDGE + gap * (axes.length - 1);
    if (place.style.width !== `${width}px`) {
      place.style.width = `${width}px`;
      area.fit();
    }
    lines = new Map();
    const set = axes.filter((axis) => axis.range);
    const count = model.rows.length;
    // One stroke for each shade, the worst first.
    const shades = Array.from({ length: SHADES }, () => []);
    model.rows.forEach((row, i) => {
      const heights = axes.map((axis) => heightOf(axis, row));
      lines.set(row.n, heights);
      row.kept = set.every((axis) => keeps(axis, heights[axes.indexOf(axis)]));
      const t = row.score === null ? 0 : 1 - i / Math.max(count - 1, 1);
      if (row.kept) shades[Math.min(SHADES - 1, Math.floor(t * SHADES))].push(row.n);
    });
    if (painting) again = true;
    else paint(shades.flatMap((members, k) => members.map((n) => [n, k])), count > 300 ? 0.4 : count > 60 ? 0.65 : 0.85);
    over();
    filtered(set.length ? model.rows.filter((row) => row.kept).length : count, set.map((axis) => ({
      text: `${axis.heading}: ${about(axis)}`, clear: () => { axis.range = null; brushed(axis); },
    })));
  }

  function paint(queue, alpha, from = 0) {
    const pen = area.layers[back];
    if (from === 0) area.clear(back);
    pen.lineWidth = 1.3;
    pen.lineJoin = "round";
    pen.globalAlpha = alpha;
    let shade = -1;
    const to = Math.min(queue.length, from + LINES_PER_FRAME);
    for (let i = from; i < to; i++) {
      const [n, k] = queue[i];
      if (k !== shade) {
        if (shade >= 0) pen.stroke();
        shade = k;
        const t = k / (SHADES - 1);
        // The best stand out: dark on white, bright on black.
        pen.strokeStyle = dark.matches ? viridis(0.12 + 0.88 * t) : viridis(0.88 * (1 - t));
        pen.beginPath();
      }
      trace(pen, n);
    }
    if (shade >= 0) pen.stroke();
    painting = to < queue.length ? requestAnimationFrame(() => paint(queue, alpha, to)) : 0;
    if (painting) return;
    area.layers[back].canvas.style.visibility = "visible";
    area.layers[1 - back].canvas.style.visibility = "hidden";
    back = 1 - back;
    if (again) { again = false; draw(); }
  }

  function keeps(axis, height) {
    return height !== null && height >= axis.range[0] && height <= axis.range[1];
  }

  function about(axis) {
    const [low, high] = axis.range;
    if (axis.choice) return axis.ticks.filter(([height]) => height >= low && height <= high).map(([, text]) => text).join(", ") || "none";
    return `${number(axis.at(Math.max(0, low)))} to ${number(axis.at(Math.min(1, high)))}`;
  }

  function trace(pen, n) {
    const heights = lines.get(n);
    if (!heights) return;
    axes.forEach((axis, k) => {
      // Lines through the same option are spread a little to keep them apart.
      const room = heights[k] === null ? 8 : axis.choice ? Math.min(14, (0.4 / axis.choice) * AXIS_HEIGHT) : 0;
      const at = y(axis, heights[k]) + (((n * 0.618) % 1) - 0.5) * room;
      if (k) pen.lineTo(x(k), at);
      else pen.moveTo(x(k), at);
    });
  }

  function over() {
    if (!area.width) return;
    area.clear(2);
    if (model.lit === null || !lines.has(model.lit)) return;
    const pen = area.layers[2];
    pen.lineJoin = "round";
    for (const [colour, width] of [[colours.card, 7], [colours.accent, 3.2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      trace(pen, model.lit);
      pen.stroke();
    }
  }

  // ---- the axes

  function frames() {
    svg.replaceChildren();
    const width = 2 * EDGE + gap * (axes.length - 1), height = bottom + NONE_ROOM + 16;
    for (const [name, value] of [["width", width], ["height", height], ["viewBox", `0 0 ${width} ${height}`]]) svg.setAttribute(name, value);
    place.style.height = `${height}px`;
    const last = axes.length - 1;
    const inOneLine = axes.every((one) => 7.2 * (one.heading.length + 2) < 0.9 * gap);
    axes.forEach((axis, k) => {
      const group = part(svg, "g", { transform: `translate(${x(k)} 0)` });
      part(group, "line", { class: "axis", y1: AXIS_TOP, y2: bottom });
      for (const [at, text] of axis.ticks) {
        const mark = part(group, "text", { x: k === last ? -5 : 5, y: y(axis, at) + 4, "text-anchor": k === last ? "end" : "start" }, text.length > 11 ? `${text.slice(0, 10)}…` : text);
        part(mark, "title", {}, text);
      }
      if (model.space.some((one) => one.when && one.short === axis.heading)) part(group, "text", { class: "none", y: bottom + NONE_ROOM + 4, "text-anchor": "middle" }, "–");
      const name = part(group, "text", { class: "name", y: k % 2 && !inOneLine ? AXIS_TOP - 32 : AXIS_TOP - 14, x: k === 0 ? -EDGE + 6 : k === last ? EDGE - 6 : 0, "text-anchor": k === 0 ? "start" : k === last ? "end" : "middle" }, axis.heading);
      part(name, "title", {}, axis.heading);
      const zone = part(group, "rect", { class: "zone", x: -15, y: AXIS_TOP - 6, width: 30, height: AXIS_HEIGHT + 12 });
      axis.brush = part(group, "rect", { class: "brush", x: -9, width: 18, rx: 2 });
      drags(zone, axis);
      showBrush(axis);
    });
  }

  function showBrush(axis) {
    axis.brush.setAttribute("visibility", axis.range ? "visible" : "hidden");
    if (!axis.range) return;
    const ends = axis.range.map((height) => y(axis, Math.max(0, Math.min(1, height))));
    axis.brush.setAttribute("y", Math.min(...ends));
    axis.brush.setAttribute("height", Math.max(Math.abs(ends[0] - ends[1]), 1));
  }

  let drawing = 0;
  function brushed(axis) {
    showBrush(axis);
    // At most once per frame, however fast the pointer moves.
    drawing ||= requestAnimationFrame(() => { drawing = 0; draw(); });
  }

  function drags(zone, axis) {
    // Lets a finger drag instead of scrolling.
    zone.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    let from = null, moved = false;
    const at = (event) => {
      const pixel = event.clientY - svg.getBoundingClientRect().top;
      return axis.flip ? (pixel - AXIS_TOP) / AXIS_HEIGHT : (bottom - pixel) / AXIS_HEIGHT;
    };
    zone.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      zone.setPointerCapture(event.pointerId);
      [from, moved] = [at(event), false];
    });
    zone.addEventListener("pointermove", (event) => {
      if (from === null) return;
      moved ||= Math.abs(at(event) - from) > 0.015;
      if (!moved) return;
      axis.range = [from, at(event)].sort((a, b) => a - b);
      brushed(axis);
    });
    zone.addEventListener("pointerup", () => {
      if (from !== null && !moved) { axis.range = null; brushed(axis); }
      from = null;
    });
    zone.addEventListener("pointercancel", () => (from = null));
  }

  place.addEventListener("pointermove", (event) => {
    if (event.buttons || !axes.length) return;
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const k = Math.max(0, Math.min(axes.length - 2, Math.floor((px - EDGE) / gap)));
    const along = Math.max(0, Math.min(1, (px - x(k)) / gap));
    let found = null, least = 9;
    for (const row of model.rows) {
      const heights = lines.get(row.n);
      if (!heights || !row.kept) continue;
      const left = y(axes[k], heights[k]);
      const distance = Math.abs(left + along * (y(axes[k + 1], heights[k + 1]) - left) - py);
      if (distance <= least) [found, least] = [row.n, distance];
    }
    point(found);
  });
  place.addEventListener("pointerleave", () => point(null));
  new ResizeObserver(() => draw()).observe(place.parentNode);
  return { draw, over };
}
