"""The loss: cross-entropy, or that and a teacher's logits (Hinton et al., arXiv 1503.02531).

(1 − w) · CE(labels, student) + w · T² · KL(softmax(teacher / T) ‖ softmax(student / T))
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from models.cpu_faults import memory_format
from pipeline.core.params import Distill

# (images (b, c, h, w), logits (b, k), labels (b,) or shares (b, k)) → scalar
TaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def task_loss(
    teacher: nn.Module | None, params: Distill, device: torch.device, dtype: torch.dtype
) -> TaskLoss:
    """Return the loss in float32, whatever autocast makes of the logits.

    Args:
        teacher: a trained network of the same classes, put on the device and into evaluation mode;
            it never changes. None: the labels alone count.
        params: weight and temperature.
        device: where the student is.
        dtype: of autocast around the teacher; float32 is none.
    """
    weight, temperature, enabled = params.weight, params.temperature, dtype != torch.float32

    def labelled(_: Tensor, logits: Float[Tensor, "b k"], labels: Tensor) -> Float[Tensor, ""]:
        return cross_entropy(logits.float(), labels)

    if teacher is None:
        return labelled
    layout = memory_format(teacher, device)
    teacher.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    teacher.eval()

    def distilled(
        images: Tensor, logits: Float[Tensor, "b k"], labels: Tensor
    ) -> Float[Tensor, ""]:
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=enabled):
            wanted = teacher(images.to(memory_format=layout))
        wanted, own = (log_softmax(t.float() / temperature, dim=1) for t in (wanted, logits))
        divergence = kl_div(own, wanted, reduction="batchmean", log_target=True)
        labels_loss = labelled(images, logits, labels)
        return (1 - weight) * labels_loss + weight * temperature**2 * divergence

    return distilled
