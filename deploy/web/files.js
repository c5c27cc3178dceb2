// Where the page's files come from: its own folder, or, in a single-file page, the blocks at the end of the HTML.

/** Something that keeps the page from working, which `text("failures", reason)` explains. */
export class Failure extends Error {
  constructor(reason, detail = "") {
    super(`${reason}: ${detail}`);
    this.reason = reason;
    this.detail = detail;
  }
}

/** The content of a file as an ArrayBuffer; `onBytes(count)` is told of every arrival. Throws Failure. */
export async function readFile(name, onBytes = () => {}) {
  const block = document.querySelector(`script[data-file="${CSS.escape(name)}"]`);
  const response = block ? unpacked(block) : await fetched(name);
  const parts = [];
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      onBytes(value.length);
    }
  } catch (error) {
    throw new Failure("damaged", `${name} (${error.message})`);
  }
  return new Blob(parts).arrayBuffer();
}

/** A JSON file's value. Throws Failure. */
export async function readJson(name) {
  const content = await readFile(name);
  try {
    return JSON.parse(new TextDecoder().decode(content));
  } catch {
    throw new Failure("damaged", name);
  }
}

/** The worker, from its file or from its block. */
export async function makeWorker() {
  if (!document.querySelector('script[data-file="worker.js"]')) {
    return new Worker(new URL("worker.js", document.baseURI), { type: "module" });
  }
  const script = new TextDecoder().decode(await readFile("worker.js"));
  const url = `data:text/javascript,${encodeURIComponent(script)}`; // from file: pages, Chromium refuses blob: modules
  return new Worker(url, { type: "module" });
}

async function fetched(name) {
  let response;
  try {
    response = await fetch(name, { cache: "no-cache" }); // asks the server whether it changed: a new export may be there
  } catch (error) {
    throw new Failure("missing", `${name} (${error.message})`);
  }
  if (!response.ok) throw new Failure("missing", `${name} (HTTP ${response.status})`);
  return response;
}

function unpacked(block) {
  if (typeof DecompressionStream === "undefined") throw new Failure("unsupported", "DecompressionStream");
  const text = atob(block.textContent.trim());
  const packed = Uint8Array.from(text, (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
}
