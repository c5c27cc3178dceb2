// Relatives of the large face, as different as the slider says.

import { children } from "./face.js";
import { Gallery } from "./gallery.js";
import { text } from "./texts.js";

const COUNT = 12;

export function setUpChildren(page) {
  const gallery = new Gallery(page, "children", ({ face }) => page.set({ face, brood: 0 }, true));
  const [far, value] = ["far", "far-value"].map((id) => document.getElementById(id));
  far.addEventListener("input", () => page.set({ far: Number(far.value) }));
  document.getElementById("brood").addEventListener("click", () => page.set({ brood: page.state.brood + 1 }));
  return (state) => {
    far.value = state.far;
    value.textContent = `${Math.round(state.far * 100)}%`;
    const faces = children(state.face, state.far, state.brood, COUNT);
    const names = faces.map((_, i) => text("variation", { number: i + 1 }));
    gallery.show(faces.map((face) => ({ face, wild: state.wild })), names);
  };
}
