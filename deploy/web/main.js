// The page comes alive: language, model, stage, tools.

import { setUpBetween } from "./between.js";
import { setUpChildren } from "./children.js";
import { setUpDirections } from "./directions.js";
import { Engine, readModel } from "./engine.js";
import { Favourites } from "./favourites.js";
import { Failure, readFile } from "./files.js";
import { setUpGrid } from "./grid.js";
import { setUpKept } from "./kept.js";
import { latents } from "./latents.js";
import { TOOLS } from "./link.js";
import { Page } from "./page.js";
import { setUpStage } from "./stage.js";
import { languageFor, speak, text } from "./texts.js";
import { setUpWalk } from "./walk.js";

const LICENCES = ["onnxruntime-web-LICENSE.txt", "onnxruntime-web-ThirdPartyNotices.txt"];
const element = (id) => document.getElementById(id);
let page = null;
let failure = null;

/** For the console and for tests. */
globalThis.playground = {
  latents,
  /** Resolves to the pixels of seeds: Float32Array [3, size, size] each, in [-1, 1]. */
  async images(seeds) {
    const made = [];
    await page.engine.generate("console", seeds.map((seed) => latents(seed, page.model.latentDim)), (i, pixels) => {
      made[i] = pixels.slice();
    });
    return made;
  },
  /** Whether everything that is to be seen is there. */
  isIdle: () => Boolean(page?.engine?.isIdle),
};

speak(languageFor(navigator.language));
element("language").addEventListener("click", () => {
  const lang = document.documentElement.lang === "en" ? "zh" : "en";
  if (page) page.set({ lang });
  else speak(lang);
  showFailure();
});
element("licence").addEventListener("click", async () => {
  element("licences").showModal();
  const contents = await Promise.all(LICENCES.map((name) => readFile(name)));
  element("licence-text").textContent = contents.map((content) => new TextDecoder().decode(content)).join("\n\n");
});
try {
  await start();
} catch (error) {
  fail(error instanceof Failure ? error : new Failure("broken", error.message));
}

async function start() {
  const model = await readModel();
  page = new Page(model);
  page.follow(({ lang }) => {
    speak(lang ?? languageFor(navigator.language));
    const { run = "DCGAN", step } = model.checkpoint;
    const facts = { run, size: model.size, step: Number.isInteger(step) ? text("step", { step }) : "" };
    element("facts").textContent = text("facts", facts);
  });
  const favourites = new Favourites(model.id);
  setUpStage(page, favourites);
  setUpTabs({
    grid: setUpGrid(page),
    children: setUpChildren(page),
    between: setUpBetween(page),
    directions: setUpDirections(page),
    walk: setUpWalk(page),
    kept: setUpKept(page, favourites),
  });
  const engine = new Engine(model);
  engine.onFailure = fail;
  await engine.start(showProgress);
  page.engine = engine;
  element("loading").hidden = true;
  document.body.dataset.ready = "";
  page.refresh();
}

function showProgress(done, total) {
  const megabytes = { done: (done / 1e6).toFixed(1), total: (total / 1e6).toFixed(1) };
  element("progress").value = done / total;
  element("progress-text").textContent = done < total ? text("progress", megabytes) : text("starting");
}

/** Tabs as in the ARIA practices: arrow keys, Home and End choose; only the chosen tool is shown and computed. */
function setUpTabs(shows) {
  for (const [i, tool] of TOOLS.entries()) {
    const tab = element(`tab-${tool}`);
    const choose = (wanted) => page.set(entering(wanted), true);
    tab.addEventListener("click", () => choose(tool));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: TOOLS.length - 1 }[event.key];
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return; // Alt and an arrow: Back
      event.preventDefault(); // Home and End must not scroll the page
      const next = TOOLS[(to + TOOLS.length) % TOOLS.length];
      choose(next);
      element(`tab-${next}`).focus();
    });
  }
  page.follow((state) => {
    for (const tool of TOOLS) {
      const isChosen = tool === state.tool;
      element(`panel-${tool}`).hidden = !isChosen;
      element(`tab-${tool}`).setAttribute("aria-selected", isChosen);
      element(`tab-${tool}`).tabIndex = isChosen ? 0 : -1;
    }
    shows[state.tool](state);
  });
}

/** The state on entering a tool: the way between two faces begins at the large one. */
function entering(tool) {
  return tool === "between" && page.state.tool !== "between" ? { tool, a: page.state.face, t: 0 } : { tool };
}

function fail(problem) {
  failure = problem;
  console.error(problem);
  showFailure();
}

function showFailure() {
  if (!failure) return;
  element("loading").hidden = true;
  element("problem").hidden = false;
  document.querySelector("main").inert = !("ready" in document.body.dataset); // nothing was generated, nothing can be
  element("problem").textContent = text(`failures.${failure.reason}`, { detail: failure.detail });
}
