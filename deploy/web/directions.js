// What a direction of the latent changes: a strip of faces along each, and a slider below it.

import { shift, unshift } from "./face.js";
import { Gallery } from "./gallery.js";
import { text } from "./texts.js";

const AMOUNTS = [-3, -1.5, 0, 1.5, 3]; // standard deviations of a latent along a direction
const END = AMOUNTS.at(-1);

export function setUpDirections(page) {
  const count = page.model.directions.length;
  const set = (i, amount, isNew) => {
    const { base, amounts: all } = unshift(page.state.face, count);
    page.set({ face: shift(base, all.map((x, k) => (k === i ? amount : x))) }, isNew);
  };
  const rows = page.model.directions.map((_, i) => addRow(page, i, (amount, isNew) => set(i, amount, isNew)));
  document.getElementById("reset").addEventListener("click", () => {
    page.set({ face: unshift(page.state.face, count).base }, true);
  });
  return (state) => {
    const { base, amounts } = unshift(state.face, count);
    rows.forEach((show, i) => show(base, amounts[i], state.wild));
  };
}

/** One row: faces along the direction, and a slider below them. Returns what shows it. */
function addRow(page, i, onAmount) {
  const row = document.createElement("div");
  row.className = "direction";
  row.innerHTML = `<div class="gallery strip" id="strip-${i}"></div>
    <input id="direction-${i}" type="range" min="${-END}" max="${END}" step="0.1">`;
  document.getElementById("directions").append(row);
  const [strip, slider] = row.children;
  const gallery = new Gallery(page, strip.id, (_, k) => onAmount(AMOUNTS[k], true));
  slider.addEventListener("input", () => onAmount(Number(slider.value), false));
  return (base, amount, wild) => {
    const name = text("direction", { number: i + 1 });
    slider.value = amount;
    for (const part of [strip, slider]) part.setAttribute("aria-label", name);
    const along = (x) => shift(base, page.model.directions.map((_, k) => (k === i ? x : 0)));
    const names = AMOUNTS.map((x) => `${name}, ${signed(x)}`);
    gallery.show(AMOUNTS.map((x) => ({ face: along(x), wild })), names, AMOUNTS.indexOf(amount));
  };
}

function signed(x) {
  return x > 0 ? `+${x}` : String(x).replace("-", "\u2212");
}
