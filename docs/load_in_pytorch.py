#!/usr/bin/env python3
"""Loads an encoder that `mim export` wrote into plain PyTorch and compares its features with those that `mim embed` computed.

    mim export --run RUN --out exported
    mim embed --run RUN --data photos/ --out features          # PNGs of the encoder's own size, so that nothing is resized
    python3 docs/load_in_pytorch.py exported features

Needs PyTorch, NumPy and Pillow. Where timm is installed its own model is built by name and loaded strictly; elsewhere the small network
below, whose parameters have timm's names. Ends with exit code 1 when the features differ by more than 1e-5 of the largest.
"""
import argparse
import csv
import functools
import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

TOLERANCE = 1e-5


def read_safetensors(path):
    """Float32 tensors by name: u64 header length, JSON header, data."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + first:8 + length + end], dtype="<f4")
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


class RelativePositionBias(nn.Module):
    """BEiT's table: (2G - 1)^2 offsets between patches, then [cls] to patch, patch to [cls], [cls] to itself."""

    def __init__(self, grid, heads):
        super().__init__()
        side = 2 * grid - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side + 3, heads))
        at = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
        offset = at[:, :, None] - at[:, None, :] + grid - 1
        index = torch.full((grid * grid + 1,) * 2, side * side)
        index[1:, 0] = side * side + 1
        index[0, 0] = side * side + 2
        index[1:, 1:] = offset[0] * side + offset[1]
        self.index = index

    def forward(self):
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self, width, heads, bias, beit=False, grid=None):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias and not beit)
        self.q_bias = nn.Parameter(torch.zeros(width)) if bias and beit else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if bias and beit else None
        if grid is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
            self.index = RelativePositionBias(grid, heads).index
        self.proj = nn.Linear(width, width)

    def forward(self, x, shared=None):
        b, n, c = x.shape
        qkv = self.qkv(x)
        if self.q_bias is not None:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = qkv.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5
        if hasattr(self, "relative_position_bias_table"):
            logits = logits + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if shared is not None:
            logits = logits + shared
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width, heads, hidden, bias, scale, eps, beit, grid):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, bias, beit, grid)
        self.ls1 = LayerScale(width) if scale and not beit else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, hidden))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(hidden, width))
        self.ls2 = LayerScale(width) if scale and not beit else nn.Identity()
        self.gamma_1 = nn.Parameter(torch.ones(width)) if scale and beit else None
        self.gamma_2 = nn.Parameter(torch.ones(width)) if scale and beit else None

    def forward(self, x, shared_rel_pos_bias=None):
        first = self.ls1(self.attn(self.norm1(x), shared_rel_pos_bias))
        x = x + (first if self.gamma_1 is None else self.gamma_1 * first)
        second = self.ls2(self.mlp(self.norm2(x)))
        return x + (second if self.gamma_2 is None else self.gamma_2 * second)


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's ViT or BEiT, as far as an exported encoder needs it."""

    def __init__(self, beit, img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, init_values, eps, final_norm=True,
                 pos_embed="learn", use_abs_pos_emb=True, use_rel_pos_bias=False, use_shared_rel_pos_bias=False, **_):
        super().__init__()
        grid, hidden = img_size // patch_size, int(embed_dim * mlp_ratio)
        positions = use_abs_pos_emb and pos_embed != "none"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, embed_dim)) if positions else None
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.rel_pos_bias = RelativePositionBias(grid, num_heads) if use_shared_rel_pos_bias else None
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, hidden, qkv_bias, init_values is not None, eps, beit,
                                          grid if use_rel_pos_bias else None) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=eps) if final_norm else nn.Identity()


def build(config):
    """The architecture of config.json: timm's own where it is installed."""
    arguments, eps = config["model_args"], config["mim"]["layer_norm_eps"]
    try:
        import timm
    except ImportError:
        return VisionTransformer(config["architecture"].startswith("beit"), eps=eps, **arguments), "the network of this script"
    model = timm.create_model(config["architecture"], norm_layer=functools.partial(nn.LayerNorm, eps=eps), **arguments)
    return model, f"timm {timm.__version__}"


@torch.no_grad()
def features(model, pictures, block, final_norm, pooling):
    x = torch.cat([model.cls_token.expand(len(pictures), -1, -1), model.patch_embed(pictures)], dim=1)
    if getattr(model, "pos_embed", None) is not None:
        x = x + model.pos_embed
    bias = model.rel_pos_bias() if getattr(model, "rel_pos_bias", None) is not None else None
    for one in model.blocks[:block]:
        x = one(x) if bias is None else one(x, shared_rel_pos_bias=bias)
    if final_norm:
        x = model.norm(x)
    if pooling is None:
        return x
    if pooling not in ("cls", "mean-patches"):
        sys.exit(f"this script pools cls, mean-patches and tokens, not {pooling}")
    return x[:, 0] if pooling == "cls" else x[:, 1:].mean(1)


def pixels(path, size, config):
    from PIL import Image
    picture = Image.open(path).convert("RGB")
    if picture.size != (size, size):
        print(f"note: {path} is {picture.size[0]} x {picture.size[1]} and is resized to {size}; two programs round that differently")
        picture = picture.resize((size, size), Image.BILINEAR)
    values = np.asarray(picture, dtype=np.float32) / 255
    cfg = config["pretrained_cfg"]
    return torch.from_numpy(((values - np.float32(cfg["mean"])) / np.float32(cfg["std"])).transpose(2, 0, 1).copy())


def main():
    parser = argparse.ArgumentParser(description="Compares an exported encoder in PyTorch with mim's features.")
    parser.add_argument("exported", type=Path, help="folder that mim export wrote")
    parser.add_argument("features", type=Path, nargs="?", help="folder that mim embed wrote, of picture files")
    options = parser.parse_args()
    config = json.loads((options.exported / "config.json").read_text())
    model, who = build(config)
    model.load_state_dict(read_safetensors(options.exported / "model.safetensors"), strict=True)
    model.eval()
    print(f"{options.exported}: every tensor of {config['architecture']} loaded by name into {who}, PyTorch {torch.__version__}")
    if options.features is None:
        return 0
    how = json.loads((options.features / "embed.json").read_text())
    expected = np.load(options.features / "features.npy")
    with open(options.features / "index.csv", newline="", encoding="utf-8") as file:
        paths = [row["picture"] for row in csv.DictReader(file)]
    rows = []
    for first in range(0, len(paths), 32):
        batch = torch.stack([pixels(path, how["pixels"], config) for path in paths[first:first + 32]])
        rows.append(features(model, batch, how["block"], how["finalNorm"], how["pooling"]).numpy())
    found = np.concatenate(rows)
    worst, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    print(f"{len(paths)} pictures, {found.shape[-1]} channels: largest difference {worst:.3g}, largest feature {largest:.3g}, "
          f"relative {worst / largest:.3g} (tolerance {TOLERANCE:g})")
    return 0 if worst <= TOLERANCE * max(1.0, largest) else 1


if __name__ == "__main__":
    sys.exit(main())
