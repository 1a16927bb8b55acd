"""The stages that experiments are made of."""

from ssl_audio.stages.distillation import DistillationStage
from ssl_audio.stages.finetune import FinetuneStage
from ssl_audio.stages.fixed_tokenizer import FixedTokenizerStage
from ssl_audio.stages.kmeans import KMeansStage
from ssl_audio.stages.min_cut import MinCutStage
from ssl_audio.stages.probe import ProbeStage
from ssl_audio.stages.quantizer import QuantizerStage
from ssl_audio.stages.student import StudentStage
from ssl_audio.stages.tokens import TokenStage
from ssl_audio.stages.units import UnitsStage

__all__ = [
    "DistillationStage",
    "FinetuneStage",
    "FixedTokenizerStage",
    "KMeansStage",
    "MinCutStage",
    "ProbeStage",
    "QuantizerStage",
    "StudentStage",
    "TokenStage",
    "UnitsStage",
]
