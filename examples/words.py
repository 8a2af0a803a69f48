#!/usr/bin/env python3
"""Twenty words, spoken in noise by many voices of espeak-ng, as WAV files in folders named by word.

    apt-get install espeak-ng          # and NumPy
    python3 examples/words.py FOLDER

Writes FOLDER/train/WORD/….wav by 16 voices and FOLDER/test/WORD/….wav by 16 others, each word twice, at another speed and
pitch and in white noise 0 to 10 dB below it (or as `--below` says): 640 files to train on and 640 to test on, at
espeak-ng's own rate of 22,050 samples a second.
"""

import argparse
import concurrent.futures
import pathlib
import random
import subprocess
import wave

import numpy as np

WORDS = "yes no up down left right on off stop go zero one two three four five six seven eight nine".split()
ACCENTS = "en-us en-gb en-gb-scotland en-gb-x-rp".split()
VOICES = "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7".split()


def speak(task):
    path, word, voice, speed, pitch, decibels, seed = task
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", path, word], check=True, capture_output=True)
    with wave.open(str(path)) as file:
        parameters, frames = file.getparams(), file.readframes(file.getnframes())
    samples = np.frombuffer(frames, "<i2").astype(np.float64)
    loudness = np.sqrt((samples ** 2).mean()) * 10 ** (-decibels / 20)
    noisy = 0.5 * (samples + np.random.default_rng(seed).normal(0, loudness, len(samples)))
    with wave.open(str(path), "wb") as file:
        file.setparams(parameters)
        file.writeframes(np.clip(noisy, -32768, 32767).astype("<i2").tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--below", type=float, nargs=2, default=(0, 10), metavar="DECIBELS", help="how far the noise is below the word")
    options = parser.parse_args()
    folder = options.folder
    chance = random.Random(0)
    voices = [f"{accent}+{voice}" for accent in ACCENTS for voice in VOICES]
    chance.shuffle(voices)
    tasks = []
    for place, voice in enumerate(voices[:32]):
        split = "test" if place < 16 else "train"
        for word in WORDS:
            for take in range(2):
                path = folder / split / word / f"{voice.replace('+', '-')}-{take}.wav"
                tasks.append((path, word, voice, chance.randint(120, 220), chance.randint(20, 80),
                              chance.uniform(*options.below), len(tasks)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(speak, tasks))
    print(f"{len(tasks)} files in {folder}")


if __name__ == "__main__":
    main()
