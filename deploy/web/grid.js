// Many faces, one per seed; choosing one shows it large.

import { Gallery } from "./gallery.js";

const PER_PAGE = 24;

export function setUpGrid(page) {
  const gallery = new Gallery(page, "grid", ({ face }) => page.set({ face }, true));
  const [back, more] = ["grid-back", "grid-more"].map((id) => document.getElementById(id));
  const turn = (by) => page.set({ page: Math.max(0, page.state.page + by) }, true);
  back.addEventListener("click", () => turn(-1));
  more.addEventListener("click", () => turn(1));
  return ({ page: number, wild }) => {
    if (number === 0 && document.activeElement === back) more.focus(); // a disabled button loses the focus
    back.disabled = number === 0;
    gallery.show(Array.from({ length: PER_PAGE }, (_, i) => ({ face: String(number * PER_PAGE + i), wild })));
  };
}
