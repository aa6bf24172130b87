"""The samples that training went wrong with."""

import json
from pathlib import Path

from plugformer.assemble import build_target_tokenizer, load_tokenizers
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Tokenizer
from plugformer.recorded import load_config
from plugformer.registry import build
from plugformer.run_dir import RunDir
from plugformer.train.run import used_samples


def bad_samples(path: str | Path, *, line: int = -1) -> list[Sample]:
    """Those of a batch that bad_batches.jsonl names, as training had them before they were encoded.

    Args:
        path: a run directory.
        line: of that file; the last one by default.

    Raises:
        UserError: not a run directory, or nothing went wrong in it.
    """
    run = RunDir.open(path)
    if not run.bad_batches.is_file():
        raise UserError(f"{run.bad_batches}: missing. No loss of this run was NaN, infinite or a spike.")
    config = load_config(path)
    tokenizer: Tokenizer = build("tokenizer", config["tokenizer"])
    load_tokenizers(run, tokenizer, build_target_tokenizer(config, tokenizer))
    samples = tokenizer.sequences(used_samples(build("data", config["data"]), "train", config))
    bad = json.loads(run.bad_batches.read_text(encoding="utf-8").splitlines()[line])["batches"][-1]
    return [samples[each["index"]] for named in bad["samples"].values() for each in named]
