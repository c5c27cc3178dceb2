// The large face: its image, its name, and what can be done with it.

import { addressOf, describe } from "./face.js";
import { MAX_SEED } from "./latents.js";
import { savePng } from "./image.js";
import { setUpPortrait } from "./portrait.js";
import { text } from "./texts.js";

const ENLARGED = [256, 512]; // pixels: what a PNG can also be, where the model's images are smaller
const element = (id) => document.getElementById(id);

/** Wire the large face. `favourites.toggle` is called through `onKeep`, so that who shows them hears of it. */
export function setUpStage(page, favourites) {
  let seen; // the face on the canvas: for a moment after a change, still the one before
  const portrait = setUpPortrait(page, "stage", element("face"), (face) => {
    seen = face;
    for (const button of element("sizes").children) button.disabled = false;
  });
  const { size: own } = page.model;
  for (const size of [own, ...ENLARGED.filter((pixels) => pixels > own)]) {
    const button = Object.assign(document.createElement("button"), { type: "button", value: size, textContent: size, disabled: true });
    button.addEventListener("click", () => savePng(element("face"), fileName(seen, size === own ? "" : size), size));
    element("sizes").append(button);
  }

  page.follow((state) => {
    const { name, seed, changes } = describe(state.face);
    const parts = [/^\d+$/.test(name) && Number(name) === seed ? text("seed", { seed }) : `${name} · ${text("seed", { seed })}`];
    if (changes) parts.push(text("changes", { count: changes }));
    element("caption").textContent = parts.join(" · ");
    element("face").setAttribute("aria-label", text("face", { name: parts.join(", ") }));
    element("wild").value = state.wild;
    element("wild-value").textContent = state.wild.toFixed(2);
    element("keep").setAttribute("aria-pressed", favourites.has(state));
    for (const button of element("sizes").children) {
      const label = text("saveAs", { size: button.value });
      button.setAttribute("aria-label", label);
      button.title = label;
    }
    element("status").textContent = ""; // what it said was of the link or the language before
    portrait(state);
  });

  element("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const face = addressOf(element("word").value);
    if (face) page.set({ face }, true);
  });
  element("random").addEventListener("click", () => {
    page.set({ face: String(Math.floor(Math.random() * (MAX_SEED + 1))) }, true);
  });
  element("wild").addEventListener("input", (event) => page.set({ wild: Number(event.target.value) }));
  element("keep").addEventListener("click", () => {
    favourites.toggle(page.state);
    page.refresh();
  });
  element("share").addEventListener("click", () => share(page.link));
}

/** The file name that deploy/infer.py gives the same image, else with the changes made to it, and the enlarged size. */
function fileName({ face, wild }, enlargedTo) {
  const { name, seed, changes } = describe(face);
  const isPlain = !changes && wild === 1 && name === String(seed);
  const stem = isPlain ? `seed-${name.padStart(6, "0")}` : `face-${face.replace(/[^\w.~-]/g, "")}-${wild}`.slice(-110);
  return `${stem}${enlargedTo && `-${enlargedTo}px`}.png`;
}

async function share(link) {
  try {
    await navigator.clipboard.writeText(link);
    element("status").textContent = text("shared");
  } catch {
    prompt(text("copyThis"), link); // the clipboard is denied, or the page is not served by https
  }
}
