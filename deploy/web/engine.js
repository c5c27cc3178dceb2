// Latents in, images out: the model's files are fetched and handed to the worker, then jobs are fed to it.

import { Failure, makeWorker, readFile, readJson } from "./files.js";

const WASM = "ort-wasm-simd-threaded.wasm";
const MOST_AT_ONCE = 8; // faces per run: a tenth of a second, after which a more urgent job gets its turn
// The smallest module that uses a SIMD instruction (i8x16.splat): without SIMD the runtime does not start.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

/** Read the manifest and the directions: {latentDim, size, directions, checkpoint, id, files}. Throws Failure. */
export async function readModel() {
  const manifest = await readJson("manifest.json");
  const name = manifest?.models?.find((m) => m.network === "generator" && m.kind === "onnx")?.files?.[0];
  const [latentDim, size] = [manifest?.input?.shape?.at(-1), manifest?.output?.shape?.at(-1)];
  if (!manifest?.files?.[name] || !manifest.files[WASM] || !(latentDim > 0) || !(size > 0)) {
    throw new Failure("damaged", "manifest.json");
  }
  const { directions } = await readJson("directions.json");
  if (!Array.isArray(directions) || directions.some((row) => row?.length !== latentDim)) {
    throw new Failure("damaged", "directions.json");
  }
  const described = (file) => ({ name: file, ...manifest.files[file] });
  const files = { wasm: described(WASM), model: described(name) };
  const { checkpoint = {} } = manifest;
  return { latentDim, size, directions, checkpoint, files, id: files.model.sha256.slice(0, 12) };
}

/** Generates images of latents, one job at a time; within a lane a new job takes the place of the last. */
export class Engine {
  #worker;
  #lanes = new Map();
  #busy = null; // what to do with the pixels of the run under way
  #count = 0;
  onFailure = () => {};

  constructor(model) {
    this.model = model;
  }

  /** Load everything; `onProgress(bytes, total)` follows it. Throws Failure. */
  async start(onProgress) {
    if (typeof WebAssembly === "undefined" || !WebAssembly.validate(new Uint8Array(SIMD))) {
      throw new Failure("unsupported", "WebAssembly SIMD");
    }
    const files = Object.entries(this.model.files);
    const total = files.reduce((sum, [, file]) => sum + file.bytes, 0);
    let arrived = 0;
    const load = async ([role, file]) => {
      const bytes = await readFile(file.name, (count) => onProgress((arrived += count), total));
      if (bytes.byteLength !== file.bytes) throw new Failure("damaged", file.name);
      return [role, { ...file, bytes }];
    };
    const loaded = Object.fromEntries(await Promise.all(files.map(load)));
    this.#worker = await makeWorker();
    await new Promise((resolve, reject) => {
      this.#worker.onerror = (event) => reject(new Failure("broken", event.message || "worker.js"));
      this.#worker.onmessage = ({ data }) => {
        if (data.ready) resolve();
        else reject(new Failure(data.failure.reason, data.failure.detail));
      };
      this.#worker.postMessage(loaded, [loaded.wasm.bytes, loaded.model.bytes]);
    });
    this.#worker.onmessage = ({ data }) => this.#arrived(data);
    this.#worker.onerror = (event) => this.onFailure(new Failure("broken", event.message || "worker.js"));
  }

  /**
   * Generate the images of `latents` (Float32Arrays) and call `onImage(index, pixels)` for each: Float32Array
   * [3, size, size] in [-1, 1]. Resolves when all are generated, to false if a newer job of the same lane came between.
   */
  generate(lane, latents, onImage) {
    this.#lanes.get(lane)?.finish(false);
    return new Promise((finish) => {
      this.#lanes.set(lane, { latents, onImage, finish, next: 0 });
      this.#feed();
    });
  }

  get isIdle() {
    return !this.#busy && !this.#lanes.size;
  }

  #feed() {
    if (this.#busy || !this.#lanes.size) return;
    const lane = this.#lanes.has("stage") ? "stage" : this.#lanes.keys().next().value;
    const job = this.#lanes.get(lane);
    const first = job.next;
    const batch = job.latents.slice(first, first + MOST_AT_ONCE);
    job.next += batch.length;
    if (job.next >= job.latents.length) this.#lanes.delete(lane);
    if (!batch.length) {
      job.finish(true);
      this.#feed();
      return;
    }
    const joined = new Float32Array(batch.length * this.model.latentDim);
    batch.forEach((z, i) => joined.set(z, i * this.model.latentDim));
    this.#busy = { job, first, count: batch.length, id: ++this.#count, isLast: job.next >= job.latents.length };
    this.#worker.postMessage({ id: this.#busy.id, latents: joined, count: batch.length }, [joined.buffer]);
  }

  #arrived({ id, pixels, failure }) {
    const { job, first, count, isLast } = this.#busy;
    if (failure) {
      this.#busy = null;
      this.onFailure(new Failure(failure.reason, failure.detail));
      job.finish(false);
      this.#feed(); // what else waits is told so too
      return;
    }
    if (id !== this.#busy.id) return;
    this.#busy = null;
    const length = pixels.length / count;
    for (let i = 0; i < count; i++) job.onImage(first + i, pixels.subarray(i * length, (i + 1) * length));
    if (isLast) job.finish(true);
    this.#feed();
  }
}
