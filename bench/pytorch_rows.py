#!/usr/bin/env python3
"""The operations along rows in PyTorch, at the shapes of `bench -- rows`: 768 numbers a row, operands of 192 KiB (in L2) and 64 MiB (beyond L3).

python3 bench/pytorch_rows.py [ROUNDS [THREADS [memory|cache|both]]]     (9, 1, both)

Outputs are allocated beforehand where PyTorch's operation takes them (out=). AdamW is the fused one. The losses are forward and gradient, as
cross_entropy with soft targets and as the masked L1 of patches makes them; they are also what a tape pays.
"""
import sys
import time

import torch
import torch.nn.functional as F

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
where = sys.argv[3] if len(sys.argv) > 3 else "both"
torch.set_num_threads(threads)
COLS = 768
aten = torch.ops.aten


def cases(rows):
    torch.manual_seed(0)
    x, dy, y, t = (torch.rand(rows, COLS) - 0.5 for _ in range(4))
    gamma, beta = torch.rand(COLS), torch.rand(COLS)
    found = {}
    found["LayerNorm forward"] = lambda: aten.native_layer_norm(x, [COLS], gamma, beta, 1e-6)
    _, mean, rstd = aten.native_layer_norm(x, [COLS], gamma, beta, 1e-6)
    found["LayerNorm backward"] = lambda: aten.native_layer_norm_backward(dy, x, [COLS], mean, rstd, gamma, beta, [True, True, True])
    wide = 8 * x
    found["GELU forward"] = lambda: aten.gelu.out(wide, out=y)
    found["GELU backward"] = lambda: aten.gelu_backward.grad_input(dy, wide, grad_input=y)
    found["softmax forward"] = lambda: aten._softmax.out(wide, -1, False, out=y)
    soft = torch.softmax(wide, -1)
    found["softmax backward"] = lambda: aten._softmax_backward_data.out(dy, soft, -1, torch.float32, grad_input=y)
    p = torch.rand(rows * COLS).requires_grad_()
    p.grad = torch.rand(rows * COLS)
    for kind in ("fused", "foreach"):
        adam = torch.optim.AdamW([p], lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, **{kind: True})
        found[f"AdamW, {kind}"] = adam.step
    logits = wide.clone().requires_grad_()
    targets = torch.full((rows, COLS), 1 / COLS)

    def cross_entropy():
        logits.grad = None
        F.cross_entropy(logits, targets).backward()

    found["cross-entropy and its gradient"] = cross_entropy
    side = 12 if rows % 144 == 0 else 8   # patches of 16 x 16 pixels a picture's side
    pictures = rows // side**2
    prediction = (torch.rand(rows, COLS) - 0.5).requires_grad_()
    images = torch.rand(pictures, 3, 16 * side, 16 * side)
    hidden = (torch.rand(pictures, side, side) < 0.6).float()

    def masked_loss():
        prediction.grad = None
        mask = hidden.repeat_interleave(16, 1).repeat_interleave(16, 2).unsqueeze(1)
        drawn = F.pixel_shuffle(prediction.view(pictures, side, side, COLS).permute(0, 3, 1, 2), 16)
        ((F.l1_loss(images, drawn, reduction="none") * mask).sum() / (mask.sum() + 1e-5) / 3).backward()

    found["masked pixel loss and its gradient"] = masked_loss
    return found


def run(rows, calls, unit, scale):
    found = cases(rows)
    times = {name: [] for name in found}
    for r in range(-2, rounds):
        for name, work in found.items():
            start = time.perf_counter()
            for _ in range(calls):
                with torch.set_grad_enabled("loss" in name or "entropy" in name):
                    work()
            if r >= 0:
                times[name].append((time.perf_counter() - start) / calls * scale)
    print(f"| {rows} × {COLS}, {threads} threads | {unit} best | median |\n|---|---|---|")
    for name, t in times.items():
        print(f"| {name} | {min(t):.2f} | {sorted(t)[len(t) // 2]:.2f} |", flush=True)


print(f"PyTorch {torch.__version__}")
if where != "memory":
    run(64, 200, "us", 1e6)
if where != "cache":
    run(21888, 1, "ms", 1e3)
