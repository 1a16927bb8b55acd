from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssl_audio.probes.superb.beam import BeamSearch
from ssl_audio.probes.superb.vocabulary import LETTERS, Vocabulary, greedy_texts

pytest.importorskip("flashlight", reason="pip install flashlight-text")
LETTER_VOCABULARY = Vocabulary(LETTERS)
ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2\t<unk>
-99\t<s>\t-0.1
-0.5\t</s>
-1\tHAT\t-0.1
-1\tCAT\t-0.1

\\2-grams:
-0.1\t<s> CAT
-0.1\tCAT HAT
-0.1\tHAT </s>

\\end\\
"""


@pytest.fixture
def search(tmp_path: Path) -> BeamSearch:
    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "words.lst").write_text("CAT C A T |\nHAT H A T |\n")
    options = {"lm": "lm.arpa", "lexicon": "words.lst", "size": 5, "threshold": 25}
    found = BeamSearch.of({**options, "lm_weight": 2, "word_score": -1}, tmp_path)
    assert found is not None
    return found


def heard(text: str, doubts: dict[int, str], num_frames: int = 20) -> torch.Tensor:
    """(T, C) logits of a blank after every symbol, where each doubt is nearly as likely.

    Words end with a space, the last one too: so are the targets of the head.
    """
    logits = torch.full((num_frames, len(LETTER_VOCABULARY)), -9.0)
    logits[:, 0] = 0.0
    symbols = LETTER_VOCABULARY.encode(f"{text} ")[:-1].tolist()
    for place, symbol in enumerate(symbols):
        logits[2 * place, symbol] = 9.0
        if place in doubts:
            logits[2 * place, LETTER_VOCABULARY.encode(doubts[place])[0]] = 8.5
    return logits


def test_the_n_gram_decides_what_frames_leave_open(search: BeamSearch) -> None:
    logits = torch.stack([heard("HAT CAT", {0: "C", 4: "H"}), heard("HAT", {})])
    lengths = torch.tensor([16, 8])
    assert greedy_texts(logits, lengths, LETTER_VOCABULARY) == ["HAT CAT", "HAT"]
    assert search.texts(logits, lengths, LETTER_VOCABULARY) == ["CAT HAT", "HAT"]


def test_frames_behind_a_clip_are_not_decoded(search: BeamSearch) -> None:
    logits = heard("CAT HAT", {})[None]
    assert search.texts(logits, torch.tensor([16]), LETTER_VOCABULARY) == ["CAT HAT"]
    assert search.texts(logits, torch.tensor([8]), LETTER_VOCABULARY) == ["CAT"]


def test_a_broken_n_gram_is_one_line(search: BeamSearch) -> None:
    search.lm.write_text("no n-gram\n")
    with pytest.raises(ValueError, match=r"lm\.arpa and .*words\.lst cannot be used") as error:
        search.texts(heard("CAT", {})[None], torch.tensor([8]), LETTER_VOCABULARY)
    assert "\n" not in str(error.value)
