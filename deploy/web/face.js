// A face is described by a short text, its address, which fits into a link: "42", "42~7~.350", "42~_1_2.5".
// It is read from left to right, pieces parted by "~", onto a stack: a seed or a word is put on top, ".350" blends the
// two faces on top (here 35% of the way to the second), "_1_2.5" moves the top one by 2.5 along direction 1.

import { key, latents, MAX_SEED } from "./latents.js";
import { shifted, slerp } from "./space.js";

const MOST_PIECES = 2000; // two for each variation of a variation
const LONGEST_WORD = 100;
const BLEND = /^\.\d{1,6}$/;
const SHIFT = /^_(\d{1,2})_(-?\d{1,2}(?:\.\d{1,3})?)$/;

/** The seed of what somebody typed: a whole number is itself, any other word is hashed. Null for nothing. */
export function seedOf(text) {
  const word = normalized(text);
  if (!word) return null;
  return isSeed(word) ? Number(word) : key(new TextEncoder().encode(word)); // key() of the UTF-8 bytes, one by one
}

/** The address of a typed word or seed, or "" for nothing. */
export function addressOf(text) {
  const word = normalized(text);
  if (!word) return "";
  if (isSeed(word)) return String(Number(word));
  return encodeURIComponent(word).replace(/[-_.!~*'()]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
}

/** The address of the face at share `t` from address `a` to address `b`. */
export function blend(a, b, t) {
  const thousandths = Math.round(t * 1000);
  if (thousandths <= 0) return a;
  return thousandths >= 1000 ? b : `${a}~${b}~.${String(thousandths).padStart(3, "0")}`;
}

/** The address of `base` moved along directions: amounts[0] along direction 1, and so on. */
export function shift(base, amounts) {
  const moves = amounts.map((amount, i) => (amount ? `~_${i + 1}_${Number(amount.toFixed(2))}` : ""));
  return base + moves.join("");
}

/** What `shift` joined: the base address and the amounts along `count` directions. */
export function unshift(address, count) {
  const pieces = address.split("~");
  const amounts = new Array(count).fill(0);
  for (let move; (move = SHIFT.exec(pieces.at(-1))) && move[1] >= 1 && move[1] <= count; pieces.pop()) {
    amounts[move[1] - 1] += Number(move[2]);
  }
  return { base: pieces.join("~"), amounts };
}

/** Some faces like `address`: `amount` of the way towards `count` others, which are the same each time per brood. */
export function children(address, amount, brood, count) {
  const own = key(new TextEncoder().encode(address));
  return Array.from({ length: count }, (_, i) => blend(address, String(key([own, brood, i])), amount));
}

/** Whether `latentOf` can read this address, with a model of so many directions. */
export function isAddress(address, directionCount) {
  return stepsOf(address, directionCount) !== null;
}

/** The latent of an address. Throws RangeError for one that cannot be read. */
export function latentOf(address, model) {
  const steps = stepsOf(address, model.directions.length);
  if (!steps) throw new RangeError(`${address} is no address of a face`);
  const stack = [];
  for (const step of steps) {
    if ("seed" in step) stack.push(latents(step.seed, model.latentDim));
    else if ("share" in step) stack.splice(-2, 2, slerp(stack.at(-2), stack.at(-1), step.share));
    else stack.push(shifted(stack.pop(), model.directions[step.direction - 1], step.amount));
  }
  return stack[0];
}

/** How to speak of an address: the word or seed it begins with, its seed, and how often it was changed since. */
export function describe(address) {
  const pieces = address.split("~");
  const name = decodeURIComponent(pieces[0]);
  return { name, seed: seedOf(name), changes: pieces.filter((p) => BLEND.test(p) || SHIFT.test(p)).length };
}

/** The steps that an address stands for, or null if it is none: each has `seed`, `share`, or `direction` and `amount`. */
function stepsOf(address, directionCount) {
  const pieces = address.split("~");
  const steps = [];
  let height = 0; // of the stack
  if (pieces.length > MOST_PIECES) return null;
  for (const piece of pieces) {
    const move = SHIFT.exec(piece);
    const word = leafWord(piece);
    if (BLEND.test(piece) && height >= 2) {
      height -= 1;
      steps.push({ share: Number(piece) });
    } else if (move && height && move[1] >= 1 && move[1] <= directionCount) {
      steps.push({ direction: Number(move[1]), amount: Number(move[2]) });
    } else if (word) {
      height += 1;
      steps.push({ seed: seedOf(word) });
    } else return null;
  }
  return height === 1 ? steps : null;
}

/** The word of a leaf, or "" if the piece is none or not written the way `addressOf` writes it. */
function leafWord(piece) {
  if (!/^[A-Za-z0-9%]+$/.test(piece)) return "";
  try {
    return normalized(decodeURIComponent(piece));
  } catch {
    return ""; // a "%" that begins no UTF-8
  }
}

/** Whether a word is a whole number that is a seed itself. */
function isSeed(word) {
  return /^\d{1,10}$/.test(word) && Number(word) <= MAX_SEED;
}

/** A word as it is hashed: Unicode's composed form, without spaces at the ends, cut to a hundred characters. */
function normalized(text) {
  const whole = text.replace(/\p{Surrogate}/gu, ""); // half a character has no UTF-8
  return Array.from(whole.normalize("NFC").trim()).slice(0, LONGEST_WORD).join("").trim();
}
