// Two faces and the arc from one to the other.

import { addressOf, blend, describe } from "./face.js";
import { Gallery } from "./gallery.js";
import { setUpPortrait } from "./portrait.js";
import { text } from "./texts.js";

const STEPS = 7;
const element = (id) => document.getElementById(id);

export function setUpBetween(page) {
  const slider = element("share-of-b");
  const set = (changes, isNew) => {
    const { a, b, t } = { ...page.state, ...changes };
    page.set({ a, b, t, face: blend(a, b, t) }, isNew);
  };
  const film = new Gallery(page, "between", (_, i) => set({ t: i / (STEPS - 1) }));
  slider.addEventListener("input", () => set({ t: Number(slider.value) }));
  const ends = ["a", "b"].map((end) => setUpEnd(page, end, set));
  return (state) => {
    slider.value = state.t;
    element("share-value").textContent = `${Math.round(state.t * 100)}%`;
    for (const show of ends) show(state);
    const shares = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
    const names = shares.map((t) => `${Math.round(t * 100)}%`);
    film.show(shares.map((t) => ({ face: blend(state.a, state.b, t), wild: state.wild })), names);
  };
}

function setUpEnd(page, end, set) {
  const [canvas, word] = [element(`face-${end}`), element(`word-${end}`)];
  const portrait = setUpPortrait(page, end, canvas);
  const take = () => {
    const face = addressOf(word.value);
    if (face && word.value !== describe(page.state[end]).name) set({ [end]: face }, true);
  };
  element(`form-${end}`).addEventListener("submit", (event) => {
    event.preventDefault();
    take();
  });
  word.addEventListener("change", take);
  element(`use-${end}`).addEventListener("click", () => set({ [end]: page.state.face }, true));
  return (state) => {
    const { name, changes } = describe(state[end]);
    if (document.activeElement !== word) word.value = name;
    canvas.setAttribute("aria-label", text("face", { name: changes ? `${name}, ${text("changes", { count: changes })}` : name }));
    portrait({ face: state[end], wild: state.wild });
  };
}
