"""Assembles, checks and times the kernels that `bench ptx FOLDER` wrote, on an NVIDIA GPU, beside PyTorch's (cuBLAS, fused attention).

    python3 bench/ptx_variants.py FOLDER OUT ptxas|gemm_|wg_|flash

Needs PyTorch with CUDA; `ptxas` needs CUDA's assembler and writes its report to OUT/ptxas.log. Each part runs in a process of its own,
since a kernel that fails takes the process's GPU with it. Products: TFLOP/s, cuBLAS's after "vs", the relative error after "e", for
(N, K) = (2304, 768), (768, 768), (3072, 768), (768, 3072) and 37,120 rows; layouts kk forward, km input gradient, mm weight gradient.
"""
import ctypes
import glob
import os
import re
import subprocess
import sys
import tempfile

import torch

FOLDER, OUT, WHAT = sys.argv[1:4]
ROWS, IMAGES, TOKENS, HEADS, WIDTH = 256 * 145, 256, 145, 12, 64
SHAPES = {(2304, 768): 3, (768, 768): 8, (3072, 768): 2, (768, 3072): 2}  # (N, K): slices of the weight gradient
SHARED_SIZE, BF16, SWIZZLE_128, PROMOTE_L2 = 8, 9, 3, 2  # CU_FUNC_ATTRIBUTE_…, CU_TENSOR_MAP_…


