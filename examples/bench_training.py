"""Training speed of PyTorch on the Fashion-MNIST examples, the peer of Sinter's. Prints JSON.

    python examples/bench_training.py --data FOLDER [--threads 2]

A step is what Sinter's step is: take a batch, forward, cross entropy, backward, AdamW.
"""

import argparse
import json
import pathlib
import time

import torch

import datasets
import export_models


def measure(model, images, labels, batch_size, warm_up, steps):
    """Examples per second over `steps` steps, and the mean loss of the last ten."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    batches = [b for b in order.split(batch_size) if len(b) == batch_size]
    model.train()
    losses = []
    for step in range(warm_up + steps):
        if step == warm_up:
            start = time.perf_counter()
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    return {
        "examples_per_second": round(steps * batch_size / seconds, 1),
        "step_ms": round(1000 * seconds / steps, 3),
        "last_loss": round(sum(losses[-10:]) / len(losses[-10:]), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "/usr/share/datasets/fashion-mnist"
    parser.add_argument("--data", type=pathlib.Path, default=default, help="IDX folder or .npz")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=20, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    arrays = datasets.load(arguments.data)
    images = torch.from_numpy(datasets.prepare(arrays["x_train"]))
    labels = torch.from_numpy(arrays["y_train"].astype("int64"))
    builders = {
        "fashion_cnn": export_models.build_fashion_cnn,
        "fashion_resnet": export_models.build_fashion_resnet,
    }
    results = {
        name: measure(
            build(), images, labels, arguments.batch_size, arguments.warm_up, arguments.steps
        )
        for name, build in builders.items()
    }
    report = {
        "torch": torch.__version__,
        "threads": arguments.threads,
        "batch_size": arguments.batch_size,
        "steps": arguments.steps,
        "models": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
