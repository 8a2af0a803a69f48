#!/usr/bin/env python3
"""Builds the example models for text and speech in PyTorch and exports them to ONNX, with their tokenizer.

    python3 examples/manpages.py TEXTS
    python3 examples/export_sequence_models.py TEXTS/train.csv
"""

import argparse
import csv
import pathlib
import warnings

import onnx
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
LANGUAGES, WORDS = 9, 20


def tokenizer_of(texts, vocabulary=1200):
    """Word pieces, with [CLS] in front and [SEP] behind, as BERT has them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")])
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, bias):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.narrow, self.widen, self.project = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, bias):
        x = x + self.attention(self.norm(x), bias)
        return x + self.project(torch.relu(self.widen(self.narrow(x))))


class LanguageEncoder(nn.Module):
    """Tokens and mask, [batch, tokens] each, to a logit for each language; a transformer of two layers."""

    def __init__(self, vocabulary, width=64, layers=2, heads=4, longest=64):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, LANGUAGES)

    def forward(self, input_ids, attention_mask):
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        mask = attention_mask.to(x.dtype)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        mask = mask[:, :, None]
        return self.head((self.norm(x) * mask).sum(1) / mask.sum(1))


class MelNetwork(nn.Module):
    """Log-mel bands, [batch, 1, 40, frames], to a logit for each word; four convolutions."""

    def __init__(self, width=16):
        super().__init__()
        block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(block(1, width), block(width, 2 * width), block(2 * width, 4 * width), block(4 * width, 4 * width))
        self.head = nn.Linear(4 * width, WORDS)

    def forward(self, mel):
        return self.head(self.body(mel).mean((2, 3)))


class WaveNetwork(nn.Module):
    """Samples, [batch, 1, samples], to a logit for each word; 1-D convolutions (after M5: Dai et al., 2017)."""

    def __init__(self, width=32):
        super().__init__()
        block = lambda a, b, size, stride: nn.Sequential(
            nn.Conv1d(a, b, size, stride, padding=size // 2, bias=False), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(4))
        self.body = nn.Sequential(block(1, width, 80, 4), block(width, width, 3, 1), block(width, 2 * width, 3, 1), block(2 * width, 2 * width, 3, 1))
        self.head = nn.Linear(2 * width, WORDS)

    def forward(self, wave):
        return self.head(self.body(wave).mean(2))


class RecurrentNetwork(nn.Module):
    """Log-mel bands, [batch, frames, 40], to a logit for each word; a GRU."""

    def __init__(self, width=64):
        super().__init__()
        self.front = nn.Linear(40, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, WORDS)

    def forward(self, mel):
        outputs, _ = self.gru(torch.relu(self.front(mel)))
        return self.head(torch.relu(self.hidden(outputs.mean(1))))


def export(module, path, inputs, axes):
    module.eval()
    for tensor in [*module.parameters(), *module.buffers()]:
        # Alike tensors, such as fresh scales and statistics of normalisations, would become one in the file.
        if tensor.is_floating_point():
            tensor.data += 1e-3 * torch.rand_like(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs.values()), str(path), dynamo=False, opset_version=17, do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE, input_names=list(inputs), output_names=["logits"], dynamic_axes=axes)
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    print(f"{path}: {sum(parameter.numel() for parameter in module.parameters()):,} parameters")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=pathlib.Path, help="train.csv of manpages.py")
    parser.add_argument("--models", type=pathlib.Path, default=HERE / "models")
    options = parser.parse_args()
    with open(options.texts, newline="", encoding="utf-8") as file:
        tokenizer = tokenizer_of([row["text"] for row in csv.DictReader(file)])
    tokenizer.save(str(options.models / "language_tokenizer.json"), pretty=False)
    torch.manual_seed(0)
    ids = torch.ones(2, 32, dtype=torch.int64)
    export(LanguageEncoder(tokenizer.get_vocab_size()), options.models / "language_encoder.onnx",
           {"input_ids": ids, "attention_mask": ids},
           {"input_ids": {0: "batch", 1: "tokens"}, "attention_mask": {0: "batch", 1: "tokens"}, "logits": {0: "batch"}})
    batch = lambda *names: {name: {0: "batch"} for name in names}
    export(MelNetwork(), options.models / "speech_mel.onnx", {"mel": torch.zeros(2, 1, 40, 81)}, batch("mel", "logits"))
    export(WaveNetwork(), options.models / "speech_wave.onnx", {"wave": torch.zeros(2, 1, 8000)}, batch("wave", "logits"))
    export(RecurrentNetwork(), options.models / "speech_gru.onnx", {"mel": torch.zeros(2, 81, 40)}, batch("mel", "logits"))


if __name__ == "__main__":
    main()
