// A square to draw on. It keeps a list of strokes and images, so that each can be undone.

const SIDE = 280;  // the square's units, whatever its size on the screen
const SENT = 140;  // pixels a side: five times what a model sees, and fast to process
const STEP = 10, FINE = 3;  // how far an arrow key moves the pen
const LARGEST = 512;  // larger images are reduced to this before they are sent
const SENT_UNCHANGED = { types: ["image/png", "image/jpeg"], bytes: 1.5e6 };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class DrawingCanvas extends EventTarget {
  // Dispatches "change" while a stroke is drawn, and "end" when one has ended or was undone.
  constructor(canvas, cursor) {
    super();
    this.canvas = canvas;
    this.cursor = cursor;
    this.brush = 20;
    this.items = [];
    this.stroke = null;
    this.pointer = null;
    this.at = [SIDE / 2, SIDE / 4];
    this.held = new Set();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.#listenToPointer();
    this.#listenToKeys();
  }

  // What is shown: everything since the canvas was last empty.
  get visible() {
    const from = this.items.findLastIndex((item) => item.fresh);
    return this.items.slice(Math.max(from, 0)).filter((item) => item.points || item.image);
  }

  get empty() { return this.visible.length === 0; }

  get canUndo() { return this.items.length > 0; }

  undo() {
    if (!this.canUndo) return;
    this.#lift();
    this.items.pop();
    this.#changed("end");
  }

  clear() {
    this.#lift();
    if (!this.empty) this.items.push({ fresh: true });
    this.#changed("end");
  }

  async open(file) {
    const image = await createImageBitmap(file);
    const { types, bytes } = SENT_UNCHANGED;
    const small = Math.max(image.width, image.height) <= LARGEST && file.size <= bytes;
    const blob = small && types.includes(file.type) ? file : await this.#reduced(image);
    this.#lift();
    this.items.push({ fresh: true, image, blob });
    this.#changed("end");
  }

  // What is sent: the drawing in white on black, or an image.
  async blob() {
    const [first] = this.visible;
    if (first?.image) return first.blob;
    const sheet = Object.assign(document.createElement("canvas"), { width: SENT, height: SENT });
    this.#paint(sheet.getContext("2d"), SENT / SIDE, "#fff", "#000");
    return new Promise((done) => sheet.toBlob(done, "image/png"));
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    const size = Math.round(box.width * devicePixelRatio);
    if (size === 0) return;
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const style = getComputedStyle(this.canvas);
    this.#paint(this.canvas.getContext("2d"), size / SIDE, style.color, style.backgroundColor);
    const [x, y] = this.at;
    const scale = box.width / SIDE;
    this.cursor.style.transform = `translate(${x * scale}px, ${y * scale}px)`;
    this.cursor.style.setProperty("--brush", `${this.brush * scale}px`);
    this.cursor.classList.toggle("down", this.stroke !== null && this.pointer === null);
  }

  #paint(context, scale, ink, ground) {
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.fillStyle = ground;
    context.fillRect(0, 0, SIDE, SIDE);
    context.strokeStyle = context.fillStyle = ink;
    context.lineCap = context.lineJoin = "round";
    for (const { points, width, image } of this.visible) {
      if (image) {
        const fit = SIDE / Math.max(image.width, image.height);
        const [w, h] = [image.width * fit, image.height * fit];
        context.imageSmoothingEnabled = fit < 4;
        context.drawImage(image, (SIDE - w) / 2, (SIDE - h) / 2, w, h);
        continue;
      }
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...points[0]);
      // The curve goes through the middle of each segment, which rounds the corners.
      for (let i = 1; i < points.length - 1; i++) {
        const [[x, y], [nextX, nextY]] = [points[i], points[i + 1]];
        context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
      }
      context.lineTo(...points.at(-1));
      context.stroke();
    }
  }

  async #reduced(image) {
    const fit = Math.min(1, LARGEST / Math.max(image.width, image.height));
    const sheet = document.createElement("canvas");
    sheet.width = Math.max(1, Math.round(image.width * fit));
    sheet.height = Math.max(1, Math.round(image.height * fit));
    sheet.getContext("2d").drawImage(image, 0, 0, sheet.width, sheet.height);
    const png = await new Promise((done) => sheet.toBlob(done, "image/png"));
    if (png.size <= SENT_UNCHANGED.bytes) return png;
    return new Promise((done) => sheet.toBlob(done, "image/jpeg", 0.9));
  }

  #begin(point) {
    this.stroke = { points: [point], width: this.brush, fresh: Boolean(this.visible[0]?.image) };
    this.items.push(this.stroke);
    this.#changed("change");
  }

  #extend(point) {
    this.stroke.points.push(point);
    this.#changed("change");
  }

  #lift() {
    this.stroke = this.pointer = null;
  }

  #changed(what) {
    this.draw();
    this.dispatchEvent(new Event(what));
  }

  #listenToPointer() {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      // A second finger or the palm does not draw.
      if (this.pointer !== null || event.button !== 0) return;
      this.#lift();
      this.pointer = event.pointerId;
      this.canvas.setPointerCapture(event.pointerId);
      this.#begin(place(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) this.stroke.points.push(place(one));
      this.#changed("change");
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      this.canvas.addEventListener(name, (event) => {
        if (event.pointerId !== this.pointer) return;
        this.#lift();
        this.#changed("end");
      });
    }
  }

  #listenToKeys() {
    this.canvas.addEventListener("focus", () => {
      this.cursor.hidden = !this.canvas.matches(":focus-visible");
    });
    this.canvas.addEventListener("blur", () => {
      this.cursor.hidden = true;
      this.held.clear();
      if (this.pointer !== null || this.stroke === null) return;
      this.#lift();
      this.#changed("end");
    });
    this.canvas.addEventListener("keyup", (event) => this.held.delete(event.key));
    this.canvas.addEventListener("keydown", (event) => {
      if (event.altKey || this.pointer !== null) return;
      if (event.ctrlKey || event.metaKey) {
        if (event.key === "z") this.undo(), event.preventDefault();
        return;
      }
      if (event.key in ARROWS) {
        this.held.add(event.key);
        // Two arrow keys together move diagonally.
        const by = [...this.held].map((key) => ARROWS[key]);
        const step = event.shiftKey ? FINE : STEP;
        this.at = this.at.map((value, i) => {
          const moved = value + step * by.reduce((sum, each) => sum + each[i], 0);
          return Math.min(Math.max(moved, 0), SIDE);
        });
        if (this.stroke) this.#extend([...this.at]);
      } else if (event.key === " " && !event.repeat) {
        if (this.stroke) this.#lift(), this.#changed("end");
        else this.#begin([...this.at]);
      } else if (event.key === "u") this.undo();
      else if (event.key === "Escape" || event.key === "Delete") this.clear();
      else if (event.key !== " ") return;
      event.preventDefault();
      this.cursor.hidden = false;
      this.draw();
    });
  }
}
