"""Words and characters counted alike in all languages, those without spaces too."""

import re

# Characters that are words or parts of words: Han and kana (Korean has spaces).
IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
# Letters of scripts written without spaces: Thai, Lao, Myanmar, Khmer.
LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
WITHOUT_SPACES = re.compile(f"[{IDEOGRAPHS}{LETTERS}]")
# Thai and others write vowels as marks, which are no letters for `\\w`.
WORD = re.compile(f"[\\w{LETTERS}]+")
PARTS = re.compile(f"[{IDEOGRAPHS}]+|[{LETTERS}]+|[^\\s{IDEOGRAPHS}{LETTERS}]+")
# Characters a word, on average.
IDEOGRAPHS_A_WORD, LETTERS_A_WORD = 2, 4


def count_words(text: str) -> int:
    """Count words: between spaces, or estimated from characters if a language has none."""
    if not WITHOUT_SPACES.search(text):
        return len(text.split())
    return sum(map(_words_in, PARTS.findall(text)))


def words_of(text: str) -> list[str]:
    """Return the words; without spaces, all runs of as many characters as a word has."""
    if text.isascii() or not WITHOUT_SPACES.search(text):
        return WORD.findall(text)
    found: list[str] = []
    for word in WORD.findall(text):
        for part in PARTS.findall(word):
            size = _characters_a_word(part) if WITHOUT_SPACES.match(part) else len(part)
            runs = max(1, len(part) - size + 1)
            found += [part[start : start + size] for start in range(runs)]
    return found


def _words_in(part: str) -> int:
    if not WITHOUT_SPACES.match(part):
        # Punctuation between ideographs is no word.
        return int(any(character.isalnum() for character in part))
    return -(-len(part) // _characters_a_word(part))


def _characters_a_word(part: str) -> int:
    return LETTERS_A_WORD if re.match(f"[{LETTERS}]", part) else IDEOGRAPHS_A_WORD


def characters(text: str, enough: int) -> int:
    """Count characters, up to `enough`; one that is about a syllable or a word counts as two."""
    if len(text) >= enough:
        return len(text)
    return len(text) + len(WITHOUT_SPACES.findall(text))