def assemble():
    files = sorted(glob.glob(FOLDER + "/*.ptx"))
    started = []
    scrap = tempfile.TemporaryDirectory()   # only the report is wanted
    for f in files:
        arch = "sm_90a" if "sm_90a" in open(f).read() else "sm_90"
        command = ["ptxas", "-v", "-arch=" + arch, f, "-o", os.path.join(scrap.name, os.path.basename(f) + ".cubin")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    with open(OUT + "/ptxas.log", "w") as log:
        for f, process in zip(files, started):
            text = process.communicate()[0]
            log.write(f"== {f}\n{text}\n")
            registers, spills = re.search(r"Used (\d+) registers", text), re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", text)
            remarks = [line for line in text.splitlines() if "error" in line or "Potential" in line]
            print(os.path.basename(f), registers and registers.group(1), "registers, stack and spills", spills and spills.groups(), remarks[:3], flush=True)


class Kernel:
    def __init__(self, path, name):
        text = open(path).read()
        self.threads, self.shared = int(re.search(r"\.maxntid (\d+)", text).group(1)), int(re.search(r"// shared (\d+)", text).group(1))
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        check("load", CUDA.cuModuleLoadData(ctypes.byref(module), text.encode() + b"\0"))
        check("find", CUDA.cuModuleGetFunction(ctypes.byref(self.function), module, name.encode()))
        check("shared memory", CUDA.cuFuncSetAttribute(self.function, SHARED_SIZE, self.shared))

    def __call__(self, across, down, arguments):
        held, pointers = [], (ctypes.c_void_p * len(arguments))()
        for i, a in enumerate(arguments):
            if isinstance(a, torch.Tensor):
                a = ctypes.c_uint64(a.data_ptr())
            elif isinstance(a, float):
                a = ctypes.c_float(a)
            elif isinstance(a, int):
                a = ctypes.c_uint64(a)
            held.append(a)
            pointers[i] = ctypes.addressof(a)
        check("launch", CUDA.cuLaunchKernel(self.function, across, down, 1, self.threads, 1, 1, self.shared, None, pointers, None))


def check(what, code):
    if code:
        raise RuntimeError(f"{what}: CUDA error {code}")


def tensor_map(matrix, lines, numbers, box_lines):
    raw = (ctypes.c_byte * 192)()
    aligned = (ctypes.c_byte * 128).from_buffer(raw, -ctypes.addressof(raw) % 64)
    sizes, strides = (ctypes.c_uint64 * 2)(numbers, lines), (ctypes.c_uint64 * 1)(numbers * 2)
    box, steps = (ctypes.c_uint32 * 2)(64, box_lines), (ctypes.c_uint32 * 2)(1, 1)
    check("tensor map", CUDA.cuTensorMapEncodeTiled(aligned, BF16, 2, ctypes.c_void_p(matrix.data_ptr()), sizes, strides, box, steps, 0, SWIZZLE_128,
                                                    PROMOTE_L2, 0))
    aligned.held = raw
    return aligned


def milliseconds(call, calls=20):
    call()
    torch.cuda.synchronize()
    rounds = []
    for _ in range(3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        rounds.append(start.elapsed_time(end) / calls)
    return sorted(rounds)[1]


def numbers(*shape):
    return torch.randn(*shape, device="cuda", generator=GENERATOR).bfloat16()


def error(made, right):
    return ((made.float() - right.float()).norm() / right.float().norm()).item()


def roofs():
    x = torch.empty(1 << 28, device="cuda")
    y = torch.empty_like(x)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}: copy {2 * x.numel() * 4 / milliseconds(lambda: y.copy_(x)) / 1e6:.0f} GB/s, ", end="")
    a, b = numbers(8192, 8192), numbers(8192, 8192)
    print(f"cuBLAS 8192^3 bf16 {2 * 8192 ** 3 / milliseconds(lambda: a @ b.t(), 5) / 1e9:.0f} TFLOP/s", flush=True)


def product(path, known):
    base = os.path.basename(path)[:-4]
    kind, a_along, b_along, block_rows, block_cols, block_depth = re.match(r"(gemm|wg)_([km])([km])_(\d+)x(\d+)x(\d+)_", base).groups()
    a_along, b_along, block_rows, block_cols, block_depth = a_along == "k", b_along == "k", int(block_rows), int(block_cols), int(block_depth)
    kernel, line = Kernel(path, "gemm"), f"{base:34s}"
    for (n, k), slices in SHAPES.items():
        rows, cols, depth = (ROWS, n, k) if a_along and b_along else (ROWS, k, n) if a_along else (n, k, ROWS)
        key = (a_along, b_along, n, k)
        if key not in known:
            a, b = numbers(*((rows, depth) if a_along else (depth, rows))), numbers(*((cols, depth) if b_along else (depth, cols)))
            left, right = a if a_along else a.t(), b.t() if b_along else b
            known[key] = (a, b, left @ right, milliseconds(lambda: left @ right))
        a, b, expected, theirs = known[key]
        slices = 1 if a_along else slices
        part = -(-(-(-depth // slices)) // block_depth) * block_depth
        made = torch.full((slices, rows, cols), float("nan"), device="cuda", dtype=torch.bfloat16 if a_along else torch.float32)
        if kind == "wg":
            operands = [tensor_map(a, *((rows, depth) if a_along else (depth, rows)), block_rows if a_along else 64),
                        tensor_map(b, *((cols, depth) if b_along else (depth, cols)), block_cols if b_along else 64)]
        else:
            operands = [a, b]
        groups, arguments = -(-rows // block_rows) * -(-cols // block_cols), operands + [rows, cols, depth, part, made] + [0] * (2 if a_along else 5)
        kernel(groups, slices, arguments)
        torch.cuda.synchronize()
        off = error(made.sum(0) if not a_along else made[0], expected)
        ours, flops = milliseconds(lambda: kernel(groups, slices, arguments)), 2 * rows * cols * depth
        line += f" | {flops / ours / 1e9:4.0f} vs {flops / theirs / 1e9:4.0f} e{off:.0e}"
    print(line, flush=True)


def attention(tag):
    forward, of_queries, of_keys = (Kernel(f"{FOLDER}/flash_{part}_{tag}.ptx", "flash") for part in ("f", "q", "kv"))
    qkv, dy = numbers(IMAGES, TOKENS, 3 * HEADS * WIDTH), numbers(IMAGES, TOKENS, HEADS * WIDTH)
    y, lse, dqkv = torch.zeros_like(dy), torch.zeros(IMAGES, HEADS, TOKENS, device="cuda"), torch.zeros_like(qkv)
    leaf = qkv.clone().requires_grad_()
    q, k, v = (part.transpose(1, 2) for part in leaf.view(IMAGES, TOKENS, 3, HEADS, WIDTH).unbind(2))
    right = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with torch.no_grad():
        theirs = milliseconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))

    def backward():
        leaf.grad = None
        right.backward(dy.view(IMAGES, TOKENS, HEADS, WIDTH).transpose(1, 2), retain_graph=True)

    back = milliseconds(backward)
    groups, scale = IMAGES * HEADS * -(-TOKENS // (forward.threads // 2)), WIDTH ** -0.5
    ahead = [y, lse, qkv, TOKENS, HEADS, scale]
    forward(groups, 1, ahead)
    delta = (dy.float() * y.float()).view(IMAGES, TOKENS, HEADS, WIDTH).sum(-1).permute(0, 2, 1).contiguous()
    behind = [dqkv, qkv, dy, lse, delta, TOKENS, HEADS, scale]
    of_queries(groups, 1, behind)
    of_keys(groups, 1, behind)
    torch.cuda.synchronize()
    errors = error(y, right.transpose(1, 2).reshape(y.shape)), error(dqkv, leaf.grad)
    times = [1e3 * milliseconds(lambda: kernel(groups, 1, given)) for kernel, given in ((forward, ahead), (of_queries, behind), (of_keys, behind))]
    print(f"attention {tag}: forward {times[0]:.0f} us (PyTorch {theirs * 1e3:.0f}), dq {times[1]:.0f} + dk, dv {times[2]:.0f} us "
          f"(PyTorch {back * 1e3:.0f}), errors {errors[0]:.1e} {errors[1]:.1e}", flush=True)


if WHAT == "ptxas":
    assemble()
    sys.exit()
torch.zeros(1, device="cuda")
CUDA, GENERATOR = ctypes.CDLL("libcuda.so.1"), torch.Generator(device="cuda").manual_seed(1)
roofs()
data = {}
names = sorted({os.path.basename(f)[8:-4] for f in glob.glob(FOLDER + "/flash_f_*.ptx")}) if WHAT == "flash" else sorted(glob.glob(f"{FOLDER}/{WHAT}*.ptx"))
for item in names:
    try:
        attention(item) if WHAT == "flash" else product(item, data)
    except RuntimeError as e:
        print(item, "FAILED:", str(e)[:200], flush=True)
