"""Heads of the probes against the plain way to train them.

HEAR's grid as one batched program against a plain loop over its points:

    python benchmarks/probes.py [--device cuda]

Both train the same 16 points on the same data with HEAR's schedule, early stopping and scores; the
loop trains one ``nn.Sequential`` after the other with ``torch.optim.Adam``. On a CPU: one thread,
process CPU time; on a GPU wall time. "valid" and "test" are means over the four points with the
best validation scores, each at its best epoch: with so few clips a single point moves by 0.05 with
its seed. Target on a CPU: 3 times the loop with scores within the band of ``hear_end_to_end``
(0.05). Products of matrices are more than half of the loop's time, so training all networks to
their end in float32 (``all``) can save at most the rest of it; ``ours`` lets the worse half of the
networks of each depth stop after 5 and after 10 validations, which a loop cannot know; bfloat16
halves the products where the processor has it.

Then SUPERB's linear head on layer means against the same head on frames (largest difference of the
logits, time of one training step, memory that the features take), and the closed-form probes on
2,000 clips after extraction (target: under a second).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ssl_audio.probes.heads import HEADS, HeadSettings, TaskData
from ssl_audio.probes.hear.grid import GridPoint, Schedule, full_grid
from ssl_audio.probes.hear.mlp import probabilities
from ssl_audio.probes.hear.protocol import HALVE_AFTER
from ssl_audio.probes.hear.training import predict, train_grid
from ssl_audio.probes.metrics.scene import top1_accuracy
from ssl_audio.probes.superb.heads import mean_pool
from ssl_audio.probes.superb.linear_grid import LinearGrid, slot_losses

# clips to train on, embedding size, classes, spread of the classes
PROBLEMS = ((160, 8, 4, 0.7), (320, 768, 10, 0.2))
WAYS = (
    ("all", (), False),
    ("all, bfloat16", (), True),
    ("ours", HALVE_AFTER, False),
    ("ours, bfloat16", HALVE_AFTER, True),
)
CHOSEN = 4
Data = tuple[Tensor, Tensor]
Point = tuple[float, Callable[[Tensor], np.ndarray]]  # validation score, how it answers


def problem(num_train: int, dim: int, classes: int, spread: float, device: str) -> dict[str, Data]:
    """Noisy clusters: train, valid and test."""
    rng = np.random.default_rng(0)
    centres = spread * rng.standard_normal((classes, dim))
    data = {}
    for name, count in (("train", num_train), ("valid", num_train // 2), ("test", 1000)):
        labels = rng.integers(classes, size=count)
        x = centres[labels] + rng.standard_normal((count, dim))
        targets = np.eye(classes, dtype=np.uint8)[labels]
        data[name] = (
            torch.tensor(x, dtype=torch.float32, device=device),
            torch.tensor(targets, device=device),
        )
    return data


def network(point: GridPoint, dim: int, classes: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    width = dim
    for layer in range(point.hidden_layers + 1):
        last = layer == point.hidden_layers
        linear = nn.Linear(width, classes if last else point.hidden_dim)
        gain = nn.init.calculate_gain("relu" if layer else "linear")
        getattr(nn.init, f"{point.init}_")(linear.weight, gain=gain)
        modules.append(linear)
        if not last:
            modules += [nn.BatchNorm1d(point.hidden_dim), nn.Dropout(point.dropout), nn.ReLU()]
        width = point.hidden_dim
    return nn.Sequential(*modules)


def plain_loop(data: dict[str, Data], schedule: Schedule) -> list[Point]:
    results: list[Point] = []
    for number, point in enumerate(full_grid()):
        torch.manual_seed(number)
        net = network(point, data["train"][0].shape[1], data["train"][1].shape[1])
        net = net.to(data["train"][0].device)
        score = train_one(net, point, data, schedule)
        results.append((score, partial(outputs, net)))
    return results


def train_one(net: nn.Module, point: GridPoint, data: dict[str, Data], schedule: Schedule) -> float:
    """Best validation score, whose weights the network has afterwards."""
    adam = torch.optim.Adam(net.parameters(), lr=point.lr)
    (x, y), (valid_x, valid_y) = data["train"], data["valid"]
    labels, valid_targets = y.argmax(1), valid_y.cpu().numpy()
    best, state, waited = -1.0, {}, 0
    for epoch in range(1, schedule.max_epochs + 1):
        net.train()
        for rows in torch.randperm(len(x), device=x.device).split(schedule.batch_size):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
            adam.step()
        if epoch % schedule.validate_every:
            continue
        score = top1_accuracy(outputs(net, valid_x), valid_targets)
        waited += 1
        if score > best:
            best, waited = score, 0
            state = {name: value.clone() for name, value in net.state_dict().items()}
        if waited == schedule.patience:
            break
    net.load_state_dict(state)
    return best


@torch.no_grad()
def outputs(net: nn.Module, x: Tensor) -> np.ndarray:
    return probabilities(net.eval()(x), multilabel=False).cpu().numpy()


def batched(data: dict[str, Data], schedule: Schedule, bf16: bool) -> list[Point]:
    targets = data["valid"][1].cpu().numpy()
    tried = train_grid(
        full_grid(),
        data["train"],
        data["valid"],
        lambda scores, loss: (top1_accuracy(scores, targets), None),
        multilabel=False,
        schedule=schedule,
        shuffle=True,
        seed=0,
        bf16=bf16,
    )
    classes = targets.shape[1]
    return [(t.score, partial(predict, t, num_classes=classes, multilabel=False)) for t in tried]


def timed(call: Callable[[], list[Point]], test: Data, device: str) -> tuple[float, str]:
    """Seconds, and what the points chosen on valid reach there and on test."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    points = call()
    seconds = clock() - start
    best = sorted(points, key=lambda point: point[0])[-CHOSEN:]
    targets = test[1].cpu().numpy()
    valid = np.mean([score for score, _ in best])
    found = np.mean([top1_accuracy(answer(test[0]), targets) for _, answer in best])
    return seconds, f"valid {valid:.3f}, test {found:.3f}"


