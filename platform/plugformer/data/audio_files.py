"""What many audio files have in common."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugformer.data.audio import AudioInfo, audio_info
from plugformer.data.scan import Found
from plugformer.errors import UserError


def rate_and_duration(files: Sequence[Path], known: Mapping[Path, Found]) -> tuple[int | None, float | None]:
    """The rate that all share, or None, and the seconds of the longest, or None without any that can be read.

    Args:
        files: of which those with a header that can't be read count for nothing; `DataSource.verify` names them.
        known: what was found by `check_audio`, so that only the headers of others are read.
    """
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
