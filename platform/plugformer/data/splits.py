"""Dividing samples into train, val and test."""

from collections.abc import Sequence

import torch

from plugformer.errors import UserError
from plugformer.interfaces import Split
from plugformer.nn.initialise import seed_for


def split_by_label(
    labels: Sequence[int], *, val_fraction: float, test_fraction: float, seed: int
) -> dict[Split, list[int]]:
    """Indices of each split, drawn class by class so that all splits have about the same shares of them.

    Raises:
        UserError: a split that should get a share gets none.
    """
    for name, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not 0 <= fraction < 1:
            raise UserError(f"data.{name}={fraction}: must be at least 0 and less than 1.")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on."
        )
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    splits: dict[Split, list[int]] = {"train": [], "val": [], "test": []}
    all_labels = torch.as_tensor(labels)
    for label in all_labels.unique().tolist():
        own = (all_labels == label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        num_test, num_val = round(test_fraction * len(own)), round(val_fraction * len(own))
        splits["test"] += own[:num_test].tolist()
        splits["val"] += own[num_test : num_test + num_val].tolist()
        splits["train"] += own[num_test + num_val :].tolist()
    wanted = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for split, indices in splits.items():
        if wanted[split] and not indices:
            raise UserError(
                f"data: {len(all_labels)} samples leave none for {split}; set data.val_fraction and data.test_fraction "
                "so that every class gives some."
            )
    return {split: sorted(indices) for split, indices in splits.items()}
