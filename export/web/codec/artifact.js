// The folder that codec.export() writes, fetched: manifest.json, tables.npz and the two networks.
// It owns addresses and digests; codec.js owns what the files mean.
import { Problem } from "./problem.js";

export const FILES = ["tables.npz", "encoder_latent.tflite", "decoder_latent.tflite"];

/** The bytes at an address. */
async function fetchBytes(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Problem(`${url} could not be fetched: ${error.message}.`);
  }
  if (!response.ok) throw new Problem(`${url} is not there (HTTP ${response.status}).`);
  return new Uint8Array(await response.arrayBuffer());
}

/** {manifest, files: bytes by name, checked: whether the browser could compare their digests} of a folder's address. */
export async function fetchArtifact(folder) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(await fetchBytes(new URL("manifest.json", folder).href)));
  } catch (error) {
    throw new Problem(
      `No codec: ${error.message} Put the folder that codec.export() wrote beside this page as artifact/, or name ` +
      "it in the address: ?artifact=FOLDER/.");
  }
  if (manifest.artifact_version !== 1) {
    throw new Problem(`Expected an artifact of version 1, found ${manifest.artifact_version}.`);
  }
  const checked = Boolean(globalThis.crypto?.subtle); // browsers offer digests on https: and localhost alone
  const files = {};
  for (const name of FILES) {
    const bytes = await fetchBytes(new URL(name, folder).href);
    if (checked) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
      if (hex !== manifest.files?.[name]?.sha256) {
        throw new Problem(
          `${name} is not what manifest.json describes: it was changed, or belongs to another artifact. ` +
          "Copy the whole artifact folder again.");
      }
    }
    files[name] = bytes;
  }
  return { manifest, files, checked };
}
