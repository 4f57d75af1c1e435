"""Whole training steps beside PyTorch: `bench step` and pytorch_step.py in turn, each going first in every second alternation, and what comes out as tables.

    python3 bench/step_beside_pytorch.py [MODELS [ALTERNATIONS [peak]]]

MODELS: comma-separated of ti32, ti, s, b, mae (default: all but mae). ALTERNATIONS: 7. Every alternation is a process of each with five steps that count, in float32 and in bf16; a ratio is
that of an alternation's two medians (or bests), and the table has the median of the ratios, and the least and the largest. With the word peak: the peak of resident
memory above what each takes before its model, the median of three runs (ALTERNATIONS, if given) of one model and one precision.
BENCH is the command that runs the benches (default: dotnet run -c Release --no-build --project bench --), TORCH_PYTHON the one that runs a script
with PyTorch (default: python3).
"""
import os
import re
import shlex
import statistics
import subprocess
import sys

NAMES = {"ti32": "ViT-Ti 32 px", "ti": "ViT-Ti", "s": "ViT-S", "b": "ViT-B", "mae": "ViT-B 224 px"}
MODES = ("f32", "bf16")
HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = shlex.split(os.environ.get("BENCH", "dotnet run -c Release --no-build --project bench --"))
TORCH = shlex.split(os.environ.get("TORCH_PYTHON", "python3"))


def output(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.path.dirname(HERE))
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}; its last words: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def ours(model, mode):
    """The table's cells and the peak (MiB, or None), by precision."""
    text = output([*BENCH, "step", "mae" if model == "mae" else "kamim-baseline", "1", mode, NAMES[model]])
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if line.startswith("| ViT")]
    peak = re.search(r"resident memory: (\d+) MiB", text)
    return {row[1].lower(): {"best": float(row[3]), "median": float(row[4]), "share": percent(row[7]), "share of best": percent(row[6])} for row in rows}, \
        int(peak[1]) if peak else None


def percent(text):
    return float(text.rstrip("% "))


def theirs(model, mode):
    text = output([*TORCH, "bench/pytorch_step.py", model, mode, "5"])
    found = re.findall(r"^\w+ (f32|bf16), batch \d+: ([\d.]+) img/s best, ([\d.]+) median", text, re.MULTILINE)
    peak = re.search(r"resident memory: (\d+) MiB", text)
    return {mode: {"best": float(best), "median": float(median)} for mode, best, median in found}, int(peak[1]) if peak else None


def middle(values):
    return statistics.median(values)


def speeds(models, alternations):
    pairs = {model: [] for model in models}
    for turn in range(alternations):
        for model in models:
            first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
            a, b = first(model, "both" if first is ours else ",".join(MODES))[0], second(model, "both" if second is ours else ",".join(MODES))[0]
            pairs[model].append((a, b) if first is ours else (b, a))
            print(f"{turn + 1} of {alternations}, {model}: " + ", ".join(
                f"{mode} ours {pairs[model][-1][0][mode]['median']}, PyTorch {pairs[model][-1][1][mode]['median']} img/s" for mode in MODES), file=sys.stderr, flush=True)
    print("| model | PyTorch f32 | ours f32 | ratio | best | PyTorch bf16 | ours bf16 | ratio | best | ours bf16 / PyTorch f32 | of the roof f32, median; best | bf16 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for model in models:
        cells = [NAMES[model]]
        for mode in MODES:
            ratio = {kind: [our[mode][kind] / their[mode][kind] for our, their in pairs[model]] for kind in ("median", "best")}
            cells += [f"{middle([their[mode]['median'] for _, their in pairs[model]]):.1f}", f"{middle([our[mode]['median'] for our, _ in pairs[model]]):.1f}",
                      f"{middle(ratio['median']):.2f} ({min(ratio['median']):.2f} to {max(ratio['median']):.2f})", f"{middle(ratio['best']):.2f}"]
        cells.append(f"{middle([our['bf16']['median'] / their['f32']['median'] for our, their in pairs[model]]):.2f}")
        for mode in MODES:
            cells.append(f"{middle([our[mode]['share'] for our, _ in pairs[model]]):.0f} %; {middle([our[mode]['share of best'] for our, _ in pairs[model]]):.0f} %")
        print("| " + " | ".join(cells) + " |")


def peaks(models, runs):
    print("| model | precision | ours, MiB | PyTorch, MiB |\n|---|---|---|---|")
    for model in models:
        for mode in MODES:
            pairs = [(ours(model, mode)[1], theirs(model, mode)[1]) for _ in range(runs)]
            print(f"| {NAMES[model]} | {mode} | {middle([p[0] for p in pairs])} | {middle([p[1] for p in pairs])} |", flush=True)


def main():
    words = [word for word in sys.argv[1:] if word != "peak"]
    models = (words[0] if words else "ti32,ti,s,b").split(",")
    unknown = [model for model in models if model not in NAMES]
    if unknown or len(words) > 2 or (len(words) > 1 and not words[1].isdigit()):
        sys.exit(f"usage: step_beside_pytorch.py [MODELS [ALTERNATIONS [peak]]]; models are {', '.join(NAMES)}" + (f", not {', '.join(unknown)}" if unknown else ""))
    if "peak" in sys.argv:
        peaks(models, int(words[1]) if len(words) > 1 else 3)
    else:
        speeds(models, int(words[1]) if len(words) > 1 else 7)


main()
