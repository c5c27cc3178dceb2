// What the page shows, as the part of its address after "#": whoever opens the link sees the same.

import { addressOf, blend, isAddress } from "./face.js";

export const TOOLS = ["grid", "children", "between", "directions", "walk", "kept"];
// Links of before the slider began at 0.6 keep what they show.
const NUMBERS = { wild: [1, 0.2, 1.6], far: [0.35, 0.05, 1], brood: [0, 0, 1e6], page: [0, 0, 1e6], t: [0.5, 0, 1] };
const FACES = { face: "3", a: "3", b: "0" }; // good ones of the demo generator, on the first page of the gallery

/** The state that a link stands for. What is missing or makes no sense takes its usual value. */
export function readLink(hash, directionCount) {
  const pairs = hash.replace(/^#/, "").split("&").map((pair) => pair.split("="));
  const found = Object.fromEntries(pairs.filter((pair) => pair.length === 2));
  const state = { tool: TOOLS.includes(found.tool) ? found.tool : "grid" };
  for (const [name, usual] of Object.entries(FACES)) state[name] = faceIn(found[name], directionCount) || usual;
  for (const [name, [usual, least, most]] of Object.entries(NUMBERS)) {
    const number = found[name] ? Number(found[name]) : usual;
    state[name] = Number.isFinite(number) ? Math.min(most, Math.max(least, number)) : usual;
    if (most > 2) state[name] = Math.round(state[name]);
  }
  if (!found.face && state.tool === "between") state.face = blend(state.a, state.b, state.t);
  if (found.lang === "en" || found.lang === "zh") state.lang = found.lang;
  return state;
}

/** The link to a state, without what is as usual. */
export function writeLink(state) {
  const pairs = [["face", state.face], ["tool", state.tool]];
  if (state.tool === "between") pairs.push(["a", state.a], ["b", state.b]);
  for (const [name, [usual]] of Object.entries(NUMBERS)) {
    if (state[name] !== usual) pairs.push([name, Number(state[name].toFixed(3))]);
  }
  if (state.lang) pairs.push(["lang", state.lang]);
  return `#${pairs.map((pair) => pair.join("=")).join("&")}`;
}

/** An address as it stands in the link, or one made of a word that somebody wrote there by hand; "" if neither. */
function faceIn(value, directionCount) {
  if (!value || isAddress(value, directionCount)) return value;
  try {
    return value.includes("~") ? "" : addressOf(decodeURIComponent(value));
  } catch {
    return ""; // a "%" that begins no UTF-8
  }
}
