// One face on one canvas.

import { latentOf } from "./face.js";
import { paint } from "./image.js";
import { scaled } from "./space.js";

/**
 * Returns what shows {face, wild} onto `canvas`, in a lane of the engine; what is already there stays.
 * `onPaint` hears of {face, wild} once they can be seen, which is later than they were asked for.
 */
export function setUpPortrait(page, lane, canvas, onPaint = () => {}) {
  let shown = "";
  return ({ face, wild }) => {
    const content = `${face} ${wild}`;
    if (!page.engine || content === shown) return;
    shown = content;
    const { model } = page;
    page.engine.generate(lane, [scaled(latentOf(face, model), wild)], (_, pixels) => {
      paint(canvas, pixels, model.size);
      onPaint({ face, wild });
    });
  };
}
