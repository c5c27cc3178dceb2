// What a seed is, equal to deploy/seeds.py to the bit (tests/deploy/test_seeds.py compares them): 32-bit integer
// mixing makes a uniform number of (seed, index), the inverse of the normal distribution makes a normal one of that.
// Only + - * / sqrt are used, which IEEE 754 rounds exactly; Math.log may differ between browsers.

export const MAX_SEED = 4294967295;
const GOLDEN = 0x9e3779b9; // 2^32 / golden ratio

// Wichura (1988), "Algorithm AS 241", PPND16: numerator and denominator, highest power first; centre and tail.
const CENTRE = [
  [2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.387132872796366608],
  [5.226495278852854561e3, 2.8729085735721942674e4, 3.930789580009271061e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.871870074920579083e2, 4.2313330701600911252e1, 1.0],
];
const TAIL = [
  [7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
    3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0],
];
const LN2 = 0.6931471805599453;

/** The latent of one seed, a whole number of 0 .. MAX_SEED: Float32Array of `latentDim` standard normal numbers. */
export function latents(seed, latentDim) {
  const row = new Float32Array(latentDim);
  const first = mix(seed);
  const second = mix(seed + GOLDEN);
  for (let i = 0; i < latentDim; i++) row[i] = normal(mix(mix(Math.imul(i, GOLDEN) + first) ^ second));
  return row;
}

/** One number of 0 .. MAX_SEED that stands for several, their order included. */
export function key(parts) {
  let value = 0;
  for (const part of parts) value = mix(value + GOLDEN + part);
  return value;
}

/** "triple32" (C. Wellons, hash-prospector): a bijection of 32-bit numbers; the argument is taken modulo 2^32. */
function mix(x) {
  x |= 0;
  x = Math.imul(x ^ (x >>> 17), 0xed5ad4bb);
  x = Math.imul(x ^ (x >>> 11), 0xac4c1b51);
  x = Math.imul(x ^ (x >>> 15), 0x31848bab);
  return (x ^ (x >>> 14)) >>> 0;
}

function normal(bits) {
  const p = (bits + 0.5) / 4294967296;
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q);
  const tail = ratio(TAIL, Math.sqrt(-log(q < 0 ? p : 1 - p)) - 1.6);
  return q < 0 ? -tail : tail;
}

function ratio([numerator, denominator], x) {
  return horner(numerator, x) / horner(denominator, x);
}

function horner(coefficients, x) {
  let sum = coefficients[0];
  for (let i = 1; i < coefficients.length; i++) sum = sum * x + coefficients[i];
  return sum;
}

/** The natural logarithm of 0 < x < 1: x = m 2^e, log x = e ln 2 + log 0.75 + 2 artanh((m - 0.75) / (m + 0.75)). */
function log(x) {
  let exponent = 0;
  for (; x < 0.5; x *= 2) exponent--;
  const s = (x - 0.75) / (x + 0.75);
  const square = s * s;
  let series = 0;
  for (let power = 23; power > 0; power -= 2) series = series * square + 1 / power;
  return exponent * LN2 + (2 * s * series - 0.2876820724517809);
}
