"""Exact checkers of answers: what makes a reward verifiable."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from dsenv.errors import InputError, one_of

MARK = "####"
NUMBER = re.compile(r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")
Checker = Callable[[str, str], bool]


def check_exact(completion: str, answer: str) -> bool:
    """Return whether a completion is the answer, character by character."""
    return completion == answer


def check_gsm8k(completion: str, answer: str) -> bool:
    """Return whether the number behind the completion's last ``####`` is the answer's.

    On that line nothing but one number may stand behind the mark: digits with an optional sign, commas between thousands, a
    decimal part, a dollar sign before it, a full stop after it. Numbers are compared as numbers: 5 equals 5.00. Of several
    marks the last one counts alone, so that a list of candidates gains nothing.

    Raises:
        InputError: where the answer itself has no such number.
    """
    true = final_number(answer)
    if true is None:
        raise InputError(f"the answer {answer[-60:]!r} has no number behind {MARK!r}")
    return final_number(completion) == true


def final_number(text: str) -> Decimal | None:
    """Return the number behind the last ``####``, or None where there is none."""
    _, mark, rest = text.rpartition(MARK)
    number = rest.partition("\n")[0].strip().removeprefix("$").removesuffix(".")
    if not mark or not NUMBER.fullmatch(number):
        return None
    return Decimal(number.replace(",", ""))


CHECKERS: dict[str, Checker] = {"exact": check_exact, "gsm8k": check_gsm8k}


def find_checker(name: str) -> Checker:
    """Return a checker by name.

    Raises:
        InputError: for an unknown name.
    """
    return CHECKERS[one_of("checker", name, CHECKERS)]
