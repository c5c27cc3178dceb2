// Moving about among latents. All take and return Float32Array and compute in double precision, as deploy/walk.py does.

/** The latent at share `t` of the arc from `a` to `b`: spherical interpolation (White 2016, sec. 2.1). */
export function slerp(a, b, t) {
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
  const sine = Math.sin(angle);
  if (!(sine >= 1e-6)) return a.map((x, i) => (1 - t) * x + t * b[i]); // nearly parallel: the arc is the line
  const [shareA, shareB] = [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return a.map((x, i) => shareA * x + shareB * b[i]);
}

/** `a` moved by `amount` along the unit latent `direction`. */
export function shifted(a, direction, amount) {
  return a.map((x, i) => x + amount * direction[i]);
}

/** `a` nearer to the centre, where images are typical, or farther: the truncation trick on a normal latent. */
export function scaled(a, factor) {
  return a.map((x) => x * factor);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
