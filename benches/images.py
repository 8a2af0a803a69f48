"""How much of a training goes into preparing image files.

    cargo build --release --bin sinter
    python3 benches/images.py path/to/sinter [--count 256] [--size 320 240]

Trains torchvision's MobileNetV2 at 224 × 224 for one epoch on JPEG files of a size, and on the same pixels as a prepared
array, in turns, three times each on two threads. What decoding and resizing cost is the difference.
"""

import argparse
import io
import statistics
import tarfile

import numpy as np
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from distillation import fresh
from pruning import Sinter


def photograph(random, width, height):
    """Waves of colour with noise, which a JPEG of a photograph's size holds."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 80 * np.sin(rows / random.uniform(5, 60) + columns / random.uniform(5, 60)) for _ in range(3)]
    return np.clip(np.stack(waves, -1) + random.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("binary")
    arguments.add_argument("--count", type=int, default=256)
    arguments.add_argument("--size", type=int, nargs=2, default=[320, 240], help="width and height of the files")
    given = arguments.parse_args()
    random = np.random.default_rng(0)
    archive, pixels, labels, total = io.BytesIO(), [], [], 0
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for index in range(given.count + 16):
            file = io.BytesIO()
            Image.fromarray(photograph(random, *given.size)).save(file, "jpeg", quality=90)
            total += len(file.getvalue())
            split = "train" if index < given.count else "test"
            entry = tarfile.TarInfo(f"{split}/{index % 4}/{index:05}.jpg")
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
            pixels.append(np.asarray(Image.open(file).resize((224, 224), Image.Resampling.BILINEAR)))
            labels.append(index % 4)
    x, y = np.stack(pixels), np.array(labels)
    torch.manual_seed(0)
    with Sinter(given.binary) as sinter:
        network = mobilenet_v2(num_classes=4)
        for parameter in network.parameters():
            # Equal ones would be stored once.
            parameter.data += 1e-4 * torch.rand_like(parameter)
        model = sinter.upload("models", fresh(network, (3, 224, 224)))
        arrays = io.BytesIO()
        np.savez(arrays, x_train=x[: given.count], y_train=y[: given.count], x_test=x[given.count :], y_test=y[given.count :])
        sets = {"image files": sinter.upload("datasets", archive.getvalue()), "an array": sinter.upload("datasets", arrays.getvalue())}
        speeds = {name: [] for name in sets}
        for _ in range(3):
            for name, dataset in sets.items():
                result, _ = sinter.run("train", model, {"epochs": 1}, dataset=dataset,
                                       data={"batch_size": 32, "validation_fraction": 0})
                speeds[name].append(result["training"]["examples_per_second"])
    print(f"{given.count} JPEG files of {given.size[0]} × {given.size[1]}, {total / (given.count + 16) / 1000:.0f} kB each")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        print(f"{name}: {speed:.2f} examples/s")
    print(f"share of preparation: {1 - medians['image files'] / medians['an array']:.1%}")


if __name__ == "__main__":
    main()
