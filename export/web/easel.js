// A dialog to draw a small picture in, for codecs of items of one shape; it gives a PNG file and knows no codec.

const $ = (id) => document.getElementById(id);
const TWO = [[9, 9], [11, 6.5], [14, 5.5], [17, 6.5], [18.5, 9.5], [17.5, 13], [14, 17], [10, 21.5], [14.5, 21], [20, 21.5]];

export class Easel {
  /** @param done function of the file */
  constructor(width, height, done) {
    const canvas = $("drawing");
    Object.assign(canvas, { width, height });
    this.context = canvas.getContext("2d");
    const at = ({ clientX, clientY }) => {
      const box = canvas.getBoundingClientRect();
      return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
    };
    let last = null;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.stroke((last = at(event)), last);
    };
    canvas.onpointermove = (event) => last && this.stroke(last, (last = at(event)));
    canvas.onpointerup = canvas.onpointercancel = () => (last = null);
    $("clear").onclick = () => this.clear();
    $("close").onclick = () => $("easel").close();
    $("example").onclick = () => {
      this.clear();
      const points = TWO.map(([x, y]) => [(x / 28) * width, (y / 28) * height]);
      points.slice(1).forEach((point, i) => this.stroke(points[i], point));
    };
    $("use").onclick = () => canvas.toBlob((blob) => {
      $("easel").close();
      done(new File([blob], "drawing.png", { type: "image/png" }));
    });
    this.clear();
  }

  open() {
    $("easel").showModal();
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.context.canvas.width, this.context.canvas.height);
  }

  stroke(from, to) {
    Object.assign(this.context, { strokeStyle: "#fff", lineCap: "round", lineWidth: this.context.canvas.width / 12 });
    this.context.beginPath();
    this.context.moveTo(...from);
    this.context.lineTo(...to);
    this.context.stroke();
  }
}
