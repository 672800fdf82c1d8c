// A form made from the columns of a table.

import { byId, element } from "./dom.js";

const MOST_OPTIONS = 60;  // with more categories than this, one types
const HIDDEN = 30;  // with more columns than this, a search field finds one
const PAUSE = 250;  // milliseconds after the last key

export class Form {
  static section = "form";
  hints = ["Nothing yet", "Fill in the form to see what the model predicts."];

  constructor(about, changed, failed, { fields, examples }) {
    this.title = about.predicts === "numbers" || !about.column ? "What does the model predict?" : `Predict ${about.column}`;
    if (about.predicts === "numbers" && about.named) this.title = `Predict ${about.names.join(", ")}`;
    [this.examples, this.next, this.filled] = [examples, 0, examples.length > 0];
    this.controls = fields.map((field, i) => make(field, i));
    byId("fields").replaceChildren(...this.controls.map((control) => control.row));
    let waiting = 0;
    byId("fields").addEventListener("input", () => {
      this.filled = true;
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        this.update();
        changed();
      }, PAUSE);
    });
    byId("example").hidden = examples.length === 0;
    byId("example").addEventListener("click", () => {
      this.fill();
      changed();
    });
    byId("empty").addEventListener("click", () => {
      for (const control of this.controls) control.value = null;
      this.filled = false;
      this.update();
      changed();
    });
    const find = byId("find");
    byId("finder").hidden = fields.length <= HIDDEN;
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      for (const { row, field } of this.controls) row.hidden = !field.name.toLowerCase().includes(wanted);
    });
    if (this.filled) this.fill();
  }

  get empty() { return !this.filled; }

  fill() {
    const row = this.examples[this.next++ % this.examples.length];
    for (const control of this.controls) control.value = row[control.field.name];
    this.filled = true;
    this.update();
  }

  update() {
    for (const control of this.controls) control.check();
  }

  async request() {
    const row = Object.fromEntries(this.controls.map((control) => [control.field.name, control.value]));
    return { type: "application/json", body: JSON.stringify({ rows: [row] }) };
  }
}

function make(field, i) {
  const id = `field${i}`;
  const input = inputOf(field, id);
  const hint = element("span", { className: "range", id: `${id}hint` }, rangeOf(field));
  input.setAttribute("aria-describedby", hint.id);
  const label = element("label", { htmlFor: id, title: field.name }, field.name);
  const lists = field.kind === "category" && many(field)
    ? [element("datalist", { id: `${id}list` }, ...field.values.map((value) => element("option", { value })))] : [];
  const row = element("div", { className: `field ${field.kind}` }, label, input, hint, ...lists);
  return {
    field, row,
    get value() { return read(field, input); },
    set value(given) { write(field, input, given); },
    check() { row.classList.toggle("outside", isOutside(field, input)); },
  };
}

const many = (field) => field.values.length + field.more > MOST_OPTIONS;

function inputOf(field, id) {
  const more = { id, autocomplete: "off" };
  switch (field.kind) {
    case "number": return element("input", { type: "number", step: "any", inputMode: "decimal", ...more });
    case "date": return element("input", { type: "date", ...more });
    case "datetime": return element("input", { type: "datetime-local", ...more });
    case "boolean": return element("input", { type: "checkbox", ...more });
    case "text": return element("textarea", { rows: 3, spellcheck: false, ...more });
    default: {
      if (many(field)) {
        const typed = element("input", { type: "text", ...more });
        typed.setAttribute("list", `${id}list`);
        return typed;
      }
      const options = field.values.map((value) => element("option", { value }, value));
      return element("select", more, element("option", { value: "" }, "– missing –"), ...options);
    }
  }
}

function rangeOf(field) {
  const known = field.low !== null && field.low !== undefined;
  const word = field.optional ? "; may be empty" : "";
  if (known) return `in training ${field.low} to ${field.high}${word}`.replaceAll("T", " ");
  if (field.kind === "category" && field.more) return `${field.more.toLocaleString("en")} more values`;
  return "";
}

function isOutside(field, input) {
  if (field.low === null || field.low === undefined || input.value === "") return false;
  const value = field.kind === "number" ? input.valueAsNumber : input.value;
  return value < field.low || value > field.high;
}

function read(field, input) {
  if (field.kind === "boolean") return field.values[input.checked ? 1 : 0];
  if (input.value.trim() === "") return null;
  return field.kind === "number" ? input.valueAsNumber : input.value;
}

function write(field, input, value) {
  if (field.kind === "boolean") input.checked = value === field.values[1];
  else input.value = value ?? "";
}
