"""SUPERB's heads over frames: linear or recurrent, for transcripts, speakers and masks.

Axes: B clips, T frames, D channels, H hidden channels, C classes, S speakers or sources, F bins.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run_packed(rnn: nn.Module, frames: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) to (B, T, H or 2 H); both directions see a clip's valid frames only."""
    packed = pack_padded_sequence(
        frames, lengths.cpu().clamp(min=1), batch_first=True, enforce_sorted=False
    )
    out, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=frames.shape[1])
    return out


class FrameLinear(nn.Module):
    """Two affine maps on each frame (PR; SUPERB, arXiv:2105.01051, 3.2).

    Args:
        dim: D.
        hidden: width between the two.
        num_classes: C.
    """

    def __init__(self, dim: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) to logits (B, T, C)."""
        return self.output(self.projector(frames)), lengths


class RecurrentTranscriber(nn.Module):
    """Bidirectional LSTM layers over projected frames (ASR, SF, OOD-ASR).

    Args:
        dim: D.
        num_classes: C.
        hidden: width of the projection and of each direction.
        layers: of the LSTM.
        dropout: behind each layer.
        projections: an affine map and tanh behind each layer (OOD-ASR).
        keep_every: frames kept, one of so many, before the LSTM (encoders faster than 50 Hz in
            OOD-ASR).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        hidden: int,
        layers: int,
        dropout: float,
        projections: bool = False,
        keep_every: int = 1,
    ) -> None:
        super().__init__()
        self.keep_every = keep_every
        self.projector = nn.Linear(dim, hidden)
        widths = [hidden] + [2 * hidden] * layers
        self.recurrent = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True, bidirectional=True) for width in widths[:-1]
        )
        self.behind = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh()) if projections else nn.Identity()
            for width in widths[1:]
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden, num_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B,) to logits (B, ceil(T / keep_every), C) and their lengths."""
        x = self.projector(frames[:, :: self.keep_every])
        kept = (lengths + self.keep_every - 1) // self.keep_every
        for rnn, behind in zip(self.recurrent, self.behind, strict=True):
            x = behind(self.dropout(run_packed(rnn, x, kept)))
        return self.output(x), kept


class SpeakerActivity(nn.Module):
    """One LSTM and a linear map: who speaks in each frame (SD).

    Args:
        dim: D.
        hidden: H.
        num_speakers: S.
    """

    def __init__(self, dim: int, hidden: int, num_speakers: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, num_speakers)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) to logits (B, T, S)."""
        return self.output(run_packed(self.recurrent, frames, lengths)), lengths


class MaskEstimator(nn.Module):
    """Bidirectional LSTM to one mask of the spectrogram for each source (SE, SS).

    Args:
        dim: D.
        num_bins: F.
        num_sources: S.
        hidden: of each direction.
        layers: of the LSTM.
        dropout: between layers and behind the last.
    """

    def __init__(
        self,
        dim: int,
        num_bins: int,
        num_sources: int,
        *,
        hidden: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_sources = num_sources
        between = dropout if layers > 1 else 0.0
        self.recurrent = nn.LSTM(
            dim, hidden, layers, batch_first=True, bidirectional=True, dropout=between
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden, num_sources * num_bins)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) to masks (B, S, T, F), 0 and above."""
        x = self.output(self.dropout(run_packed(self.recurrent, frames, lengths)))
        masks = functional.relu(x).unflatten(-1, (self.num_sources, -1)).transpose(1, 2)
        return masks, lengths
