// Pixels of the network onto a canvas, and from there into a PNG.

/** Paint pixels, Float32Array [3, size, size] in [-1, 1], exactly as deploy/infer.py rounds them. */
export function paint(canvas, pixels, size) {
  const image = new ImageData(size, size);
  const area = size * size;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = level(pixels[c * area + i]);
    image.data[4 * i + 3] = 255;
  }
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Offer the canvas as a PNG of that file name, enlarged to `size` x `size` pixels. */
export function savePng(canvas, name, size = canvas.width) {
  if (size !== canvas.width) canvas = enlarged(canvas, size);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
}

/** A canvas of `size` x `size` pixels with the content of a square one: bicubic (Keys 1981, a = -0.5), as Pillow's. */
function enlarged(canvas, size) {
  const from = canvas.width;
  const taps = Array.from({ length: size }, (_, i) => tapsAt((i + 0.5) * (from / size) - 0.5, from));
  const { data } = canvas.getContext("2d").getImageData(0, 0, from, from);
  const wide = new Uint8ClampedArray(4 * size * from); // rows first, rounded to bytes between, as Pillow does
  for (let y = 0; y < from; y++) {
    for (let x = 0; x < size; x++) {
      for (let c = 0; c < 4; c++) wide[4 * (y * size + x) + c] = weighed(taps[x], (k) => data[4 * (y * from + k) + c]);
    }
  }
  const image = new ImageData(size, size);
  for (let y = 0; y < size; y++) {
    for (let i = 0; i < 4 * size; i++) image.data[4 * y * size + i] = weighed(taps[y], (k) => wide[4 * k * size + i]);
  }
  const result = document.createElement("canvas");
  result.width = result.height = size;
  result.getContext("2d").putImageData(image, 0, 0);
  return result;
}

/** The pixels of 0 .. count-1 around position `at` with their weights: [[index, weight], ...], of sum 1. */
function tapsAt(at, count) {
  const first = Math.floor(at) - 1;
  const taps = [0, 1, 2, 3].map((i) => [first + i, keys(Math.abs(at - first - i))]);
  const inside = taps.filter(([index]) => index >= 0 && index < count);
  const sum = inside.reduce((total, [, weight]) => total + weight, 0);
  return inside.map(([index, weight]) => [index, weight / sum]);
}

function keys(x) {
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

function weighed(taps, valueAt) {
  return taps.reduce((sum, [index, weight]) => sum + weight * valueAt(index), 0);
}

/** -1 -> 0, 1 -> 255, in single precision; storing into the clamped array rounds halves to the even number. */
function level(x) {
  return Math.fround(Math.fround(x + 1) * 127.5);
}
