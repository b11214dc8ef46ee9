"""A digest of what a model is made of, by which one that is loaded elsewhere is known again."""

import hashlib

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from .layers import plain_name
from .loading import Model, plain_model, quantised_bits


def weights_digest(model: Model) -> str | None:
    """SHA-256 of all weights and saved buffers under their plain names, whatever number format holds them.

    Of an adapter its scale and the model under it count too; where that is quantised, the adapter alone. None where a
    tensor is sharded over processes.
    """
    tensors: dict[str, torch.Tensor] = {}
    if not isinstance(model, PeftModel) or quantised_bits(plain_model(model).config) is None:
        # What PEFT saves whole replaces the module under it, which may be a head that was drawn at random.
        tensors = {
            plain_name(name): tensor
            for name, tensor in plain_model(model).state_dict().items()
            if not any(part in name for part in ("lora_", "original_module", "modules_to_save", "token_adapter"))
        }
    if isinstance(model, PeftModel):
        adapter = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
        tensors |= {f"adapter {name}": tensor for name, tensor in adapter.items()}
    if not all(is_whole(tensor) for tensor in tensors.values()):
        return None
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            digest.update(f"{plain_name(name)} {[module.scaling[used] for used in module.active_adapters]}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach()
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        digest.update(values.contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds all of its numbers here; sharded and quantised ones are of other classes, or empty."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta and tensor.numel() > 0
