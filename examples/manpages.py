#!/usr/bin/env python3
"""Snippets of Debian's manual pages with their languages, as two CSV files.

    apt-get install manpages manpages-{da,de,es,fr,it,nl,pl,ro}
    python3 examples/manpages.py FOLDER [--man /usr/share/man] [--count 1200]

Writes FOLDER/train.csv and FOLDER/test.csv with the columns `text` and `language`: of each language so many snippets of
four to seven words to train on and a quarter as many to test on, from other pages.
"""

import argparse
import csv
import gzip
import pathlib
import random
import re
from unicodedata import normalize

LANGUAGES = "da de en es fr it nl pl ro".split()
ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327"}
ESCAPES = [(re.compile(pattern), by) for pattern, by in [
    (r"\\f(\[.*?\]|\(..|.)", ""), (r"\\-", "-"), (r"\\\((aq|cq|oq)", "'"), (r"\\\(..|\\\[.*?\]|\\[s][-+]?\d+", " "),
    (r"\\[&/,%|^]", ""), (r"\\.", " "),
]]


def paragraphs(page):
    """The running text of a page: what is no request, and long enough to be a sentence."""
    lines, found = [], []
    source = gzip.decompress(page.read_bytes()) if page.suffix == ".gz" else page.read_bytes()
    for line in source.decode("utf-8", "replace").splitlines() + [""]:
        if line and line[0] not in ".'":
            lines.append(line)
            continue
        text = re.sub(r"\\\((['`^:~,])(\w)", lambda found: normalize("NFC", found[2] + ACCENTS[found[1]]), " ".join(lines))
        for pattern, by in ESCAPES:
            text = pattern.sub(by, text)
        words = text.split()
        plain = [word for word in words if re.fullmatch(r"[^\W\d_]+[.,;:]?", word)]
        if len(words) > 8 and len(plain) > 0.85 * len(words):
            found.append(words)
        lines = []
    return found


def pages(man, language):
    folder = man if language == "en" else man / language
    return sorted(page for section in range(1, 9) for page in folder.glob(f"man{section}/*")
                  if language != "en" or page.stat().st_size > 2_000)


def snippets(all_pages, count, chance):
    """So many stretches of words, no more than ten of a page."""
    found = {}
    for page in all_pages:
        if len(found) >= count:
            break
        own = paragraphs(page)
        for words in chance.sample(own, min(10, len(own))):
            length = chance.randint(4, 7)
            start = chance.randrange(len(words) - length)
            found[" ".join(words[start:start + length])] = None
    return list(found)[:count]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--man", type=pathlib.Path, default=pathlib.Path("/usr/share/man"))
    parser.add_argument("--count", type=int, default=1200)
    options = parser.parse_args()
    chance = random.Random(0)
    rows = {"train": [], "test": []}
    for language in LANGUAGES:
        found = pages(options.man, language)
        chance.shuffle(found)
        tested = len(found) // 5
        for split, own, count in (("test", found[:tested], options.count // 4), ("train", found[tested:], options.count)):
            texts = snippets(own, count, chance)
            rows[split] += [(text, language) for text in texts]
    options.folder.mkdir(parents=True, exist_ok=True)
    for split, own in rows.items():
        chance.shuffle(own)
        with open(options.folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "language"), *own])
        print(f"{len(own)} snippets in {options.folder / split}.csv")


if __name__ == "__main__":
    main()
