"""Made-up samples that carry everything a sample can."""

import torch

from plugformer.interfaces import Audio, DataSpec, Sample

LABELS = ("ant", "bee", "cat")
RATE = 16_000
LONGEST = RATE // 4 + 800 * 4  # frames of a waveform
IMAGE = (3, 16, 16)
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "mix",
    "boxes",
    "of",
    "jam",
]
SPEC = DataSpec(
    frozenset({"id", "text", "image", "audio", "label", "target_text", "answers"}),
    labels=LABELS,
    image=IMAGE,
    rate=RATE,
    duration=LONGEST / RATE,
)


def make_samples(count: int) -> list[Sample]:
    """The same ones at each call; texts and waveforms of many lengths, every label in turn."""
    return [_sample(number) for number in range(count)]


def _sample(number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(len(WORDS), (3 + number % 7,), generator=generator).tolist()
    frames = RATE // 4 + 800 * (number % 5)
    tone = torch.sin(torch.arange(frames) * (0.02 + 0.01 * number)) * 0.5
    return {
        "id": f"made-up/{number}",
        "text": " ".join(WORDS[word] for word in words),
        "image": torch.randint(256, IMAGE, generator=generator, dtype=torch.uint8),
        "audio": Audio((tone + 0.1 * torch.randn(frames, generator=generator)).clamp(-1, 1)[None], RATE),
        "label": number % len(LABELS),
        "target_text": " ".join(WORDS[word] for word in reversed(words)),
        "answers": (1, 2 + number % 2),
    }