def report(device: str) -> None:
    for num_train, dim, classes, spread in PROBLEMS:
        data = problem(num_train, dim, classes, spread, device)
        batched(data, Schedule(max_epochs=3), True)  # what PyTorch imports on first use
        print(f"{device}, 16 points, {num_train} clips of {dim}, {classes} classes")
        peer, scores = timed(partial(plain_loop, data, Schedule()), data["test"], device)
        print(f"  loop                    {peer:6.1f} s             {scores}")
        for name, halve_after, bf16 in WAYS:
            schedule = Schedule(halve_after=halve_after)
            ours, scores = timed(partial(batched, data, schedule, bf16), data["test"], device)
            print(f"  batched, {name:14} {ours:6.1f} s, ratio {peer / ours:4.1f} {scores}")


LAYERS, WIDTH, FRAMES, BATCH = 13, 768, 250, 32  # a base model, clips of 5 s at 50 Hz


def superb_heads(device: str) -> None:
    """One learning rate, as the frame-level head has only one."""
    torch.manual_seed(0)
    frames = torch.randn(LAYERS, BATCH, FRAMES, WIDTH, device=device)
    lengths = torch.randint(FRAMES // 2, FRAMES + 1, (BATCH,), device=device)
    labels = torch.randint(12, (BATCH, 1), device=device)
    grid = LinearGrid(LAYERS, WIDTH, 256, 12, num_heads=1).to(device)
    featurizer, head = (module.to(device) for module in grid.head(0))
    means = torch.stack([mean_pool(layer, lengths) for layer in frames], dim=1)
    difference = (grid(means)[0] - head(featurizer(frames), lengths)).abs().max().item()

    def on_frames() -> None:
        slot_losses(head(featurizer(frames), lengths)[None], labels, [12]).sum().backward()

    def on_means() -> None:
        slot_losses(grid(means), labels, [12]).sum().backward()

    whole, pooled = (seconds_per_call(step, device) for step in (on_frames, on_means))
    ratio = frames.numel() / means.numel()
    print(f"{device}, SUPERB's linear head, {BATCH} clips of {LAYERS} x {FRAMES} x {WIDTH}")
    print(f"  frames {1e3 * whole:7.2f} ms a step")
    print(f"  means  {1e3 * pooled:7.2f} ms a step, ratio {whole / pooled:.0f}, "
          f"features {ratio:.0f} times smaller, logits differ by {difference:.1e}")  # fmt: skip


def seconds_per_call(call: Callable[[], None], device: str, repeats: int = 5) -> float:
    call()
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    for _ in range(repeats):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def closed_form() -> None:
    """k-NN and ridge as the online probes run them: 1,200 train, 400 valid, 400 test."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.15 * torch.randn(10, WIDTH, generator=generator)
    rows, targets = {}, {}
    for split, count in (("train", 1200), ("valid", 400), ("test", 400)):
        labels = torch.randint(10, (count,), generator=generator)
        rows[split] = centres[labels] + torch.randn(count, WIDTH, generator=generator)
        targets[split] = labels.numpy()
    data = TaskData({"last": rows}, targets, 10, seed=0)
    print(f"cpu, closed-form probes on 2000 clips of {WIDTH}")
    for name in ("knn", "ridge"):
        start = time.process_time()
        for candidate in HEADS[name](data, HeadSettings((1.0,), 1)):
            found = float((candidate.test().argmax(1).numpy() == targets["test"]).mean())
        print(f"  {name:5} {time.process_time() - start:5.2f} s, accuracy {found:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report(arguments.device)
    superb_heads(arguments.device)
    closed_form()
