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

/** Offer the canvas as a PNG of that file name. */
export function savePng(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
}

/** -1 -> 0, 1 -> 255, in single precision; storing into the clamped array rounds halves to the even number. */
function level(x) {
  return Math.fround(Math.fround(x + 1) * 127.5);
}
