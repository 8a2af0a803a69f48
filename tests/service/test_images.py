"""Data sets of image files, held against the same examples as numbers, against Pillow and torchvision."""

import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torchvision.transforms import v2

import models
from conftest import DIGITS_CNN, assert_problem

NAMES = "zero one two three four five six seven eight nine".split()
DIGITS_SCALE = {"preprocess": {"scale": 1 / 16}}


def encoded(pixels, kind="png", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def digit_files(name=str, splits=("train", "test"), limit=None, kind="png"):
    """Path and bytes of the digits as images, in folders named by class."""
    arrays = models.digits()
    return {f"digits/{split}/{name(y)}/{index}.{kind}": encoded(x, kind)
            for split in splits
            for index, (x, y) in enumerate(zip(arrays[f"x_{split}"][:limit], arrays[f"y_{split}"][:limit]))}


@pytest.fixture(scope="module")
def folders(server):
    return server.upload_dataset(models.zip_of(digit_files()), "folders")


def photograph(height=96, width=128, seed=0):
    """Smooth colours and hard edges."""
    rows, columns = np.mgrid[0:height, 0:width]
    random = np.random.default_rng(seed)
    waves = [128 + 90 * np.sin(rows / random.uniform(3, 20) + columns / random.uniform(3, 20)) for _ in range(3)]
    pixels = np.clip(np.stack(waves, -1) + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    pixels[height // 4 : height // 3, width // 5 : width // 2] = [250, 20, 90]
    return pixels


@pytest.fixture(scope="module")
def mirror(server):
    """A model that answers with the image that it sees, by its number of channels."""
    def of(channels, height="height", width="width"):
        content = models.identity(("batch", channels, height, width))
        return server.upload_model(content, f"mirror-{channels}")
    return of


def seen(server, model, content, **preprocess):
    """Levels of the pixels, channels last."""
    answer = server.post(f"/v1/models/{model['id']}/predict", data=content,
                         params={"preprocess": json.dumps({"scale": 1, **preprocess})})
    assert answer.status_code == 200, answer.text
    output = answer.json()["outputs"][0]
    values = np.array(output["values"])
    assert list(values.shape) == output["shape"]
    return values[0].transpose(1, 2, 0)


# What is read.


def hub_parquet(files, names=None, column="image", **more):
    """As the `datasets` library writes a column of files: groups of bytes and path, names of labels in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array([{"bytes": content, "path": None} for content, _ in files], kind),
                      "label": pa.array([label for _, label in files]), **more})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_parquet_files_of_the_hugging_face_hub_are_image_files(server, digits_model):
    arrays = models.digits()
    rows = {split: [(encoded(x), int(y)) for x, y in zip(arrays[f"x_{split}"], arrays[f"y_{split}"])] for split in ("train", "test")}
    tables = {f"data/{split}-00000-of-00001.parquet": hub_parquet(own, NAMES) for split, own in rows.items()}
    found = server.upload_dataset(models.zip_of(tables), "hub")
    assert found["format"] == "images" and found["splits"] == {"train": 1437, "test": 360}
    # In the order of the file's metadata, as whoever trains on it has them.
    assert found["target"]["class_names"] == list(NAMES) and found["inputs"][0]["shape"] == [8, 8, 1]
    plain = server.upload_dataset(hub_parquet(rows["test"]), "one file")
    assert plain["target"]["classes"] == 10 and plain["splits"]["train"] == 360
    mean = lambda dataset, **data: server.run("evaluate", digits_model, dataset, data={**DIGITS_SCALE, **data})["result"]["before"]["metrics"]
    whole = server.upload_dataset(models.zip_of({"train.parquet": hub_parquet(rows["train"][:50]), "test.parquet": hub_parquet(rows["test"])}))
    wanted = server.upload_dataset(models.npz(x_train=arrays["x_train"][:50], y_train=arrays["y_train"][:50],
                                              x_test=arrays["x_test"], y_test=arrays["y_test"]))
    assert mean(whole)["accuracy"] == mean(wanted)["accuracy"] and mean(whole)["loss"] == pytest.approx(mean(wanted)["loss"], rel=1e-5)
    assert mean(found)["accuracy"] == mean(wanted)["accuracy"]
    # A sound in the same layout, a broken one, a label without a name.
    broken = [*rows["test"][:20], (b"no image", 3)]
    problem = assert_problem(server.post_dataset(hub_parquet(broken)), 422, "invalid_dataset", says=":21")
    assert "damaged=skip" in problem["detail"]
    skipped = server.upload_dataset(hub_parquet(broken), params={"damaged": "skip"})
    assert skipped["splits"]["train"] == 20 and len(skipped["skipped"]) == 1
    assert server.run("evaluate", digits_model, skipped, data=DIGITS_SCALE)["result"]["environment"]["data"]["skipped"] == 1
    assert_problem(server.post_dataset(hub_parquet(rows["test"][:20], NAMES[:4])), 422, says="has no name")
    more = {"other": list(range(20))}
    named = server.upload_dataset(hub_parquet(rows["test"][:20], **more), params={"target": "other"})
    assert named["target"]["name"] == "other"
    assert_problem(server.post_dataset(hub_parquet(rows["test"][:20], **more), params={"target": "nothing"}), 422, says="`nothing`")


def test_an_example_that_is_asked_about_is_named(server, folders, digits_model):
    asked = server.post(f"/v1/models/{digits_model['id']}/predict", json={"examples": list(range(40))},
                        params={"dataset": folders["id"], "preprocess": '{"scale": 0.0625}'}).json()
    # What the file's name says is what the data set says.
    for example, target, top in zip(asked["examples"], asked["targets"], asked["top"], strict=True):
        assert f"/{target['class']}/" in example["source"], asked["examples"]
    assert sum(top[0]["label"] == target["value"] for top, target in zip(asked["top"], asked["targets"])) > 36


def test_folders_by_class_are_the_same_examples(server, folders, digits, digits_model):
    assert folders["format"] == "images"
    assert folders["splits"] == {"train": 1437, "test": 360}
    assert folders["inputs"] == [{"name": "image", "dtype": "uint8", "shape": [8, 8, 1], "media": "image"}]
    target = folders["target"]
    assert (target["name"], target["classes"], target["class_names"]) == ("class", 10, [str(n) for n in range(10)])
    assert folders["skipped"] == []
    found = [server.run("train", digits_model, dataset, {"epochs": 2, "augment": {"crop": {"padding": 1}}},
                        data=DIGITS_SCALE)["result"] for dataset in (folders, digits)]
    assert found[0]["before"]["metrics"] == found[1]["before"]["metrics"]
    about = [result["environment"]["data"] for result in found]
    assert about[0]["splits"] == about[1]["splits"]
    # Files lie in the order of their classes, arrays in that of the examples, so the batches differ.
    assert found[0]["after"]["metrics"]["accuracy"] == pytest.approx(found[1]["after"]["metrics"]["accuracy"], abs=0.01)
    assert about[0]["inputs"][0]["image"] == {"channels": 1, "resize": None, "crop": [8, 8]}


def test_every_container_and_kind_of_image(server, digits_model):
    reference = None
    for pack in (models.zip_of, models.tar_of, lambda files: models.tar_of(files, "w:gz")):
        for kind in ("png", "bmp"):
            dataset = server.upload_dataset(pack(digit_files(limit=200, kind=kind)), kind)
            assert (dataset["format"], dataset["splits"]) == ("images", {"train": 200, "test": 200})
            job = server.run("evaluate", digits_model, dataset, {"metrics": ["accuracy", "loss"]}, data=DIGITS_SCALE)
            found = job["result"]["before"]["metrics"]
            reference = reference or found
            assert found == reference
    files = list(digit_files(limit=40).items())
    answer = server.post("/v1/datasets", params={"name": "side by side"}, files=[("file", file) for file in files])
    assert answer.status_code == 201, answer.text
    assert (answer.json()["format"], answer.json()["splits"]) == ("images", {"train": 40, "test": 40})


def test_a_validation_folder_is_the_validation_split(server, digits_model):
    files = {path.replace("/train/", "/val/") if int(path.split("/")[-1][:-4]) % 5 == 0 and "/train/" in path else path: data
             for path, data in digit_files(NAMES.__getitem__).items()}
    dataset = server.upload_dataset(models.zip_of(files), "with val")
    assert dataset["splits"] == {"train": 1149, "validation": 288, "test": 360}
    assert dataset["target"]["class_names"] == sorted(NAMES)
    job = server.run("train", digits_model, dataset, {"epochs": 1, "weights": "reinitialize"}, data=DIGITS_SCALE)
    assert job["result"]["environment"]["data"]["splits"] == {"train": 1149, "validation": 288, "test": 360}
    points = server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]
    assert any(curve["name"].startswith("validation/") for curve in points)


def test_images_without_folders_have_no_labels(server):
    dataset = server.upload_dataset(models.zip_of({f"{n}.png": encoded(np.full((4, 4), n, np.uint8)) for n in range(9)}), "bare")
    assert (dataset["splits"], dataset["target"]) == ({"train": 9, "test": 0}, None)


def test_a_manifest_labels_and_splits(server, digits_model):
    arrays = models.digits()
    rows, files = ["path,split,digit,size"], {}
    for split in ("train", "test"):
        for index, (x, y) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"])):
            files[f"images/{split[0]}{index}.png"] = encoded(x)
            rows.append(f"images/{split[0]}{index}.png,{split},{y},{x.sum() / 7:.3f}")
    files["manifest.csv"] = "\n".join(rows).encode()
    content = models.zip_of(files)
    assert_problem(server.post_dataset(content, "unsaid"), 422, "invalid_dataset", says=["target", "digit", "size"])
    dataset = server.upload_dataset(content, "by manifest", params={"target": "digit"})
    assert dataset["splits"] == {"train": 1437, "test": 360}
    assert (dataset["target"]["name"], dataset["target"]["classes"]) == ("digit", 10)
    job = server.run("evaluate", digits_model, dataset, {"metrics": ["accuracy"]}, data=DIGITS_SCALE)
    assert job["result"]["before"]["metrics"]["accuracy"] > 0.95
    sizes = server.upload_dataset(content, "by size", params={"target": "size"})
    assert (sizes["target"]["dtype"], sizes["target"]["classes"]) == ("float64", None)
    missing = models.zip_of({**files, "manifest.csv": b"path,digit\nimages/nothere.png,1\n"})
    assert_problem(server.post_dataset(missing, "missing"), 422, "invalid_dataset", says="nothere.png")


def test_a_manifest_of_several_labels_is_multilabel(server):
    lines = [{"file_name": f"{n}.png", "labels": [word for word, bit in (("big", n > 4), ("even", n % 2 == 0)) if bit]}
             for n in range(8)]
    files = {f"data/{n}.png": encoded(np.full((8, 8), n, np.uint8)) for n in range(8)}
    files["data/metadata.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    dataset = server.upload_dataset(models.zip_of(files), "several")
    target = dataset["target"]
    assert (target["name"], target["shape"], target["class_names"]) == ("labels", [2], ["big", "even"])


# How images are prepared.


@pytest.mark.parametrize("size", [(24, 32), (50, 31), (96, 128), (200, 300), (1, 1), (97, 13)])
def test_resizing_is_pillows(server, mirror, size):
    pixels = photograph()
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    found = seen(server, mirror(3), encoded(pixels), resize=list(size))
    assert found.shape == (*size, 3)
    assert np.abs(found - expected).max() <= 1
    grey = Image.fromarray(pixels).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    found = seen(server, mirror(1), encoded(pixels), resize=list(size))
    assert np.abs(found[..., 0] - np.asarray(grey).astype(int)).max() <= 1


@pytest.mark.parametrize(("shape", "resize", "crop"), [((96, 128), 40, 32), ((131, 70), 33, [32, 20]), ((20, 21), None, 17), ((20, 21), None, [26, 30])])
def test_cropping_is_torchvisions(server, mirror, shape, resize, crop):
    pixels = photograph(*shape)
    steps = ([v2.Resize(resize, interpolation=v2.InterpolationMode.BILINEAR)] if resize else []) + [v2.CenterCrop(crop)]
    expected = np.asarray(v2.Compose(steps)(Image.fromarray(pixels))).astype(int)
    asked = {"crop": crop, **({"resize": resize} if resize else {})}
    assert np.abs(seen(server, mirror(3), encoded(pixels), **asked) - expected).max() <= 1


def test_colours_are_pillows(server, mirror):
    pixels = photograph(20, 30)
    image = Image.fromarray(pixels)
    opaque = Image.merge("RGBA", [*image.split(), Image.fromarray(pixels[..., 0])])
    kinds = {"grey": (image.convert("L"), {}), "palette": (image.quantize(64), {}), "opacity": (opaque, {}),
             "grey with opacity": (opaque.convert("LA"), {}), "bits": (image.convert("1"), {}),
             "webp": (image, {"kind": "webp", "lossless": True}), "bmp": (image, {"kind": "bmp"})}
    for name, (source, options) in kinds.items():
        for channels, mode in ((1, "L"), (3, "RGB")):
            expected = np.asarray(source.convert(mode)).astype(int).reshape(20, 30, channels)
            found = seen(server, mirror(channels), encoded(source, **options))
            assert np.abs(found - expected).max() <= (1 if channels == 1 else 0), (name, mode)
    lossy = encoded(image, "jpeg", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(lossy))).astype(int)
    # Decoders may interpolate colours differently.
    difference = np.abs(seen(server, mirror(3), lossy) - expected)
    assert difference.mean() <= 1 and difference.max() <= 12


def test_means_and_deviations_by_channel_in_both_layouts(server, mirror):
    pixels = photograph(12, 10)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (pixels / 255 - mean) / std
    norm = {"scale": 1 / 255, "mean": mean, "std": std}
    assert np.abs(seen(server, mirror(3), encoded(pixels), **norm) - expected).max() < 1e-5
    last = server.upload_model(models.identity(("batch", "height", "width", 3)), "channels last")
    answer = server.post(f"/v1/models/{last['id']}/predict", data=encoded(pixels),
                         params={"preprocess": json.dumps({**norm, "layout": "nhwc"})})
    assert np.abs(np.array(answer.json()["outputs"][0]["values"])[0] - expected).max() < 1e-5


def test_images_of_many_sizes_are_given_the_models(server, digits_model):
    arrays = models.digits()
    files = {}
    for index, (x, y) in enumerate(zip(arrays["x_train"], arrays["y_train"])):
        side = 16 + index % 3 * 8
        large = Image.fromarray((x * 15).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        files[f"{y}/{index}.png"] = encoded(large.convert("RGB"))
    dataset = server.upload_dataset(models.zip_of(files), "many sizes")
    assert dataset["inputs"][0]["shape"] == [0, 0, 3]
    job = server.run("evaluate", digits_model, dataset, {"metrics": ["accuracy"]}, data={"preprocess": {"scale": 1 / 240}})
    assert job["result"]["environment"]["data"]["inputs"][0]["image"] == {"channels": 1, "resize": [8, 8], "crop": [8, 8]}
    assert job["result"]["before"]["metrics"]["accuracy"] > 0.95
    # A job on what comes of it cuts them out alike.
    cut = {"preprocess": {"scale": 1 / 240, "resize": 10, "crop": 8}}
    made = server.run("train", digits_model, dataset, {"epochs": 1}, data=cut)["result"]
    for data in ({}, {"preprocess": {"scale": 1 / 240}}):
        again = server.run("evaluate", made["model"], dataset, data=data)["result"]
        assert again["environment"]["data"]["inputs"][0]["image"] == {"channels": 1, "resize": 10, "crop": [8, 8]}
        assert again["before"]["metrics"] == made["after"]["metrics"]
    # A student of another size is given its own size, and the same numbers.
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 10))
    file = io.BytesIO()
    torch.onnx.export(small, (torch.zeros(2, 1, 6, 6),), file, dynamo=False, input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
    student = server.upload_model(file.getvalue(), "small")
    taught = server.run("distill", made["model"], dataset, {"student": {"model": student["id"]}, "finetune": {"epochs": 1}})["result"]
    [fed] = taught["environment"]["data"]["inputs"]
    assert (fed["scale"], fed["image"]["crop"]) == (1 / 240, [6, 6]) and fed["inherited"]
    assert [line.split(":")[0] for line in taught["environment"]["data"]["prepared"]] == ["the model that came"] * 2 + ["the new model"] * 2
    asked = {"preprocess": {"resize": [8, 8]}}
    asked = server.run("evaluate", made["model"], dataset, data=asked)["result"]["environment"]["data"]["inputs"][0]
    assert asked["image"]["resize"] == [8, 8] and asked["scale"] == 1 / 240


def test_preprocessing_can_become_a_part_of_the_model(server, digits_model):
    arrays = models.digits()
    dataset = server.upload_dataset(models.zip_of(digit_files(NAMES.__getitem__)), "to embed")
    prepare = {"scale": 1 / 8, "mean": [0.5], "std": [2.0]}
    job = server.run("prune", digits_model, dataset, {"target": {"macs_ratio": 0.6}, "finetune": {"epochs": 2}},
                     data={"preprocess": prepare, "embed_preprocessing": True})
    result = job["result"]
    assert result["environment"]["data"]["embedded"] is True
    content = server.model_content(result["model"])
    x = arrays["x_test"][:, None].astype(np.float32)
    said = models.outputs(content, {"input": x})[0].argmax(1)
    labels = np.array([sorted(NAMES).index(NAMES[y]) for y in arrays["y_test"]])
    assert (said == labels).mean() == pytest.approx(result["after"]["metrics"]["accuracy"], abs=1e-9)
    assert result["after"]["metrics"]["accuracy"] > 0.8
    # Its numbers are no weights, it says what it expects, and pixels go into it as they are.
    summary = server.get(f"/v1/models/{result['model']}").json()["summary"]
    assert summary["parameters"] == result["after"]["parameters"]
    assert summary["inputs"][0]["prepared"] is True
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    expects = json.loads(properties["sinter.expects"])
    assert (expects["inputs"][0]["scale"], expects["inputs"][0]["mean"]) == (1, [0])
    assert expects["class_names"] == sorted(NAMES)
    model = {"id": result["model"]}
    answer = server.post(f"/v1/models/{result['model']}/predict", data=encoded(arrays["x_test"][5]))
    assert answer.json()["top"][0][0]["label"] == said[5]
    again = server.run("train", model, dataset, {"epochs": 1})
    assert again["result"]["environment"]["data"]["inputs"][0]["scale"] == 1
    assert again["result"]["before"]["metrics"] == result["after"]["metrics"]
    trained = onnx.load_from_string(server.model_content(again["result"]["model"]))
    kept = {t.name: numpy_helper.to_array(t) for t in trained.graph.initializer if "sinter_preprocessing" in t.name}
    assert sorted(float(value) for value in kept.values()) == [-0.25, 0.0625]
    by_channel = {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    colours = {f"{kind}/{n}.png": encoded(photograph(8, 8, n)) for kind in ("train/a", "train/b", "test/a") for n in range(20)}
    colourful = server.upload_dataset(models.zip_of(colours), "colours")
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2))
    file = io.BytesIO()
    torch.onnx.export(layers, (torch.zeros(2, 3, 8, 8),), file, input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}}, dynamo=False)
    network = server.upload_model(file.getvalue(), "colours")
    found = [server.run("train", network, colourful, {"epochs": 2}, data={"preprocess": by_channel, "embed_preprocessing": embed})
             for embed in (False, True)]
    assert found[0]["result"]["after"]["metrics"]["loss"] == pytest.approx(found[1]["result"]["after"]["metrics"]["loss"], rel=1e-4)
    answer = server.post("/v1/jobs", json={"kind": "evaluate", "model": network["id"], "dataset": colourful["id"],
                                           "data": {"embed_preprocessing": True}})
    assert_problem(answer, 422, pointer="/data/embed_preprocessing")


# What is refused, or left out.


def bomb(side):
    """A PNG that claims so many pixels on each side."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


DAMAGED = {
    "truncated": lambda: encoded(photograph())[:-300],
    "empty": lambda: b"",
    "text": lambda: b"no image at all",
    "bomb": lambda: bomb(100_000),
    "no pixels": lambda: bomb(0),
    "flipped": lambda: encoded(photograph())[:200] + b"\xff\x00\xff" + encoded(photograph())[203:],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_images_are_refused_or_left_out(server, digits_model, damage):
    files = {**digit_files(limit=30), "digits/train/3/broken.png": DAMAGED[damage]()}
    answer = server.post_dataset(models.zip_of(files), "damaged")
    assert_problem(answer, 422, "invalid_dataset", says=["digits/train/3/broken.png", "damaged=skip"])
    dataset = server.upload_dataset(models.zip_of(files), "damaged", params={"damaged": "skip"})
    assert dataset["splits"] == {"train": 30, "test": 30}
    assert [file["name"] for file in dataset["skipped"]] == ["digits/train/3/broken.png"]
    assert dataset["skipped"][0]["detail"]
    job = server.run("evaluate", digits_model, dataset, {"metrics": ["accuracy"]}, data=DIGITS_SCALE)
    assert job["result"]["environment"]["data"]["skipped"] == 1
    assert "Left out" in server.artifact(job, "report.html").decode()


def test_zip_bombs_do_not_fill_the_memory(server):
    giant = io.BytesIO()
    with zipfile.ZipFile(giant, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in digit_files(limit=3).items():
            archive.writestr(path, data)
        with archive.open("digits/train/1/giant.png", "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
    assert_problem(server.post_dataset(giant.getvalue(), "giant"), 422, "invalid_dataset", says="giant.png")
    # Claims a terabyte.
    claimed = bytearray(models.zip_of(digit_files(limit=3)))
    place = claimed.rfind(b"PK\x01\x02")
    claimed[place + 24 : place + 28] = struct.pack("<I", 0xFFFFFFFE)
    assert_problem(server.post_dataset(bytes(claimed), "claimed"), 422, "invalid_dataset")
    # Bytes that are not those that the checksum was made of.
    stored = models.zip_of(digit_files(limit=3))
    place = stored.find(b"IDAT")
    flipped = stored[:place] + b"IDAX" + stored[place + 4 :]
    assert_problem(server.post_dataset(flipped, "flipped"), 422, "invalid_dataset")
    assert server.is_healthy()


def test_what_does_not_fit_is_said(server, folders, digits, digits_model, mirror):
    def refused(model, dataset, says, **preprocess):
        answer = server.post("/v1/jobs", json={"kind": "evaluate", "model": model["id"], "dataset": dataset["id"],
                                               "data": {"preprocess": preprocess}})
        assert_problem(answer, 422)
        assert says in answer.text, answer.text

    refused(digits_model, digits, "image files", resize=8)
    refused(digits_model, folders, "takes 8", crop=7)
    refused(digits_model, folders, "preprocess.mean has 2 values", mean=[1, 2])
    refused(digits_model, folders, "16777216", resize=0)
    refused(digits_model, folders, "16777216", crop=[60_000, 60_000])
    two = server.upload_model(models.identity(("batch", 2, 8, 8)), "two channels")
    refused(two, folders, "2 channels")
    sizes = {f"a/{n}.png": encoded(np.zeros((n, n), np.uint8)) for n in (3, 4, 5, 6, 7, 8)}
    varied = server.upload_dataset(models.zip_of(sizes), "varied")
    refused(mirror(1), varied, "preprocess.resize")
    assert_problem(server.post_dataset(models.npz(**models.digits()), "npz", params={"damaged": "skip"}), 422, pointer="/damaged")
    assert_problem(server.post_dataset(models.zip_of(digit_files(limit=3)), "x", params={"target": "y"}), 422, "invalid_dataset")
    assert_problem(server.post_dataset(models.zip_of({"a.gif": b"GIF89a"}), "gif"), 422, "not_supported", says="a.gif")
    half = {**digit_files(limit=3), "digits/stray.png": encoded(np.zeros((8, 8), np.uint8))}
    assert_problem(server.post_dataset(models.zip_of(half), "stray"), 422, "invalid_dataset", says="stray.png")


def test_formats_are_not_mistaken(server):
    """Two letters, or a number, at a file's start are no image."""
    for header in ("BMI,age,outcome", "P1,P2,label", "P6,b,c"):
        dataset = server.upload_dataset(f"{header}\n1,2,0\n3,4,1\n".encode(), "a table")
        assert dataset["format"] == "csv"


def test_layouts_that_are_no_layout_are_refused(server):
    picture = encoded(np.zeros((4, 4), np.uint8))

    def refused(files, *says, **params):
        assert_problem(server.post_dataset(models.zip_of(files), "layout", params=params), 422, "invalid_dataset", says=says)

    both = {f"{split}/{kind}/1.png": picture for split in ("train", "test", "extra") for kind in "ab"}
    refused(both, "extra")
    vehicles = server.upload_dataset(models.zip_of({f"{kind}/{n}.png": picture for kind in ("train", "plane") for n in range(3)}), "vehicles")
    assert vehicles["target"]["class_names"] == ["plane", "train"]
    refused({"a/1.png": picture, "b/1.gif": b"GIF89a"}, "b/1.gif")
    refused({"a/1.png": encoded(np.zeros((3, 900), np.uint8))}, "narrow")
    manifest = lambda *lines: {"1.png": picture, "2.png": picture, "m.jsonl": "\n".join(lines).encode()}
    refused(manifest('{"path": "1.png", "label": [0.5, [1]]}'), "lists in lists")
    refused(manifest('{"path": "1.png", "label": "' + "a" * 300 + '"}'), "200")
    refused(manifest('{"path": "1.png", "a": null, "b": 1}', '{"path": "2.png", "a": null, "b": 2}'), "a", target="a")
    refused({**manifest(), "m.jsonl": b"", "m.csv": b"path,label\n1.png,nan\n2.png,3\n"}, "columns")
    several = server.upload_dataset(models.zip_of(manifest('{"path": "1.png", "labels": ["defect"]}', '{"path": "2.png", "labels": []}')), "one label")
    assert (several["target"]["shape"], several["target"]["class_names"]) == ([1], ["defect"])


def test_the_later_of_two_files_with_one_path_counts(server, digits_model):
    file = io.BytesIO()
    whole = digit_files(limit=30)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path, data in [("digits/train/3/0.png", b"broken"), ("digits/test/3/0.png", b"broken"), *whole.items(), ("digits/train/1/x.png", b"")]:
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    dataset = server.upload_dataset(file.getvalue(), "twice", params={"damaged": "skip"})
    paths = set(whole) | {"digits/test/3/0.png"}
    broken = 1 + ("digits/test/3/0.png" not in whole) + ("digits/train/3/0.png" not in whole)
    assert len(dataset["skipped"]) == broken
    assert sum(dataset["splits"].values()) == len(whole)
    job = server.run("evaluate", digits_model, dataset, {"metrics": ["accuracy"]}, data=DIGITS_SCALE)
    assert job["result"]["environment"]["data"]["skipped"] == broken
    assert paths


def test_a_limit_takes_examples_of_all_classes(server, folders, digits_model):
    job = server.run("evaluate", digits_model, folders, {"metrics": ["accuracy", "roc_auc"]}, data={**DIGITS_SCALE, "limit": 60})
    rows = job["result"]["before"]["quality"]["confusion"]
    assert sum(map(sum, rows)) == 60 and sum(sum(row) > 0 for row in rows) >= 9


def test_hundreds_of_files_side_by_side(server):
    files = [("file", (f"train/{y}/{n}.png", encoded(np.full((2, 2), y, np.uint8)))) for n in range(700) for y in (0, 1)]
    answer = server.post("/v1/datasets", params={"name": "many"}, files=files)
    assert answer.status_code == 201, answer.text
    assert answer.json()["splits"] == {"train": 1400, "test": 0}


# Asking a model.


def predict(server, model, body, **query):
    return server.post(f"/v1/models/{model['id']}/predict", params=query, **body)


def test_a_model_is_asked_about_numbers(server, digits_model):
    arrays = models.digits()
    x = arrays["x_test"][:3, None].astype(np.float32) / 16
    expected = models.outputs(DIGITS_CNN.read_bytes(), {"input": x})[0]
    answer = predict(server, digits_model, {"json": {"inputs": {"input": x.tolist()}}})
    assert answer.status_code == 200, answer.text
    [output] = answer.json()["outputs"]
    assert (output["name"], output["dtype"], output["shape"]) == ("logits", "float32", [3, 10])
    assert np.abs(np.array(output["values"]) - expected).max() < 1e-4
    softmax = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    for row, top in zip(softmax, answer.json()["top"]):
        assert [one["label"] for one in top] == np.argsort(-row)[:5].tolist()
        assert [one["probability"] for one in top] == pytest.approx(np.sort(row)[::-1][:5].tolist(), abs=1e-5)


def test_a_compressed_model_is_asked_about_an_image(server, digits_model):
    dataset = server.upload_dataset(models.zip_of(digit_files(NAMES.__getitem__)), "named")
    job = server.run("prune", digits_model, dataset, {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 2},
                                                      "criterion": "taylor", "granularity": "channel"}, data=DIGITS_SCALE)
    model = {"id": job["result"]["model"]}
    arrays = models.digits()
    session_input = arrays["x_test"][:40, None].astype(np.float32) / 16
    expected = models.outputs(server.model_content(model), {"input": session_input})[0]
    labels = sorted(NAMES)
    for row in range(0, 40, 8):
        # Prepared and named as the job did.
        answer = predict(server, model, {"data": encoded(arrays["x_test"][row])})
        assert answer.status_code == 200, answer.text
        assert np.abs(np.array(answer.json()["outputs"][0]["values"])[0] - expected[row]).max() < 1e-4
        best = answer.json()["top"][0][0]
        assert best["class"] == labels[best["label"]] == labels[int(expected[row].argmax())]


def test_a_model_that_knows_its_classes_by_name_finds_them_in_other_data(server, digits_model):
    named = server.upload_dataset(models.zip_of(digit_files(NAMES.__getitem__)), "all names")
    made = server.run("train", digits_model, named, {"epochs": 2, "weights": "reinitialize"}, data=DIGITS_SCALE)["result"]
    known = server.get(f"/v1/models/{made['model']}").json()["summary"]["expects"]["class_names"]
    assert known == sorted(NAMES)
    # Three of the classes, which are numbered otherwise there.
    few = {name: content for name, content in digit_files(NAMES.__getitem__).items() if name.split("/")[2] in ("zero", "one", "two")}
    few = server.upload_dataset(models.zip_of(few), "three names")
    found = server.run("evaluate", made["model"], few)["result"]
    data = found["environment"]["data"]
    assert data["class_names"] == known and data["label_map"] == [known.index(name) for name in ("one", "two", "zero")]
    assert "in the model's order by their names" in data["prepared"][-1] and "warnings" not in found
    arrays = models.digits()
    rows = arrays["y_test"] < 3
    logits = models.outputs(server.model_content(made["model"]), {"input": arrays["x_test"][rows, None].astype(np.float32) / 16})[0]
    right = np.array([known.index(NAMES[label]) for label in arrays["y_test"][rows]])
    assert found["before"]["metrics"]["accuracy"] == pytest.approx((logits.argmax(1) == right).mean(), abs=1e-6)
    # A model made on them keeps all names, and a student that no job made learns in the same order.
    pruned = server.run("prune", made["model"], few, {"target": {"macs_ratio": 0.7}, "finetune": {"epochs": 1}})["result"]
    assert server.get(f"/v1/models/{pruned['model']}").json()["summary"]["expects"]["class_names"] == known
    taught = server.run("distill", made["model"], few, {"student": {"model": digits_model["id"]}, "finetune": {"epochs": 1}})["result"]
    assert taught["environment"]["data"]["label_map"] == data["label_map"]
    # Who asks by another data set is answered in the model's names.
    backwards = server.post("/v1/datasets", params={"files_of": few["id"], "classes": "two,one,zero"}).json()
    asked = server.post(f"/v1/models/{made['model']}/predict", params={"dataset": backwards["id"]}, json={"examples": [0, 1, 2], "split": "test"}).json()
    for top, one in zip(asked["top"], asked["targets"], strict=True):
        assert known[one["value"]] == one["class"] and known[top[0]["label"]] == top[0]["class"]
    # Names in a file that are not as many as its outputs are none.
    forged = onnx.load_from_string(server.model_content(made["model"]))
    [entry] = [entry for entry in forged.metadata_props if entry.key == "sinter.expects"]
    entry.value = json.dumps({**json.loads(entry.value), "class_names": [f"other {place}" for place in range(20)] + known})
    found = server.run("evaluate", server.upload_model(forged.SerializeToString(), "forged"), few)["result"]
    assert "label_map" not in found["environment"]["data"]
    # Of a model that knows no names the warning says what to do.
    bare = onnx.load_from_string(server.model_content(made["model"]))
    del bare.metadata_props[:]
    found = server.run("evaluate", server.upload_model(bare.SerializeToString(), "bare"), few, data=DIGITS_SCALE)["result"]
    [told] = found["warnings"]
    assert "name all 10 classes in the model's order" in told["message"] and told["data"]["order"][:3] == data["label_map"]


def test_questions_that_have_no_answer(server, digits_model):
    ask = lambda **body: predict(server, digits_model, body)
    assert_problem(ask(data=b"\x00\x01"), 422, says="png")
    assert_problem(ask(data=encoded(photograph())[:-500]), 422, "invalid_request")
    assert_problem(ask(json={"input": [[1]]}), 422)
    assert_problem(ask(json={"inputs": {"input": [[1], [2, 3]]}}), 422, pointer="/inputs/input")
    assert_problem(ask(json={"inputs": {"input": [[1, 2]]}}), 422, pointer="/inputs")
    assert_problem(ask(json={"inputs": {"x": [[1, 2]]}}), 422, says="the model has no input `x`, but `input`")
    assert_problem(ask(json={"inputs": {"input": []}}), 422)
    assert_problem(ask(json={"inputs": {"input": np.zeros((1025, 1, 8, 8)).tolist()}}), 422, says="1024")
    assert_problem(predict(server, {"id": "nothing"}, {"data": b"x"}), 404)
    assert_problem(predict(server, digits_model, {"data": b"{}"}, preprocess="{"), 422, pointer="/preprocess")
    assert_problem(predict(server, digits_model, {"data": b"{}"}, preprocess='{"std": [0]}'), 422, pointer="/preprocess/std")
    assert_problem(predict(server, digits_model, {"data": b"{}"}, preprocess='{"crop": 4294967295}'), 422, pointer="/preprocess/crop")
    endless = np.full((1, 1, 8, 8), 1e39).tolist()
    assert ask(json={"inputs": {"input": endless}}).json()["top"] == [[]]
    assert_problem(predict(server, digits_model, {"data": b"{}"}, colour="red"), 400)
    assert_problem(predict(server, digits_model, {"files": {"file": b"x"}}), 415)
    assert_problem(predict(server, digits_model, {"data": bytes((32 << 20) + 1)}), 413)
