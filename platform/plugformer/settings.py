"""What a run is set to besides its plugins. Plain data, read by the same rules as a plugin's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plugformer.errors import UserError

LEAST, MOST = 1e-4, 1e4  # of what scales logits: all that lies beyond does the same, or overflows
FACTOR = f"from {LEAST:g} to {MOST:g}"
MOST_POWER = 10  # of a length


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The top level of a composition.

    Args:
        seed: decides first weights, the order of samples, augmentation and dropout.
        run_dir: the folder that everything the run makes goes into.
        init_from: whose weights to begin with: another run's directory or a checkpoint in it, an artifact of it
            (`wandb:ENTITY/PROJECT/NAME:ALIAS`), an export, a folder of Hugging Face's form, or a name on their hub.
        resume: a run's directory, to go on with that run where it stopped, exactly.
        plugins: Python files whose registered classes join this run; from the command line only.
    """

    seed: int = 0
    run_dir: str = ""
    init_from: str | None = None
    resume: str | None = None
    plugins: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How samples become batches.

    Args:
        batch_size: samples that one optimiser step learns from, `trainer.accumulate` small batches together.
        eval_batch_size: samples in a batch of validation, test and prediction.
        num_workers: processes that encode samples beside the training one; has no effect on what is drawn.
        bucket: consecutive batches whose samples are sorted by length among each other, so that little is padded; 0 for
            none. In evaluation it changes the order of samples alone.
        train_share: of the training samples that are used at all, by the tokenizer too: the same share of each class,
            and at least one sample of it. Validation and test stay as they are.
        train_share_seed: decides which; apart from the run's seed, so that runs of several seeds share them.
    """

    batch_size: int = 64
    eval_batch_size: int = 256
    num_workers: int = 0
    bucket: int = 0
    train_share: float = 1.0
    train_share_seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self, "loader", batch_size=1, eval_batch_size=1, num_workers=0, bucket=0)
        if not 0 < self.train_share <= 1:
            raise UserError(f"loader.train_share={self.train_share}: must be greater than 0 and at most 1.")
        if self.train_share == 1 and self.train_share_seed:
            raise UserError(
                f"loader.train_share_seed={self.train_share_seed}: has no effect, because all training samples are "
                "used.\n  Set loader.train_share, as in loader.train_share=0.1."
            )


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How the model is trained.

    Args:
        max_epochs: passes over the training samples.
        max_steps: optimiser steps after which training ends even if epochs are left.
        accelerator: where the model runs.
        devices: that train one model together, on each node; each takes its part of `loader.batch_size`.
        num_nodes: machines, each with as many devices.
        strategy: what is divided among devices. ddp: the batch (Li et al. 2020); fsdp: the weights too (Zhao et al.
            2023); tensor_parallel: heads and hidden layers of blocks, not the batch (Shoeybi et al. 2019). auto is ddp.
        precision: of weights and of the arithmetic.
        gradient_clip: largest norm of the gradient; larger ones are scaled down to it.
        accumulate: small batches whose gradients are summed for one optimiser step; divides `loader.batch_size`.
        freeze: what stays as it begins. embedding: that, positions and registers; a number: as many of the first
            blocks too; trunk: all but the task's head.
        layer_decay: what each layer's learning rate is of that of the one above it; the head has the full one (Howard
            and Ruder 2018; Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
        compile: whether the model is compiled by torch.compile.
        deterministic: whether only algorithms are used that give the same bits twice.
        val_every: epochs between validations.
        save_every: optimiser steps between checkpoints within an epoch; there is one after each epoch anyway.
        checkpoint: whole: a file that the first process writes; sharded: a folder, into which each process of fsdp
            writes what it has. Any number of processes can go on from either.
        keep_last: checkpoints of the last ones that are kept, `last` and those before it.
        on_bad_loss: what follows a loss that is NaN, infinite or a spike; RUN_DIR/bad_batches.jsonl says of which
            samples it was. stop: nothing, the run has failed; skip: training goes on after that batch with the weights
            of up to 50 steps before, which takes memory for a copy of them (Chowdhery et al. 2022, PaLM, section 5.1);
            warn: it goes on as it is.
        spike: robust standard deviations above the median of the last 100 losses from which on a loss is a spike, if it
            also gives up half of what was learned; null for none.
        log_every: optimiser steps between two rows of training metrics.
        limit_batches: batches of each epoch and split that are used, for trying things out.
        overfit_batches: trains and validates on this many training batches only, unshuffled and unaugmented.
        fast_dev_run: one batch of training, validation and test each, without checkpoints.
        media: samples that tables, pictures and sounds of a validation show, as often as a twentieth of its time
            allows; 0 for none.
        profiler: writes where the time went into the run directory, as fit-profile.txt.
        progress: whether a progress bar is shown.
    """

    max_epochs: int = 50
    max_steps: int | None = None
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp", "tensor_parallel"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    gradient_clip: float | None = 1.0
    accumulate: int = 1
    freeze: int | Literal["none", "embedding", "trunk"] = "none"
    layer_decay: float = 1.0
    compile: bool = False
    deterministic: bool = True
    val_every: int = 1
    save_every: int | None = None
    checkpoint: Literal["whole", "sharded"] = "whole"
    keep_last: int = 2
    on_bad_loss: Literal["stop", "skip", "warn"] = "stop"
    spike: float | None = 30.0
    log_every: int = 10
    limit_batches: int | None = None
    overfit_batches: int = 0
    fast_dev_run: bool = False
    media: int = 4
    profiler: Literal["simple", "advanced"] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _at_least(self, "trainer", max_epochs=1, max_steps=1, accumulate=1, val_every=1, log_every=1, limit_batches=1)
        _at_least(self, "trainer", overfit_batches=0, media=0, devices=1, num_nodes=1, save_every=1, keep_last=1)
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise UserError(
                f"trainer.gradient_clip={self.gradient_clip}: must be greater than 0, or null for no clipping."
            )
        if self.spike is not None and self.spike <= 0:
            raise UserError(f"trainer.spike={self.spike}: must be greater than 0, or null for none.")
        if isinstance(self.freeze, int) and self.freeze < 1:
            raise UserError(
                f"trainer.freeze={self.freeze}: a number of blocks is at least 1; or none, embedding, trunk."
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"trainer.layer_decay={self.layer_decay}: must be greater than 0 and at most 1.")


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """How a trained model goes on with prompts.

    Args:
        prompt: what to go on with, or a list of such; `-` for all that stands on standard input. Nothing means from
            the beginning of a document. Where a run's task writes one sequence for another, what to write for: a text
            or, of images and sounds, a file.
        prompts: a file of prompts, one a line or, if its name ends in .jsonl, under `prompt` in a JSON object a line;
            `-` for the lines of standard input.
        checkpoint: whose weights.
        max_new_tokens: that may follow a prompt; null for 100, or fewer where the model has no more places. Of a text
            that is written for something else, null for those of the longest one that the model was trained to write.
        temperature: 0 always takes the likeliest token; 1 draws from the model's distribution, less sharpens it, more
            flattens it.
        top_k: tokens that may be drawn, the likeliest ones; null for all.
        top_p: only the likeliest tokens may be drawn that together have this probability.
        min_p: only tokens may be drawn that are at least this share as likely as the likeliest one.
        repetition_penalty: by which tokens that stood there are made less likely; 1 for none.
        no_repeat_ngram: no run of this many tokens comes twice; 0 to allow all.
        stop: a string, or a list of such, before which the text ends.
        num_beams: sequences of each prompt that beam search follows at once; 1 for no beam search.
        length_penalty: of beam search; above 0 prefers long texts, below 0 short ones.
        early_stopping: of beam search. true: a prompt is done once as many texts as beams have ended; false: unless a
            running one is better so far; never: unless one can still become better.
        num_samples: texts of each prompt; of beam search, the best ones.
        seed: decides what is drawn. What follows a prompt doesn't depend on the prompts beside it.
        batch_size: texts that are written at once.
        cache: what is remembered between tokens. growing: what there is; fixed: in memory of a fixed size; none: each
            token reads all before it anew. auto: growing or, to compile, fixed; none where a mechanism can't go on.
        compile: whether the step of one token is compiled by torch.compile; pays off for many tokens.
        accelerator: where the model runs.
        precision: of weights and of the arithmetic; null as they were saved.
        draft: the directory of a smaller run of the same tokenizers, which proposes tokens that the model then accepts
            or not (speculative decoding); the texts are as likely as without it.
        draft_tokens: that the draft proposes at a time.
        stream: whether text is shown as it comes; null if there is one text and it goes to a terminal.
        json: whether each text is a JSON object of its own line: prompt, text, tokens, score, ended.
    """

    prompt: str | list[str] | None = None
    prompts: Path | None = None
    checkpoint: Literal["best", "last"] = "best"
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    stop: str | list[str] | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_samples: int = 1
    seed: int = 0
    batch_size: int = 16
    cache: Literal["auto", "growing", "fixed", "none"] = "auto"
    compile: bool = False
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["32-true", "16-true", "bf16-true", "64-true"] | None = None
    draft: Path | None = None
    draft_tokens: int = 4
    stream: bool | None = None
    json: bool = False

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def __post_init__(self) -> None:
        _at_least(self, "", max_new_tokens=1, top_k=1, no_repeat_ngram=0, num_beams=1, num_samples=1)
        _at_least(self, "", seed=0, batch_size=1, draft_tokens=1)
        within = {
            "temperature": (self.temperature == 0 or LEAST <= self.temperature <= MOST, f"0, or {FACTOR}"),
            "top_p": (0 < self.top_p <= 1, "greater than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "at least 0 and at most 1"),
            "repetition_penalty": (LEAST <= self.repetition_penalty <= MOST, FACTOR),
            "length_penalty": (-MOST_POWER <= self.length_penalty <= MOST_POWER, f"from -{MOST_POWER} to {MOST_POWER}"),
        }
        for name, (fits, possible) in within.items():
            if not fits:
                raise UserError(f"{name}={getattr(self, name)}: must be {possible}.")
        if "" in self.stops:
            raise UserError("stop: an empty string stands everywhere. Leave it out.")
        if self.prompt is not None and self.prompts is not None:
            raise UserError("prompt and prompts: set one of them.")
        self._check_used()

    def _check_used(self) -> None:
        """
        Raises:
            UserError: an option that would have no effect, or two that can't go together.
        """
        beams, drawing = self.num_beams > 1, self.temperature > 0
        if beams and drawing:
            raise UserError(
                f"num_beams={self.num_beams}, temperature={self.temperature}: beam search draws nothing.\n"
                "  Set num_beams=1 to draw, or temperature=0."
            )
        if self.num_samples > self.num_beams and not drawing:
            raise UserError(
                f"num_samples={self.num_samples}: greater than num_beams={self.num_beams}.\n"
                f"  Set num_beams={self.num_samples} or more, or temperature=1 to draw so many."
            )
        streams = bool(self.stream)
        useless: list[tuple[bool, list[str], str]] = [
            (
                not drawing,
                ["top_k", "top_p", "min_p", "seed"],
                "has no effect at temperature=0. Set temperature=1 to draw",
            ),
            (not beams, ["length_penalty", "early_stopping"], "is of beam search. Set num_beams=2 or more"),
            (self.draft is None, ["draft_tokens"], "has no effect without a draft. Set draft=RUN_DIR"),
            (
                self.draft is not None,
                ["batch_size"],
                "has no effect with a draft, which writes one text at a time. Leave it out",
            ),
            (beams, ["stop", "draft"], "can't go with beam search. Set num_beams=1"),
            (beams and streams, ["stream"], "texts of beam search are known at its end. Set num_beams=1"),
            (self.json and streams, ["stream"], "JSON lines come whole. Set json=false"),
        ]
        for applies, names, why in useless:
            for name in names:
                if applies and getattr(self, name) != getattr(GenerateSettings, name):
                    raise UserError(f"{name}={_written(getattr(self, name))}: {why}.")


def _written(value: object) -> str:
    """As on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at_least(settings: object, group: str, **least: int) -> None:
    """
    Raises:
        UserError: a number is smaller than the one given here for its name.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
            raise UserError(f"{f'{group}.{name}'.lstrip('.')}={value}: must be at least {smallest}.")
