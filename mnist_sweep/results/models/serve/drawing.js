// Lets users draw, or open an image of a drawing.

import { DrawingCanvas } from "./canvas.js";
import { byId } from "./dom.js";

export class Drawing {
  static section = "drawing";
  hints = ["Nothing yet", "The answer appears while you draw."];

  constructor(about, changed, failed) {
    const digits = about.predicts === "classes" && about.names.length === 10;
    this.title = digits ? "Draw a digit" : "Draw something that the model knows";
    this.canvas = new DrawingCanvas(byId("canvas"), byId("cursor"));
    for (const name of ["change", "end"]) {
      this.canvas.addEventListener(name, () => {
        this.update();
        changed();
      });
    }
    byId("undo").addEventListener("click", () => this.canvas.undo());
    byId("clear").addEventListener("click", () => this.canvas.clear());
    byId("brush").addEventListener("input", (event) => {
      this.canvas.brush = Number(event.target.value);
      this.canvas.draw();
    });
    byId("open").addEventListener("click", () => byId("file").click());
    this.failed = failed;
  }

  get empty() { return this.canvas.empty; }

  update() {
    byId("hint").hidden = !this.canvas.empty;
    byId("undo").disabled = !this.canvas.canUndo;
    byId("clear").disabled = this.canvas.empty;
  }

  async open(file) {
    try {
      await this.canvas.open(file);
    } catch {
      this.failed("This browser cannot open that file as an image.");
    }
  }

  async request() {
    const body = await this.canvas.blob();
    return { type: body.type, body };
  }
}
