"""What share of a training step the front end takes that turns waveforms into spectrograms on the device.

Every round times, in turn, a step of a classifier (forward, back, AdamW) and the front end alone (waveforms to
normalised spectrograms) on the same batch; the first round is left out. The share is the median of their ratios.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.interfaces import Audio, Batch, DataSpec, Tokenizer
from plugformer.model import Model
from plugformer.registry import build

RATE = 16_000
LABELS = tuple("0123456789")


def make(overrides: list[str], *, batch_size: int, seconds: float, device: str) -> tuple[Tokenizer, Model, Batch]:
    """The fitted tokenizer, a model in training, and a batch of noise."""
    config = compose(["data=spoken_digits", "tokenizer=spectrogram", *overrides])
    data = DataSpec(frozenset({"audio", "label"}), labels=LABELS, rate=RATE, duration=seconds)
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(data)
    torch.manual_seed(0)
    clips = [Audio(0.1 * torch.randn(1, round(RATE * seconds)), RATE) for _ in range(batch_size)]
    tokenizer.fit([{"audio": clip} for clip in clips])
    model = build_model(config, tokenizer=tokenizer, data=data).to(device).train()
    inputs = tokenizer.collate([tokenizer.encode({"audio": clip}, augment=True) for clip in clips])
    inputs = {key: value.to(device) for key, value in inputs.items()}
    label = torch.arange(batch_size, device=device) % len(LABELS)
    return tokenizer, model, {"inputs": inputs, "targets": {"label": label}, "index": torch.arange(batch_size)}


def timed(function: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time  # which other processes don't slow down
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", help="default small")
    parser.add_argument("--batch_size", type=int, default=32, help="default 32")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a clip; default 2")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("overrides", nargs="*", help="of the composition, such as tokenizer.compression=pcen")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokenizer, model, batch = make(
        [f"size={asked.size}", *asked.overrides],
        batch_size=asked.batch_size,
        seconds=asked.seconds,
        device=asked.device,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    embedding = model.trunk.embedding

    def step() -> None:
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def front_end() -> None:
        embedding.standardise(embedding.front_end(batch["inputs"]["waveform"]))

    parts: dict[str, Callable[[], None]] = {"step": step, "front end": front_end}
    measured = []
    for number in range(asked.rounds + 1):
        order = list(parts)[:: 1 if number % 2 else -1]
        measured.append({part: timed(parts[part], asked.device) for part in order})
    times = {part: [1000 * each[part] for each in measured[1:]] for part in parts}
    shares = [one / whole for one, whole in zip(times["front end"], times["step"], strict=True)]

    table = Table("", *parts, "share")
    table.add_row("median, ms", *(f"{median(times[part]):.1f}" for part in parts), f"{median(shares):.1%}")
    Console().print(table)
    print(
        json.dumps(
            {
                "benchmark": "front_end",
                **vars(asked),
                "tokens": list(tokenizer.spec.grid.shape),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "ms": times,
                "shares": shares,
                "median_share": median(shares),
            }
        )
    )


if __name__ == "__main__":
    main()
