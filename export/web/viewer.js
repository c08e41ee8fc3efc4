// Two pictures of one size under a divider: the left one an image file, the right one a canvas that a worker paints.
// It owns divider, zoom and labels, and nothing of codecs. The divider is a range input, so that keys and screen readers
// move it; a pointer may also press anywhere on the picture.

const $ = (id) => document.getElementById(id);

export class Viewer {
  #url = null;
  #pan = null;

  constructor() {
    [this.stage, this.scroller, this.pictures, this.divider] = ["stage", "scroller", "pictures", "divider"].map($);
    this.divider.oninput = () => this.#place();
    this.scroller.onscroll = () => this.#place();
    new ResizeObserver(() => this.#place()).observe(this.scroller);
    new ResizeObserver(() => this.#place()).observe(this.pictures);
    this.scroller.onpointerdown = (event) => {
      if (event.button !== 0) return;
      if (this.full) {
        if (event.pointerType !== "mouse") return; // fingers scroll by themselves
        this.#pan = [event.clientX + this.scroller.scrollLeft, event.clientY + this.scroller.scrollTop];
      } else {
        this.#follow(event);
      }
      this.scroller.setPointerCapture(event.pointerId);
      event.preventDefault();
    };
    this.scroller.onpointermove = (event) => {
      if (!this.scroller.hasPointerCapture(event.pointerId)) return;
      if (this.#pan) this.scroller.scrollTo(this.#pan[0] - event.clientX, this.#pan[1] - event.clientY);
      else this.#follow(event);
    };
    this.scroller.onpointerup = this.scroller.onpointercancel = () => (this.#pan = null);
  }

  get full() {
    return this.stage.dataset.view === "full";
  }

  /** "fit" or "full": the whole picture, or one of its pixels for each of the screen's, with its middle in view. */
  set view(view) {
    this.stage.dataset.view = view;
    this.scroller.tabIndex = this.full ? 0 : -1; // arrows scroll it
    this.pictures.style.setProperty("--density", devicePixelRatio);
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.scroller;
    this.scroller.scrollTo((scrollWidth - clientWidth) / 2, (scrollHeight - clientHeight) / 2);
    this.#place();
  }

  /** Makes room for pictures of this size. */
  size(width, height) {
    delete this.stage.dataset.empty;
    for (const [name, value] of [["--ratio", width / height], ["--width", width]]) {
      this.stage.style.setProperty(name, value);
    }
    this.stage.classList.toggle("pixelated", Math.max(width, height) < 256);
    this.#place();
  }

  /** Whether there is nothing to compare yet: then the left picture is shown whole. */
  set waiting(yes) {
    this.stage.toggleAttribute("data-waiting", yes);
  }

  /** Shows a file on the left, under a name; null for none. */
  left(file, label = "") {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = file && URL.createObjectURL(file);
    this.stage.toggleAttribute("data-single", !file);
    $("left-label").textContent = label;
    $("original").alt = label;
    if (file) $("original").src = this.#url;
    else $("original").removeAttribute("src");
    this.#place();
  }

  #follow({ clientX }) {
    const box = this.divider.getBoundingClientRect();
    const thumb = this.#thumb;
    this.divider.value = (1000 * (clientX - box.left - thumb / 2)) / (box.width - thumb);
    this.#place();
  }

  get #thumb() {
    return 2.75 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }

  /** Puts the edge of the left picture where the divider's thumb is. */
  #place() {
    const [width, thumb] = [this.stage.clientWidth, this.#thumb];
    const at = thumb / 2 + (this.divider.value / 1000) * (width - thumb);
    const begin = this.pictures.getBoundingClientRect().left - this.stage.getBoundingClientRect().left;
    this.stage.style.setProperty("--line-at", `${at}px`);
    this.pictures.style.setProperty("--edge", `${at - begin}px`);
    const share = Math.round(this.divider.value / 10);
    this.divider.setAttribute("aria-valuetext", `${share} % ${$("left-label").textContent}, the rest tfcomp`);
  }
}
