"""Section `prepare` of params.yaml: which images."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.params.section import Section

Published = Literal["cifar10", "tiny_imagenet", "pacs", "vlcs", "flowers102", "dtd", "aircraft"]


class Prepare(Section):
    """Where the images come from and the form they are stored in."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Literal["fashion_mnist", "image_folder", Published]
    path: str | None = None
    image_size: int = Field(ge=8, le=4096)
    fit: Literal["pad", "crop"] = "pad"
    channels: Literal[1, 3] | None = None
    transparent: Literal["black", "grey", "white"] = "black"
    bits: int | None = Field(default=None, ge=8, le=16)
    max_megapixels: float = Field(default=89.0, gt=0)
    on_corrupt: Literal["fail", "skip"] = "fail"
    on_leak: Literal["warn", "fail"] = "warn"
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _has_a_path(self) -> "Prepare":
        if self.path is None and self.source == "image_folder":
            raise ValueError("source 'image_folder' needs `path`, the folder with train/<class>/*")
        if self.path is None and self.source != "fashion_mnist":
            raise ValueError(
                f"source {self.source!r} needs `path`, the folder with the data set as published"
            )
        return self
