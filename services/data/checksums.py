"""Do the check digits fit? One function a kind of number; spaces, dots and dashes inside are passed over.

IBAN: ISO 13616 (ISO 7064 mod 97-10). Cards: ISO/IEC 7812 (Luhn). Ids: the rules their issuers publish.
"""

from __future__ import annotations

import datetime
from collections import Counter

_IBAN = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23,
    "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27,
    "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26,
    "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_FISCAL_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_PESEL_CENTURIES = {0: 1900, 20: 2000, 40: 2100, 60: 2200, 80: 1800}


def _digits(text: str) -> list[int]:
    return [int(letter) for letter in text if letter.isdigit()]


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum()).upper()


def _luhn(digits: list[int]) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def iban(text: str) -> bool:
    """An IBAN of the length its country has."""
    plain = _plain(text)
    if _IBAN.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def card(text: str) -> bool:
    """A payment card's number: 13 to 19 digits, not all the same."""
    digits = _digits(text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits)


def dni(text: str) -> bool:
    """Spain: DNI, and NIE of foreigners."""
    plain = _plain(text)
    number = plain[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdigit() and _DNI[int(number) % 23] == plain[-1]


def codice_fiscale(text: str) -> bool:
    """Italy."""
    plain = _plain(text)
    total = 0
    for place, letter in enumerate(plain[:15]):
        value = int(letter) if letter.isdigit() else ord(letter) - 65
        total += value if place % 2 else _FISCAL_ODD[value]
    return chr(65 + total % 26) == plain[15]


def nir(text: str) -> bool:
    """France: the number of social security with its key."""
    plain = _plain(text)
    return len(plain) == 15 and 1 <= int(plain[3:5]) <= 12 and 97 - int(plain[:13]) % 97 == int(plain[13:])


def pesel(text: str) -> bool:
    """Poland."""
    digits = _digits(text)
    century = digits[2] // 2 * 20
    year = _PESEL_CENTURIES[century] + digits[0] * 10 + digits[1]
    month = digits[2] * 10 + digits[3] - century
    weighted = sum(digit * weight for digit, weight in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=False))
    return -weighted % 10 == digits[10] and _is_date(year, month, digits[4] * 10 + digits[5])


def cpf(text: str) -> bool:
    """Brazil."""
    digits = _digits(text)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def personnummer(text: str) -> bool:
    """Sweden: the last ten digits by Luhn, the first a date."""
    digits = _digits(text)[-10:]
    month, day = digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]
    return _luhn(digits) and _is_date(2000, month, day % 60 if day > 60 else day)


def steuer_id(text: str) -> bool:
    """Germany: ISO 7064 mod 11,10; of the first ten digits one comes twice or three times, the others at most once."""
    digits = _digits(text)
    repeated = [number for number in Counter(digits[:10]).values() if number > 1]
    if len(digits) != 11 or len(repeated) != 1 or repeated[0] > 3:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def aadhaar(text: str) -> bool:
    """India."""
    digits = _digits(text)
    return len(digits) == 12 and verhoeff(digits)


def verhoeff(digits: list[int]) -> bool:
    """Verhoeff's scheme, which works in the dihedral group of order ten."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        check = _dihedral(check, digit)
    return check == 0


def _dihedral(a: int, b: int) -> int:
    """The product in the dihedral group: 0 to 4 are turns, 5 to 9 turns after a flip."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5
