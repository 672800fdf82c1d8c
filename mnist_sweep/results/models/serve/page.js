// Sends what users draw, open or fill in to the server, and shows the answer.

import { setUp, show, showError } from "./answer.js";
import { Arrays } from "./arrays.js";
import { byId, element, rounded } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Form } from "./form.js";
import { Picture } from "./picture.js";

const SOURCES = { drawing: Drawing, picture: Picture, form: Form, arrays: Arrays };
const NO_SERVER = "The server does not respond. Is it still running?";

let about = null;      // what the server reports about its models
let source = null;     // what users give the models
let asking = false;    // one request at a time: what changes meanwhile makes one more request, not a queue
let again = false;

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
  if (source.empty) show(null);
  if (source.empty || !about.ready) return;
  try {
    const { type, body } = await source.request();
    const response = await fetch("predict", { method: "POST", headers: { "Content-Type": type }, body });
    const answer = await response.json();
    if (!response.ok) showError(answer.error);
    else show(source.empty ? null : flat(answer));
  } catch {
    showError(NO_SERVER);
  }
}

// The answer to a single row as that to an image.
function flat(answer) {
  if (!answer.predictions) return answer;
  const many = { ...answer.predictions[0], models: [{ says: `${answer.predictions.length} rows` }] };
  return { ...answer.predictions[0], notes: answer.notes, models: answer.models ?? many.models };
}

async function watch() {
  let before = "";
  for (;;) {
    try {
      about = await (await fetch("about")).json();
      source ??= await started();
      const now = JSON.stringify(about);
      if (now !== before) {
        before = now;
        showCard();
        setUp(about, source.hints);
        ask();
      }
      if (about.complete) return;
    } catch {
      before = "";
      if (about) showError(NO_SERVER);
    }
    await new Promise((done) => setTimeout(done, 400));
  }
}

// ---- what users give ----------------------------------------------------------------------------------------------

async function started() {
  const inputs = await (await fetch("inputs")).json();
  const Source = SOURCES[about.takes];
  byId(Source.section).hidden = false;
  document.body.dataset.takes = about.takes;
  const made = new Source(about, ask, showError, inputs);
  byId("title").textContent = made.title;
  document.title = `${made.title} – mnist_sweep`;
  byId("command").textContent = commandFor(inputs);
  made.update();
  return made;
}

function commandFor(inputs) {
  const url = new URL("predict", location.href).href.split("?")[0];
  const json = (body) => `curl -H 'Content-Type: application/json' -d '${body.replaceAll("'", "'\\''")}' ${url}`;
  if (about.shape) return `curl -H 'Content-Type: image/png' --data-binary @picture.png ${url}`;
  if (inputs.fields) return json(JSON.stringify({ rows: inputs.examples.slice(0, 1) }));
  return inputs.example === null ? json(`{"${inputs.inputs[0].name}": [[…]]}`) : json(JSON.stringify(inputs.example));
}

function showCard() {
  const names = { val_accuracy: "validation", test_accuracy: "test" };
  const scores = Object.entries(about.scores).map(([name, value]) =>
    names[name] ? `${(100 * value).toFixed(1)} % of the ${names[name]} ${about.rows} right` : `${name} ${rounded(value)}`);
  const trial = about.confirms === null ? `Trial ${about.trial}` : `Trial ${about.trial} (trial ${about.confirms} retrained on a new seed)`;
  const size = about.shape ? ` of ${about.shape.slice(0, about.shape[2] > 1 ? 3 : 2).join(" × ")}` : "";
  const [one, several] = { classes: ["class", "classes"], labels: ["label", "labels"], numbers: ["number", "numbers"] }[about.predicts];
  const count = about.names.length;
  const range = about.named ? `: ${shortened(about.names)}` : about.predicts === "classes" && count !== 10 ? `, 0 to ${count - 1}` : "";
  byId("card").replaceChildren(
    element("span", {}, `${trial} of ${about.sweep}${scores.length ? `: ${scores.join(", ")}` : ""}.`),
    element("span", {}, `Trained on ${about.data}: ${about.training.toLocaleString("en")} ${about.rows}${size}, ` +
      `${count} ${count === 1 ? one : several}${range}.`),
  );
}

const shortened = (names) => names.slice(0, 8).join(", ") + (names.length > 8 ? " …" : "");

// ---- files --------------------------------------------------------------------------------------------------------

function open(file) {
  if (file && source?.open) source.open(file);
}

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
