// Sliders along the principal directions of the network's first layer.

import { shift, unshift } from "./face.js";
import { Gallery } from "./gallery.js";
import { text } from "./texts.js";

const END = 3; // standard deviations of a latent along a direction

export function setUpDirections(page) {
  const count = page.model.directions.length;
  const set = (i, amount) => {
    const { base, amounts: all } = unshift(page.state.face, count);
    page.set({ face: shift(base, all.map((x, k) => (k === i ? amount : x))) });
  };
  const rows = page.model.directions.map((_, i) => addRow(page, i, (amount) => set(i, amount)));
  document.getElementById("reset").addEventListener("click", () => {
    page.set({ face: unshift(page.state.face, count).base }, true);
  });
  return (state) => {
    const { base, amounts } = unshift(state.face, count);
    rows.forEach((show, i) => show(base, amounts[i], state.wild));
  };
}

/** One row: the face at the lower end, a slider, the face at the upper end. Returns what shows it. */
function addRow(page, i, onAmount) {
  const row = document.createElement("div");
  row.className = "direction";
  row.innerHTML = `<div class="gallery" id="less-${i}"></div>
    <div class="slider"><label for="direction-${i}"></label>
    <input id="direction-${i}" type="range" min="${-END}" max="${END}" step="0.1"></div>
    <div class="gallery" id="more-${i}"></div>`;
  document.getElementById("directions").append(row);
  const [label, input] = [row.querySelector("label"), row.querySelector("input")];
  input.addEventListener("input", () => onAmount(Number(input.value)));
  const ends = [-END, END].map((end) => new Gallery(page, end < 0 ? `less-${i}` : `more-${i}`, () => onAmount(end)));
  return (base, amount, wild) => {
    const number = i + 1;
    input.value = amount;
    label.textContent = `${text("direction", { number })} · ${Math.round(page.model.shares[i] * 100)}%`;
    const end = (side) => shift(base, page.model.directions.map((_, k) => (k === i ? side * END : 0)));
    ends[0].show([{ face: end(-1), wild }], [text("less", { number })]);
    ends[1].show([{ face: end(1), wild }], [text("more", { number })]);
  };
}
