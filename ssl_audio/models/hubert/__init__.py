"""HuBERT of Base shape, with any number of layers; the body of SD-HuBERT and Sylber."""

from ssl_audio.models.hubert.config import HubertConfig
from ssl_audio.models.hubert.model import HubertEncoder

__all__ = ["HubertConfig", "HubertEncoder"]
