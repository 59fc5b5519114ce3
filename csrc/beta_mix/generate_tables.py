"""Write tables.h: the polynomials behind the draws of the symmetric Beta distribution and their implicit gradient.

With x = log(lam / (1 - lam)) and y = dx/dtau at a fixed value of the CDF of Beta(tau, tau), the function
G(x, tau) = -tau y / x is even in x, analytic, and lies in [1/2, 1] for every tau. On |x| <= 3 it is fitted by
one polynomial in u = 2 (x/3)^2 - 1 and s = (tau - 3/4) / (tau + 3/4), both in [-1, 1], which therefore covers
all of 0 < tau < inf. A second polynomial in s gives d(tau) = psi(tau + 1) - psi(tau + 1/2), which the series for
|x| > 3 needs. In float32 logarithm, exponential and sine are short polynomials too, so that compilers can work on
several draws at once; in float64 they are those of the C library. mpmath computes everything in 120 digits.
`generate_tables.py` prints the header; `generate_tables.py > tables.h` renews it, and a test compares the two.
"""

from collections.abc import Callable

from mpmath import cos, expm1, log, log1p, mp, mpf, nstr, pi, psi, sech, sign, sin, sqrt, tanh

mp.dps = 120  # the centre series cancels like exp(tau w^2), 41 digits at the largest tau sampled

CENTRE_HALF_WIDTH = mpf(3)
TAU_AT_ZERO = mpf(3) / 4
NODES_U, NODES_S, NODES_D = 20, 28, 40
PRECISIONS = {  # C++ type: digits printed, Chebyshev coefficients dropped below (G, d)
    "float": (9, mpf("3e-8"), mpf("3e-9")),
    "double": (17, mpf("2e-12"), mpf("1e-16")),
}


def logit_gradient(x: mpf, tau: mpf) -> mpf:
    """dx/dtau, by a series in w = tanh(x/2) near the centre and in a = sech(x/2)^2 elsewhere."""
    c = psi(0, tau + mpf(1) / 2) - psi(0, tau)
    w = tanh(x / 2)
    if w * w <= mpf("0.1"):
        return _centre_series(w, tau, c)
    return sign(x) * _tail_series(sech(x / 2) ** 2, tau, c)


def _centre_series(w: mpf, tau: mpf, c: mpf) -> mpf:
    coefficient, power, total, k = -2 * c, w, mpf(0), 0
    while k < 2 * tau or abs(coefficient * power) > mpf(10) ** -40 * abs(total):
        total += coefficient * power
        k += 1
        coefficient = ((2 * k - 1 + 2 * tau) * coefficient + mpf(2) / k) / (2 * k + 1)
        power *= w * w
    return total


def _tail_series(a: mpf, tau: mpf, c: mpf) -> mpf:
    numerator, weight, total, k = c + log(a), mpf(1), mpf(0), 0
    while weight > mpf(10) ** -40:
        total += weight * (numerator / (tau + k) - 1 / (tau + k) ** 2)
        k += 1
        weight *= a * (2 * k - 1) / (2 * k)
    return total


def g_of(u: mpf, s: mpf) -> mpf:
    x, tau = CENTRE_HALF_WIDTH * sqrt((u + 1) / 2), tau_of(s)
    return -tau * logit_gradient(x, tau) / x


def d_of(s: mpf) -> mpf:
    tau = tau_of(s)
    return psi(0, tau + 1) - psi(0, tau + mpf(1) / 2)


def tau_of(s: mpf) -> mpf:
    return TAU_AT_ZERO * (1 + s) / (1 - s)


def chebyshev_nodes(count: int) -> list[mpf]:
    return [cos(pi * (2 * j + 1) / (2 * count)) for j in range(count)]


def chebyshev_coefficients(values: list[mpf]) -> list[mpf]:
    """Coefficients of the interpolant through `values` at chebyshev_nodes(len(values))."""
    n = len(values)
    sums = [sum(v * cos(pi * i * (2 * j + 1) / (2 * n)) for j, v in enumerate(values)) for i in range(n)]
    return [2 * total / n / (2 if i == 0 else 1) for i, total in enumerate(sums)]


def drop_small_tail(coefficients: list[mpf], smallest: mpf) -> list[mpf]:
    kept = [i for i, c in enumerate(coefficients) if abs(c) >= smallest]
    return coefficients[: kept[-1] + 1] if kept else []


def chebyshev_to_monomials(coefficients: list[mpf]) -> list[mpf]:
    """Coefficients of the powers, lowest first."""
    total = [mpf(0)] * len(coefficients)
    current, following = [mpf(1)], [mpf(0), mpf(1)]
    for c in coefficients:
        for power, value in enumerate(current):
            total[power] += c * value
        doubled = [mpf(0)] + [2 * v for v in following]
        padded = current + [mpf(0)] * (len(doubled) - len(current))
        current, following = following, [a - b for a, b in zip(doubled, padded, strict=True)]
    return total


