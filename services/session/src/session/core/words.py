"""The words of a text, by which memories are found."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")
_MAX_CHARACTERS = 64  # of a word; what is longer is no word that anybody looks for


def words_of(text: str) -> list[str]:
    """The different words of a text in their order, whatever their case and composition."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return list(dict.fromkeys(word[:_MAX_CHARACTERS] for word in _WORD.findall(folded)))
