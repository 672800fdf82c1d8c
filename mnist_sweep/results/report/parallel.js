// The parallel coordinates, as inline SVG. Plotly would add 4.7 MB to every report, and it needs WebGL.
// Each value has a height between 0 and 1 on its axis. Ranges are in these heights, even if the axis is flipped.

const SVG = "http://www.w3.org/2000/svg";
const TOP = 58, HEIGHT = 220, NONE = 30, EDGE = 46, NARROWEST = 84, GRIP = 7;

function element(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function parallel() {
  const axes = data.columns.filter((column) => column.axis).map(axisOf);
  // The scores come last.
  axes.push(...axes.splice(0, data.objectives));
  // Three layers, so that highlighting a line does not repaint all others.
  const layers = chart.appendChild(Object.assign(document.createElement("div"), { className: "layers" }));
  const ghosts = element(layers, "svg", { class: "ghosts", "aria-hidden": "true" });
  const ghost = element(ghosts, "path");
  const trials = element(layers, "svg", { class: "trials", "aria-hidden": "true" });
  const svg = element(layers, "svg", {
    class: "axes", role: "group",
    "aria-label": "Parallel coordinates: a line for each trial, an axis for each hyperparameter and score",
  });
  const ground = element(svg, "path", { class: "ground", "aria-hidden": "true" });
  const bright = element(svg, "path", { class: "lit", "aria-hidden": "true" });
  const frames = element(svg, "g");
  // The best are drawn last, on top of the others.
  const order = [...Array(size).keys()].sort((a, b) => (data.colour[a] ?? -1) - (data.colour[b] ?? -1));
  const paths = [];
  for (const i of order) {
    const path = (paths[i] = element(trials, "path"));
    const t = data.colour[i];
    // The best stand out: dark on white, bright on black.
    path.style.setProperty("--day", t === null ? "#9aa3ad" : viridis(0.88 * (1 - t)));
    path.style.setProperty("--night", t === null ? "#59636e" : viridis(0.12 + 0.88 * t));
  }
  trials.style.setProperty("--strength", size > 300 ? 0.4 : size > 60 ? 0.65 : 0.85);
  const bottom = TOP + HEIGHT;
  let gap = NARROWEST;
  let moving = null;

  const x = (k) => (moving && axes[k] === moving.axis ? moving.x : EDGE + k * gap);
  const y = (axis, height) => (height === null ? bottom + NONE : TOP + (axis.flip ? height : 1 - height) * HEIGHT);
  const heightAt = (axis, pixel) => (axis.flip ? pixel - TOP : bottom - pixel) / HEIGHT;

  function line(i) {
    return axes.map((axis, k) => {
      // Lines through the same option are spread a little to keep them apart.
      const room = axis.heights[i] === null ? 8 : axis.choice ? Math.min(14, 0.4 * axis.step * HEIGHT) : 0;
      const fan = (((i * 0.618) % 1) - 0.5) * room;
      return `${k ? "L" : "M"}${x(k).toFixed(1)} ${(y(axis, axis.heights[i]) + fan).toFixed(1)}`;
    }).join("");
  }

  function draw() {
    gap = Math.max(NARROWEST, (chart.clientWidth - 2 * EDGE - 1) / Math.max(axes.length - 1, 1));
    const width = 2 * EDGE + gap * (axes.length - 1);
    const height = bottom + NONE + 18;
    for (const layer of [ghosts, trials, svg]) {
      layer.setAttribute("width", width);
      layer.setAttribute("height", height);
      layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }
    const lines = paths.map((path, i) => line(i));
    lines.forEach((d, i) => paths[i].setAttribute("d", d));
    ghost.setAttribute("d", lines.join(""));
    axes.forEach((axis, k) => place(axis, k));
    brighten(lit);
  }

  // ---- an axis: its frame, made once, and its place

  function frame(axis) {
    const group = (axis.group = element(frames, "g"));
    element(group, "line", { class: "axis", y1: TOP, y2: bottom });
    axis.marks = axis.ticks.map(([, text]) => {
      const mark = element(group, "text", { "aria-hidden": "true" }, text.length > 11 ? `${text.slice(0, 10)}…` : text);
      element(mark, "title", {}, text);
      return mark;
    });
    const zone = element(group, "rect", { class: "zone", x: -15, y: TOP - 6, width: 30, height: HEIGHT + 12 + (axis.hasNone ? NONE : 0) });
    axis.brush = element(group, "rect", { class: "brush", x: -9, width: 18, rx: 2 });
    if (axis.hasNone) {
      axis.noneMark = element(group, "text", {
        class: "none", y: bottom + NONE + 4, "text-anchor": "middle", tabindex: 0, role: "checkbox",
        "aria-label": `only trials without ${axis.heading}`,
      }, "–");
      axis.noneMark.addEventListener("click", () => onlyNone(axis));
      axis.noneMark.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        onlyNone(axis);
      });
    }
    axis.handles = ["lower", "upper"].map((which, end) => {
      const handle = element(group, "rect", {
        class: "handle", x: -11, width: 22, height: 5, rx: 2, tabindex: 0, role: "slider", "aria-orientation": "vertical",
        "aria-label": `${axis.heading}, ${which} limit`, "aria-valuemin": 0, "aria-valuemax": 100,
      });
      handle.addEventListener("keydown", (event) => pressed(axis, end, event));
      return handle;
    });
    axis.name = element(group, "text", {
      class: "name", tabindex: 0, role: "button",
      "aria-label": `${axis.heading}: Enter flips the axis, the left and right arrow keys move it`,
    });
    axis.name.addEventListener("keydown", (event) => named(axis, event));
    drags(zone, axis);
    moves(axis);
  }

  function place(axis, k) {
    axis.group.setAttribute("transform", `translate(${x(k)} 0)`);
    const last = axes.length - 1;
    axis.marks.forEach((mark, j) => {
      mark.setAttribute("y", y(axis, axis.ticks[j][0]) + 4);
      mark.setAttribute("x", k === last ? -5 : 5);
      mark.setAttribute("text-anchor", k === last ? "end" : "start");
    });
    // Long names alternate between two lines, so that each has twice the room.
    const inOneLine = axes.every((one) => 7.2 * (one.heading.length + 2) < 0.65 * gap);
    const most = Math.floor((k === 0 || k === last ? 1.15 * gap + EDGE : 1.9 * gap) / 7.2);
    const text = axis.heading.length > most ? `…${axis.heading.slice(1 - most)}` : axis.heading;
    axis.name.textContent = text + (axis.flip ? " ↓" : "");
    element(axis.name, "title", {}, axis.heading);
    axis.name.setAttribute("y", k % 2 && !inOneLine ? TOP - 36 : TOP - 16);
    axis.name.setAttribute("x", k === 0 ? -EDGE + 6 : k === last ? EDGE - 6 : 0);
    axis.name.setAttribute("text-anchor", k === 0 ? "start" : k === last ? "end" : "middle");
    showBrush(axis);
  }

  function showBrush(axis) {
    const [low, high] = axis.range || [0, 1];
    const ends = [y(axis, Math.max(0, low)), y(axis, Math.min(1, high))];
    const empty = !axis.range || low > high;
    axis.brush.setAttribute("y", Math.min(...ends));
    axis.brush.setAttribute("height", empty ? 0 : Math.max(Math.abs(ends[0] - ends[1]), 1));
    axis.brush.setAttribute("visibility", empty ? "hidden" : "visible");
    axis.handles.forEach((handle, end) => {
      handle.setAttribute("y", y(axis, Math.max(0, Math.min(1, axis.range ? axis.range[end] : end))) - 2.5);
      handle.classList.toggle("set", !empty);
      handle.setAttribute("aria-valuenow", Math.round(100 * Math.max(0, Math.min(1, axis.range ? axis.range[end] : end))));
      handle.setAttribute("aria-valuetext", about(axis));
    });
    if (axis.noneMark) {
      axis.noneMark.classList.toggle("set", Boolean(axis.range && axis.none));
      axis.noneMark.setAttribute("aria-checked", String(Boolean(empty && axis.range && axis.none)));
    }
  }

  function about(axis) {
    if (!axis.range) return "all";
    const parts = axis.range[0] <= axis.range[1] ? [axis.about(...axis.range)] : [];
    if (axis.none) parts.push("–");
    return parts.join(" or ") || "none";
  }

  // ---- brushes

  let drawing = 0;
  function brushed(axis) {
    if (axis.range && axis.range[0] <= 0 && axis.range[1] >= 1 && (axis.none || !axis.hasNone)) axis.range = null;
    showBrush(axis);
    // At most once per frame, however fast the pointer moves.
    drawing ||= requestAnimationFrame(() => {
      drawing = 0;
      const set = axes.filter((one) => one.range);
      const before = shown.slice();
      filter((i) => set.every((one) => passes(one, i)), set.map((one) => ({
        text: `${one.heading}: ${about(one)}`,
        clear: () => clear(one),
      })));
      ghosts.classList.toggle("set", set.length > 0);
      for (let i = 0; i < size; i++) if (before[i] !== shown[i]) paths[i].classList.toggle("out", !shown[i]);
    });
  }

  function clear(axis) {
    axis.range = null;
    axis.none = false;
    brushed(axis);
  }

  function onlyNone(axis) {
    const already = axis.range && axis.none && axis.range[0] > axis.range[1];
    if (already) return clear(axis);
    axis.range = [1, 0];
    axis.none = true;
    brushed(axis);
  }

  /** Lets a finger drag instead of scrolling: `touch-action` does not work for parts of an SVG. */
  function held(part) {
    part.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  }

  function drags(zone, axis) {
    held(zone);
    let from = null, start = null, mode = "", moved = false;
    const pixel = (event) => event.clientY - svg.getBoundingClientRect().top;
    zone.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      zone.setPointerCapture(event.pointerId);
      from = pixel(event);
      moved = false;
      start = axis.range && axis.range[0] <= axis.range[1] ? [...axis.range] : null;
      const ends = start ? start.map((height) => y(axis, height)) : [];
      mode = "new";
      if (start && from > Math.min(...ends) - GRIP && from < Math.max(...ends) + GRIP) mode = "whole";
      if (start) ends.forEach((end, i) => { if (Math.abs(from - end) <= GRIP) mode = i ? "upper" : "lower"; });
    });
    zone.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = pixel(event);
      moved ||= Math.abs(to - from) > 3;
      if (!moved) return;
      const by = heightAt(axis, to) - heightAt(axis, from);
      const wide = start ? start[1] - start[0] : 0;
      if (mode === "new") {
        axis.range = [heightAt(axis, from), heightAt(axis, to)].sort((a, b) => a - b);
        axis.none = axis.hasNone && Math.max(from, to) > bottom + NONE / 2;
        if (Math.min(from, to) > bottom) axis.range = [1, 0];
      } else if (mode === "whole") {
        const low = Math.max(0, Math.min(1 - wide, start[0] + by));
        axis.range = [low, low + wide];
      } else {
        axis.range = (mode === "lower" ? [start[0] + by, start[1]] : [start[0], start[1] + by]).sort((a, b) => a - b);
      }
      brushed(axis);
    });
    const end = () => {
      if (from !== null && !moved) clear(axis);
      from = null;
    };
    zone.addEventListener("pointerup", end);
    zone.addEventListener("pointercancel", () => (from = null));
  }

  function pressed(axis, end, event) {
    if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") {
      event.preventDefault();
      return clear(axis);
    }
    const up = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 4, PageDown: -4, Home: -99, End: 99 }[event.key];
    if (!up) return;
    event.preventDefault();
    const range = axis.range && axis.range[0] <= axis.range[1] ? [...axis.range] : [0, 1];
    if (!axis.range) axis.none = axis.hasNone;
    const steps = event.key.startsWith("Arrow") && axis.flip && event.key !== "ArrowRight" && event.key !== "ArrowLeft" ? -up : up;
    // Below the lowest value of an axis is the place for trials without a value.
    if (end === 0 && steps > 0 && range[0] <= 0 && axis.none) axis.none = false;
    else if (end === 0 && steps < 0 && range[0] <= 0) axis.none = axis.hasNone;
    else {
      range[end] += steps * axis.step;
      range[end] = end ? Math.max(range[0], Math.min(1, range[1])) : Math.min(range[1], Math.max(0, range[0]));
    }
    axis.range = range.map((height) => Number(height.toFixed(9)));
    brushed(axis);
  }

  // ---- the names of the axes: clicks flip the axis, drags move it

  function shift(axis, to) {
    const from = axes.indexOf(axis);
    const target = Math.max(0, Math.min(axes.length - 1, to));
    axes.splice(target, 0, ...axes.splice(from, 1));
  }

  function named(axis, event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") axis.flip = !axis.flip;
    else if (by) shift(axis, axes.indexOf(axis) + by);
    else return;
    event.preventDefault();
    draw();
    if (by) {
      // The Tab key goes from left to right.
      for (const one of axes) if (one !== axis) (axes.indexOf(one) < axes.indexOf(axis) ? axis.group.before(one.group) : frames.append(one.group));
    }
  }

  function moves(axis) {
    held(axis.name);
    let from = null;
    axis.name.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      axis.name.setPointerCapture(event.pointerId);
      from = event.clientX;
    });
    axis.name.addEventListener("pointermove", (event) => {
      if (from === null || (!moving && Math.abs(event.clientX - from) < 6)) return;
      const k = axes.indexOf(axis);
      moving = { axis, x: EDGE + k * gap };
      const at = event.clientX - svg.getBoundingClientRect().left;
      shift(axis, Math.round((at - EDGE) / gap));
      moving.x = Math.max(EDGE, Math.min(EDGE + (axes.length - 1) * gap, at));
      requestAnimationFrame(draw);
    });
    const end = (turn) => () => {
      if (from === null) return;
      if (!moving && turn) axis.flip = !axis.flip;
      from = moving = null;
      draw();
    };
    axis.name.addEventListener("pointerup", end(true));
    axis.name.addEventListener("pointercancel", end(false));
  }

  // ---- one line

  function why(cell) {
    const reason = cell.classList.contains("status") && cell.firstElementChild.title;
    return reason ? ` (${reason})` : "";
  }

  function brighten(i) {
    const path = i === null ? "" : line(i);
    ground.setAttribute("d", path);
    bright.setAttribute("d", path);
    const cells = i === null ? [] : [...rows[i].cells];
    document.getElementById("readout").textContent = i === null
      ? "Hover over a line, or over a row of the leaderboard."
      : data.columns.map((column, k) => `${column.heading} ${cells[k].textContent.trim()}${why(cells[k])}`).join(" · ");
  }

  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const k = Math.max(0, Math.min(axes.length - 2, Math.floor((px - EDGE) / gap)));
    const part = Math.max(0, Math.min(1, (px - x(k)) / gap));
    let found = null, least = 9;
    for (const i of order) {
      if (!shown[i]) continue;
      const left = y(axes[k], axes[k].heights[i]);
      const distance = Math.abs(left + part * (y(axes[k + 1], axes[k + 1].heights[i]) - left) - py);
      if (distance <= least) [found, least] = [i, distance];
    }
    return found;
  }

  svg.addEventListener("pointermove", (event) => { if (!event.buttons) light(nearest(event)); });
  svg.addEventListener("pointerleave", () => light(null));
  svg.addEventListener("click", (event) => {
    const i = event.target === svg ? nearest(event) : null;
    if (i !== null) goTo(i);
  });
  document.getElementById("clear").addEventListener("click", () => axes.forEach(clear));
  listeners.push(brighten);
  axes.forEach(frame);
  draw();
  let width = chart.clientWidth;
  new ResizeObserver(() => {
    if (chart.clientWidth !== width) {
      width = chart.clientWidth;
      draw();
    }
  }).observe(chart);
}

if (chart) parallel();
