// Copies what the page needs of LiteRT.js into litert/, so that this folder serves itself: no bundler, no CDN.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const at = (path) => new URL(path, import.meta.url);
// With relaxed SIMD, and without; the threaded and the JSPI builds are not used.
const builds = ["litert_wasm_internal", "litert_wasm_compat_internal"];

rmSync(at("litert"), { recursive: true, force: true });
mkdirSync(at("litert"));
for (const name of ["core", "wasm-utils"]) {
  const source = readFileSync(at(`node_modules/@litertjs/${name}/dist/index.js`), "utf8");
  // A worker has no import map: the one package that another names is named by its file.
  writeFileSync(at(`litert/${name}.js`), source.replace('"@litertjs/wasm-utils"', '"./wasm-utils.js"'));
}
for (const file of builds.flatMap((build) => [`${build}.js`, `${build}.wasm`])) {
  cpSync(at(`node_modules/@litertjs/core/wasm/${file}`), at(`litert/wasm/${file}`));
}
