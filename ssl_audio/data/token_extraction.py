"""Run a tokenizer over every segment once and store its codes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from ssl_audio.batch import AudioBatch
from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.segments import DOMAINS
from ssl_audio.data.token_store import TokenHeader, TokenStore, TokenStoreWriter
from ssl_audio.tokenizers.tokenizer import Tokenizer

Codes = list[tuple[int, np.ndarray]]  # segment id and its (T, N) codes


def extract_tokens(
    tokenizer: Tokenizer,
    data: DataModule,
    directory: str | os.PathLike[str],
    *,
    teacher_hash: str,
    domains: Sequence[str] = tuple(DOMAINS),
    batch_sec: float | None = None,
    device: torch.device | str = "cpu",
    shard_size: int = 1024,
    rank: int = 0,
    num_ranks: int = 1,
) -> TokenStore | None:
    """Write the codes of all training and held-out segments, with a progress bar.

    Shards are written one by one and never touched again, so a killed extraction goes on where it
    stopped. Several processes may share the work by ``rank``; the last to finish sees it complete.
    Segments that cannot be decoded are left out.

    Args:
        tokenizer: moved to ``device``.
        data: its segments are the unit; the store's ids are theirs.
        directory: of the store.
        teacher_hash: identifies the tokenizer and its teacher (``hub.content_hash``).
        domains: whose segments get tokens.
        batch_sec: most padded seconds in a batch; by default as in training.
        device: where the tokenizer runs.
        shard_size: segments per shard.
        rank, num_ranks: this process writes every ``num_ranks``-th missing shard.

    Returns:
        The store, or None while other ranks still have shards to write.

    Raises:
        ValueError: ``directory`` holds tokens of another tokenizer or of other data, cannot be
            written, or there is no segment of ``domains``.
    """
    ids = data.segment_ids("all", domains)
    if not len(ids):
        raise ValueError(f"no {' or '.join(domains)} segment to extract tokens from")
    header = TokenHeader(
        teacher_hash=teacher_hash,
        frame_rate=float(tokenizer.frame_rate),
        num_codebooks=tokenizer.num_codebooks,
        codebook_size=tokenizer.codebook_size,
        data=data.segments.fingerprint,
        domains=tuple(domains),
        shard_size=shard_size,
        num_segments=len(ids),
    )
    writer = TokenStoreWriter(directory, header)
    shards = [shard for shard in range(header.num_shards) if shard % num_ranks == rank]
    missing = sorted(set(writer.missing_shards()) & set(shards))
    tokenizer = tokenizer.to(device).eval()
    _write_shards(tokenizer, data, ids, writer, missing, batch_sec or data.batch_sec, device)
    return None if writer.missing_shards() else TokenStore.open(directory)


def _write_shards(
    tokenizer: Tokenizer,
    data: DataModule,
    ids: np.ndarray,
    writer: TokenStoreWriter,
    missing: Sequence[int],
    batch_sec: float,
    device: torch.device | str,
) -> None:
    """One loader over all missing shards, so that its workers never run dry."""
    from rich.progress import Progress

    size = writer.header.shard_size
    work = [
        (shard, batch)
        for shard in missing
        for batch in _batches(
            ids[shard * size : (shard + 1) * size], data.segments.duration_sec, batch_sec
        )
    ]
    loader = data.load_segments([batch for _, batch in work])
    found: Codes = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("Extracting tokens", total=len(work))
        for number, ((shard, _), batch) in enumerate(zip(work, loader, strict=True)):
            if batch is not None:
                found += _encode(tokenizer, batch, device)
            if number + 1 == len(work) or work[number + 1][0] != shard:
                found.sort(key=lambda item: item[0])
                writer.write(shard, [i for i, _ in found], [codes for _, codes in found])
                found = []
            progress.advance(bar)


@torch.inference_mode()
def _encode(tokenizer: Tokenizer, batch: AudioBatch, device: torch.device | str) -> Codes:
    tokens = tokenizer.encode(batch.waveforms.to(device), batch.lengths.to(device))
    lengths, codes = tokens.lengths.tolist(), tokens.codes.cpu().numpy()
    segments = batch.sample_index.tolist()
    return [(i, codes[row, : lengths[row]]) for row, i in enumerate(segments)]


def _batches(ids: np.ndarray, durations_sec: np.ndarray, batch_sec: float) -> list[list[int]]:
    """Segments of similar duration, as many as fit ``batch_sec`` when padded; at least one."""
    batches: list[list[int]] = []
    for i in ids[np.argsort(-durations_sec[ids], kind="stable")].tolist():
        longest_sec = float(durations_sec[batches[-1][0]]) if batches else 0.0
        if not batches or (len(batches[-1]) + 1) * longest_sec > batch_sec:
            batches.append([])
        batches[-1].append(i)
    return batches
