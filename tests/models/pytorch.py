"""Models of PyTorch and torchvision, by both of PyTorch's exporters. Imported by export.py; not run.

All have random weights: torchvision's definitions at small images and ten classes, and those of networks.py.
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import onnx
import torch
import torchvision
from torch import nn
from torchvision.models import convnext, densenet, inception, swin_transformer, vision_transformer

import networks
from case import Case, model, seed

CLASSES = 10
TORCHSCRIPT_OPSET = 17


@dataclasses.dataclass
class Network:
    """A module and what goes in: `inputs(batch, rng)` gives arrays by the names of `forward`'s arguments."""

    module: nn.Module
    inputs: Callable

    def tensors(self, batch, rng):
        return tuple(torch.from_numpy(array) for array in self.inputs(batch, rng).values())

    def names(self):
        return list(self.inputs(1, np.random.default_rng(0)))


def images(size):
    return lambda batch, rng: {"image": rng.normal(size=(batch, 3, size, size)).astype(np.float32)}


def ids(vocabulary, length):
    return lambda batch, rng: {"input_ids": rng.integers(1, vocabulary, (batch, length))}


def padded_ids(batch, rng):
    """Token ids of sentences that are 3 tokens to the whole length long, padded with id 0."""
    lengths = rng.integers(3, networks.Bert.LENGTH + 1, (batch, 1))
    mask = (np.arange(networks.Bert.LENGTH) < lengths).astype(np.int64)
    return {"input_ids": rng.integers(1, networks.Bert.VOCABULARY, mask.shape) * mask, "attention_mask": mask}


def spectrograms(batch, rng):
    """Noise that is smooth in time and louder at low frequencies, as log-mel energies of mean 0."""
    shape = (batch, networks.Conformer.FRAMES + 4, networks.Conformer.MELS)
    noise = rng.normal(size=shape).cumsum(axis=1)
    smooth = (noise[:, 4:] - noise[:, :-4]) / 2 + np.linspace(1, -1, shape[-1])
    return {"spectrogram": smooth.astype(np.float32)}


def waves(batch, rng):
    """A tone of a random pitch and phase in noise, in [-1, 1]."""
    pitch, phase = rng.uniform(0.05, 0.8, (2, batch, 1, 1))
    wave = 0.7 * np.sin(pitch * np.arange(networks.WaveNet.SAMPLES) + 6 * phase)
    return {"wave": np.clip(wave + rng.normal(0, 0.1, wave.shape), -1, 1).astype(np.float32)}


def thin_convolution(inputs, outputs, **options):
    """Inception's convolution with a quarter of the channels, the image's apart."""
    return inception.BasicConv2d(inputs if inputs == 3 else inputs // 4, outputs // 4, **options)


def thin_inception():
    kinds = (inception.InceptionA, inception.InceptionB, inception.InceptionC, inception.InceptionD,
             inception.InceptionE)
    blocks = [functools.partial(kind, conv_block=thin_convolution) for kind in kinds]
    module = inception.Inception3(CLASSES, aux_logits=False, init_weights=False, dropout=0.0,
                                  inception_blocks=[thin_convolution, *blocks, inception.InceptionAux])
    module.fc = nn.Linear(module.fc.in_features // 4, CLASSES)
    return module


def small_convnext():
    stages = [convnext.CNBlockConfig(*stage) for stage in ((24, 48, 1), (48, 96, 1), (96, 192, 3), (192, None, 1))]
    return convnext.ConvNeXt(stages, layer_scale=0.5, num_classes=CLASSES)


def small_vit():
    return vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=CLASSES
    )


def small_swin():
    return swin_transformer.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=CLASSES
    )


def torchvision_model(name, **options):
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)


