// The network at work, in a thread of its own so that the page stays responsive.
//
// in:  {wasm, model}: files as {name, bytes: ArrayBuffer, sha256}     out: {ready: true} or {failure: {reason, detail}}
// in:  {id, latents: Float32Array, count}                             out: {id, pixels: Float32Array} or {failure}

import * as ort from "./ort.wasm.bundle.min.js";
import { sha256 } from "./sha256.js";

let session = null;

self.onmessage = async ({ data }) => {
  try {
    if (data.model) await start(data);
    else await generate(data);
  } catch (error) {
    const detail = String(error?.message ?? error);
    self.postMessage({ failure: { reason: error instanceof Damaged ? "damaged" : "broken", detail } });
  }
};

class Damaged extends Error {}

async function start({ wasm, model }) {
  for (const { name, bytes, sha256: expected } of [wasm, model]) {
    if (sha256(new Uint8Array(bytes)) !== expected) throw new Damaged(name);
  }
  ort.env.wasm.numThreads = 1; // more need headers (COOP, COEP) that plain servers do not send
  ort.env.wasm.wasmBinary = wasm.bytes;
  ort.env.wasm.wasmPaths = { wasm: wasm.name }; // never fetched, but a data: page could not even form its address
  session = await ort.InferenceSession.create(new Uint8Array(model.bytes), { executionProviders: ["wasm"] });
  self.postMessage({ ready: true });
}

async function generate({ id, latents, count }) {
  const z = new ort.Tensor("float32", latents, [count, latents.length / count]);
  const { image } = await session.run({ z });
  const pixels = new Float32Array(image.data); // a copy: the tensor's memory belongs to the runtime
  image.dispose();
  self.postMessage({ id, pixels }, [pixels.buffer]);
}
