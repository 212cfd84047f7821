// The picture on which points are set and a mask is painted, by mouse, finger or keys. All coordinates are pixels of the model's picture.
const HANDLE = "#D55E00", TARGET = "#0072B2", PULLED = 4; // screen pixels between a click and a pull

export class Board {
  constructor(holder, size, { tool, brush, list }) {
    Object.assign(this, { size, tool, brush, list, pairs: [], pending: null, cross: [size / 2, size / 2], down: null });
    this.mask = new Uint8Array(size * size);
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", "Picture: arrow keys move the cross, Enter sets a point or paints, Backspace takes the last point away");
    holder.append(this.canvas);
    this.canvas.addEventListener("pointerdown", event => this.press(event));
    this.canvas.addEventListener("pointermove", event => this.move(event));
    this.canvas.addEventListener("pointerup", event => this.release(event));
    this.canvas.addEventListener("pointercancel", () => { this.down = null; });
    this.canvas.addEventListener("keydown", event => this.key(event));
    for (const name of ["focus", "blur"]) this.canvas.addEventListener(name, () => this.draw());
    new ResizeObserver(() => this.draw()).observe(holder);
    this.tell();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), last = this.size - 0.01;
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(share => Math.min(Math.max(share * this.size, 0), last));
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.down = [event.clientX, event.clientY];
    this.cross = this.place(event);
    if (this.tool() === "points") this.point(this.cross);
    else this.paint(this.cross);
  }

  move(event) {
    if (!this.down) return;
    this.cross = this.place(event);
    if (this.tool() === "points") this.draw();
    else this.paint(this.cross);
  }

  release(event) {
    if (!this.down) return;
    const pulled = Math.hypot(event.clientX - this.down[0], event.clientY - this.down[1]) > PULLED;
    this.down = null;
    if (pulled && this.tool() === "points" && this.pending) this.point(this.place(event));
    else this.draw();
  }

  key(event) {
    const step = (event.shiftKey ? 8 : 1) * Math.max(1, this.size / 64);
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (way) this.cross = this.cross.map((value, i) => Math.min(Math.max(value + way[i], 0), this.size - 0.01));
    else if (event.key === "Enter" || event.key === " ") this.tool() === "points" ? this.point(this.cross) : this.paint(this.cross);
    else if (event.key === "Backspace") this.takeBack();
    else return;
    event.preventDefault();
    this.draw();
  }

  point(at) {
    const rounded = at.map(value => Math.round(value * 100) / 100);
    if (this.pending) { this.pairs.push([this.pending, rounded]); this.pending = null; } else this.pending = rounded;
    this.tell();
  }

  takeBack() {
    if (this.pending) this.pending = null;
    else this.pending = this.pairs.pop()?.[0] ?? null;
    this.tell();
  }

  paint([x, y]) {
    const radius = (Number(this.brush.value) / 2) * Math.max(1, this.size / 64), value = this.tool() === "paint" ? 1 : 0;
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(this.size - 1, y + radius); row++)
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(this.size - 1, x + radius); column++)
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) this.mask[row * this.size + column] = value;
    this.draw();
  }

  clearPoints() { this.pairs = []; this.pending = null; this.tell(); }
  clearMask() { this.mask.fill(0); this.draw(); }
  reset() { this.clearPoints(); this.clearMask(); }

  fill({ handles, targets, mask }) {
    if (handles) { this.pairs = handles.map((handle, i) => [handle, targets[i]]); this.pending = null; }
    if (mask) {
      let at = 0, value = 0;
      for (const run of mask) { this.mask.fill(value, at, at + run); at += run; value = 1 - value; }
    }
    this.tell();
  }

  request() { // the mask as the lengths of its runs; none where nothing is painted
    const handles = this.pairs.map(pair => pair[0]), targets = this.pairs.map(pair => pair[1]);
    if (this.pending) handles.push(this.pending);
    if (!this.mask.includes(1)) return { handles, targets, mask: null };
    const runs = [];
    let value = 0, start = 0;
    for (let i = 0; i <= this.mask.length; i++)
      if (i === this.mask.length || this.mask[i] !== value) { runs.push(i - start); start = i; value = 1 - value; }
    return { handles, targets, mask: runs };
  }

  tell() {
    const shown = point => point.map(value => value.toFixed(1)).join(", ");
    const lines = this.pairs.map(([handle, target]) => `(${shown(handle)}) to (${shown(target)})`);
    if (this.pending) lines.push(`(${shown(this.pending)}) to: click where`);
    this.list.replaceChildren(...lines.map(text => Object.assign(document.createElement("li"), { textContent: text })));
    this.draw();
  }

  draw() {
    const box = this.canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
    if (!box.width) return;
    this.canvas.width = Math.round(box.width * scale);
    this.canvas.height = Math.round(box.height * scale);
    const pen = this.canvas.getContext("2d"), factor = this.canvas.width / this.size, thick = 2 * scale;
    if (this.mask.includes(1)) { // what may not change is darkened, run by run on whole screen pixels
      pen.fillStyle = "rgba(0, 0, 0, 0.45)";
      const edge = value => Math.round(value * factor);
      for (let row = 0; row < this.size; row++)
        for (let from = 0, to = 0; from < this.size; from = to + 1) {
          for (to = from; to < this.size && !this.mask[row * this.size + to]; to++);
          if (to > from) pen.fillRect(edge(from), edge(row), edge(to) - edge(from), edge(row + 1) - edge(row));
        }
    }
    const dot = ([x, y], colour) => {
      pen.beginPath();
      pen.arc(x * factor, y * factor, 5 * scale, 0, 7);
      Object.assign(pen, { fillStyle: colour, strokeStyle: "#fff", lineWidth: thick });
      pen.fill();
      pen.stroke();
    };
    const line = ([x, y], [u, v]) => {
      Object.assign(pen, { strokeStyle: "#fff", lineWidth: thick * 1.5 });
      pen.beginPath();
      pen.moveTo(x * factor, y * factor);
      pen.lineTo(u * factor, v * factor);
      pen.stroke();
    };
    for (const [handle, target] of this.pairs) { line(handle, target); dot(target, TARGET); dot(handle, HANDLE); }
    if (this.pending) { if (this.down) line(this.pending, this.cross); dot(this.pending, HANDLE); }
    if (document.activeElement === this.canvas) {
      const [x, y] = this.cross.map(value => value * factor), arm = 9 * scale;
      for (const [colour, width] of [["#fff", thick * 1.8], ["#000", thick * 0.8]]) {
        Object.assign(pen, { strokeStyle: colour, lineWidth: width });
        pen.beginPath();
        pen.moveTo(x - arm, y); pen.lineTo(x + arm, y); pen.moveTo(x, y - arm); pen.lineTo(x, y + arm);
        pen.stroke();
      }
    }
  }
}
