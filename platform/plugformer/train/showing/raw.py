"""A raw sample as a person sees and hears it."""

from pathlib import Path

import soundfile
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from plugformer.interfaces import Audio, Sample
from plugformer.run_dir import replacing
from plugformer.track.media import Cell, MediaFile
from plugformer.train.showing.panels import Panel, draw_panels, picture, save

CHARACTERS = 600  # of a text that are shown
SECONDS = 10.0  # of a sound that are heard
IMAGE = 96  # pixels that the longer side of an image has at least, about
DECIBELS = 80.0  # below the loudest that a spectrogram shows
WINDOW = 0.025  # seconds
COLUMNS = 500  # of a spectrogram, about
BANDS = 128  # at most


def raw_cells(sample: Sample, path: Path) -> dict[str, Cell]:
    """By the sample's keys; a sound with its spectrogram.

    Args:
        sample: as it is.
        path: of its files, without what tells them apart. Those that are there already are left as they are.
    """
    cells: dict[str, Cell] = {}
    if "text" in sample:
        cells["text"] = cut(sample["text"])
    if "image" in sample:
        cells["image"] = _image(sample["image"], path.with_name(f"{path.name}.png"))
    if "audio" in sample:
        heard = first_seconds(sample["audio"])
        caption = _duration(sample["audio"])
        cells["audio"] = _sound(heard, path.with_name(f"{path.name}.wav"), caption)
        cells["spectrogram"] = _spectrogram(heard, path.with_name(f"{path.name}_spectrogram.png"), caption)
    return cells


def cut(text: str, characters: int = CHARACTERS) -> str:
    """The beginning of a text, which says how much more there is."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text) - characters:,} characters more)"


def first_seconds(audio: Audio) -> Audio:
    """What of a sound is played: its beginning, in one channel."""
    frames = int(SECONDS * audio.rate)
    return Audio(audio.waveform[:, :frames].mean(0, keepdim=True), audio.rate)


def _duration(audio: Audio) -> str:
    seconds = audio.waveform.shape[1] / audio.rate
    said = f"{seconds:.2f} s, {audio.rate:,} Hz"
    return said if seconds <= SECONDS else f"the first {SECONDS:.0f} s of {said}"


def _image(image: Tensor, path: Path) -> MediaFile:
    _, height, width = image.shape
    if not path.exists():
        save(Image.fromarray(picture(image / 255, least=IMAGE)), path)
    return MediaFile("image", path, f"{width} × {height} pixels")


def _sound(heard: Audio, path: Path, caption: str) -> MediaFile:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = (heard.waveform[0] * 32768).round().clamp(-32768, 32767).short()
        with replacing(path, sync=False) as file:
            soundfile.write(file, frames.numpy(), heard.rate, subtype="PCM_16", format="WAV")
    return MediaFile("audio", path, caption)


def _spectrogram(heard: Audio, path: Path, caption: str) -> MediaFile:
    caption = f"0 to {heard.rate // 2:,} Hz, {caption}"
    if not path.exists():
        panel = Panel("", picture(decibels(heard), chart=True))
        draw_panels([panel], path, title=caption, axes=("frequency", "time"))
    return MediaFile("image", path, caption)


def decibels(heard: Audio) -> Float[Tensor, "1 bands columns"]:
    """The power of each frequency over time, the lowest first; 1 is the loudest there is, 0 is `DECIBELS` less."""
    wave, rate = heard
    window = max(16, min(int(WINDOW * rate), 2 * BANDS * max(1, rate // 16_000)))
    hop = max(window // 4, wave.shape[1] // COLUMNS)
    wave = torch.nn.functional.pad(wave, (0, max(0, window - wave.shape[1])))
    spectrum = torch.stft(wave, window, hop, window=torch.hann_window(window), center=False, return_complex=True).abs()
    power = spectrum.square()
    level = 10 * (power / power.max().clamp(min=1e-20) + 1e-20).log10()
    return (1 + level / DECIBELS).clamp(0, 1)
