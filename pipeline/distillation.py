"""The loss: cross-entropy, or that and what a teacher says (Hinton et al., arXiv 1503.02531).

(1 − w) · CE(labels, student) + w · T² · KL(softmax(teacher / T) ‖ softmax(student / T))
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from pipeline.params import Distill

# (images (b, c, h, w), logits (b, k), labels (b,) or shares (b, k)) → scalar
TaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def from_labels(_: Tensor, logits: Float[Tensor, "b k"], labels: Tensor) -> Float[Tensor, ""]:
    """Return the cross-entropy in float32, whatever autocast made of the logits."""
    return cross_entropy(logits.float(), labels)


def from_teacher(teacher: nn.Module, params: Distill, dtype: torch.dtype) -> TaskLoss:
    """Return the loss of a student that sees the labels and the teacher's logits.

    Args:
        teacher: a trained network of the same classes, on the student's device; it is put into
            evaluation mode and never changes.
        params: weight and temperature.
        dtype: of autocast around the teacher; float32 is none.
    """
    teacher.eval()
    weight, temperature = params.weight, params.temperature

    def loss(images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        enabled = dtype != torch.float32
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=enabled):
            wanted = teacher(images)
        wanted, own = (log_softmax(t.float() / temperature, dim=1) for t in (wanted, logits))
        divergence = kl_div(own, wanted, reduction="batchmean", log_target=True)
        labelled = cross_entropy(logits.float(), labels)
        return (1 - weight) * labelled + weight * temperature**2 * divergence

    return loss
