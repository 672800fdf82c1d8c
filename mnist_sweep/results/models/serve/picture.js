// Lets users open, drop or paste a picture, and shows it.

import { byId } from "./dom.js";

const SENT_UNCHANGED = { types: ["image/png", "image/jpeg"], bytes: 1.5e6, side: 2048 };
const LARGEST = 1024;  // larger pictures, and those of other kinds, are reduced to this before they are sent
const SHOWN = 640;  // pixels a side of the preview

export class Picture {
  static section = "picture";
  hints = ["Nothing yet", "Open a picture to see what the model says."];
  title = "Open a picture";

  constructor(about, changed, failed) {
    [this.changed, this.failed, this.sent] = [changed, failed, null];
    for (const id of ["drop", "choose"]) byId(id).addEventListener("click", () => byId("file").click());
    byId("remove").addEventListener("click", () => {
      this.sent = null;
      this.update();
      changed();
    });
    const drop = byId("drop");
    for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
      addEventListener(name, () => drop.classList.toggle("over", over));
    }
  }

  get empty() { return this.sent === null; }

  update() {
    byId("preview").hidden = byId("named").hidden = this.empty;
    byId("invitation").hidden = !this.empty;
    byId("remove").disabled = this.empty;
  }

  async open(file) {
    try {
      const bitmap = await createImageBitmap(file);  // upright, as the camera was held
      draw(byId("preview"), bitmap, SHOWN);
      this.sent = await sendable(file, bitmap);
      byId("named").textContent = `${file.name || "pasted picture"}, ${bitmap.width} × ${bitmap.height}`;
    } catch {
      this.sent = null;
      this.update();
      this.failed("This browser cannot open that file as a picture.");
      return;
    }
    this.update();
    this.changed();
  }

  async request() { return { type: this.sent.type, body: this.sent }; }
}

function draw(canvas, bitmap, largest) {
  const scale = Math.min(1, largest / Math.max(bitmap.width, bitmap.height));
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

async function sendable(file, bitmap) {
  const { types, bytes, side } = SENT_UNCHANGED;
  if (types.includes(file.type) && file.size <= bytes && Math.max(bitmap.width, bitmap.height) <= side) return file;
  const canvas = document.createElement("canvas");
  draw(canvas, bitmap, LARGEST);
  const as = (type) => new Promise((done) => canvas.toBlob(done, type, 0.92));
  const png = await as("image/png");
  return png.size <= bytes ? png : as("image/jpeg");
}
