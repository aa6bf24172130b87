"""Files in the published layouts of torchvision's data sets, a few small random images each."""

import bz2
import csv
import json
import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from plugformer_vision.torchvision_sets import SETS


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8).numpy()


def picture(path: Path, *, size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode()) + 256 * sum(path.parent.name.encode())
    Image.fromarray(pixels(*size, 3, seed=seed)).save(path)
    return path


def idx(path: Path, values: np.ndarray) -> None:
    """LeCun's format: two zeros, 8 for bytes, the number of axes, their sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def labels_of(count: int, classes: int, first: int = 0) -> np.ndarray:
    return np.arange(count) % classes + first


def mnist(root: Path, *, name: str = "MNIST", prefix: str = "{}-", classes: int = 10, first: int = 0) -> None:
    parts = {"train": 10 * classes, "test" if name == "EMNIST" else "t10k": 2 * classes}
    for part, count in parts.items():
        start = root / name / "raw" / prefix.format(part)
        idx(Path(f"{start}images-idx3-ubyte"), pixels(count, 28, 28, seed=count))
        idx(Path(f"{start}labels-idx1-ubyte"), labels_of(count, classes, first))


def cifar(root: Path, *, folder: str, files: dict[str, list[str]], meta: str, key: str, labels: str) -> None:
    names = list(SETS["CIFAR10" if key == "labels" else "CIFAR100"].labels)
    (root / folder).mkdir()
    for file in files["train"] + files["test"]:
        content = {"data": pixels(10 * len(names), 3072, seed=sum(file.encode()))}
        content[key] = labels_of(10 * len(names), len(names)).tolist()
        (root / folder / file).write_bytes(pickle.dumps(content))
    (root / folder / meta).write_bytes(pickle.dumps({labels: names}))


def cifar10(root: Path) -> None:
    files = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
    cifar(root, folder="cifar-10-batches-py", files=files, meta="batches.meta", key="labels", labels="label_names")


def cifar100(root: Path) -> None:
    files = {"train": ["train"], "test": ["test"]}
    cifar(root, folder="cifar-100-python", files=files, meta="meta", key="fine_labels", labels="fine_label_names")


def svhn(root: Path) -> None:
    for part, count in {"train": 100, "test": 20}.items():
        images = pixels(32, 32, 3, count, seed=count)
        savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels_of(count, 10, first=1)[:, None]})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for part, count in {"train": 100, "test": 20}.items():
        (folder / f"{part}_X.bin").write_bytes(pixels(count, 3, 96, 96, seed=count).tobytes())
        (folder / f"{part}_y.bin").write_bytes(labels_of(count, 10, first=1).astype(np.uint8).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(SETS["STL10"].labels))


def usps(root: Path) -> None:
    for part, count in {"": 100, ".t": 20}.items():
        values = pixels(count, 256, seed=count) / 127.5 - 1
        lines = [
            " ".join([str(label), *(f"{place}:{value:.4f}" for place, value in enumerate(row, 1))])
            for label, row in zip(labels_of(count, 10, first=1), values, strict=True)
        ]
        (root / f"usps{part}.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))


def semeion(root: Path) -> None:
    rows = np.concatenate([pixels(100, 256) > 127, np.eye(10)[labels_of(100, 10)]], 1)
    np.savetxt(root / "semeion.data", rows, fmt="%.1f")


def class_folders(root: Path, names: list[str], *, count: int = 10, file: str = "{}.jpg") -> None:
    for label, name in enumerate(names):
        for number in range(1, count + 1):
            picture(root / name / file.format(number, label=label + 1))


def eurosat(root: Path) -> None:
    for number, name in enumerate(SETS["EuroSAT"].labels):
        for n in range(10):
            picture(root / "eurosat" / "2750" / name / f"{number}_{n}.jpg", size=(64, 64))


def country211(root: Path) -> None:
    for part in ("train", "valid", "test"):
        class_folders(root / "country211" / part, ["AD", "AE"], count=3)


def rendered_sst2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        class_folders(root / "rendered-sst2" / part, ["negative", "positive"], count=3, file="{}.png")


def imagenette(root: Path, *, folder: str = "imagenette2") -> None:
    for part in ("train", "val"):
        class_folders(root / folder / part, ["n01440764", "n02102040"], count=10, file="{}.JPEG")


def caltech101(root: Path) -> None:
    names = ["BACKGROUND_Google", "anchor", "bass"]
    class_folders(root / "caltech101" / "101_ObjectCategories", names, file="image_{:04d}.jpg")


def caltech256(root: Path) -> None:
    names = ["001.ak47", "002.bat"]
    class_folders(root / "caltech256" / "256_ObjectCategories", names, file="{label:03d}_{:04d}.jpg")


def sun397(root: Path) -> None:
    class_folders(root / "SUN397" / "a", ["abbey", "airport/inner"], file="sun_{}.jpg")
    (root / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/a/airport/inner\n")


def dtd(root: Path, *, partition: int = 1) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for part in ("train", "val", "test"):
        names = [f"{kind}/{kind}_{part}{number}.jpg" for kind in ("banded", "woven") for number in range(3)]
        for name in names:
            picture(folder / "images" / name)
        (folder / "labels" / f"{part}{partition}.txt").write_text("\n".join(names) + "\n")


def food101(root: Path) -> None:
    for part, count in {"train": 10, "test": 3}.items():
        names = {dish: [f"{dish}/{part}{n}" for n in range(count)] for dish in ("sushi", "pho")}
        (root / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (root / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(names))
        for name in chain(*names.values()):
            picture(root / "food-101" / "images" / f"{name}.jpg")


def aircraft(root: Path, *, level: str = "variant", levels: str = "variants") -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    (data / f"{levels}.txt").write_text("707-320\nF/A-18\n")
    for start, part in enumerate(("train", "val", "test")):
        names = {f"{start}{number:06d}": ("707-320", "F/A-18")[number % 2] for number in range(6)}
        for name in names:
            picture(data / "images" / f"{name}.jpg")
        (data / f"images_{level}_{part}.txt").write_text("".join(f"{n} {label}\n" for n, label in names.items()))


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 409):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels_of(408, 102, first=1)})
    parts = {"trnid": range(1, 205), "valid": range(205, 307), "tstid": range(307, 409)}
    savemat(folder / "setid.mat", {name: np.array(numbers) for name, numbers in parts.items()})


def gtsrb(root: Path) -> None:
    for label in range(43):
        for number in range(12):  # two of each sign
            picture(root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}" / f"{number // 2:05d}_{number % 2:05d}.ppm")
    with (root / "gtsrb" / "GT-final_test.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Filename", "ClassId"])
        for label in range(43):
            table.writerow([picture(root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{label}.ppm").name, label])


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, numbers in {"trainval": range(10), "test": range(10, 13)}.items():
        lines = []
        for label, name in enumerate(["Abyssinian", "american_bulldog"], 1):
            for number in numbers:
                picture(folder / "images" / f"{name}_{number}.jpg")
                lines.append(f"{name}_{number} {label} {label} 1\n")
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Acura RL"], dtype=object)})
    for part, count, place in (("train", 20, "devkit/cars_train_annos"), ("test", 6, "cars_test_annos_withlabels")):
        rows = [(picture(folder / f"cars_{part}" / f"{n:05d}.jpg").name, n % 2 + 1) for n in range(count)]
        savemat(folder / f"{place}.mat", {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})


WRITERS: dict[str, Callable[[Path], None]] = {
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "Caltech101": caltech101,
    "Caltech256": caltech256,
    "Country211": country211,
    "DTD": dtd,
    "EMNIST": lambda root: mnist(root, name="EMNIST", prefix="emnist-balanced-{}-", classes=47),
    "EuroSAT": eurosat,
    "FGVCAircraft": aircraft,
    "FashionMNIST": lambda root: mnist(root, name="FashionMNIST"),
    "Flowers102": flowers,
    "Food101": food101,
    "GTSRB": gtsrb,
    "Imagenette": imagenette,
    "KMNIST": lambda root: mnist(root, name="KMNIST"),
    "MNIST": mnist,
    "OxfordIIITPet": pets,
    "RenderedSST2": rendered_sst2,
    "SEMEION": semeion,
    "STL10": stl10,
    "SUN397": sun397,
    "SVHN": svhn,
    "StanfordCars": cars,
    "USPS": usps,
}
