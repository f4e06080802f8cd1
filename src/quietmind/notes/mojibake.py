"""Text that was decoded wrongly once (its UTF-8 bytes taken for Mac Roman, cp1251, ...) is recognised and put right.

The repair is a strict round trip: characters back to the bytes they were made from, and those bytes read as UTF-8. It
is exact wherever it succeeds. Whether to believe it is a matter of evidence: a run of characters that happens to be
UTF-8 is common by ones (the quote that closes "СССР»"), unheard of by fours that spell a word. So a document counts as
damaged by a codec only if some word of it says so, or enough smaller signs do and nothing speaks against; and only
then are the small signs repaired too.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from quietmind.notes.document import Repair

CODECS = ("mac_roman", "cp1252", "latin-1", "cp1251", "koi8-r", "cp866")

# Well-formed UTF-8 beyond ASCII (Unicode standard, table 3-7), over one character a byte.
_SEQUENCE = (
    r"(?:[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    r"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
_RUN = re.compile(f"{_SEQUENCE}{{1,1000}}")  # bounded: each repetition takes memory
_HIGH_RUN = re.compile(r"[^\x00-\x7f]+")
# A space that was U+00A0, the second byte of Р in cp1251 and of à in Latin-1, before an editor made it plain.
_LOST_SPACE = re.compile(r"([\xc3\xd0]) (?=[\xc2-\xf4][\x80-\xbf])")

_WORD = re.compile(r"[Ѐ-ӿ]{4,}|[Ͱ-Ͽἀ-῿]{4,}|[\u0590-\u06ff]{4,}|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]{3,}")
# cp866 has Russian letters for following bytes: "хам" is well-formed Chinese.
_WORD_IN_CP866 = re.compile("[Ѐ-ӿ]{4,}|[Ͱ-Ͽ]{4,}")
_RUSSIAN = re.compile("[А-Яа-яЁё]")
_BEYOND_CHANCE = re.compile("[Ѐ-ӿ]{2,}|[‐-⁞]+|[\U0001f000-\U0001faff]+")
_LATIN_IN_WORD = re.compile(r"(?<=[A-Za-z])[À-ſ]|[À-ſ](?=[A-Za-z]{2})")
# Letters that living languages use, punctuation, arrows, mathematics, box drawing, shapes, emoji.
_PLAUSIBLE = re.compile(
    r"[\u00a0-\u017f\u0370-\u03ff\u0400-\u045f\u0490-\u0493\u0590-\u06ff\u1f00-\u1fff\u2010-\u2027\u202f-\u205f\u20a0-\u20bf"
    r"\u2100-\u214f\u2190-\u27bf\u2b00-\u2bff\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff9f\ufe0f\u200d\ufeff\U0001f000-\U0001faff]+"
)
_SMALL_SIGNS_NEEDED = 5
_KINDS_OF_SIGNS_NEEDED = 3
_SIGNS_TO_DOUBTS = 4


def repair(lines: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Repair, ...]]:
    """Return ``lines`` with what was decoded wrongly put right, and the repairs; most documents have none."""
    text = "\n".join(lines)
    if text.isascii():
        return lines, ()
    # Each word once: most documents have nothing to repair, and this is all that they are looked at for.
    words = " ".join(set(_HIGH_RUN.findall(text)))
    suspects = [codec for codec in CODECS if _first_pair(codec).search(words)]
    if not suspects:
        return lines, ()
    damages = [_Damage.of(codec, lines) for codec in suspects]
    worst = max(damages, key=lambda damage: damage.evidence)
    if not worst.certain:
        return lines, ()
    mended = list(lines)
    repairs = []
    for index, after in worst.mended.items():
        mended[index] = after
        repairs.append(Repair(index + 1, worst.codec, lines[index], after))
    return tuple(mended), tuple(repairs)


@dataclass(frozen=True)
class _Damage:
    """What reading a document's lines back through one codec has shown.

    ``mended`` maps the index of a line to its repaired text. ``word_letters`` count letters of whole words in another
    script, ``signs`` the smaller evidence, ``doubts`` the lines that hold high characters but are no UTF-8.
    """

    codec: str
    mended: dict[int, str]
    word_letters: int
    signs: Counter[str]
    doubts: int

    @property
    def evidence(self) -> int:
        return 4 * self.word_letters + self.signs.total()

    @property
    def certain(self) -> bool:
        if self.word_letters:
            return True
        signs = self.signs.total()
        return (
            signs >= _SMALL_SIGNS_NEEDED
            and (len(self.signs) >= _KINDS_OF_SIGNS_NEEDED or any(len(sign.encode()) > 2 for sign in self.signs))
            and signs >= _SIGNS_TO_DOUBTS * self.doubts
        )

    @classmethod
    def of(cls, codec: str, lines: tuple[str, ...]) -> _Damage:
        mended: dict[int, str] = {}
        word_letters, doubts = 0, 0
        signs: Counter[str] = Counter()
        bytes_of = _bytes_of(codec)
        for index, line in enumerate(lines):
            if line.isascii():
                continue
            raw = line.translate(bytes_of)
            if codec in ("cp1251", "cp1252", "latin-1"):
                raw = _LOST_SPACE.sub("\\1\xa0", raw)
            after, whole = _read_back(line, raw)
            if after == line:
                doubts += bool(_HIGH_RUN.search(raw))
                continue
            mended[index] = after
            word_letters += _letters_of_words(raw, _WORD_IN_CP866 if codec == "cp866" else _WORD)
            if whole:
                signs.update(_small_signs(raw, after))
        return cls(codec, mended, word_letters, signs, doubts)


def _read_back(line: str, raw: str) -> tuple[str, bool]:
    """Return the repaired line, and whether all of it was damaged. ``raw`` has one character a byte, or U+FFFF.

    In a line that is damaged only in part, single pairs are left alone: there they are as likely to be meant.
    """
    try:
        after = raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    else:
        if all(_PLAUSIBLE.fullmatch(run) for run in _HIGH_RUN.findall(after)):
            return after, True
        return line, False
    pieces: list[str] = []
    end = 0
    for match in _RUN.finditer(raw):
        decoded = match[0].encode("latin-1").decode("utf-8")
        if _PLAUSIBLE.fullmatch(decoded) and _stands_alone(decoded):
            pieces += [line[end : match.start()], decoded]
            end = match.end()
    return "".join(pieces) + line[end:], False


def _stands_alone(decoded: str) -> bool:
    """Say whether a damaged run inside a line that is otherwise sound is beyond chance."""
    return bool(_BEYOND_CHANCE.fullmatch(decoded) or _WORD.search(decoded))


def _letters_of_words(raw: str, words: re.Pattern[str]) -> int:
    return sum(
        len(word)
        for run in _RUN.findall(raw)
        for word in words.findall(run.encode("latin-1").decode("utf-8"))
        if _PLAUSIBLE.fullmatch(word)
    )


def _small_signs(raw: str, after: str) -> list[str]:
    """Return the letters inside Latin words, the punctuation and the emoji of a line that was damaged as a whole."""
    signs = _LATIN_IN_WORD.findall(after)
    signs += [char for char in after if "\u2010" <= char <= "\u2044" or char >= "\U0001f000"]
    return signs


@cache
def _bytes_of(codec: str) -> dict[int, str]:
    """Return a table for ``str.translate``: each character that ``codec`` makes of a high byte to that byte.

    Bytes that the codec leaves undefined are taken to have become C1 controls, as lenient decoders do. All other
    characters beyond ASCII must not pass for bytes, so those below U+0100 go to U+FFFF.
    """
    table = dict.fromkeys(range(0x80, 0x100), "\uffff")
    for byte in range(0x80, 0x100):
        char = bytes([byte]).decode(codec, "replace")
        table[byte if char == "\ufffd" else ord(char)] = chr(byte)
    return table


@cache
def _first_pair(codec: str) -> re.Pattern[str]:
    """Return what any damage by ``codec`` contains: a character of a lead byte, then one of a following byte.

    Two Russian letters are no sign of it (щё is such a pair in KOI8-R, ра in cp866), but for the beginning of most
    punctuation. This is what spares sound documents the work.
    """
    chars = {ord(byte): chr(code) for code, byte in _bytes_of(codec).items() if byte != "\uffff"}
    lead = [chars[byte] for byte in range(0xC2, 0xF5)]
    after = [chars[byte] for byte in range(0x80, 0xC0)]
    pairs = [(lead, [char for char in after if not _RUSSIAN.match(char)])]
    pairs.append(([char for char in lead if not _RUSSIAN.match(char)], after))
    choices = [f"[{_class(first)}][{_class(second)}]" for first, second in pairs if first and second]
    return re.compile("|".join([*choices, re.escape(chars[0xE2] + chars[0x80])]))


def _class(chars: list[str]) -> str:
    return "".join(map(re.escape, chars))
