"""What a seed is: `latents(seeds, latent_dim)` and the random bits beneath it.

Value i of seed s is a pure function of (s, i): 32-bit integer mixing gives a uniform number, the inverse of the normal
distribution turns it into a standard normal one. Nothing here depends on a batch, an order, a random state or a
library's generator, and only operations that IEEE 754 rounds exactly are used (+ - * / sqrt, no log, no cos), so that
numpy and JavaScript agree to the bit by construction. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_SEED = 2**32 - 1
_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: consecutive indices land far apart

# Wichura (1988), "Algorithm AS 241: The Percentage Points of the Normal Distribution", PPND16: relative error 1e-16.
# Numerator and denominator, highest power first; one pair for the centre, one for the tails.
# The uniform numbers below never go beyond 2^-33 of an end, so AS 241's third (far tail) pair is not needed:
# sqrt(-log(2^-33)) = 4.78 < 5, where the third would begin.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_LN2 = 0.6931471805599453


def latents(seeds: int | Sequence[int] | np.ndarray, latent_dim: int) -> np.ndarray:
    """Standard normal latents, one row a seed: float32 [N, latent_dim], within +-6.34.

    Args: seeds - one whole number or N of them, each 0 .. 4294967295.  latent_dim - numbers per seed, at least 1.
    The row of a seed is the same alone or among a million, on every machine, and a longer row begins with the shorter.
    Raises ValueError for a seed or size outside these ranges.
    """
    return normal(bits(check_seeds(seeds), latent_dim)).astype(np.float32)


def check_seeds(seeds: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """`seeds` as uint32 [N]. Raises ValueError naming the first that is not a whole number of 0 .. 4294967295."""
    values = np.atleast_1d(np.asarray(seeds))
    if values.size and values.dtype.kind not in "iu":
        items = values.reshape(-1).tolist()
        first = next((v for v in items if not isinstance(v, int) or not 0 <= v <= MAX_SEED), items[0])
        raise ValueError(f"a seed must be a whole number of 0 .. {MAX_SEED}, received {first!r}")
    wrong = values[(values < 0) | (values > MAX_SEED)]
    if wrong.size:
        raise ValueError(f"a seed must be a whole number of 0 .. {MAX_SEED}, received {int(wrong.flat[0])}")
    return values.reshape(-1).astype(np.uint32)


def bits(keys: np.ndarray, count: int) -> np.ndarray:
    """Random bits: uint32 [N, count], row n a pure function of the uint32 keys[n].

    Two rounds keyed apart, so that no two keys give shifted copies of one sequence.
    """
    if count < 1:
        raise ValueError(f"at least one number per seed is needed, received {count}")
    keys = np.asarray(keys, np.uint32)[:, None]
    index = np.arange(count, dtype=np.uint32)[None]
    with np.errstate(over="ignore"):  # arithmetic modulo 2^32 is meant
        return mix(mix(index * _GOLDEN + mix(keys)) ^ mix(keys + _GOLDEN))


def key(*parts: int) -> int:
    """One 0 .. 4294967295 number that stands for several (a run's seed and a step, say), their order included."""
    return int(keys(*parts)[0])


def keys(*parts: int | np.ndarray) -> np.ndarray:
    """`key`, of many at once: a part may be an array [N]; uint32 [N]."""
    value = np.zeros(1, np.uint32)
    for part in parts:
        with np.errstate(over="ignore"):
            value = mix(value + _GOLDEN + check_seeds(part))
    return value


def permutation(count: int, *parts: int) -> np.ndarray:
    """The numbers 0 .. count-1 in an order set by `parts`, int64 [count]: the same in every version of numpy."""
    return np.argsort(bits(np.array([key(*parts)]), count)[0], kind="stable")


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint32 in which each input bit flips each output bit half of the time.

    The constants are those of "triple32" (C. Wellons, hash-prospector, public domain; bias 0.0208).
    """
    x = np.asarray(x, np.uint32).copy()
    with np.errstate(over="ignore"):
        x ^= x >> np.uint32(17)
        x *= np.uint32(0xED5AD4BB)
        x ^= x >> np.uint32(11)
        x *= np.uint32(0xAC4C1B51)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x31848BAB)
        x ^= x >> np.uint32(14)
    return x


def normal(random_bits: np.ndarray) -> np.ndarray:
    """Standard normal numbers, float64, from uint32 bits of the same shape: the inverse of the distribution function.

    The uniform number is (bits + 1/2) / 2^32, which is never 0 or 1.
    """
    p = (random_bits.astype(np.float64) + 0.5) / 4294967296.0
    q = p - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    in_tail = np.abs(q) > 0.425
    r = np.sqrt(-_log(np.where(q < 0, p, 1.0 - p)[in_tail]))
    tail = _ratio(_TAIL, r - 1.6)
    centre[in_tail] = np.where(q[in_tail] < 0, -tail, tail)
    return centre


def _ratio(pair: tuple, x: np.ndarray) -> np.ndarray:
    """The quotient of two polynomials at x, by Horner's rule."""
    numerator, denominator = pair[0][0], pair[1][0]
    for a, b in zip(pair[0][1:], pair[1][1:]):
        numerator, denominator = numerator * x + a, denominator * x + b
    return numerator / denominator


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of positive x to 1e-15, by exactly rounded operations: np.log may differ between machines.

    x = m 2^e with m in [0.5, 1): log x = e ln 2 + 2 artanh(s), s = (m - c) / (m + c) shifted by log c, c = 0.75.
    """
    m, exponent = np.frexp(x)
    s = (m - 0.75) / (m + 0.75)  # |s| <= 0.2
    square = s * s
    series = np.zeros_like(s)
    for power in range(23, 0, -2):
        series = series * square + 1.0 / power
    return exponent * _LN2 + (2.0 * s * series - 0.2876820724517809)  # log(0.75)
