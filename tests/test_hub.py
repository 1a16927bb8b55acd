"""Exports, training checkpoints, official files, hashes, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ssl_audio
from ssl_audio import hub
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import Zipformer
from ssl_audio.models.spectral import LogSpectrumEncoder, MfccEncoder
from ssl_audio.tokenizers import MultiCodebookQuantizer, MVQTokenizer

SIZES = {
    "num_mel_bins": 32,
    "output_downsampling_factor": 1,
    "downsampling_factor": (1, 2),
    "num_encoder_layers": (1, 1),
    "feedforward_dim": (24, 24),
    "encoder_dim": (16, 16),
    "encoder_unmasked_dim": (8, 8),
    "cnn_module_kernel": (7, 7),
    "num_heads": (2, 2),
}
# the same as the released config.json writes it
OFFICIAL = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in SIZES.items()}


@pytest.fixture
def student() -> Zipformer:
    torch.manual_seed(0)
    return Zipformer(**SIZES).eval()


@pytest.fixture
def tokenizer() -> MVQTokenizer:
    torch.manual_seed(0)
    teacher = MfccEncoder(num_cepstra=4, context=(0,))
    quantizer = MultiCodebookQuantizer(teacher.embed_dim, 2, 16)
    return MVQTokenizer(teacher, quantizer, mean=torch.randn(12), std=torch.rand(12) + 0.5)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 9000])


def error_of(load, source) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_encoder_export(student, batch, tmp_path):
    folder = ssl_audio.save(student, tmp_path / "export", {"stage": "student", "parents": ["ab"]})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    state = torch.get_rng_state()
    for source in (folder, str(folder), folder / "config.json", folder / "model.safetensors"):
        encoder = ssl_audio.load_encoder(source)
        assert torch.equal(encoder(*batch).frames, student(*batch).frames)
        assert not encoder.training
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    description = json.loads((folder / "config.json").read_text())
    assert description["provenance"] == {"stage": "student", "parents": ["ab"]}


def test_tokenizer_export_holds_its_teacher(tokenizer, batch, tmp_path):
    restored = ssl_audio.load_tokenizer(ssl_audio.save(tokenizer, tmp_path))
    assert torch.equal(restored.encode(*batch).codes, tokenizer.encode(*batch).codes)
    assert hub.content_hash(restored) == hub.content_hash(tokenizer) == hub.content_hash(tmp_path)


def test_hash_tells_weights_and_config_apart_and_nothing_else(student, tmp_path):
    first = ssl_audio.save(student, tmp_path / "first", {"run": 1})
    second = ssl_audio.save(student, tmp_path / "second", {"run": 2})
    assert hub.content_hash(first) == hub.content_hash(second) == hub.content_hash(student)
    assert hub.content_hash(MfccEncoder()) != hub.content_hash(MfccEncoder(num_cepstra=13))
    assert hub.content_hash(MfccEncoder()) != hub.content_hash(LogSpectrumEncoder())
    with torch.no_grad():
        next(student.parameters()).view(-1)[0] += 1e-6
    assert hub.content_hash(student) != hub.content_hash(first)


def test_hash_is_the_same_in_another_process(tmp_path, student):
    folder = ssl_audio.save(student, tmp_path)
    program = "import sys; from ssl_audio import hub; print(hub.content_hash(sys.argv[1]))"
    out = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == hub.content_hash(student)


def test_an_export_is_replaced_whole_or_not_at_all(student, tokenizer, tmp_path, monkeypatch):
    ssl_audio.save(student, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(hub, "save_file", full_disk)
        text = error_of(lambda folder: ssl_audio.save(tokenizer, folder), tmp_path)
    assert "No space left on device" in text
    assert "free some space" in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    ssl_audio.save(tokenizer, tmp_path)
    assert ssl_audio.load_tokenizer(tmp_path).num_codebooks == 2


def test_weights_of_another_export_are_noticed(student, tmp_path):
    """What a crash between the two files of a replaced export leaves."""
    ssl_audio.save(student, tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({name: x + 0.1 for name, x in load_file(weights).items()}, weights)
    assert "does not belong to config.json" in error_of(ssl_audio.load_encoder, tmp_path)


def test_training_checkpoint(student, batch, tmp_path):
    """Written by Lightning itself, with a compiled-module prefix and other modules beside."""
    from lightning.pytorch import LightningModule, Trainer

    class Task(LightningModule):
        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder
            self.encoder_heads = nn.Linear(2, 2)
            self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": 10})

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Task(student))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    encoder = ssl_audio.load_encoder(tmp_path / "last.ckpt")
    assert torch.equal(encoder(*batch).frames, student(*batch).frames)

    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["state_dict"] = {
        name.replace("encoder.", "encoder._orig_mod.", 1): x
        for name, x in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "compiled.ckpt")
    encoder = ssl_audio.load_encoder(tmp_path / "compiled.ckpt")
    assert torch.equal(encoder(*batch).frames, student(*batch).frames)

    content["hyper_parameters"] = {"dim": 3}
    torch.save(content, tmp_path / "quantizer.ckpt")
    assert "without an encoder" in error_of(ssl_audio.load_encoder, tmp_path / "quantizer.ckpt")


def test_released_spear_folder_and_training_file(batch, tmp_path, monkeypatch):
    """Names as in the release: any number of leading "model."; the .pt has heads beside."""
    torch.manual_seed(0)
    student = Zipformer(**{**SIZES, "pos_dim": 48}).eval()
    config = {"architectures": ["SpearModel"], "model_type": "spear", "pos_dim": 48, **OFFICIAL}
    repository = tmp_path / "cache" / "models--org--spear"  # as the Hugging Face hub is cached
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(folder.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: x.clone() for name, x in student.state_dict().items()}
    released = {f"model.model.{name}": x for name, x in weights.items()}
    save_file({**released, "model.model.mask_emb": torch.randn(32)}, folder / "model.safetensors")
    for source in (folder, f"hf:{folder}", "hf:org/spear"):
        encoder = ssl_audio.load_encoder(source)
        torch.testing.assert_close(encoder(*batch).frames, student(*batch).frames)

    torch.save({"model": weights, "batch_idx_train": 3}, tmp_path / "epoch-1.pt")
    encoder = ssl_audio.load_encoder(tmp_path / "epoch-1.pt")
    torch.testing.assert_close(encoder(*batch).frames, student(*batch).frames)


def test_sources_that_cannot_be_loaded(student, tokenizer, tmp_path):
    load = ssl_audio.load_encoder
    assert "does not exist; give an export folder" in error_of(load, tmp_path / "absent")
    assert "config.json does not exist" in error_of(load, tmp_path)
    encoder, codes = tmp_path / "encoder", tmp_path / "codes"
    ssl_audio.save(student, encoder)
    ssl_audio.save(tokenizer, codes)
    assert "is a tokenizer; use load_tokenizer" in error_of(load, codes)
    assert "is an encoder; use load_encoder" in error_of(ssl_audio.load_tokenizer, encoder)
    assert "does not exist" in error_of(ssl_audio.load_tokenizer, tmp_path / "absent")

    torch.save({"epoch": 3}, tmp_path / "odd.pt")
    assert "in no known layout (keys: epoch)" in error_of(load, tmp_path / "odd.pt")
    torch.save({"model": {}, "cfg": {"input_patch_size": 16}}, tmp_path / "other.pt")
    assert "is of another architecture: BEATs has" in error_of(load, tmp_path / "other.pt")


def test_exports_that_were_edited(student, tmp_path):
    ssl_audio.save(student, tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())

    def edited(**changes) -> str:
        file.write_text(json.dumps({**good, **changes}))
        return error_of(ssl_audio.load_encoder, tmp_path)

    assert "unknown kind 'zipper'; known: zipformer" in edited(kind="zipper")
    assert "unknown kind ['zipper']; known: zipformer" in edited(kind=["zipper"])
    assert "has format 99" in edited(format_version=99)
    assert "wrong config for MfccEncoder" in edited(kind="mfcc", config={"num_bins": 4})
    assert "does not fit MfccEncoder: tensors" in edited(kind="mfcc", config={})
    file.write_text(json.dumps(good))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in error_of(ssl_audio.load_encoder, tmp_path)
    weights.unlink()
    assert "model.safetensors does not exist" in error_of(ssl_audio.load_encoder, tmp_path)


def test_importing_the_package_is_light():
    """Public names are there, yet neither torchaudio nor the training libraries are imported."""
    program = """
import sys
import ssl_audio
assert "torch" not in sys.modules
import ssl_audio.hub, ssl_audio.models, ssl_audio.tokenizers, ssl_audio.frontends
ssl_audio.load_encoder, ssl_audio.load_tokenizer, ssl_audio.save
ssl_audio.models.Zipformer, ssl_audio.frontends.KaldiFbank
ssl_audio.tokenizers.MultiCodebookQuantizer
heavy = ("torchaudio", "lightning", "hydra", "transformers", "datasets", "nnAudio", "numba")
print(*[name for name in heavy if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert not out.stdout.strip()
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        _ = ssl_audio.load_everything
