"""What many audio files have in common."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugformer.data.audio import AudioInfo, audio_info
from plugformer.data.of_files import DataOfFiles
from plugformer.errors import UserError


def rate_and_duration(data: DataOfFiles) -> tuple[int | None, float | None]:
    """The rate that all share, or None, and the seconds of the longest, or None without any that can be read.

    They are of the headers, or of what `check_audio` found when the files were read. Files that can't be used count
    for nothing, as far as that is known; `verify` names them.
    """
    known = data.found.good or data.scanner.known(data.paths)
    files = [path for path in data.paths if path not in data.found.bad]
    infos = [AudioInfo(*known[path].facts) for path in files if path in known]
    with ThreadPoolExecutor() as pool:
        infos += filter(None, pool.map(_header, [path for path in files if path not in known]))
    rates = {info.rate for info in infos}
    return rates.pop() if len(rates) == 1 else None, max((info.duration for info in infos), default=None)


def _header(path: Path) -> AudioInfo | None:
    try:
        return audio_info(path)
    except UserError:
        return None
