"""CTC beam search with an n-gram of words, by flashlight-text through torchaudio (optional)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ssl_audio.probes.superb.vocabulary import SPECIALS, UNKNOWN, Vocabulary

WORD_END = "|"  # how lexicons of letters write the space


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """The most likely words under the head and an n-gram.

    Attributes:
        lm: n-gram, ARPA or KenLM binary.
        lexicon: lines such as ``HELLO H E L L O |``.
        size, threshold: hypotheses that are kept, and how far behind the best they may be.
        lm_weight, word_score: of the n-gram's log-probability, and of every word.
    """

    lm: Path
    lexicon: Path
    size: int
    threshold: float
    lm_weight: float
    word_score: float

    @classmethod
    def of(cls, options: Mapping[str, Any], folder: Path) -> Self | None:
        """From a recipe, None unless both files are there; relative paths start at ``folder``."""
        files = {name: folder / options[name] for name in ("lm", "lexicon")}
        if not all(path.is_file() for path in files.values()):
            return None
        return cls(**{**options, **files})

    def texts(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[str]:
        """Words of each row of (B, T, C) logits with (B,) valid frames.

        Raises:
            ValueError: the n-gram or the lexicon cannot be used.
        """
        log_probs = logits.float().log_softmax(-1).cpu().contiguous()
        found = _decoder(self, vocabulary)(log_probs, lengths.int().cpu())
        return [" ".join(beams[0].words) if beams else "" for beams in found]


def flashlight_is_there() -> bool:
    return find_spec("flashlight") is not None


@lru_cache(maxsize=1)
def _decoder(search: BeamSearch, vocabulary: Vocabulary) -> Any:
    from torchaudio.models.decoder import ctc_decoder

    symbols = (WORD_END if symbol == " " else symbol for symbol in vocabulary.symbols)
    try:
        return ctc_decoder(
            lexicon=str(search.lexicon),
            tokens=[*vocabulary.specials, *symbols],
            lm=str(search.lm),
            beam_size=search.size,
            beam_threshold=search.threshold,
            lm_weight=search.lm_weight,
            word_score=search.word_score,
            blank_token=SPECIALS[0],
            sil_token=WORD_END,
            unk_word=UNKNOWN,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1]
        raise ValueError(f"{search.lm} and {search.lexicon} cannot be used ({reason})") from error
