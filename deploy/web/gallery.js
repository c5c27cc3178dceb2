// A set of small faces to choose from: a listbox (ARIA practices) whose selected option is the large face. Arrow keys,
// Home and End move the focus; Enter, Space or a click chooses.

import { describe, latentOf } from "./face.js";
import { paint } from "./image.js";
import { scaled } from "./space.js";
import { text } from "./texts.js";

export class Gallery {
  #container;
  #lane;
  #page;
  #onChoose;
  #shown = "";

  /** `page` has `engine` and `model`; `onChoose({face, wild}, index)` is called when somebody chooses a face. */
  constructor(page, id, onChoose) {
    this.#container = document.getElementById(id);
    this.#container.setAttribute("role", "listbox");
    this.#container.setAttribute("aria-orientation", "horizontal");
    this.#lane = id;
    this.#page = page;
    this.#onChoose = onChoose;
    this.#container.addEventListener("keydown", (event) => this.#move(event));
  }

  /**
   * Show `faces`, each {face, wild}, with `names[i]` as their labels if given; what is already there stays. The face
   * at `chosen` is marked: by default the one that the page shows large.
   */
  show(faces, names = [], chosen = faces.findIndex((shown) => this.#isLarge(shown))) {
    const { engine, model } = this.#page;
    const buttons = this.#resize(faces.length);
    buttons.forEach((button, i) => {
      const label = names[i] ?? text("face", describe(faces[i].face));
      button.setAttribute("aria-label", label);
      button.setAttribute("aria-selected", i === chosen);
      button.title = label;
      button.onclick = () => this.#onChoose(faces[i], i);
    });
    this.#placeEntrance(buttons, chosen);
    const content = JSON.stringify(faces);
    if (content === this.#shown || !engine) return;
    this.#shown = content;
    const latents = faces.map(({ face, wild }) => scaled(latentOf(face, model), wild));
    const canvases = buttons.map((button) => button.firstChild);
    engine.generate(this.#lane, latents, (i, pixels) => paint(canvases[i], pixels, model.size));
  }

  #isLarge({ face, wild }) {
    const { state } = this.#page;
    return face === state.face && wild === state.wild;
  }

  #resize(count) {
    const list = this.#container;
    list.hidden = !count;
    while (list.children.length > count) list.lastChild.remove();
    while (list.children.length < count) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.setAttribute("role", "option");
      button.append(document.createElement("canvas"));
      list.append(button);
    }
    return [...list.children];
  }

  /** Tab enters at the chosen face, else where the focus was, else at the first. */
  #placeEntrance(buttons, chosen) {
    const focused = buttons.indexOf(document.activeElement);
    const before = buttons.findIndex((button) => button.tabIndex === 0);
    this.#enterAt(buttons, Math.max(0, focused >= 0 ? focused : chosen >= 0 ? chosen : before));
  }

  #enterAt(buttons, index) {
    buttons.forEach((button, i) => (button.tabIndex = i === index ? 0 : -1));
  }

  #move(event) {
    const buttons = [...this.#container.children];
    const at = buttons.indexOf(document.activeElement);
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: buttons.length - 1,
    }[event.key];
    if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // the page must not scroll, not even at an edge
    if (!buttons[to]) return;
    this.#enterAt(buttons, to);
    buttons[to].focus();
  }
}
