// What is shown, kept equal to the link in the browser's address bar, and who wants to know when it changes.

import { isAddress } from "./face.js";
import { readLink, writeLink } from "./link.js";

const REST = 300; // milliseconds without a change before the link follows: browsers allow few rewrites per second

export class Page {
  engine = null; // until the model is loaded
  #listeners = [];
  #timer = 0;

  constructor(model) {
    this.model = model;
    this.state = readLink(location.hash, model.directions.length);
    addEventListener("popstate", () => this.reload());
    addEventListener("pagehide", () => this.#writeLink());
  }

  /** Call `listener(state)` now, and after every change. */
  follow(listener) {
    this.#listeners.push(listener);
    listener(this.state);
  }

  /**
   * Change parts of the state. With `isNew`, the browser's Back button leads to what was before. A face that has become
   * too long for an address, as after fourteen blends with itself, is not taken.
   */
  set(changes, isNew = false) {
    const faces = ["face", "a", "b"].filter((name) => name in changes);
    const canBeRead = faces.every((name) => isAddress(changes[name], this.model.directions.length));
    if (!canBeRead) changes = {}; // what shows the state goes back to it
    if (isNew) this.#writeLink();
    Object.assign(this.state, changes);
    if (isNew && writeLink(this.state) !== location.hash) history.pushState(null, "", writeLink(this.state));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#writeLink(), REST);
    this.refresh();
  }

  /** Show what the address bar says. */
  reload() {
    clearTimeout(this.#timer);
    this.state = readLink(location.hash, this.model.directions.length);
    this.refresh();
  }

  refresh() {
    for (const listener of this.#listeners) listener(this.state);
  }

  /** The full link to what is shown. */
  get link() {
    return location.href.replace(/#.*$/, "") + writeLink(this.state);
  }

  #writeLink() {
    clearTimeout(this.#timer);
    if (!this.#timer) return; // nothing is waiting to be written
    this.#timer = 0;
    history.replaceState(null, "", writeLink(this.state));
  }
}
