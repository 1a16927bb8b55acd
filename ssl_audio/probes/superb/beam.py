"""CTC beam search with an n-gram of words, by flashlight-text through torchaudio (optional)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_audio.probes.superb.vocabulary import SPECIALS, UNKNOWN, Vocabulary

WORD_END = "|"  # how lexicons of letters write the space


def beam_texts(
    logits: Tensor, lengths: Tensor, vocabulary: Vocabulary, options: Mapping[str, Any]
) -> list[str]:
    """The most likely words of each row under the head and the n-gram.

    Args:
        logits: (B, T, C).
        lengths: (B,) valid frames.
        vocabulary: of C symbols; words end in a space.
        options: ``lm`` and ``lexicon``, paths of an ARPA or binary n-gram and of lines such as
            ``HELLO H E L L O |``; ``beam``, ``threshold``, ``lm_weight``, ``word_score``.

    Raises:
        ValueError: flashlight-text is not installed, or a file cannot be used.
    """
    decoder = _decoder(vocabulary, tuple(sorted(options.items())))
    log_probs = logits.float().log_softmax(-1).cpu().contiguous()
    found = decoder(log_probs, lengths.int().cpu())
    return [" ".join(beams[0].words) if beams else "" for beams in found]


@lru_cache(maxsize=1)
def _decoder(vocabulary: Vocabulary, options: tuple[tuple[str, Any], ...]) -> Any:
    chosen = dict(options)
    for name in ("lm", "lexicon"):
        if not Path(chosen.get(name) or "").is_file():
            raise ValueError(f"beam.{name}={chosen.get(name)}: no such file; see openslr.org/11")
    symbols = (WORD_END if symbol == " " else symbol for symbol in vocabulary.symbols)
    try:
        from torchaudio.models.decoder import ctc_decoder

        return ctc_decoder(
            lexicon=str(chosen["lexicon"]),
            tokens=[*vocabulary.specials, *symbols],
            lm=str(chosen["lm"]),
            beam_size=int(chosen["beam"]),
            beam_threshold=float(chosen["threshold"]),
            lm_weight=float(chosen["lm_weight"]),
            word_score=float(chosen["word_score"]),
            blank_token=SPECIALS[0],
            sil_token=WORD_END,
            unk_word=UNKNOWN,
        )
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"beam search with {chosen['lm']} is not possible ({reason}); install "
            "ssl-audio[superb], or leave the task's beam out for greedy decoding"
        ) from error
