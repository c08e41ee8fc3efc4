// What a person sees and does. It turns files and controls into requests to worker.js and answers into words and figures.
// It touches no pixel and no byte of a codec; pictures are viewer.js's, JPEG and WebP are comparison.js's.
// An answer to an older request than the newest is dropped.
import { isTfz } from "./codec/tfz.js";
import { Easel } from "./easel.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const NAMES = { original: "Original", "image/jpeg": "JPEG", "image/webp": "WebP" };
const ROWS = { "image/jpeg": "row-jpeg", "image/webp": "row-webp" };
const count = (number) => number.toLocaleString("en");
const decibels = (psnr) => (psnr === Infinity ? "exact" : `${psnr.toFixed(1)} dB`);

function say(text, state = "ready") {
  if ($("status").textContent !== text) $("status").textContent = text; // a screen reader says it once
  $("status").dataset.state = state;
}

class Page {
  #requests = 0; // number of the newest request
  #opened = 0; // of the newest that opened something, whose size is waited for even if another quality was asked for since
  #comparison = null;
  #download = null;

  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url));
    this.worker.onmessage = ({ data }) => {
      if (data.id >= (data.image || data.archive ? this.#opened : this.#requests)) this.#answered(data);
    };
    this.worker.onerror = (event) => say(`The codec's thread could not start: ${event.message}`, "problem");
    this.viewer = new Viewer();
  }

  start() {
    const folder = new URLSearchParams(location.search).get("artifact") ?? "artifact";
    say("Loading the codec and 9 MB of WebAssembly.", "waiting");
    if (!HTMLCanvasElement.prototype.transferControlToOffscreen || typeof DecompressionStream === "undefined") {
      say("This browser is too old for the page: it has no canvas for workers.", "problem");
      return;
    }
    const canvas = $("restored").transferControlToOffscreen();
    this.#ask("start", { artifact: new URL(`${folder.replace(/\/*$/, "")}/`, location.href).href, canvas }, [canvas]);
    this.#listen();
  }

  /** A request to the worker, which stops what it did before. */
  #ask(request, about = {}, transfer = []) {
    this.worker.postMessage({ request, id: ++this.#requests, ...about }, transfer);
    if (request !== "quality") this.#opened = this.#requests;
  }

  #listen() {
    for (const input of [$("file"), $("another")]) {
      input.onchange = () => {
        const [file] = input.files;
        input.value = ""; // the same file may be opened again
        if (file) this.open(file);
      };
    }
    document.ondragover = (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    };
    document.ondragleave = (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    };
    document.ondrop = (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      const [file] = event.dataTransfer.files;
      if (file) this.open(file);
      else say("Nothing to open: drop one image file or one .tfz file.", "problem");
    };
    document.onpaste = (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.open(file);
    };
    $("quality").oninput = () => ($("quality-value").value = $("quality").value);
    $("quality").onchange = () => this.#changed("quality", { quality: Number($("quality").value) });
    $("item").onchange = () => this.#changed("item", { index: $("item").selectedIndex });
    for (const radio of document.getElementsByName("against")) radio.onchange = () => this.#beside();
    for (const radio of document.getElementsByName("view")) radio.onchange = () => (this.viewer.view = radio.value);
    $("png").onclick = () => this.#ask("png");
    $("download").onclick = (event) => {
      if (!this.#download) event.preventDefault();
    };
  }

  // === What the user does ===

  async open(file) {
    if (document.querySelector("main").inert) {
      this.early = file; // until the codec is there
      return;
    }
    const first = new Uint8Array(await file.slice(0, 4).arrayBuffer());
    const name = file.name || "picture.png";
    say("Reading the file.", "waiting");
    if (isTfz(first)) this.#ask("archive", { file, name });
    else this.#ask("image", { file, name, quality: Number($("quality").value) });
  }

  #changed(request, about) {
    this.#unsettle();
    say("Working.", "waiting");
    this.#ask(request, about);
  }

  /** What is shown is about to be another: no file to download, no comparison. */
  #unsettle() {
    this.#comparison?.terminate();
    this.#comparison = null;
    if (this.#download) URL.revokeObjectURL(this.#download);
    this.#download = null;
    $("download").removeAttribute("href");
    $("download").ariaDisabled = "true";
    $("png").disabled = true;
  }

  // === What the worker answers ===

  #answered({ ready, progress, words, image, archive, bytes, painted, result, png, problem }) {
    if (ready) this.#begin(ready);
    if (progress !== undefined) {
      Object.assign($("progress"), { hidden: false, value: progress });
      say(`${words}.`, "waiting");
    }
    if (image) this.#pictured(image);
    if (archive) this.#listed(archive);
    if (bytes) this.#row("row-tfcomp", bytes);
    if (painted) this.viewer.waiting = false;
    if (result) this.#show(result);
    if (png) this.#save(png);
    if (problem || result || ready) $("progress").hidden = true;
    if (problem) say(problem, "problem"); // what was shown stays, and its file
  }

  #begin({ manifest, checked, relaxed, qualities }) {
    const [height, width] = manifest.image_shape;
    Object.assign($("quality"), { min: qualities[0], max: qualities.at(-1), value: manifest.default_quality });
    $("quality-value").value = manifest.default_quality;
    this.oneQuality = qualities.length === 1;
    if (height !== null) {
      $("invitation-words").innerHTML = "<strong>Drop a picture here</strong>";
      const easel = new Easel(width, height, (file) => this.open(file));
      for (const button of [$("draw"), $("draw-again")]) {
        button.hidden = false;
        button.onclick = () => easel.open();
      }
    }
    const shape = height === null ? "pictures of any size" : `pictures of ${width} by ${height}`;
    const several = this.oneQuality ? "one quality" : `${qualities.length} qualities`;
    $("codec").textContent =
      `Codec ${manifest.fingerprint}: ${shape}, ${several}. Files ` +
      `${checked ? "checked" : "not checked (needs https: or localhost)"} against the manifest. ` +
      `${relaxed ? "Relaxed SIMD" : "The slower build for browsers without relaxed SIMD"}.`;
    document.querySelector("main").inert = false;
    say("Ready.");
    if (this.early) this.open(this.early);
  }

  /** A picture is about to come: its size, and where it came from an image, what the codec was given. */
  #pictured({ width, height, found, given, name }) {
    this.#unsettle();
    [this.width, this.height, this.given] = [width, height, given ?? null];
    $("panel").hidden = false;
    $("item-row").hidden = Boolean(given);
    $("quality-row").hidden = this.oneQuality || !given;
    $("view").hidden = width < 300 && height < 300;
    $("against").hidden = $("download").hidden = !given;
    $("row-jpeg").hidden = $("row-webp").hidden = !given;
    this.files = { original: given };
    this.viewer.size(width, height);
    this.viewer.waiting = Boolean(given);
    this.#reset();
    if (!given) return;
    const scaled = found[0] !== width || found[1] !== height;
    $("caption").textContent = `${name}, ${count(width)} by ${count(height)} pixels` +
      (scaled ? `, scaled from ${count(found[0])} by ${count(found[1])}` : "");
    this.name = name;
  }

  #listed({ names, name }) {
    $("item").replaceChildren(...names.map((each) => new Option(each)));
    this.name = name;
    this.names = names;
  }

  #show({ file, bytes, payload, quality, psnr, seconds }) {
    this.#row("row-tfcomp", bytes, psnr);
    $("png").disabled = false;
    const took = (time) => `${time < 1 ? time.toFixed(2) : time.toFixed(1)} s`;
    if (file) {
      this.#download = URL.createObjectURL(file);
      Object.assign($("download"), { href: this.#download, download: `${this.#stem}.tfz`, ariaDisabled: "false" });
      $("note").textContent =
        `Quality ${quality}. The payload has ${count(payload)} bytes; the rest names codec and file, and checks both. ` +
        `Written in ${took(seconds[0])}, read in ${took(seconds[1])}. JPEG and WebP are this browser's, each at its ` +
        "best within as many bytes; where even its lowest quality needs more, that one.";
      say(`Compressed to ${count(bytes)} bytes.`);
      this.#compare(bytes);
    } else {
      $("item-row").hidden = this.names.length < 2;
      $("caption").textContent = `${this.names[$("item").selectedIndex]}, ${count(this.width)} by ${count(this.height)} pixels`;
      $("note").textContent =
        `Quality ${quality}. This picture's payload has ${count(payload)} bytes` +
        `${this.names.length > 1 ? `; the file holds ${count(this.names.length)} pictures` : ""}. Read in ${took(seconds[1])}.`;
      if (this.names.length > 1) this.#row("row-tfcomp", payload);
      say(`${this.name}: decoded, every checksum right.`);
    }
  }

  get #stem() {
    return this.name.replace(/\.[^.]*$/, "") || "picture";
  }

  #save(blob) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${this.#stem}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // === JPEG and WebP ===

  /** Forgets the figures and pictures of an earlier result. */
  #reset() {
    for (const row of ["row-tfcomp", ...Object.values(ROWS)]) for (const cell of $(row).cells) if (cell.cellIndex) cell.textContent = "";
    this.files = { original: this.given };
    for (const radio of document.getElementsByName("against")) radio.disabled = radio.value !== "original";
    document.querySelector("[name=against][value=original]").checked = true;
    this.#beside();
  }

  #compare(bytes) {
    this.#reset();
    this.#row("row-tfcomp", bytes, this.psnr);
    this.#comparison = new Worker(new URL("comparison.js", import.meta.url), { type: "module" });
    for (const row of Object.values(ROWS)) $(row).cells[1].textContent = "…";
    this.#comparison.onerror = () => {
      for (const row of Object.values(ROWS)) if ($(row).cells[1].textContent === "…") $(row).cells[1].textContent = "did not work";
    };
    this.#comparison.onmessage = ({ data: { type, blob, quality, psnr, problem } }) => {
      if (problem) {
        $(ROWS[type]).cells[1].textContent = problem;
        return;
      }
      this.files[type] = blob;
      document.querySelector(`[name=against][value="${type}"]`).disabled = false;
      this.#row(ROWS[type], blob.size, psnr);
      $(ROWS[type]).title = `Quality ${quality} of 100`;
    };
    this.#comparison.postMessage({ file: this.given, bytes });
  }

  /** Puts what is chosen to the left of the divider. */
  #beside() {
    const { value } = document.querySelector("[name=against]:checked");
    this.viewer.left(this.files?.[value] ?? null, NAMES[value]);
  }

  #row(id, bytes, psnr) {
    const [, ...cells] = $(id).cells;
    if (id === "row-tfcomp" && psnr !== undefined) this.psnr = psnr;
    cells[0].textContent = count(bytes);
    cells[1].textContent = ((8 * bytes) / (this.width * this.height)).toFixed(3);
    cells[2].textContent = psnr === undefined ? "" : decibels(psnr);
  }
}

new Page().start();
