"""What a trained model says of new inputs, and what there is to see of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plugformer.assemble import load_run
from plugformer.config import Config
from plugformer.data.collate import Collate
from plugformer.data.draws import InOrder
from plugformer.data.encoded import EncodedSamples
from plugformer.errors import UserError
from plugformer.generating import has_sources
from plugformer.interfaces import Batch, Output, Sample, Token, Tokenizer
from plugformer.model import Model
from plugformer.pictures import Album
from plugformer.prompts import check_room, count_places, encode_prompt
from plugformer.recorded import load_config
from plugformer.run_dir import RunDir
from plugformer.writing import check_options, write_for


def predict(
    path: str | Path,
    inputs: Sequence[str],
    *,
    checkpoint: str = "best",
    batch_size: int = 64,
    pictures: str | Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
    """Predictions in the order of the inputs, each with the `input` it is of and, if there is one, its `picture`.

    Where the run's task writes one sequence for another, they are what `write_for` makes of them.

    Args:
        path: a run directory.
        inputs: what the run's tokenizer reads: paths, or texts. To a task that generates each is the beginning of a
            sequence: what it says comes next follows the text, not what marks a document's end.
        checkpoint: `best` or `last`.
        batch_size: inputs at a time.
        pictures: the folder for PNG files of tasks that have something to show; by default in the run directory. They
            have the names of the inputs; what is there under the same name is replaced.
        options: of GenerateSettings, for texts that are written.

    Raises:
        UserError: not a run directory, or inputs that can't be read; all of them are named before anything is
            predicted. Options that can't be set. Or a folder for pictures that can't be written, or where there is
            nothing to show.
    """
    config = load_config(path)
    if has_sources(config):
        if pictures is not None:
            raise _nothing_to_show(pictures, config)
        check_options(options)
        yield from write_for(path, config, inputs, options, checkpoint=checkpoint, batch_size=batch_size)
        return
    for name, value in options.items():
        raise UserError(
            f"{name}={value}: task={config['task']['name']} writes no texts for its inputs. Leave it out or, if it is "
            "an input, put it behind --."
        )
    tokenizer, model = load_run(path, config, checkpoint=checkpoint)
    read = partial(_read_prompt, tokenizer=tokenizer, model=model, config=config)
    samples, problems = [], []
    for source in inputs:
        try:
            samples.append(read(source) if model.task.generates else tokenizer.read(source))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} of {len(inputs)} inputs can't be read.", *problems]))
    album = Album(RunDir(path).pictures if pictures is None else Path(pictures), inputs)
    sources = iter(inputs)
    for batch in _batches(samples, tokenizer=tokenizer, batch_size=batch_size):
        with torch.inference_mode():
            output = model(batch)
            described = model.task.describe(output)
            shown = _pictures(output, model)
        if pictures is not None and not shown:
            raise _nothing_to_show(pictures, config)
        for number, found in enumerate(described):
            said = {"input": next(sources), **spoken(found, tokenizer)}
            if shown:
                one = {caption: each[number] for caption, each in shown.items()}
                said["picture"] = str(album.add(one, axes=model.trunk.embedding.picture_axes))
            yield said


def _read_prompt(source: str, *, tokenizer: Tokenizer, model: Model, config: Config) -> Sample:
    """
    Raises:
        UserError: nothing to begin with, or more than the model has places for.
    """
    encoded = encode_prompt(source, tokenizer=tokenizer, name=config["tokenizer"]["name"])
    places, position = count_places(model, tokenizer), config["position"]["name"]
    check_room(source, length=len(encoded["ids"]), more=0, places=places, position=position)
    positions = torch.arange(len(encoded["ids"]))  # which may go on behind the places that training had
    return Sample(id=source, encoded={"positions": positions, **encoded})


def _batches(samples: Sequence[Sample], *, tokenizer: Tokenizer, batch_size: int) -> DataLoader[Batch]:
    """Each input by itself, even if the run packed several into a sequence."""
    encoded: Dataset[Any] = EncodedSamples(samples, tokenizer=tokenizer, targets=None)
    return DataLoader(
        encoded,
        batch_size=batch_size,
        sampler=InOrder(len(samples)),
        collate_fn=Collate(tokenizer=tokenizer, targets=None),
    )


def _nothing_to_show(pictures: str | Path, config: Config) -> UserError:
    return UserError(
        f"pictures={pictures}: task={config['task']['name']} with tokenizer={config['tokenizer']['name']} has nothing "
        "to show.\n  Leave it out."
    )


def _pictures(output: Output, model: Model) -> dict[str, Tensor]:
    """By caption, `[batch, channels, height, width]`; none where the task or its tokens have nothing to show."""
    try:
        return {caption: model.trunk.embedding.picture(raw) for caption, raw in output.pictures.items()}
    except NotImplementedError:
        return {}


def spoken(value: Any, tokenizer: Tokenizer) -> Any:
    """What a task describes, with tokens as the tokenizer decodes them, or as numbers where it can't."""
    if isinstance(value, dict):
        return {key: spoken(each, tokenizer) for key, each in value.items()}
    if isinstance(value, list):
        return [spoken(each, tokenizer) for each in value]
    if isinstance(value, Token):
        try:
            return tokenizer.decode(torch.tensor([value]))
        except NotImplementedError:
            return int(value)
    return value
