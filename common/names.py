"""The one rule for names that become folders, files and words in tables."""

import re

from common.errors import InputError

_PLAIN = re.compile(r"(?![. ])[\w .+()\[\]-]{1,120}(?<! )")


def is_plain_name(text):
    """Whether `text` is 1 to 120 letters, digits, spaces and `_ . + ( ) [ ] -`, not beginning with a dot and
    without a space at either end: one folder, one line, no path."""
    return isinstance(text, str) and _PLAIN.fullmatch(text) is not None


def plain_name(text, where):
    """`text`, when it is a plain name. Raises: InputError, naming `where` it was found, otherwise."""
    if not is_plain_name(text):
        raise InputError(f"{where}: {text!r:.80} is not a plain name (letters, digits, space, "
                         "_ . + ( ) [ ] -; not beginning with a dot)")
    return text