TORCHVISION = f"torchvision {version('torchvision')}"
OWN = f"tests/models/networks.py, torch {version('torch')}"
# name: (where the definition is from, what makes the module, what makes its inputs)
NETWORKS = {
    "resnet18": (TORCHVISION, torchvision_model("resnet18"), images(64)),
    "mobilenet_v2": (TORCHVISION, torchvision_model("mobilenet_v2"), images(64)),
    "mobilenet_v3_small": (TORCHVISION, torchvision_model("mobilenet_v3_small"), images(64)),
    "efficientnet_b0": (TORCHVISION, torchvision_model("efficientnet_b0"), images(64)),
    "convnext": (TORCHVISION, small_convnext, images(64)),
    "densenet121": (
        TORCHVISION,
        lambda: densenet.DenseNet(growth_rate=16, num_init_features=32, num_classes=CLASSES),
        images(64),
    ),
    "inception_v3": (TORCHVISION, thin_inception, images(96)),
    "vit": (TORCHVISION, small_vit, images(32)),
    "swin": (TORCHVISION, small_swin, images(64)),
    "unet": (OWN, networks.UNet, images(48)),
    "bert": (OWN, networks.Bert, padded_ids),
    "gpt": (OWN, networks.Gpt, ids(networks.Gpt.VOCABULARY, networks.Gpt.LENGTH)),
    "lstm_tagger": (OWN, networks.LstmTagger, ids(networks.LstmTagger.VOCABULARY, networks.LstmTagger.LENGTH)),
    "conformer": (OWN, networks.Conformer, spectrograms),
    "wavenet": (OWN, networks.WaveNet, waves),
}


def set_statistics(network, name):
    """Gives batch norms the mean statistics of seeded data, so that signals reach the outputs."""
    norms = [part for part in network.module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    usual = [norm.momentum for norm in norms]
    network.module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of all batches
    for index in range(8):
        network.module(*network.tensors(16, np.random.default_rng(seed(f"{name} statistics {index}"))))
    for norm, momentum in zip(norms, usual):
        norm.momentum = momentum
    network.module.eval()


def make(name, build, inputs):
    """The network with seeded weights, ready for inference.

    Weights that start as all zeros or all ones (norms, zeroed heads, class tokens) get noise, so that leaving one out
    shows in the outputs.
    """
    torch.manual_seed(seed(name))
    network = Network(build(), inputs)
    with torch.no_grad():
        for parameter in network.module.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(0.1 * torch.randn_like(parameter))
        set_statistics(network, name)
    return network


def torchscript(network, **options):
    """The model by the TorchScript exporter, its batch axis dynamic."""
    file = io.BytesIO()
    names = network.names()
    torch.onnx.export(
        network.module, network.tensors(2, np.random.default_rng(0)), file, dynamo=False, input_names=names,
        output_names=["output"], opset_version=TORCHSCRIPT_OPSET,
        dynamic_axes={name: {0: "batch"} for name in [*names, "output"]}, **options,
    )
    return onnx.load_from_string(file.getvalue())


def dynamo(network):
    """The model by the exporter of torch.export graphs, its batch axis dynamic."""
    names = network.names()
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network.module, network.tensors(2, np.random.default_rng(0)), dynamo=True, input_names=names,
        output_names=["output"], dynamic_shapes=tuple({0: batch} for _ in names), external_data=False, verbose=False,
    )
    return program.model_proto


def exported(name, exporter, exporter_name):
    """The case of a network by one of the exporters; both get the same weights and inputs."""
    origin, build, inputs = NETWORKS[name]
    network = make(name, build, inputs)

    def reference(arrays):
        with torch.no_grad():
            return [network.module(*map(torch.from_numpy, arrays)).numpy()]

    return Case(
        exporter(network),
        f"{origin}, {exporter_name} exporter",
        lambda batch, rng: list(inputs(batch, rng).values()),
        reference,
        seed_name=name,
    )


for name in NETWORKS:
    model(f"{name}_torchscript")(functools.partial(exported, name, torchscript, "TorchScript"))
    model(f"{name}_dynamo")(functools.partial(exported, name, dynamo, "dynamo"))
