"""ssl_audio: self-supervised audio pre-training."""
