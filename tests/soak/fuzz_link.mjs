// Random addresses of the playground through its own parser: no exception, every value usable, and the link of what
// was understood means the same.  node tests/soak/fuzz_link.mjs 1000000 7    (how many, seed)

import assert from "node:assert/strict";
import { describe, isAddress } from "../../deploy/web/face.js";
import { readLink, TOOLS, writeLink } from "../../deploy/web/link.js";

const DIRECTIONS = 8;
let state = Number(process.argv[3] ?? 1) >>> 0;
const random = (below) => { // xorshift32: the same addresses for the same seed everywhere
  state ^= state << 13; state ^= state >>> 17; state ^= state << 5; state >>>= 0;
  return state % below;
};
const pick = (list) => list[random(list.length)];
const NAMES = ["face", "tool", "a", "b", "t", "wild", "far", "brood", "page", "lang", "", "__proto__", "constructor", "x"];
const VALUES = ["12", "4294967295", "4294967296", "-1", "1e999", "NaN", "0x10", "Infinity", "", "grid", "between", "zh", "en",
  "12~7", "~", "12+7@0.5", "%", "%41", "%e4%ba%ba", "%ff", "\ud800", "人脸", "<img src=x onerror=1>", "javascript:1",
  "__proto__", "9".repeat(400), "~".repeat(300), "0.5", "-0", "1_0", " 5 ", "5e-324"];
const LETTERS = [..."0123456789~-+.@!*()_=&#%abcxyzE ", "\u0000", "\u202e", "é"];

function word() {
  if (random(3)) return pick(VALUES);
  return Array.from({ length: random(12) }, () => pick(LETTERS)).join("");
}

function address() {
  const pairs = Array.from({ length: random(9) }, () => (random(9) ? `${pick(NAMES)}=${word()}` : word()));
  return (random(5) ? "#" : "") + pairs.join(pick(["&", "&", "&&", ";"]));
}

const count = Number(process.argv[2] ?? 100000);
for (let i = 0; i < count; i++) {
  const hash = address();
  try {
    const found = readLink(hash, DIRECTIONS);
    assert(TOOLS.includes(found.tool));
    for (const name of ["face", "a", "b"]) {
      if (found[name] !== undefined) describe(found[name]);
      assert(name === "face" && found.face === undefined || isAddress(found[name], DIRECTIONS), `${name}: ${found[name]}`);
    }
    for (const name of ["wild", "far", "brood", "page", "t"]) assert(Number.isFinite(found[name]), name);
    assert([undefined, "en", "zh"].includes(found.lang));
    const link = writeLink(found);
    assert.equal(writeLink(readLink(link, DIRECTIONS)), link);
  } catch (error) {
    console.error(JSON.stringify(hash), error.message);
    process.exit(1);
  }
}
console.log(`${count} addresses`);
