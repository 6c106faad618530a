# SPDX-License-Identifier: Apache-2.0
"""Detach keys: a byte sequence typed by the user that ends an attach without ending the container."""

from __future__ import annotations


class DetachKeys:
    """Looks for the sequence in what comes, across reads. A prefix that leads nowhere is passed on."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys, self._matched = keys, 0

    def scan(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes to pass on, whether the sequence is complete: what follows it is dropped)."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            while self._matched and byte != keys[self._matched]:
                self._fall_back(out)
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    self._matched = 0
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False

    def _fall_back(self, out: bytearray) -> None:
        """Give up the oldest held byte, keep the longest rest that is still a prefix of the keys."""
        held = self._keys[: self._matched]
        for drop in range(1, self._matched + 1):
            if self._keys.startswith(held[drop:]):
                out += held[:drop]
                self._matched -= drop
                return
