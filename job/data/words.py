"""Words and characters counted alike in all languages, those without spaces too."""

import re

# Characters that are words or parts of words: Han and kana (Korean has spaces).
IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
# Letters of scripts written without spaces: Thai, Lao, Myanmar, Khmer.
LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
WITHOUT_SPACES = re.compile(f"[{IDEOGRAPHS}{LETTERS}]")
PARTS = re.compile(f"[{IDEOGRAPHS}]+|[{LETTERS}]+|[^\\s{IDEOGRAPHS}{LETTERS}]+")
# Characters a word, on average.
IDEOGRAPHS_A_WORD, LETTERS_A_WORD = 2, 4


def count_words(text: str) -> int:
    """Count words: between spaces, or estimated from characters if a language has none."""
    if not WITHOUT_SPACES.search(text):
        return len(text.split())
    return sum(map(_words_in, PARTS.findall(text)))


def _words_in(part: str) -> int:
    if not WITHOUT_SPACES.match(part):
        # Punctuation between ideographs is no word.
        return int(any(character.isalnum() for character in part))
    size = LETTERS_A_WORD if re.match(f"[{LETTERS}]", part) else IDEOGRAPHS_A_WORD
    return -(-len(part) // size)


def characters(text: str, enough: int) -> int:
    """Count characters, up to `enough`; one that is about a syllable or a word counts as two."""
    if len(text) >= enough:
        return len(text)
    return len(text) + len(WITHOUT_SPACES.findall(text))
