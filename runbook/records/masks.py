"""Secrets, taken out of whatever is written: raw, in JSON, in URLs, in base64, whole and line by line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from runbook.language.problems import RunbookError
from runbook.language.values import Output, dumps

MASK = "***"
SHORTEST = 4


class WeakSecret(RunbookError):
    """A secret is too short to be masked without masking half of everything."""


class Masks:
    """Replaces every form of every secret. With no secrets it costs nothing."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._text = re.compile("|".join(map(re.escape, forms))) if forms else None
        self._forms = tuple(sorted((form.encode() for form in forms), key=len, reverse=True))
        self._bytes = re.compile(b"|".join(map(re.escape, self._forms))) if forms else None

    def text(self, text: str) -> str:
        return self._text.sub(MASK, text) if self._text else text

    def data(self, value: Any) -> Any:
        """`value`, as records hold it, with secrets masked in every text, number and key."""
        if self._text is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        if value is None or isinstance(value, bool):
            return value
        return MASK if self._text.search(str(value)) else value

    def incoming(self, value: Any) -> Any:
        """`value` as it came from outside, with secrets masked in texts; other types stay what they are."""
        if self._text is None:
            return value
        if isinstance(value, Output):
            return Output(self.text(value), self.incoming(value.facts))
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.incoming(item) for key, item in value.items()}
        return [self.incoming(item) for item in value] if isinstance(value, list) else value

    def stream(self) -> MaskedStream:
        """A filter for one stream of bytes."""
        return MaskedStream(self._bytes, self._forms)


class MaskedStream:
    """Masks secrets in a stream even where they are split between chunks; holds back only what could be a secret's start."""

    def __init__(self, pattern: re.Pattern[bytes] | None, forms: tuple[bytes, ...]) -> None:
        self._pattern, self._forms, self._held = pattern, forms, b""

    def feed(self, chunk: bytes) -> bytes:
        if self._pattern is None:
            return chunk
        data = self._pattern.sub(MASK.encode(), self._held + chunk)
        keep = self._beginning(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def _beginning(self, data: bytes) -> int:
        """The length of the longest end of `data` with which a secret could begin."""
        for length in range(min(len(self._forms[0]) - 1, len(data)), 0, -1):
            end = data[-length:]
            if any(form.startswith(end) for form in self._forms):
                return length
        return 0

    def rest(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _forms(secret: str) -> Iterable[str]:
    lines = [line for line in secret.splitlines() if len(line.strip()) >= SHORTEST]
    for part in {secret, secret.strip(), *lines}:
        if len(part) < SHORTEST:
            continue
        yield part
        yield dumps(part)[1:-1]
        yield json.dumps(part, ensure_ascii=False)[1:-1]
        yield quote(part)
        yield quote(part, safe="")
        yield quote_plus(part)
        raw = part.encode()
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
            inner = encoded[(0, 2, 3)[shift] : len(encoded) - (0 if (len(raw) + shift) % 3 == 0 else 1)]
            if len(inner) >= SHORTEST + 2:
                yield inner
                yield inner.replace("+", "-").replace("/", "_")


def check_strength(secrets: Mapping[str, str]) -> None:
    """Refuses a secret that is too short. Raises WeakSecret."""
    for name, value in secrets.items():
        if len(value) < SHORTEST:
            raise WeakSecret(
                f"secret `{name}` has {len(value)} characters; fewer than {SHORTEST} cannot be masked without masking everything"
            )
