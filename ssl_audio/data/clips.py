"""The record that every data source yields."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Clip:
    """One stretch of audio, usually a file.

    ``start_sec`` and ``num_samples`` (at ``sample_rate_hz``, the file's own rate) cut the stretch
    out of the file; ``num_samples`` is known without decoding. ``domain`` is "speech" or "audio".
    """

    id: str
    path: str
    num_samples: int
    sample_rate_hz: int
    domain: str
    start_sec: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def duration_sec(self) -> float:
        return self.num_samples / self.sample_rate_hz
