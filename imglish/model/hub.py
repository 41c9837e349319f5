"""A model as two files that people share: `model.safetensors` and `config.json`, through huggingface_hub.

    model.save_pretrained("folder")                        # and push_to_hub("name/of-repository")
    model = MultiwayTransformer.from_pretrained("folder")  # or "name/of-repository"

Only numbers are read: no pickle, no code. A folder is read without the network. `HubFiles` is huggingface_hub's mixin
with its three gaps filled: our config, strict loading that names keys, a card without a template engine.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imglish.errors import ModelError
from imglish.model.config import ModelConfig, check_fields

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_NAMED = 4
"""Keys that an error names before it only counts."""


class HubFiles(nn.Module, ModelHubMixin):
    """A module with a `config` that can be saved and loaded; see the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The README.md of a repository: what it is and how to load it."""
        return ModelCard(_CARD.format(layout=self.config.layout, layers=self.config.layers, width=self.config.width))

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        part = save_directory / f"{WEIGHTS}.part"
        save_file(state, part, metadata={"format": "pt"})
        os.replace(part, save_directory / WEIGHTS)
        text = json.dumps(dataclasses.asdict(self.config), sort_keys=True, indent=2)
        (save_directory / CONFIG).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        **_: Any,
    ) -> Self:
        def find(name: str) -> Path:
            if Path(model_id).is_dir():
                return Path(model_id) / name
            return Path(
                hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )
            )

        config = read_config(find(CONFIG))
        with torch.device("meta"):
            model = cls(config)
        path = find(WEIGHTS)
        try:
            state = load_file(path, device=map_location)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: no safetensors file of a model ({error})") from None
        fill_strictly(model, state, path)
        return model


def read_config(path: Path) -> ModelConfig:
    """A `config.json`; ModelError names path and field."""
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ModelError(f"{path}: a model config is a JSON object, not {type(fields).__name__}")
        check_fields(fields)
        return TypeAdapter(ModelConfig).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no config of a model ({error})") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def fill_strictly(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Give a model on the meta device its parameters; ModelError names missing, extra and misshapen keys."""
    compare({name: list(value.shape) for name, value in model.state_dict().items()}, state, path)
    model.load_state_dict(dict(state), assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def compare(expected: Mapping[str, list[int]], found: Mapping[str, Tensor], path: str | Path) -> None:
    """ModelError unless the tensors have exactly the expected names and shapes."""
    wrong = [
        f"{name} is {list(found[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in found and list(found[name].shape) != shape
    ]
    faults = {
        "missing": [name for name in expected if name not in found],
        "extra": [name for name in found if name not in expected],
        "misshapen": wrong,
    }
    told = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise ModelError(f"{path} does not fit the model: {'; '.join(told)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


_CARD = """---
library_name: imglish
tags: [beit3, multiway-transformer]
---

A Multiway Transformer (BEiT-3) in the {layout} layout: {layers} layers of width {width}.

```python
from imglish.model import MultiwayTransformer

model = MultiwayTransformer.from_pretrained("this-repository-or-folder")
```
"""
