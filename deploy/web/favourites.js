// The faces that somebody kept, in the browser's storage, or in memory where that is denied.

/** Favourites of one model: another model would generate other faces at the same addresses. */
export class Favourites {
  #name;
  #faces = [];
  isStored = true;

  constructor(modelId) {
    this.#name = `dcgan-favourites-${modelId}`;
    this.#read();
  }

  #read() {
    try {
      const found = JSON.parse(localStorage.getItem(this.#name) ?? "[]");
      this.#faces = found.filter((f) => typeof f?.face === "string" && Number.isFinite(f.wild));
    } catch (error) {
      this.isStored = error instanceof SyntaxError || error instanceof TypeError; // damaged, or denied
    }
  }

  /** {face: address, wild: number}, oldest first. */
  get all() {
    return [...this.#faces];
  }

  has({ face, wild }) {
    return this.#faces.some((f) => f.face === face && f.wild === wild);
  }

  /** Keep a face, or let go of one that is kept. */
  toggle({ face, wild }) {
    const isKept = this.has({ face, wild });
    if (this.isStored) this.#read(); // another tab may have kept some, or let go of some
    this.#faces = this.#faces.filter((f) => f.face !== face || f.wild !== wild);
    if (!isKept) this.#faces.push({ face, wild });
    try {
      localStorage.setItem(this.#name, JSON.stringify(this.#faces));
    } catch {
      this.isStored = false; // denied or full: they stay in memory
    }
  }
}
