"""Writes Fashion-MNIST as PNG files in folders named by class: FOLDER/train/CLASS/00000.png, FOLDER/test/….

    python examples/pictures.py FOLDER [--count 10000] [--data /usr/share/datasets/fashion-mnist]
"""

import argparse
import pathlib

from PIL import Image

import datasets

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10_000, help="of each split")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    given = parser.parse_args()
    arrays = datasets.load(given.data)
    for split in ("train", "test"):
        for name in CLASSES:
            (given.folder / split / name).mkdir(parents=True, exist_ok=True)
        pairs = zip(arrays[f"x_{split}"][: given.count], arrays[f"y_{split}"][: given.count])
        for index, (pixels, label) in enumerate(pairs):
            Image.fromarray(pixels).save(given.folder / split / CLASSES[label] / f"{index:05}.png")


if __name__ == "__main__":
    main()
