"""Secrets in shares: any t of n shares give the secret, and fewer say nothing of it (Shamir 1979).

    f(x) = s + a_1·x + … + a_{t−1}·x^{t−1}  (mod p)        the share of x is f(x), the secret f(0)

p = 2^256 + 297 is prime, so that every 32 bytes are a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297
SECRET, SHARE = 32, 33  # bytes


def shares(secret: bytes, coefficients: Sequence[bytes], places: Sequence[int]) -> dict[int, bytes]:
    """Shares of a secret.

    Args:
        secret: 32 bytes.
        coefficients: a_1, …, a_{t−1}, uniform and secret. 40 bytes each, so that their remainder by p is uniform
            to 2^−64.
        places: The x of each share, from 1 on.

    Returns:
        The share of 33 bytes by its place.

    Examples:
        >>> cut = shares(bytes(31) + b"s", [bytes(39) + b"a"], [1, 2, 3])
        >>> secret_of({1: cut[1], 3: cut[3]}) == bytes(31) + b"s"
        True
    """
    line = [int.from_bytes(secret, "big"), *(int.from_bytes(a, "big") % PRIME for a in coefficients)]
    found = {}
    for x in places:
        value = 0
        for a in reversed(line):
            value = (value * x + a) % PRIME
        found[x] = value.to_bytes(SHARE, "big")
    return found


def secret_of(known: Mapping[int, bytes]) -> bytes | None:
    """The secret of exactly t shares, by their places; None where what they give is no secret: a share is wrong."""
    total = 0
    for x, share in known.items():
        up, down = 1, 1
        for other in known:
            if other != x:
                up, down = up * other % PRIME, down * (other - x) % PRIME
        total = (total + int.from_bytes(share, "big") * up * pow(down, -1, PRIME)) % PRIME
    return total.to_bytes(SECRET, "big") if total < 2 ** (8 * SECRET) else None
