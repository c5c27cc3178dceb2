// Favourites: what somebody kept with the heart.

import { Gallery } from "./gallery.js";
import { text } from "./texts.js";

export function setUpKept(page, favourites) {
  const gallery = new Gallery(page, "kept", ({ face, wild }) => page.set({ face, wild }, true));
  const element = (id) => document.getElementById(id);
  element("kept-children").addEventListener("click", () => {
    page.set({ tool: "children", brood: 0 }, true);
    element("tab-children").focus(); // the button is hidden now
  });
  element("forget").addEventListener("click", () => {
    favourites.toggle(page.state);
    page.refresh();
    (document.querySelector("#kept button") ?? element("tab-kept")).focus(); // the button is hidden now
  });
  return (state) => {
    const hints = [text(favourites.all.length ? "keptHint" : "keptNone")];
    if (!favourites.isStored) hints.push(text("keptNotStored"));
    element("kept-hint").textContent = hints.join(" ");
    element("kept-actions").hidden = !favourites.has(state);
    gallery.show(favourites.all);
  };
}
