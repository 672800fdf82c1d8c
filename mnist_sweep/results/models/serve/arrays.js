// Says which arrays the models take, and sends those that users write.

import { byId, element } from "./dom.js";

const PAUSE = 400;  // milliseconds after the last key

export class Arrays {
  static section = "arrays";
  hints = ["Nothing yet", "Write a request to see the answer."];
  title = "Send the model a row";

  constructor(about, changed, failed, { inputs, example }) {
    byId("shapes").replaceChildren(...inputs.map(({ name, shape, takes }) => element("li", {},
      element("code", {}, `"${name}": [row, …]`), ` – a row is ${size(shape)} ${takes}`)));
    this.body = byId("body");
    this.body.value = example === null ? "" : JSON.stringify(example);
    let waiting = 0;
    this.body.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(changed, PAUSE);
    });
  }

  get empty() { return this.body.value.trim() === ""; }

  update() {}

  async request() { return { type: "application/json", body: this.body.value }; }
}

const size = (shape) => shape.join(" × ");
