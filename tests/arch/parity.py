"""Load the parity fixtures: outputs of the paper's implementation on tiny random models."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from beacon_lit import BeaconConfig, BeaconLM

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


class Case:
    """One fixture: its settings, its tensors and the model they belong to."""

    def __init__(self, name: str) -> None:
        self.settings = json.loads((FOLDER / f"{name}.json").read_text())
        self.tensors = load_file(FOLDER / f"{name}.safetensors")
        config = CONFIGS[self.settings["arch"]](**self.settings["config"])
        self.model = BeaconLM.from_config(config, BeaconConfig.from_published(self.settings["beacon"]))
        self.weights = {key.removeprefix("weights."): value for key, value in self.tensors.items() if "weights." in key}
        self.model.load_state_dict(self.weights, strict=True)
        self.input_ids = torch.cat([self.tensors[f"input_ids.{i}"] for i in range(len(self.settings["lengths"]))], 1)

    def get(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def write(self, folder: Path, model_type: str | None = None) -> Path:
        """A folder as the paper's code writes it. `model_type`: default, the backbone's, as there."""
        arch = self.settings["arch"]
        model = CONFIGS[arch].__name__.replace("Config", "ForCausalLM")
        fields = {
            "model_type": model_type or arch,
            "architectures": [model],
            "auto_map": {"AutoModelForCausalLM": f"modeling_{arch}.{model}"},
            "torch_dtype": "float32",
        }
        folder.mkdir(parents=True)
        config = {**fields, **self.settings["config"], **self.settings["beacon"]}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    @property
    def labels(self) -> torch.Tensor:
        """Training labels. For appended beacons the paper's code leaves out what the first window predicts."""
        labels = self.tensors.get("labels", self.input_ids).clone()
        if self.model.beacon.placement != "interleave":
            labels[:, : self.model.beacon.window + 1] = -100
        return labels

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        return {key.removeprefix("train.grad."): value for key, value in self.tensors.items() if "train.grad." in key}


def names(tensor: str) -> list[str]:
    """Fixtures that hold a tensor of this name."""
    return [
        file.stem for file in sorted(FOLDER.glob("*.json")) if tensor in load_file(file.with_suffix(".safetensors"))
    ]
