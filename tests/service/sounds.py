"""Spoken words and files of them, for the tests."""

import functools
import io
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import soundfile

WORDS = "zero one two three four five six seven eight nine".split()
RATE = 22050  # espeak-ng's own
TRAIN_VOICES = [f"{accent}+{voice}" for accent in ("en-us", "en-gb") for voice in "f1 f2 f4 m1 m3 m5 m7".split()]
TEST_VOICES = [f"{accent}+{voice}" for accent in ("en-us", "en-gb") for voice in "f3 m2".split()]


@functools.cache
def spoken(voices=tuple(TRAIN_VOICES + TEST_VOICES), words=tuple(WORDS), speeds=(140, 175), pitches=(40, 60)):
    """(voice, word, samples in −1 to 1) of each word by each voice, at each speed and pitch."""
    assert shutil.which("espeak-ng"), "apt-get install espeak-ng"
    folder = pathlib.Path(tempfile.mkdtemp())
    found = []
    for voice in voices:
        for word in words:
            for speed in speeds:
                for pitch in pitches:
                    path = folder / "one.wav"
                    subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", path, word],
                                   check=True, capture_output=True)
                    samples, rate = soundfile.read(path, dtype="float32")
                    assert rate == RATE
                    found.append((voice, word, samples))
    shutil.rmtree(folder)
    return found


def encoded(samples, rate=RATE, kind="WAV", **options):
    """Bytes of a sound file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def fitted(samples, length):
    """Cut or filled with silence at its end."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))
