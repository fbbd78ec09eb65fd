"""Compares forms of compact state: usage: compact_forms.py (needs numpy; about a minute)

Each form stores m1, m2 or v of 4,096 elements after every one of 10,000 steps of AdEMAMix, and is
compared with the same run in double precision. Gradients are normal noise, with a scale that differs
between the elements of a block (log-normal, 1.5 in the logarithm) and a drift of a twentieth of it; every
eighth element has a gradient in one of 50 steps only, as the embedding of a rare token has. Not a test: it
made the table in docs/precision.md.
"""

from collections.abc import Callable

import numpy as np

BLOCK = 256
ELEMENTS = 16 * BLOCK
STEPS = 10_000
BETA1, BETA2, BETA3, ALPHA, EPS = 0.9, 0.999, 0.9999, 8.0, 1e-8

Array = np.ndarray
Form = Callable[[Array, np.random.Generator], Array]


def largest(x: Array) -> Array:
    """The largest magnitude of each element's block; 1 where that is 0."""
    most = np.abs(x).reshape(-1, BLOCK).max(1).repeat(BLOCK)
    return np.where(most == 0, 1, most)


def rounded(x: Array, random: np.random.Generator | None) -> Array:
    return np.floor(x + (0.5 if random is None else random.random(x.shape)))


def linear(bits: int, stochastic: bool, root: bool = False) -> Form:
    """Equal steps up to the block's largest; of the root, for v."""

    def form(x: Array, random: np.random.Generator) -> Array:
        y = np.sqrt(x) if root else x
        step = largest(y) / (2**bits - 1)
        y = np.sign(y) * rounded(np.abs(y) / step, random if stochastic else None) * step
        return y * y if root else y

    return form


def companded(bits: int, mantissa: int, stochastic: bool, zero: bool = True) -> Form:
    """A small float below the block's largest; with `zero`, equal steps around zero."""
    least = 2.0 ** (1 - 2 ** (bits - mantissa))

    def form(x: Array, random: np.random.Generator) -> Array:
        scale = np.exp2(np.floor(np.log2(largest(x) * (1 + 2.0 ** -(mantissa + 1)))))
        y = np.abs(x) / scale
        y = y + least if zero else np.maximum(y, least)
        step = np.exp2(np.floor(np.log2(y)) - mantissa)
        y = rounded(y / step, random if stochastic else None) * step
        return np.sign(x) * (y - least if zero else y) * scale

    return form


def fp16(x: Array, _random: np.random.Generator) -> Array:
    scale = largest(x) / 30_000
    return (x / scale).astype(np.float16).astype(np.float64) * scale


def exact(x: Array, _random: np.random.Generator) -> Array:
    return x


def errors_of(m1_form: Form, m2_form: Form, v_form: Form) -> tuple[float, float, float, float]:
    """RMS errors of m1, m2, the root of v and the update, relative to their RMS, in the last 2,000 steps."""
    shape = np.random.default_rng(1)
    scale = np.exp(shape.normal(0, 1.5, ELEMENTS)) * 1e-3
    drift = shape.normal(0, 0.05, ELEMENTS) * scale
    rare = np.arange(ELEMENTS) % 8 == 7
    noise, random = np.random.default_rng(7), np.random.default_rng(3)
    m1, m2, v = np.zeros((3, ELEMENTS))
    true_m1, true_m2, true_v = np.zeros((3, ELEMENTS))
    squares = []
    for t in range(1, STEPS + 1):
        g = noise.normal(0, 1, ELEMENTS) * scale + drift
        g = np.where(rare & (noise.random(ELEMENTS) > 0.02), 0, g)
        m1, true_m1 = (m + (1 - BETA1) * (g - m) for m in (m1, true_m1))
        m2, true_m2 = (m + (1 - BETA3) * (g - m) for m in (m2, true_m2))
        v, true_v = (x + (1 - BETA2) * (g * g - x) for x in (v, true_v))
        if t > STEPS - 2000 and t % 20 == 0:
            def update(fast: Array, slow: Array, square: Array, t: int = t) -> Array:
                root = np.sqrt(square / (1 - BETA2**t)) + EPS
                return (fast / (1 - BETA1**t) + ALPHA * slow) / root

            true_root = np.sqrt(true_v)
            pairs = ((m1 / true_root, true_m1 / true_root), (m2 / true_root, true_m2 / true_root),
                     (np.sqrt(v) / true_root, np.ones(ELEMENTS)),
                     (update(m1, m2, v), update(true_m1, true_m2, true_v)))
            squares.append([np.mean((x - y) ** 2) / np.mean(y**2) for x, y in pairs])
        m1, m2, v = m1_form(m1, random), m2_form(m2, random), v_form(v, random)
    return tuple(np.sqrt(np.mean(squares, axis=0)))


M1, M2, V = companded(7, 3, True), companded(15, 10, True), companded(8, 3, True, zero=False)
FORMS: list[tuple[str, Form, Form, Form]] = [
    ("m1: int8 in equal steps, nearest", linear(7, False), exact, exact),
    ("m1: int8 in equal steps, stochastic", linear(7, True), exact, exact),
    ("m1: 8 octaves x 16, stochastic", companded(7, 4, True), exact, exact),
    ("m1: 16 octaves x 8, nearest", companded(7, 3, False), exact, exact),
    ("m1: 16 octaves x 8, stochastic (chosen)", M1, exact, exact),
    ("m2: 16 octaves x 8 in 8 bits, stochastic", exact, companded(7, 3, True), exact),
    ("m2: fp16, nearest", exact, fp16, exact),
    ("m2: 32 octaves x 1024, nearest", exact, companded(15, 10, False), exact),
    ("m2: 32 octaves x 1024, stochastic (chosen)", exact, M2, exact),
    ("v: root in 8 bits in equal steps, nearest", exact, exact, linear(8, False, root=True)),
    ("v: root in 8 bits in equal steps, stochastic", exact, exact, linear(8, True, root=True)),
    ("v: 16 octaves x 16, stochastic", exact, exact, companded(8, 4, True, zero=False)),
    ("v: 32 octaves x 8, nearest", exact, exact, companded(8, 3, False, zero=False)),
    ("v: 32 octaves x 8, stochastic (chosen)", exact, exact, V),
    ("all as chosen", M1, M2, V),
]


def main() -> None:
    print(f"| {'form':44} | m1 | m2 | root of v | update |\n|---|---|---|---|---|")
    for name, *forms in FORMS:
        percents = (f"{100 * error:.3g} %" if error > 0 else "" for error in errors_of(*forms))
        print(f"| {name:44} | {' | '.join(percents)} |", flush=True)


if __name__ == "__main__":
    main()
