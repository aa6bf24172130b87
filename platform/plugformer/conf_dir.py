"""Where the configuration files lie."""

from pathlib import Path

import plugformer


def conf_dir() -> Path:
    """`conf/` of a checkout, or its copy inside an installed package."""
    package = Path(plugformer.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"
