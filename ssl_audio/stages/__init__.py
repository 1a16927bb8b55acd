"""The stages that experiments are made of."""

from ssl_audio.stages.probe import ProbeStage
from ssl_audio.stages.quantizer import QuantizerStage
from ssl_audio.stages.student import StudentStage
from ssl_audio.stages.tokens import TokenStage

__all__ = ["ProbeStage", "QuantizerStage", "StudentStage", "TokenStage"]
