#!/usr/bin/env python3
"""FAST beside OpenCV: same pictures, one thread each, rounds interleaved, keypoints compared one by one.

    dotnet build -c Release bench
    python3 bench/opencv_fast.py [NAME or picture.png ...]

The last line is the other half of KAMIM's weighting: means of cells.

Needs python3-opencv and numpy for the comparison only; MimEngine uses neither.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

WIDTH, HEIGHT, ROUNDS = 1920, 1080, 3
TYPES = {"Type5_8": cv2.FastFeatureDetector_TYPE_5_8, "Type7_12": cv2.FastFeatureDetector_TYPE_7_12,
         "Type9_16": cv2.FastFeatureDetector_TYPE_9_16}


def block_noise(block):
    """Hashed blocks and a 5x5 mean: many corners."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.uint64)
    h = ((y // block) * WIDTH + x // block) * 2654435761 % 2**32
    h = (h ^ (h >> 15)) * 2246822519 % 2**32
    return cv2.blur(((h ^ (h >> 13)) & 255).astype(np.uint8), (5, 5))


def scene():
    """Smooth shading, a few hundred shapes and a little noise: corners as rare as on photographs."""
    random = np.random.RandomState(1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = (96 + 60 * np.sin(x / 170.0) * np.cos(y / 130.0)).astype(np.uint8)
    for _ in range(500):
        center = (int(random.randint(WIDTH)), int(random.randint(HEIGHT)))
        size = (int(random.randint(4, 90)), int(random.randint(4, 90)))
        cv2.ellipse(picture, center, size, int(random.randint(180)), 0, 360, int(random.randint(256)), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.2)
    return np.clip(picture + random.normal(0, 2.0, picture.shape), 0, 255).astype(np.uint8)


def write_pgm(path, picture):
    with open(path, "wb") as file:
        file.write(b"P5\n%d %d\n255\n" % (picture.shape[1], picture.shape[0]))
        file.write(np.ascontiguousarray(picture).tobytes())


def opencv_ms(picture, suppress, rounds=40):
    detector = cv2.FastFeatureDetector_create(10, suppress, TYPES["Type9_16"])
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = detector.detect(picture)
        times.append((time.perf_counter() - start) * 1000)
    return min(times), float(np.median(times)), len(found)


def opencv_density_us(picture):
    """Means of 8 x 8 cells of 0/1 marks: the box filter that is then read at every eighth pixel, and the resize that makes cells only."""
    marks = picture & 1
    cells = (picture.shape[1] // 8, picture.shape[0] // 8)
    best = []
    for work in (lambda: cv2.boxFilter(marks, cv2.CV_32F, (8, 8)), lambda: cv2.resize(marks, cells, interpolation=cv2.INTER_AREA)):
        times = []
        for _ in range(100):
            start = time.perf_counter()
            work()
            times.append((time.perf_counter() - start) * 1e6)
        best.append(min(times))
    return best


def opencv_lists(picture):
    found = set()
    for name, kind in TYPES.items():
        for suppress in (False, True):
            for k in cv2.FastFeatureDetector_create(10, suppress, kind).detect(picture):
                # Without suppression OpenCV gives no responses.
                found.add((name, suppress, int(k.pt[0]), int(k.pt[1]), int(k.response) if suppress else 0))
    return found


def main():
    cv2.setNumThreads(1)
    programs = glob.glob(os.path.join(os.path.dirname(__file__), "bin", "Release", "*", "MimEngine.Bench.dll"))
    if not programs:
        sys.exit("bench is not built: dotnet build -c Release bench")
    pictures = {"block noise 3": block_noise(3), "block noise 8": block_noise(8), "block noise 16": block_noise(16), "scene": scene(),
                "noise": np.random.RandomState(2).randint(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)}
    named = [a for a in sys.argv[1:] if a in pictures]
    if named:
        pictures = {name: pictures[name] for name in named}
    for path in [a for a in sys.argv[1:] if a not in named]:
        pictures[os.path.basename(path)] = cv2.resize(cv2.imread(path, cv2.IMREAD_GRAYSCALE), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    print(f"OpenCV {cv2.__version__}, {WIDTH} x {HEIGHT}, threshold 10, one thread each, best and median of {ROUNDS} interleaved rounds")
    print(f"{'picture':<18}{'keypoints':>10}{'OpenCV ms':>20}{'MimEngine ms':>20}{'ratio':>8}  {'raw':>6}  same keypoints")
    density = []
    with tempfile.TemporaryDirectory() as folder:
        pgm, listed = os.path.join(folder, "picture.pgm"), os.path.join(folder, "list.txt")
        for name, picture in pictures.items():
            write_pgm(pgm, picture)
            theirs, ours, raw = [], [], []
            for _ in range(ROUNDS):
                theirs.append(opencv_ms(picture, True))
                output = subprocess.run(["dotnet", programs[0], "fast", pgm, listed], check=True, capture_output=True, text=True).stdout
                times = re.findall(r"suppressed\s+best ([\d.]+) ms\s+median ([\d.]+) ms\s+(\d+)", output)[-1]
                ours.append((float(times[0]), float(times[1]), int(times[2])))
                raw.append(opencv_ms(picture, False)[0] / float(re.findall(r"raw\s+best ([\d.]+) ms", output)[-1]))
            mine = set()
            for line in open(listed):
                kind, suppress, x, y, response = line.split()
                mine.add((kind, suppress == "1", int(x), int(y), int(response) if suppress == "1" else 0))
            a, b = min(theirs), min(ours)
            density.append((*opencv_density_us(picture), float(re.findall(r"density 8x8 best ([\d.]+) us", output)[-1])))
            print(f"{name:<18}{b[2]:>10}{a[0]:>11.2f}{a[1]:>9.2f}{b[0]:>11.3f}{b[1]:>9.3f}{a[0] / b[0]:>8.1f}{max(raw):>8.1f}  "
                  f"{'yes, all types' if mine == opencv_lists(picture) else 'NO'}")
    box, area, own = (min(column) for column in zip(*density))
    print(f"means of 8 x 8 cells: OpenCV's boxFilter {box:.0f} us, its resize by area (to bytes) {area:.0f} us, MimEngine {own:.0f} us: "
          f"{box / own:.1f} and {area / own:.1f} times")


main()
