"""The training steps of `bench step` in PyTorch: forward, backward and AdamW of a SimMIM-style ViT on pictures in memory.

    python3 bench/pytorch_step.py [MODELS [MODES [ROUNDS [DEVICE [BATCH]]]]]

MODELS: comma-separated of ti32 (32 px, patch 4, batch 64), ti, s (192 px, patch 16, batch 16), b (batch 8), and mae: MAE with a ViT-B (224 px, batch 8,
75 % masked, a decoder of 8 blocks 512 wide, targets normalised patch by patch). MODES: f32, bf16 (autocast,
attention written out: PyTorch's fused bf16 attention was slower where we tried it). Threads: OMP_NUM_THREADS. Models and modes are
interleaved; with one model and one mode the peak of resident memory above what PyTorch itself takes is printed too. DEVICE: cpu or cuda (then with PyTorch's fused attention), BATCH instead of the model's own. PyTorch wants an OpenMP OpenBLAS and likes tcmalloc (LD_PRELOAD); it is a yardstick only, nothing here depends on it.
"""
import contextlib
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

MODELS = {"ti32": (192, 3, 32, 4, 64), "ti": (192, 3, 192, 16, 16), "s": (384, 6, 192, 16, 16), "b": (768, 12, 192, 16, 8),
          "mae": (768, 12, 224, 16, 8)}


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if not x.is_cuda and (torch.is_autocast_enabled("cpu") if torch.__version__ >= "2.4" else torch.is_autocast_cpu_enabled()):
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        elif hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SimMim(nn.Module):
    def __init__(self, width, heads, pixels, patch):
        super().__init__()
        self.patch, n = patch, (pixels // patch) ** 2
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls, self.mask = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, n + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(12))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-12), nn.Linear(width, 3 * patch * patch)

    def forward(self, images, hidden):
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.where(hidden.unsqueeze(-1), self.mask.to(x.dtype), x)
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        predicted = self.head(self.norm(x)[:, 1:])
        target = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        weight = hidden.unsqueeze(-1).float()
        return ((predicted.float() - target).abs() * weight).sum() / (weight.sum() * target.shape[-1])


class Mae(nn.Module):
    """Masked autoencoder: the encoder sees a quarter of the patches; the order of a picture's patches comes in, those it sees first."""

    def __init__(self, width, heads, pixels, patch, wide=512, deep=8):
        super().__init__()
        self.patch, n = patch, (pixels // patch) ** 2
        self.seen = n // 4
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls, self.mask = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, wide))
        self.register_buffer("pos", torch.randn(1, n + 1, width) * 0.02)
        self.register_buffer("pos_out", torch.randn(1, n + 1, wide) * 0.02)
        self.blocks, self.norm = nn.ModuleList(Block(width, heads) for _ in range(12)), nn.LayerNorm(width, eps=1e-6)
        self.narrow = nn.Linear(width, wide)
        self.decoder, self.norm_out = nn.ModuleList(Block(wide, 16) for _ in range(deep)), nn.LayerNorm(wide, eps=1e-6)
        self.head = nn.Linear(wide, 3 * patch * patch)

    def forward(self, images, order):
        x = self.embed(images).flatten(2).transpose(1, 2) + self.pos[:, 1:]
        x = x.gather(1, order[:, :self.seen, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(self.cls + self.pos[:, :1]).to(x.dtype).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.narrow(self.norm(x))
        y = torch.cat([x[:, 1:], self.mask.to(x.dtype).expand(len(x), order.shape[1] - self.seen, -1)], 1)
        y = y.gather(1, order.argsort(1)[:, :, None].expand(-1, -1, y.shape[2]))
        y = torch.cat([x[:, :1], y], 1) + self.pos_out
        for block in self.decoder:
            y = block(y)
        predicted = self.head(self.norm_out(y)[:, 1:])
        target = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        hidden = torch.ones(order.shape, device=order.device).scatter(1, order[:, :self.seen], 0.0)
        return (((predicted.float() - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()


def make(name, device, batch):
    width, heads, pixels, patch, _ = MODELS[name]
    torch.manual_seed(0)
    model = (Mae if name == "mae" else SimMim)(width, heads, pixels, patch).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05,
                                  **({"fused": True} if torch.__version__ >= "2.4" else {}))
    images = torch.randn(batch, 3, pixels, pixels, device=device)
    noise = torch.rand(batch, (pixels // patch) ** 2, device=device)
    return model, optimizer, images, noise.argsort(1) if name == "mae" else noise < 0.6


def step(case, mode):
    model, optimizer, images, mask = case
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    with torch.autocast(images.device.type, dtype=torch.bfloat16) if mode == "bf16" else contextlib.nullcontext():
        loss = model(images, mask)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    wait()
    return time.perf_counter() - start


def resident(key):
    """MiB of this process: VmRSS now, VmHWM at most."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024


def main():
    names = (sys.argv[1] if len(sys.argv) > 1 else "ti32,ti,s,b").split(",")
    modes = (sys.argv[2] if len(sys.argv) > 2 else "f32,bf16").split(",")
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 7
    device = sys.argv[4] if len(sys.argv) > 4 else "cpu"
    batches = {name: int(sys.argv[5]) if len(sys.argv) > 5 else MODELS[name][4] for name in names}
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    before = resident("VmRSS")
    cases = [(name, mode, make(name, device, batches[name]), []) for name in names for mode in modes]
    for round_ in range(-2, rounds):
        for name, mode, case, seconds in cases:
            t = step(case, mode)
            if round_ >= 0:
                seconds.append(t)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"PyTorch {torch.__version__}, {where}, best and median of {rounds} interleaved steps")
    for name, mode, case, seconds in cases:
        seconds.sort()
        batch = batches[name]
        print(f"{name} {mode}, batch {batch}: {batch / seconds[0]:.1f} img/s best, {batch / seconds[len(seconds) // 2]:.1f} median")
    if len(cases) == 1:
        print(f"peak of resident memory: {resident('VmHWM') - before:.0f} MiB above the {before:.0f} MiB before the model")


main()
