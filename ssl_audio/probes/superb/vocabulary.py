"""Output symbols of a CTC head: text to indices, frames of logits back to text.

Phones, characters and slot tokens are all symbols here; they differ in what stands between them in
the text. Definitions: s3prl ``downstream/ctc/text.py`` and ``downstream/asr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLANK = 0  # CTC's blank, also the padding of targets
UNKNOWN = "<unk>"
END = "<eos>"
SPECIALS = ("<pad>", END, UNKNOWN)

# The 71 phones of the CMU dictionary with stress, silence and spoken noise.
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
PHONES = (
    "SIL",
    "SPN",
    *sorted([f"{vowel}{stress}" for vowel in _VOWELS.split() for stress in "012"]),
    *_CONSONANTS.split(),
)
LETTERS = (" ", "'", *(chr(code) for code in range(ord("A"), ord("Z") + 1)))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes of a CTC head.

    Attributes:
        symbols: without the special ones.
        joiner: what stands between two symbols in the text: a space for phones.
        specials: ahead of the symbols; the first is CTC's blank.
    """

    symbols: tuple[str, ...]
    joiner: str = ""
    specials: tuple[str, ...] = SPECIALS

    def __len__(self) -> int:
        return len(self.specials) + len(self.symbols)

    def encode(self, symbols: Iterable[str]) -> Tensor:
        """(L + 1,) int64 indices, the end of the sentence last."""
        index = {symbol: i for i, symbol in enumerate((*self.specials, *self.symbols))}
        unknown, end = index[UNKNOWN], index[END]
        return torch.tensor([*(index.get(symbol, unknown) for symbol in symbols), end])

    def text(self, indices: Sequence[int]) -> str:
        """The text of a target or of collapsed frames: without blanks and ends."""
        known = (*self.specials, *self.symbols)
        silent = {BLANK, known.index(END)}
        return self.joiner.join(known[i] for i in indices if i not in silent).strip()


def greedy_texts(logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[str]:
    """The text of each row's most likely symbol in every frame, repetitions merged.

    Args:
        logits: (B, T, C).
        lengths: (B,) valid frames; what stands behind is not decoded.
        vocabulary: of C symbols.
    """
    best = logits.argmax(-1).cpu()
    return [
        vocabulary.text(torch.unique_consecutive(row[:length]).tolist())
        for row, length in zip(best, lengths.tolist(), strict=True)
    ]
