"""Public sampling noise: the same seed and position give the same Gumbel noise on every machine.

A token is drawn as argmax(logits / temperature + noise(seed, position)), which samples from the softmax
(the Gumbel-max trick). Whoever knows the seed can therefore check, with the model, that an answer was
drawn and not edited. The hash is splitmix64 over (SHA-256 of seed and position, token id): integer
arithmetic only, so that numpy, torch on a CPU and torch on a GPU agree to the bit.

This module is the definition, in plain integers, and needs nothing; `gumbel` is the same on torch tensors.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014): the 64-bit variant's constants.
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def noise_key(seed: bytes, position: int) -> int:
    """The 64-bit key for one position (0 is the answer's first token) under a request's seed."""
    material = b"ainp2p/noise/1" + len(seed).to_bytes(4, "big") + seed + position.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big")


def hashed(key: int, token: int) -> int:
    """splitmix64's output number `token` + 1 from the state `key`."""
    x = (key + (token + 1) * _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def gumbel_of(key: int, token: int) -> float:
    """The noise of one token id: -log(-log(u)), u in (0, 1) from the hash's upper 52 bits.

    With 53 bits the largest u would round to 1, and its noise be infinite.
    """
    u = ((hashed(key, token) >> 12) + 0.5) * 2.0**-52
    return -math.log(-math.log(u))


def gumbel(key: int, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The noise of token ids 0 … size-1 as a float64 tensor."""
    import torch

    x = torch.arange(1, size + 1, dtype=torch.int64, device=device) * _signed(_GAMMA) + _signed(key)
    x = (x ^ _shifted(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shifted(x, 27)) * _signed(_MIX_2)
    x = x ^ _shifted(x, 31)
    u = (_shifted(x, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u))


def _signed(x: int) -> int:
    """The int64 with the same bits: torch multiplies and adds modulo 2^64 like everybody."""
    return x - (1 << 64) if x >= 1 << 63 else x


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right; torch's own copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
