"""Writes the cases of the distillation losses: tensors, the value and the gradients that PyTorch computes
for them in float64.

    python3 cases.py FILE

Each loss is written here as its paper has it, out of PyTorch's own functions, by code that shares nothing
with Sinter's.
"""

import json
import sys

import torch
import torch.nn.functional as F

CASES = []


def case(name, function, tensors, tracked=("student",), **options):
    """Adds `function(**tensors)` with its gradients by the tensors named in `tracked`."""
    leaves = {key: value.double().clone().requires_grad_(key in tracked) for key, value in tensors.items()}
    value = function(**leaves)
    gradients = torch.autograd.grad(value, [leaves[key] for key in tracked])
    CASES.append({
        "name": name,
        "options": options,
        "tensors": {key: dump(value) for key, value in tensors.items()},
        "value": value.item(),
        "gradients": {key: dump(gradient) for key, gradient in zip(tracked, gradients)},
    })


def dump(tensor):
    return {"shape": list(tensor.shape), "values": tensor.detach().double().flatten().tolist()}


def soft_targets(student, teacher, temperature):
    divergence = F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return divergence * temperature ** 2


def standardize(logits):
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def decoupled(student, teacher, labels, temperature, alpha, beta):
    mask = labels.bool()

    def binary(logits):
        probability = F.softmax(logits / temperature, 1)
        target = probability[mask].unsqueeze(1)
        return torch.cat([target, 1 - target], 1)

    def others(logits):
        return (logits / temperature)[~mask].reshape(len(logits), -1)

    target = F.kl_div(binary(student).log(), binary(teacher), reduction="batchmean")
    other = F.kl_div(
        F.log_softmax(others(student), 1), F.softmax(others(teacher), 1), reduction="batchmean")
    return (alpha * target + beta * other) * temperature ** 2


def attention_transfer(student, teacher):
    def attention(features):
        return F.normalize(features.pow(2).mean(1))
    return (attention(student) - attention(teacher)).pow(2).mean()


def similarity(student, teacher):
    def gram(features):
        flat = features.flatten(1)
        return F.normalize(flat @ flat.T)
    return (gram(student) - gram(teacher)).pow(2).sum() / len(student) ** 2


def relational(student, teacher, alpha, beta):
    apart = ~torch.eye(len(student), dtype=torch.bool)

    def distances(rows):
        difference = rows[:, None] - rows[None]
        # The root has no gradient at the zeros of the diagonal.
        squares = torch.where(apart, difference.pow(2).sum(2), torch.ones(()).double())
        distance = squares.sqrt() * apart
        return distance / distance[apart].mean()

    def angles(rows):
        difference = rows[None] - rows[:, None]
        unit = F.normalize(difference, dim=2)
        return unit @ unit.transpose(1, 2)

    distance = F.smooth_l1_loss(distances(student), distances(teacher))
    angle = F.smooth_l1_loss(angles(student), angles(teacher))
    return alpha * distance + beta * angle


def contrastive(student, teacher, temperature, examples):
    noise = (len(student) - 1) / examples
    positive = (F.normalize(student) @ F.normalize(teacher).T / temperature).exp()
    critic = positive / (positive + noise)
    same = torch.eye(len(student), dtype=torch.bool)
    return -(critic[same].log().sum() + (1 - critic[~same]).log().sum()) / len(student)


def bounded(student, teacher, target, margin):
    own = (student - target).pow(2).sum(1)
    other = (teacher - target).pow(2).sum(1)
    return torch.where(own + margin > other, own, torch.zeros(()).double()).mean()


def main(path):
    torch.manual_seed(7)
    for rows, classes, size in ((6, 10, 3.0), (16, 4, 12.0), (3, 100, 1.0)):
        pair = {"student": torch.randn(rows, classes) * size, "teacher": torch.randn(rows, classes) * size}
        labels = F.one_hot(torch.randint(classes, (rows,)), classes).float()
        for temperature in (1.0, 4.0):
            case("soft_targets", lambda student, teacher: soft_targets(student, teacher, temperature),
                 pair, temperature=temperature)
            case("standardized",
                 lambda student, teacher: soft_targets(
                     standardize(student), standardize(teacher), temperature),
                 pair, temperature=temperature)
            case("decoupled",
                 lambda student, teacher, labels: decoupled(student, teacher, labels, temperature, 1, 8),
                 {**pair, "labels": labels}, temperature=temperature, alpha=1, beta=8)
        weight = torch.tensor([[-1.4]])
        case("soft_targets",
             lambda student, teacher, weight: soft_targets(
                 student, teacher, 1 + 20 * torch.sigmoid(weight)).squeeze(),
             {**pair, "weight": weight}, tracked=("student", "weight"))
        case("logits_mse", lambda student, teacher: F.mse_loss(student, teacher), pair)
        case("cosine", lambda student, teacher: (1 - F.cosine_similarity(student, teacher)).mean(), pair)
        case("cross_entropy", lambda student, teacher, labels: F.cross_entropy(student, labels),
             {**pair, "labels": labels})
        target = torch.randn(rows, classes) * size
        for margin in (0.0, 20.0):
            case("bounded_regression",
                 lambda student, teacher, target: bounded(student, teacher, target, margin),
                 {**pair, "target": target}, margin=margin)
    for rows, channels, other, positions in ((5, 8, 8, 9), (4, 3, 7, 16), (12, 16, 16, 1)):
        maps = {
            "student": torch.randn(rows, channels, positions),
            "teacher": torch.randn(rows, other, positions),
        }
        case("attention_transfer", attention_transfer, maps)
        if channels == other:
            case("feature", lambda student, teacher: F.mse_loss(student, teacher), maps)
        flat = {key: value.flatten(1) for key, value in maps.items()}
        case("similarity", similarity, flat)
        case("relational", lambda student, teacher: relational(student, teacher, 25, 50), flat,
             alpha=25, beta=50)
        case("relational", lambda student, teacher: relational(student, teacher, 25, 0), flat,
             alpha=25, beta=0)
        embeddings = {"student": torch.randn(rows, 128), "teacher": torch.randn(rows, 128)}
        case("contrastive", lambda student, teacher: contrastive(student, teacher, 0.07, 1000), embeddings,
             tracked=("student", "teacher"), temperature=0.07, examples=1000)
    with open(path, "w") as file:
        json.dump(CASES, file)
    print(f"{len(CASES)} cases of {len({case['name'] for case in CASES})} losses")


if __name__ == "__main__":
    main(sys.argv[1])
