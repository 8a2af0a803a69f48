"""Small networks that are built as their papers describe them. Imported by pytorch.py and training.py; not run."""

import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with batch normalization and padded convolutions.

    [batch, 3, height, width] to [batch, classes, height, width], both sides divisible by 2 ** depth.
    """

    def __init__(self, classes=4, width=12, depth=3):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(self.double(a, b) for a, b in zip([3] + widths[:-2], widths[:-1]))
        self.bottom = self.double(widths[-2], widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(self.double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def double(inputs, outputs):
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, image):
        skips = []
        for block in self.down:
            image = block(image)
            skips.append(image)
            image = functional.max_pool2d(image, 2)
        image = self.bottom(image)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips)):
            image = merge(torch.cat([skip, up(image)], dim=1))
        return self.head(image)


class EncoderLayer(nn.Module):
    """A layer of BERT: attention and feed-forward, each with LayerNorm after its residual sum."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, eps=1e-12)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)

    def forward(self, x, bias):
        query, key, value = (self.split(projected(x)) for projected in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5 + bias
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)
        x = self.attended_norm(x + self.attended(attended))
        return self.norm(x + self.narrow(functional.gelu(self.wide(x))))


class Bert(nn.Module):
    """An encoder as BERT (Devlin et al. 2018), with pooler and classification head.

    `input_ids` and `attention_mask` (1 for a token, 0 for padding), both int64 [batch, length], to [batch, classes].
    """

    VOCABULARY, LENGTH = 200, 16

    def __init__(self, classes=5, width=64, heads=4, layers=2):
        super().__init__()
        self.tokens = nn.Embedding(self.VOCABULARY, width)
        self.positions = nn.Embedding(self.LENGTH, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)
        self.register_buffer("position_ids", torch.arange(self.LENGTH)[None])

    def forward(self, input_ids, attention_mask):
        bias = (1 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        x = self.norm(self.tokens(input_ids) + self.positions(self.position_ids[:, : input_ids.size(1)]))
        for layer in self.layers:
            x = layer(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class DecoderLayer(nn.Module):
    """A layer of GPT-2: causal attention and feed-forward, each with LayerNorm before it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.joint(self.attention_norm(x)).split(width, dim=-1)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(functional.gelu(self.wide(self.feed_norm(x)), approximate="tanh"))


class Gpt(nn.Module):
    """A decoder as GPT-2 (Radford et al. 2019), its output layer tied to its token embedding.

    `input_ids`, int64 [batch, length], to the logits of each next token, [batch, length, vocabulary].
    """

    VOCABULARY, LENGTH = 120, 16

    def __init__(self, width=64, heads=4, layers=2):
        super().__init__()
        self.tokens = nn.Embedding(self.VOCABULARY, width)
        self.positions = nn.Embedding(self.LENGTH, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.2)

    def forward(self, input_ids):
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.size(1)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class LstmTagger(nn.Module):
    """A bidirectional LSTM: `input_ids`, int64 [batch, length], to tag logits a token, [batch, length, tags]."""

    VOCABULARY, LENGTH = 150, 12

    def __init__(self, tags=7, width=32, layers=2):
        super().__init__()
        self.tokens = nn.Embedding(self.VOCABULARY, width)
        self.lstm = nn.LSTM(width, width, num_layers=layers, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(2 * width, tags)

    def forward(self, input_ids):
        return self.tags(self.lstm(self.tokens(input_ids))[0])


class LstmClassifier(LstmTagger):
    """The same over the mean of all states: int64 [batch, length] to class logits, [batch, classes]."""

    def forward(self, input_ids):
        return self.tags(self.lstm(self.tokens(input_ids))[0].mean(dim=1))


class ConformerBlock(nn.Module):
    """A Conformer block (Gulati et al. 2020), its attention without relative positions; [batch, frames, width]."""

    def __init__(self, width, heads, kernel):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in range(2)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.first(x) / 2
        normal = self.attention_norm(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        x = x + self.convolution(self.convolution_norm(x).transpose(1, 2)).transpose(1, 2)
        return self.norm(x + self.second(x) / 2)


class Conformer(nn.Module):
    """Conformer blocks over a log-mel spectrogram, [batch, frames, mels], to class logits, [batch, classes]."""

    FRAMES, MELS = 32, 40

    def __init__(self, classes=6, width=48, heads=4, blocks=2, kernel=15):
        super().__init__()
        self.project = nn.Linear(self.MELS, width)
        self.blocks = nn.Sequential(*(ConformerBlock(width, heads, kernel) for _ in range(blocks)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, spectrogram):
        return self.classifier(self.blocks(self.project(spectrogram)).mean(dim=1))


class WaveNetLayer(nn.Module):
    """A gated, dilated, causal convolution; gives what goes on and what is skipped to the output."""

    def __init__(self, width, skip_width, dilation):
        super().__init__()
        self.dilation = dilation
        self.gated = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, skip_width, 1)

    def forward(self, x):
        value, gate = self.gated(functional.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        gated = torch.tanh(value) * torch.sigmoid(gate)
        return x + self.residual(gated), self.skip(gated)


class WaveNet(nn.Module):
    """Two stacks of WaveNet (van den Oord et al. 2016): [batch, 1, samples] to [batch, levels, samples]."""

    SAMPLES = 128

    def __init__(self, levels=32, width=24, skip_width=48, dilations=(1, 2, 4, 8, 16) * 2):
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(WaveNetLayer(width, skip_width, dilation) for dilation in dilations)
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv1d(skip_width, skip_width, 1), nn.ReLU(), nn.Conv1d(skip_width, levels, 1)
        )

    def forward(self, wave):
        x, total = self.first(wave), 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.last(total)
