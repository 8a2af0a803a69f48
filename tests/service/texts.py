"""Texts, tokenizers and models that read them, for the tests."""

import io
import json
import pathlib
import random
import re

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

SERVICE = pathlib.Path(__file__).parent
ROOT = SERVICE.parent.parent
FIRST_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documentation():
    """Sentences of the project's own documents: English with code and signs in it."""
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    found = re.split(r"(?<=[.:])\s+|\n\n+|\n(?=[-|#])", text)
    return [sentence for sentence in found if 20 < len(sentence) < 400]


def sentences():
    """Runs of plain words out of the project's documents and code, with what each is from."""
    rows = []
    for name, paths in (("prose", ROOT.glob("docs/*.md")), ("rust", ROOT.glob("src/graph/*.rs")), ("python", SERVICE.glob("*.py"))):
        words = re.findall(r"[A-Za-z]+", "\n".join(path.read_text() for path in sorted(paths)))
        rows += [(" ".join(words[start:start + 12]), name) for start in range(0, min(len(words), 4800) - 12, 12)]
    random.Random(0).shuffle(rows)
    return rows


def word_piece(texts, vocabulary=400, lowercase=True):
    """As BERT has it: [CLS] and [SEP] around, types for the second text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))])
    return tokenizer


def byte_pairs(texts, vocabulary=500):
    """As GPT-2 has it: bytes, nothing around, no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def unigrams(texts, vocabulary=400):
    """As T5 and XLM-R have it: sentence pieces, `</s>` behind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def characters(texts):
    """A token for each character."""
    letters = sorted({letter for text in texts for letter in text})
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1} | {letter: n + 2 for n, letter in enumerate(letters)},
                                           unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer


class Encoder(nn.Module):
    """A transformer encoder with learned positions; `heads` says for what: classes of texts, or of their tokens."""

    def __init__(self, vocabulary, classes, width=32, layers=2, longest=64, of_tokens=False, causal=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
                                    for _ in range(layers))
        self.head = nn.Linear(width, classes)
        # Alike tensors would become one in the file.
        for parameter in self.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        self.of_tokens, self.causal = of_tokens, causal

    def forward(self, input_ids, attention_mask):
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions(torch.arange(length))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        if self.causal:
            bias = bias + torch.triu(torch.full((length, length), -1e4), 1)
        for layer in self.layers:
            x = x + self.attend(layer, layer.norm1(x), bias)
            x = x + layer.linear2(torch.relu(layer.linear1(layer.norm2(x))))
        if self.of_tokens:
            return self.head(x)
        mask = attention_mask[:, :, None].to(x.dtype)
        return self.head((x * mask).sum(1) / mask.sum(1))

    @staticmethod
    def attend(layer, x, bias):
        own = layer.self_attn
        q, k, v = nn.functional.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        heads = lambda y: y.unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
        q, k, v = heads(q), heads(k), heads(v)
        scores = (q @ k.transpose(-1, -2)) / (q.shape[-1] ** 0.5) + bias
        return own.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def exported(module, length, open_length=False, names=("input_ids", "attention_mask")):
    module.eval()
    file = io.BytesIO()
    inputs = tuple(torch.ones(2, length, dtype=torch.int64) for _ in names)
    axes = {0: "batch", 1: "tokens"} if open_length else {0: "batch"}
    torch.onnx.export(module, inputs, file, dynamo=False, opset_version=17, input_names=list(names), output_names=["logits"],
                      dynamic_axes={**{name: axes for name in names}, "logits": {0: "batch"}})
    return file.getvalue()


def encoded(tokenizer, texts, length, pad=0, is_words=False):
    """What Hugging Face's tokenizers make of the texts in Python: ids, mask and types, `[texts, length]` each."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(length)
    own.enable_padding(length=length, pad_id=pad)
    found = own.encode_batch(texts, is_pretokenized=is_words)
    return tuple(np.array([getattr(one, part) for one in found], np.int64) for part in ("ids", "attention_mask", "type_ids"))


def form(**files):
    """A form of files side by side."""
    return {"files": [("file", (name, content)) for name, content in files.items()]}


def as_csv(rows, columns=("text", "label")):
    import csv

    file = io.StringIO()
    csv.writer(file).writerows([columns, *rows])
    return file.getvalue().encode()


def as_jsonl(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
