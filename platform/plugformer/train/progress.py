"""The bar that shows how far training is."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, which goes away when it is done: what stays on the screen is the result."""

    def _init_progress(self, trainer: "pl.Trainer") -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True
