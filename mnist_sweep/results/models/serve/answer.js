// Shows an answer: what was predicted, how sure that is, and what the runners-up say.

import { byId, element, percent, rounded } from "./dom.js";

const MOST_BARS = 12;
const LONG = 2;  // the characters of a class's name that fit at the size of a digit

let about = null;
let empty = ["Nothing yet", ""];  // what is said while there is nothing to answer
let announcing = 0;  // the timer of the announcement

export function setUp(found, hints) {
  about = found;
  empty = hints;
  document.body.dataset.predicts = about.predicts;
  if (about.shape) {
    const [height, width] = about.shape;
    const seen = byId("seen");
    if (seen.width !== width || seen.height !== height) [seen.width, seen.height] = [width, height];
  }
  byId("figure").hidden = !about.shape;
  const bars = byId("bars");
  if (bars.childElementCount === 0 && !(about.predicts === "numbers" && about.names.length === 1)) {
    for (const name of about.names.slice(0, MOST_BARS)) {
      bars.append(element("li", {},
        element("span", { className: "name", title: name }, name),
        element("span", { className: "bar" }, element("span", { className: "fill" })),
        element("span", { className: "value" })));
    }
  }
  bars.classList.toggle("named", about.named || about.predicts !== "classes");
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

// `answer` is null if there is none. For rows, it is the one to the only row, with the notes and the models.
export function show(answer) {
  document.body.classList.toggle("answered", answer !== null);
  const said = answer ? answer.models[0].says : "?";
  const digit = byId("digit");
  digit.textContent = said;
  // Several numbers are in the list below.
  digit.hidden = Boolean(answer?.values) && about.names.length > 1;
  digit.classList.toggle("word", digit.textContent.length > LONG);
  byId("sure").textContent = answer ? sure(answer) : about?.ready ? empty[0] : "Loading the model…";
  byId("agreement").textContent = answer ? agreement(answer) : about?.ready ? empty[1] : "";
  showBars(answer);
  if (about?.shape) showSeen(answer);
  showOthers(answer);
  showDoubts(answer);
  announce(answer);
}

function sure(answer) {
  if (answer.class !== undefined) return percent(answer.probability);
  if (answer.labels) return `${answer.labels.length} of ${about.names.length} labels`;
  if (answer.values) return about.named && about.names.length === 1 ? about.names[0] : "Predicted";
  return "Ask for it from a program";
}

function agreement(answer) {
  const others = answer.models.slice(1).filter((model) => model.agrees !== null);
  const against = others.filter((model) => !model.agrees).length;
  if (others.length === 0) return "";
  if (others.length === 1) return `The runner-up ${against ? "disagrees" : "agrees"}.`;
  if (against === 0) return `All ${others.length} runners-up agree.`;
  return `${against} of ${others.length} runners-up ${against === 1 ? "disagrees" : "disagree"}.`;
}

function showBars(answer) {
  const rows = [...byId("bars").children];
  const values = answer?.values ? about.names.map((name) => answer.values[name]) : answer?.probabilities ?? [];
  // With more classes than bars, the most likely ones are shown.
  const few = about === null || about.names.length <= MOST_BARS;
  const order = few ? rows.map((_, i) => i) : values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  rows.forEach((row, i) => {
    const name = answer || few ? about.names[order[i]] : "";
    const value = values[order[i]];
    const best = answer?.labels ? answer.labels.includes(name) : answer?.class === name;
    row.classList.toggle("best", Boolean(best));
    row.querySelector(".name").textContent = name;
    row.querySelector(".name").title = name;
    row.querySelector(".fill").style.transform = `scaleX(${answer && !answer.values ? value : 0})`;
    row.querySelector(".value").textContent = !answer ? "" : answer.values ? rounded(value) : percent(value);
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
    row.classList.toggle("against", model?.agrees === false);
    row.querySelector(".says").textContent = model ? model.says : "–";
    row.querySelector(".says").classList.toggle("word", Boolean(model) && model.says.length > LONG);
    const agrees = !model || model.agrees === null ? "" : model.agrees ? "✓ agrees" : "≠ disagrees";
    const how = model?.probability === undefined ? "" : percent(model.probability);
    row.querySelector(".mark").textContent = [agrees, how].filter(Boolean).join(", ");
  });
}

function showDoubts(answer) {
  const list = (title, lines, className) => lines.length === 0 ? [] : [element("div", { className },
    element("h2", {}, title), element("ul", {}, ...lines.map((line) => element("li", {}, line))))];
  const form = answer && answer.doubts === undefined;
  byId("notes").textContent = form ? "" : (answer?.notes ?? []).join("; ");
  // What a row has that no row had in training is a reason to doubt the answer.
  byId("doubts").replaceChildren(...list("Why this may be wrong", (form ? answer.notes : answer?.doubts) ?? [], "why"));
}

export function showError(text) {
  show(null);
  byId("sure").textContent = "No answer";
  byId("agreement").textContent = text;
  byId("announcement").textContent = text;
}

// For screen readers: announces an answer that has not changed for a while.
function announce(answer) {
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    if (answer === null) {
      byId("announcement").textContent = "";
      return;
    }
    const likely = answer.class === undefined ? "" : `, ${percent(answer.probability)}`;
    const text = about.shape ? `This looks like ${answer.models[0].says}` : `The prediction is ${answer.models[0].says}`;
    byId("announcement").textContent =
      [`${text}${likely}.`, agreement(answer), ...(answer.doubts ?? answer.notes)].join(" ");
  }, 700);
}
