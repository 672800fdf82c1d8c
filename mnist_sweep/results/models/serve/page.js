// Sends the drawing to the server, and shows the answer.

import { DrawingCanvas } from "./canvas.js";

const byId = (id) => document.getElementById(id);
const canvas = new DrawingCanvas(byId("canvas"), byId("cursor"));
const MOST_BARS = 12;
const NO_SERVER = "The server does not respond. Is it still running?";

let about = null;      // what the server reports about its models
let asking = false;    // one request at a time: what is drawn meanwhile makes one more request, not a queue
let again = false;
let shown = null;      // the answer that is shown; null for none
let announcing = 0;    // the timer of the announcement

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const percent = (p) => {
  // Not rounded to 100 % unless it is certain.
  return `${p >= 0.9995 && p < 1 ? "> 99.9" : (100 * p).toFixed(1)} %`;
};

// ---- asking -------------------------------------------------------------------------------------------------------

async function ask() {
  again = true;
  if (asking) return;
  asking = true;
  byId("answer").ariaBusy = "true";  // the answer shown is to an earlier drawing
  while (again) {
    again = false;
    await askOnce();
  }
  asking = false;
  byId("answer").ariaBusy = String(!about?.ready);
}

async function askOnce() {
  if (canvas.empty) show(null);
  if (canvas.empty || !about?.ready) return;
  try {
    const body = await canvas.blob();
    const response = await fetch("predict", { method: "POST", headers: { "Content-Type": body.type }, body });
    const answer = await response.json();
    if (response.ok) show(canvas.empty ? null : answer);
    else showError(answer.error);
  } catch {
    showError(NO_SERVER);
  }
}

async function watch() {
  let before = "";
  for (;;) {
    try {
      about = await (await fetch("about")).json();
      const now = JSON.stringify(about);
      if (now !== before) {
        before = now;
        showAbout();
        ask();
      }
      if (about.complete) return;
    } catch {
      before = "";
      showError(NO_SERVER);
    }
    await new Promise((done) => setTimeout(done, 400));
  }
}

// ---- showing ------------------------------------------------------------------------------------------------------

function showAbout() {
  const digits = about.drawn && about.classes === 10;
  const [height, width, channels] = about.shape;
  const size = `${height} × ${width}`;
  byId("title").textContent = digits ? "Draw a digit" : "Draw something that the model knows";
  document.title = `${byId("title").textContent} – mnist_sweep`;
  const right = (p) => `${(100 * p).toFixed(1)} %`;
  const scores = [
    about.validation_accuracy === null ? "" : `${right(about.validation_accuracy)} of the validation images right`,
    about.test_accuracy === null ? "" : `${right(about.test_accuracy)} of the test images right`,
  ].filter(Boolean);
  const trial = about.confirms === null ? `Trial ${about.trial}` : `Trial ${about.trial} (trial ${about.confirms} retrained on a new seed)`;
  byId("card").replaceChildren(
    element("span", {}, `${trial} of ${about.sweep}${scores.length ? `: ${scores.join(", ")}` : ""}.`),
    element("span", {}, `Trained on ${about.data}: ${about.training_images.toLocaleString("en")} images of ${size}` +
      `${channels > 1 ? ` × ${channels}` : ""}, ${about.classes} classes${digits ? "" : `, 0 to ${about.classes - 1}`}.`),
  );
  const seen = byId("seen");
  if (seen.width !== width) [seen.width, seen.height] = [width, height];
  const bars = byId("bars");
  if (bars.childElementCount === 0) {
    for (let i = 0; i < Math.min(about.classes, MOST_BARS); i++) {
      bars.append(element("li", {},
        element("span", { className: "name" }, String(i)),
        element("span", { className: "bar" }, element("span", { className: "fill" })),
        element("span", { className: "value" })));
    }
  }
  const rows = [];
  for (let i = 1; i < about.expected; i++) {
    const model = about.models[i];
    rows.push(element("li", { className: model ? "" : "loading" },
      element("span", { className: "says" }, model ? "–" : "…"),
      element("b", {}, model ? model.name : "loading…"),
      element("span", { className: "mark" }),
      element("span", { className: "about" }, model ? model.about : "")));
  }
  if (rows.length === 0) rows.push(element("li", { className: "none" }, "This sweep has no other model."));
  byId("others").replaceChildren(...rows);
}

