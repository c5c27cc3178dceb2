// A set of small faces, each a button; the arrow keys move among them.

import { describe, latentOf } from "./face.js";
import { paint } from "./picture.js";
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
    this.#lane = id;
    this.#page = page;
    this.#onChoose = onChoose;
    this.#container.addEventListener("keydown", (event) => this.#move(event));
  }

  /** Show `faces`, each {face, wild}, with `names[i]` as their labels if given; what is already there stays. */
  show(faces, names = []) {
    const { engine, model } = this.#page;
    const buttons = this.#resize(faces.length);
    buttons.forEach((button, i) => {
      const label = names[i] ?? text("face", describe(faces[i].face));
      button.setAttribute("aria-label", label);
      button.title = label;
      button.onclick = () => this.#onChoose(faces[i], i);
    });
    const content = JSON.stringify(faces);
    if (content === this.#shown || !engine) return;
    this.#shown = content;
    const latents = faces.map(({ face, wild }) => scaled(latentOf(face, model), wild));
    const canvases = buttons.map((button) => button.firstChild);
    engine.draw(this.#lane, latents, (i, pixels) => paint(canvases[i], pixels, model.size));
  }

  #resize(count) {
    const list = this.#container;
    while (list.children.length > count) list.lastChild.remove();
    while (list.children.length < count) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "small";
      button.tabIndex = -1;
      button.append(document.createElement("canvas"));
      list.append(button);
    }
    const buttons = [...list.children];
    if (count && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0; // one way in for Tab
    return buttons;
  }

  #move(event) {
    const buttons = [...this.#container.children];
    const at = buttons.indexOf(document.activeElement);
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = buttons[at + step];
    if (at < 0 || !next) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
