"""What is known of torchvision's data sets of labelled images before their files are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchvision import datasets

from plugformer.interfaces import Split

Labels = tuple[str, ...]
Splits = Mapping[Split, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """
    Attributes:
        place: of its files below the root, as a pattern.
        splits: those that it comes in, each with the arguments that torchvision's class takes for it.
        labels: names of its classes as torchvision numbers them, "N/A" for a number that no sample has; by variant
            where they depend on that; None where only the files tell them.
        image: `(channels, height, width)` where all its images share it.
        variants: by name, each with the argument that stands for it; the first one is the default.
        argument: what torchvision's class calls the variant.
        downloads: whether torchvision can fetch the files.
        group: a pattern that finds in a training file's name what it must share a split with, such as other photos of
            the same thing.
    """

    place: str
    splits: Splits
    labels: Labels | Mapping[str, Labels] | None = None
    image: tuple[int, int, int] | None = None
    variants: Mapping[str, Any] = field(default_factory=dict)
    argument: str = ""
    downloads: bool = True
    group: str = ""


_TRAIN: Splits = {"train": {}}  # nothing else is given
_TRAIN_TEST: Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL: Splits = {"train": {"split": "train"}, "val": {"split": "val"}}
_TRAIN_VAL_TEST: Splits = {**_TRAIN_VAL, "test": {"split": "test"}}
_TRAIN_OR_NOT: Splits = {"train": {"train": True}, "test": {"train": False}}

_DIGITS = tuple("0123456789")
_EMNIST = {
    variant: tuple(datasets.EMNIST.classes_split_dict[variant])
    for variant in ("balanced", "bymerge", "byclass", "letters", "digits", "mnist")
}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_STL10 = "airplane bird car cat deer dog horse monkey ship truck"
_EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"


def _like_mnist(name: str, labels: Labels) -> Facts:
    return Facts(place=f"{name}/raw", splits=_TRAIN_OR_NOT, labels=labels, image=(1, 28, 28))


def _cifar(place: str, labels: str) -> Facts:
    return Facts(place=place, splits=_TRAIN_OR_NOT, labels=tuple(labels.split()), image=(3, 32, 32))


SETS: Mapping[str, Facts] = {
    "CIFAR10": _cifar("cifar-10-batches-py", _CIFAR10),
    "CIFAR100": _cifar("cifar-100-python", _CIFAR100),
    "Caltech101": Facts(place="caltech101/101_ObjectCategories", splits=_TRAIN),
    "Caltech256": Facts(place="caltech256/256_ObjectCategories", splits=_TRAIN),
    "Country211": Facts(
        place="country211",
        splits={split: {"split": split} for split in ("train", "test")} | {"val": {"split": "valid"}},
    ),
    "DTD": Facts(
        place="dtd/dtd",
        splits=_TRAIN_VAL_TEST,
        variants={str(number): number for number in range(1, 11)},
        argument="partition",
    ),
    "EMNIST": Facts(
        place="EMNIST/raw",
        splits=_TRAIN_OR_NOT,
        labels=_EMNIST,
        image=(1, 28, 28),
        variants={variant: variant for variant in _EMNIST},
        argument="split",
    ),
    "EuroSAT": Facts(place="eurosat/2750", splits=_TRAIN, labels=tuple(_EUROSAT.split()), image=(3, 64, 64)),
    "FGVCAircraft": Facts(
        place="fgvc-aircraft-2013b",
        splits=_TRAIN_VAL_TEST,
        variants={level: level for level in ("variant", "family", "manufacturer")},
        argument="annotation_level",
    ),
    "FashionMNIST": _like_mnist("FashionMNIST", tuple(datasets.FashionMNIST.classes)),
    "Flowers102": Facts(place="flowers-102", splits=_TRAIN_VAL_TEST, labels=tuple(datasets.Flowers102.classes)),
    "Food101": Facts(place="food-101", splits=_TRAIN_TEST),
    "GTSRB": Facts(
        place="gtsrb",
        splits=_TRAIN_TEST,
        labels=tuple(map(str, range(43))),
        group=r".*/\d+(?=_)",  # a sign was photographed 30 times on the way towards it
    ),
    "Imagenette": Facts(
        place="imagenette2*",
        splits=_TRAIN_VAL,
        variants={size: size for size in ("full", "320px", "160px")},
        argument="size",
    ),
    "KMNIST": _like_mnist("KMNIST", tuple(datasets.KMNIST.classes)),
    "MNIST": _like_mnist("MNIST", _DIGITS),
    "OxfordIIITPet": Facts(place="oxford-iiit-pet", splits={"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "RenderedSST2": Facts(place="rendered-sst2", splits=_TRAIN_VAL_TEST, labels=("negative", "positive")),
    "SEMEION": Facts(place="semeion.data", splits=_TRAIN, labels=_DIGITS, image=(1, 16, 16)),
    "STL10": Facts(place="stl10_binary", splits=_TRAIN_TEST, labels=tuple(_STL10.split()), image=(3, 96, 96)),
    "SUN397": Facts(place="SUN397", splits=_TRAIN),
    "SVHN": Facts(place="*_32x32.mat", splits=_TRAIN_TEST, labels=_DIGITS, image=(3, 32, 32)),
    "StanfordCars": Facts(place="stanford_cars", splits=_TRAIN_TEST, downloads=False),
    "USPS": Facts(place="usps*.bz2", splits=_TRAIN_OR_NOT, labels=_DIGITS, image=(1, 16, 16)),
}
