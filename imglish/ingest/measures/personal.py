"""Measure `pii`: where personal data stands in a text or in captions, each hit confirmed by its kind's own check.

    find_personal([b"Write to ann@example.org."], ())     # [[[9, 24, "email", "5d4c..."]]]

e-mail     a local part, @ and a domain of at least two labels
ip         IPv4 and IPv6 that `ipaddress` calls global, so not 192.168.0.1; a section 6.3.6.2 cannot be told from one
phone      international numbers (+...) that `phonenumbers` calls valid; national ones of the recipe's `regions`
card       13 to 19 digits, or groups as cards print them, with an issuer's beginning and length and Luhn's digit
iban       country, check digits modulo 97 (ISO 13616)

Hits carry a hash of what stands there in one spelling, so that the rule can make the same placeholder of it everywhere
without reading it again.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from imglish.ingest.measures.spans import Texts

PiiClass = Literal["email", "ip", "phone", "card", "iban"]
CLASSES: tuple[PiiClass, ...] = ("email", "ip", "phone", "card", "iban")
_ORDER = {name: place for place, name in enumerate(("email", "iban", "card", "ip", "phone"))}

_LOCAL = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}$")
_DOMAIN = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
_IPV4 = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(rb"(?<![\w:.])(?:[0-9A-Fa-f]{1,4})?(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_PHONE = re.compile(rb"(?<![\w+])\+\d(?:[ ().\-/]{0,2}\d){6,14}(?!\d)")
_DIGITS = re.compile(rb"\d(?:[^\d\n]{0,2}\d){6}")
_CARD = re.compile(
    rb"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}(?!\1\d)|\d{4}([ -])\d{6}\2\d{4,5}(?!\2\d))(?![\w-])"
)
_ALLOCATED = ipaddress.ip_network("2000::/3")
"""All IPv6 addresses that are given out (IANA); others are words such as be:: of program text."""
_IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")


class Hit(NamedTuple):
    """One hit: bytes of the text it stands in, its class, 16 hex digits of a hash."""

    start: int
    end: int
    kind: PiiClass
    hash: str


def find_personal(documents: Sequence[bytes], regions: Sequence[str]) -> list[list[Hit]]:
    """Hits of every document, by start; `regions` are countries (ISO 3166) whose national phone numbers count."""
    texts = Texts(documents)
    found: list[list[Hit]] = [[] for _ in documents]
    for start, end, kind, spelling in sorted(_hits(texts, regions), key=lambda hit: (hit[0], _ORDER[hit[2]])):
        number = int(np.searchsorted(texts.ends, start))
        base = int(texts.starts[number])
        digest = hashlib.blake2b(spelling.encode(), digest_size=8).hexdigest()
        found[number].append(Hit(start - base, end - base, kind, digest))
    return found


_Raw = tuple[int, int, PiiClass, str]


def _hits(texts: Texts, regions: Sequence[str]) -> Iterator[_Raw]:
    yield from _emails(texts)
    yield from _addresses(texts.raw)
    yield from _numbers(texts.raw)
    yield from _phones(texts, regions)


def _emails(texts: Texts) -> Iterator[_Raw]:
    raw = texts.raw
    for at in texts.find(b"@").tolist():
        local, domain = _LOCAL.search(raw[max(0, at - 64) : at]), _DOMAIN.match(raw, at + 1)
        if local is not None and domain is not None:
            start = at - len(local.group())
            yield start, domain.end(), "email", raw[start : domain.end()].decode().lower()


def _addresses(raw: bytes) -> Iterator[_Raw]:
    for pattern in (_IPV4, _IPV6):
        for found in pattern.finditer(raw):
            try:
                address = ipaddress.ip_address(found.group().decode())
            except ValueError:
                continue
            if address.is_global and (address.version == 4 or address in _ALLOCATED):
                yield found.start(), found.end(), "ip", str(address)


def _numbers(raw: bytes) -> Iterator[_Raw]:
    for found in _CARD.finditer(raw):
        digits = re.sub(rb"\D", b"", found.group()).decode()
        if _is_issued(digits) and _luhn(digits):
            yield found.start(), found.end(), "card", digits
    for found in _IBAN.finditer(raw):
        code = found.group().replace(b" ", b"").decode()
        if 15 <= len(code) <= 34 and int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1:
            yield found.start(), found.end(), "iban", code


def _is_issued(digits: str) -> bool:
    """Beginnings and lengths of the large issuers: Visa, Mastercard, American Express, Discover, JCB, Diners Club."""
    size, two, four = len(digits), int(digits[:2]), int(digits[:4])
    return (
        (digits[0] == "4" and size in (13, 16, 19))
        or (size == 16 and (51 <= two <= 55 or 2221 <= four <= 2720))
        or (size == 15 and two in (34, 37))
        or (size == 16 and (four == 6011 or two == 65 or 6440 <= four <= 6499))
        or (size == 16 and 3528 <= four <= 3589)
        or (size == 14 and (two in (36, 38) or 3000 <= four <= 3059))
    )


def _luhn(digits: str) -> bool:
    doubled = [2 * int(digit) if place % 2 else int(digit) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _phones(texts: Texts, regions: Sequence[str]) -> Iterator[_Raw]:
    import phonenumbers

    for found in _PHONE.finditer(texts.raw):
        try:
            number = phonenumbers.parse(found.group().decode(), None)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            spelling = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            yield found.start(), found.end(), "phone", spelling
    if regions:
        yield from _national(texts, regions)


def _national(texts: Texts, regions: Sequence[str]) -> Iterator[_Raw]:
    """National numbers, looked for in lines that have seven digits close together."""
    import phonenumbers

    lines = texts.lines
    places = {int(np.searchsorted(lines.ends, found.start())) for found in _DIGITS.finditer(texts.raw)}
    for place in sorted(places):
        start = int(lines.starts[place])
        line = texts.raw[start : lines.ends[place]].decode()
        for region in regions:
            for match in phonenumbers.PhoneNumberMatcher(line, region):
                first, size = len(line[: match.start].encode()), len(match.raw_string.encode())
                spelling = phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164)
                yield start + first, start + first + size, "phone", spelling