def fit_g() -> list[list[mpf]]:
    """Chebyshev coefficients of G, [order in u][order in s]."""
    over_s = [chebyshev_coefficients([g_of(u, s) for s in chebyshev_nodes(NODES_S)]) for u in chebyshev_nodes(NODES_U)]
    columns = [chebyshev_coefficients([row[j] for row in over_s]) for j in range(NODES_S)]
    return [[column[i] for column in columns] for i in range(NODES_U)]


def monomials_of_g(fit: list[list[mpf]], smallest: mpf) -> list[list[mpf]]:
    """Polynomials in s, one for each power of u."""
    rows = [row for row in (drop_small_tail(row, smallest) for row in fit) if row]
    in_s = [chebyshev_to_monomials(row) for row in rows]
    width = max(map(len, in_s))
    padded = [row + [mpf(0)] * (width - len(row)) for row in in_s]
    by_power_of_s = [chebyshev_to_monomials([row[j] for row in padded]) for j in range(width)]
    by_power_of_u = [[column[i] for column in by_power_of_s] for i in range(len(rows))]
    return [drop_small_tail(row, mpf(10) ** -100) for row in by_power_of_u]


def polynomial(function: Callable[[mpf], mpf], low: mpf, high: mpf, smallest: mpf) -> list[mpf]:
    """Coefficients of the powers of x for `function` on [low, high], short of Chebyshev terms below `smallest`."""
    middle, half = (high + low) / 2, (high - low) / 2
    nodes = chebyshev_nodes(NODES_U)
    in_u = chebyshev_to_monomials(
        drop_small_tail(chebyshev_coefficients([function(middle + half * u) for u in nodes]), smallest)
    )
    total = [mpf(0)] * len(in_u)
    power = [mpf(1)]  # of u = (x - middle) / half
    for c in in_u:
        for i, value in enumerate(power):
            total[i] += c * value
        shifted, scaled = [mpf(0), *power], [*power, mpf(0)]
        power = [(up - middle * same) / half for up, same in zip(shifted, scaled, strict=True)]
    return total


def elementary() -> dict[str, list[mpf]]:
    """log(1 + f) = f - f^2/2 + f^3 R(f) on [sqrt 1/2, sqrt 2] - 1; e^r = 1 + r + r^2 P(r) on |r| <= log(2)/2;
    sin(pi v / 2) = v Q(v^2) on [0, 1]."""
    return {
        "log_table(float f)": polynomial(
            lambda f: (log1p(f) - f + f * f / 2) / f**3, sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1, mpf("3e-8")
        ),
        "exp_table(float r)": polynomial(lambda r: (expm1(r) - r) / r**2, -log(2) / 2, log(2) / 2, mpf("4e-9")),
        "sin_table(float v2)": polynomial(lambda t: sin(pi / 2 * sqrt(t)) / sqrt(t), mpf(0), mpf(1), mpf("4e-9")),
    }


def literal(value: mpf, cpp_type: str) -> str:
    text = nstr(value, PRECISIONS[cpp_type][0], min_fixed=1, max_fixed=0)
    return text + ("f" if cpp_type == "float" else "")


def horner(variable: str, coefficients: list[mpf], cpp_type: str) -> str:
    return f"horner({variable}, " + ", ".join(literal(c, cpp_type) for c in coefficients) + ")"


def header() -> str:
    fit = fit_g()
    fit_d = chebyshev_coefficients([d_of(s) for s in chebyshev_nodes(NODES_D)])
    lines = [
        "// Generated by generate_tables.py, which says what these polynomials are. Do not edit.",
        "#pragma once",
        '#include "../common/math.h"',
        "",
        "// clang-format off",
        "namespace lada {",
    ]
    for signature, coefficients in elementary().items():
        variable = signature.split("float ")[1].rstrip(")")
        lines += ["", f"LADA_HD float {signature} {{ return {horner(variable, coefficients, 'float')}; }}"]
    for cpp_type, (_, smallest_g, smallest_d) in PRECISIONS.items():
        rows = [horner("s", row, cpp_type) for row in monomials_of_g(fit, smallest_g)]
        d = horner("s", chebyshev_to_monomials(drop_small_tail(fit_d, smallest_d)), cpp_type)
        lines += [
            "",
            "template <class Body>",
            f"LADA_HD auto beta_centre_rows({cpp_type} s, const Body& body) {{",
            "  return body(",
            "    " + ",\n    ".join(rows) + ");",
            "}",
            "",
            f"LADA_HD {cpp_type} beta_d_table({cpp_type} s) {{ return {d}; }}",
        ]
    return "\n".join([*lines, "", "}  // namespace lada", "// clang-format on"])


if __name__ == "__main__":
    print(header())
