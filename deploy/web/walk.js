// A walk without end: from the large face to a next one, and on from there.

import { blend, seedOf } from "./face.js";
import { Gallery } from "./gallery.js";
import { key } from "./latents.js";
import { text } from "./texts.js";

const AHEAD = 6;

export function setUpWalk(page) {
  const [play, pace, value] = ["play", "pace", "pace-value"].map((id) => document.getElementById(id));
  const stations = new Gallery(page, "stations", ({ face }) => {
    leg = { from: face, to: next(face), share: 0 };
    page.set({ face }, true);
  });
  let leg = null; // {from, to: addresses, share: of the way}
  let isWalking = false;

  const step = (before) => (now) => {
    if (!isWalking) return;
    leg.share += Math.min(100, now - before) / (1000 * pace.value); // a slow frame delays the walk, it does not jump
    if (leg.share >= 1) leg = { from: leg.to, to: next(leg.to), share: leg.share % 1 };
    page.set({ face: blend(leg.from, leg.to, leg.share) });
    requestAnimationFrame(step(now));
  };
  const toggle = (wanted) => {
    if (wanted === isWalking) return;
    isWalking = wanted;
    if (isWalking) requestAnimationFrame((now) => step(now)(now));
    page.refresh();
  };
  play.addEventListener("click", () => toggle(!isWalking));
  pace.addEventListener("input", () => page.refresh());
  document.addEventListener("visibilitychange", () => document.hidden && toggle(false));
  page.follow((state) => {
    if (state.tool !== "walk" && isWalking) toggle(false);
  });

  return (state) => {
    const isOurs = leg && state.face === blend(leg.from, leg.to, leg.share);
    if (!isOurs) leg = { from: state.face, to: next(state.face), share: 0 };
    play.textContent = text(isWalking ? "pause" : "play");
    value.textContent = pace.value;
    const faces = [leg.from];
    while (faces.length < AHEAD) faces.push(faces.length === 1 ? leg.to : next(faces.at(-1)));
    stations.show(faces.map((face) => ({ face, wild: state.wild })));
  };
}

/** Where the walk goes from a face: always the same, so that a link to a walk leads to the same walk. */
function next(address) {
  return String(key([seedOf(address) ?? 0, 1]));
}