function show(answer) {
  shown = answer;
  document.body.classList.toggle("answered", answer !== null);
  byId("hint").hidden = !canvas.empty;
  byId("undo").disabled = !canvas.canUndo;
  byId("clear").disabled = canvas.empty;
  byId("digit").textContent = answer ? answer.digit : "?";
  byId("sure").textContent = answer ? percent(answer.probability) : about?.ready ? "Nothing yet" : "Loading the model…";
  byId("agreement").textContent = answer ? agreement(answer) : about?.ready ? "The answer appears while you draw." : "You can already draw.";
  showBars(answer);
  showSeen(answer);
  showOthers(answer);
  showDoubts(answer);
  announce(answer);
}

function agreement(answer) {
  const others = answer.models.slice(1);
  const against = others.filter((model) => !model.agrees).length;
  if (others.length === 0) return "";
  if (against === 0) return others.length === 1 ? "The runner-up agrees." : `All ${others.length} runners-up agree.`;
  return `${against} of ${others.length} runners-up ${against === 1 ? "disagrees" : "disagree"}.`;
}

function showBars(answer) {
  const rows = [...byId("bars").children];
  const p = answer?.probabilities ?? [];
  // With more classes than bars, the most likely ones are shown.
  const few = about === null || about.classes <= MOST_BARS;
  const classes = few ? rows.map((_, i) => i) : p.map((_, i) => i).sort((a, b) => p[b] - p[a]);
  rows.forEach((row, i) => {
    const label = answer || few ? classes[i] : "";
    row.classList.toggle("best", answer !== null && label === answer.digit);
    row.querySelector(".name").textContent = label;
    row.querySelector(".fill").style.transform = `scaleX(${answer ? p[label] : 0})`;
    row.querySelector(".value").textContent = answer ? percent(p[label]) : "";
  });
}

function showSeen(answer) {
  const canvas = byId("seen");
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!answer) return;
  const pixels = context.createImageData(canvas.width, canvas.height);
  answer.image.flat().forEach((pixel, i) => {
    const [red, green, blue] = Array.isArray(pixel) ? pixel : [pixel, pixel, pixel];
    pixels.data.set([red, green, blue, 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

function showOthers(answer) {
  [...byId("others").children].forEach((row, i) => {
    const model = answer?.models[i + 1];
    if (row.className === "none" || row.className === "loading") return;
    row.classList.toggle("against", Boolean(model) && !model.agrees);
    row.querySelector(".says").textContent = model ? model.digit : "–";
    row.querySelector(".mark").textContent =
      model ? `${model.agrees ? "✓ agrees" : "≠ disagrees"}, ${percent(model.probability)}` : "";
  });
}

function showDoubts(answer) {
  const list = (title, lines, className) => lines.length === 0 ? [] : [element("div", { className },
    element("h2", {}, title), element("ul", {}, ...lines.map((line) => element("li", {}, line))))];
  byId("notes").textContent = (answer?.notes ?? []).join("; ");
  byId("doubts").replaceChildren(...list("Why this may be wrong", answer?.doubts ?? [], "why"));
}

function showError(text) {
  show(null);
  byId("sure").textContent = "No answer";
  byId("agreement").textContent = text;
  byId("announcement").textContent = text;
}

// For screen readers: announces an answer that has not changed for a while.
function announce(answer) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    byId("announcement").textContent = answer === null ? "" :
      [`This looks like ${answer.digit}, ${percent(answer.probability)}.`, agreement(answer), ...answer.doubts].join(" ");
  }, 700);
}

// ---- controls -----------------------------------------------------------------------------------------------------

async function open(file) {
  if (!file) return;
  try {
    await canvas.open(file);
  } catch {
    showError("This browser cannot open that file as an image.");
  }
}

for (const name of ["change", "end"]) {
  canvas.addEventListener(name, () => {
    if (shown === null) show(null);
    byId("undo").disabled = !canvas.canUndo;
    byId("clear").disabled = canvas.empty;
    ask();
  });
}
byId("undo").addEventListener("click", () => canvas.undo());
byId("clear").addEventListener("click", () => canvas.clear());
byId("brush").addEventListener("input", (event) => {
  canvas.brush = Number(event.target.value);
  canvas.draw();
});
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = "";  // otherwise the same file could not be opened again
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => open(event.clipboardData.files[0]));

// Removes a token from the address, so that it is not copied by accident. The browser has a cookie now.
if (location.search) history.replaceState(null, "", location.pathname);
watch();
