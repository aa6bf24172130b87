"""What many audio files have in common."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugformer.data.audio import SUFFIXES, VERSION, AudioInfo, audio_info, check_audio, read_audio
from plugformer.data.of_files import DataOfFiles, Medium
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec


def _spec(data: DataOfFiles) -> DataSpec:
    """With the rate that all files share and the seconds of the longest, as far as they can be read.

    Both are of the headers, or of what `check_audio` found when the files were read. Files that can't be used count for
    nothing, as far as that is known; `verify` names them.
    """
    known = data.found.good or data.scanner.known(data.paths)
    files = [path for path in data.paths if path not in data.found.bad]
    infos = [AudioInfo(*known[path].facts) for path in files if path in known]
    with ThreadPoolExecutor() as pool:
        infos += filter(None, pool.map(_header, [path for path in files if path not in known]))
    rates = {info.rate for info in infos}
    rate = rates.pop() if len(rates) == 1 else None
    duration = max((info.duration for info in infos), default=None)
    return DataSpec(data.keys, labels=data.labels, rate=rate, duration=duration)


def _header(path: Path) -> AudioInfo | None:
    try:
        return audio_info(path)
    except UserError:
        return None


AUDIO = Medium(
    key="audio",
    kind="audio",
    suffixes=SUFFIXES,
    version=VERSION,
    inspect=check_audio,
    read=read_audio,
    spec=_spec,
)
