"""Words spoken by espeak-ng, a formant synthesiser, through its C interface (`espeak-ng/speak_lib.h`).

The library keeps state between words, in variables that nothing resets, and seeds its noise by the clock. So each voice
speaks in a process of its own, from a seed of its own, and says the same bits whenever it is asked for the same words.
That process runs this file alone, which therefore imports nothing but the standard library.
"""

import ctypes
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

RATE = 22_050  # hertz, of everything it says
PATIENCE = 60  # seconds; a voice takes some milliseconds for a word

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: to the callback, before espeak_Synth returns
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
_CHARACTERS, _UTF8 = 1, 1  # espeak_POSITION_TYPE, espeakCHARS_UTF8
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class EspeakError(Exception):
    """A voice doesn't speak; says why."""


def speak(voice: str, words: Sequence[str], *, library: str, data: str) -> list[bytes]:
    """What a voice says, a word at a time, as int16 samples at `RATE`.

    Args:
        voice: a language and, after a plus, a variant, as in `en-us+f3`.
        words: each is an utterance. They are spoken in an order of the voice's own, so that what the library keeps
            between them tells nothing of which word it is.
        library, data: paths of the shared library and of its folder of data.

    Raises:
        EspeakError: there is no such voice, or the library can't be used.
    """
    _, _, variant = voice.partition("+")
    if variant and not Path(data, "voices", "!v", variant).is_file():  # the library would speak without it
        raise EspeakError(f"{voice}: there is no variant {variant} in {data}")
    order = sorted(words, key=lambda word: crc32(f"{voice}/{word}".encode()))
    command = [sys.executable, "-I", "-S", __file__, library, data, voice, *order]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise EspeakError(f"{voice}: nothing was said within {PATIENCE} seconds") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise EspeakError(f"{voice}: {said[-1]}")
    spoken, rest = {}, done.stdout
    for word in order:
        (size,) = struct.unpack_from("<I", rest)
        spoken[word], rest = rest[4 : 4 + size], rest[4 + size :]
    return [spoken[word] for word in words]


def _main(library: str, data: str, voice: str, *words: str) -> None:
    """Write what is said to standard output, each word after its number of bytes."""
    espeak = ctypes.CDLL(library)
    rate = espeak.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DONT_EXIT)
    if rate != RATE:
        sys.exit(f"espeak_Initialize returned {rate} in place of a rate of {RATE}; its data was looked for in {data}")
    said = bytearray()

    @_Callback
    def hear(samples: int | None, count: int, _events: int) -> int:
        if samples:
            said.extend(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    espeak.espeak_SetSynthCallback(hear)
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(crc32(voice.encode()) & 0x7FFFFFFF))  # of breath and other noise
    if espeak.espeak_SetVoiceByName(voice.encode()):
        sys.exit("there is no such voice")
    for word in words:
        said.clear()
        text = word.encode() + b"\0"
        position, end = ctypes.c_uint(0), ctypes.c_uint(0)
        if espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), position, _CHARACTERS, end, _UTF8, None, None):
            sys.exit(f"{word} can't be said")
        sys.stdout.buffer.write(struct.pack("<I", len(said)) + said)


if __name__ == "__main__":
    _main(*sys.argv[1:])
